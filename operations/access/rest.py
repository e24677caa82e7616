"""Call the REST API as a user; a refusal is one line, and an unknown outcome an error of its own."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

import httpx2

from operations.access.conditions import is_resting
from operations.access.errors import OutcomeUnknown, Trouble, WrongRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from operations.access.tokens import Signer

TIMEOUT_S: Final = 40.0
"""More than the API waits in one request."""
ENDED: Final = frozenset({"COMPLETED", "CANCELLED", "FAILED"})
KEY_RULE: Final = "--key must be 1 to 255 visible ASCII characters"
_ASK_OTHERWISE: Final = frozenset({400, 413, 415, 422})
"""The statuses of a request that breaks a rule."""


class Api(NamedTuple):
    """Where the API is, and what signs its users' tokens."""

    address: str
    signer: Signer


def call(
    api: Api, user: str, method: str, path: str, body: Mapping[str, Any] | None = None, **headers: str
) -> dict[str, Any]:
    """Call the API as a user and return the answer's body; it is empty when nothing has changed (304).

    Raises `WrongRequest` for a request that breaks a rule, `OutcomeUnknown` after no answer or a server's error, and
    `Trouble` for any other problem.
    """
    authorization = {"Authorization": f"Bearer {api.signer.sign(user)}"}
    try:
        answer = httpx2.request(
            method, api.address + path, json=body, headers=authorization | headers, timeout=TIMEOUT_S
        )
    except httpx2.InvalidURL as error:
        raise WrongRequest(f"ORDER_API_URL is '{api.address}', which is no address: {error}") from None
    except httpx2.UnsupportedProtocol:
        raise WrongRequest(f"ORDER_API_URL is '{api.address}'; it must begin with http:// or https://") from None
    except httpx2.HTTPError as error:
        words = str(error) or type(error).__name__
        raise OutcomeUnknown(f"the API at {api.address} can't be reached: {words}") from None
    if answer.is_error:
        raise _error(answer)
    if answer.status_code == httpx2.codes.NOT_MODIFIED:
        return {}
    try:
        data = answer.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise Trouble(f"what answers at {api.address} is not the API: it sent {answer.headers.get('content-type')}")
    return data


def _error(answer: httpx2.Response) -> Trouble:
    if answer.status_code in _ASK_OTHERWISE:
        return WrongRequest(_problem(answer))
    return OutcomeUnknown(_problem(answer)) if answer.is_server_error else Trouble(_problem(answer))


def _problem(answer: httpx2.Response) -> str:
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return f"the API answered {answer.status_code}"
    errors = "; ".join(f"{each.get('field')}: {each.get('rule')}" for each in problem.get("errors", []))
    return f"{problem.get('title', answer.status_code)}: {errors or problem.get('detail', '')}"


# Orders ---------------------------------------------------------------------------------------------------------------


def check_key(key: str) -> None:
    """Expect an idempotency key that the API takes. Raises `WrongRequest`."""
    if re.fullmatch(r"[\x21-\x7e]{1,255}", key) is None:
        raise WrongRequest(KEY_RULE)


def submit(api: Api, user: str, order: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Submit an order; the same key gives the same order, however often this is called."""
    return call(api, user, "POST", "/orders", order, **{"Idempotency-Key": key})


def wait_for_end(api: Api, user: str, order: dict[str, Any], patience_s: float) -> dict[str, Any]:
    """Return an order as it is when it has ended, or rests until a price fires it, or after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while order["status"] not in ENDED and not is_resting(order) and (left_s := deadline - time.monotonic()) > 0:
        wait = {"Prefer": f"wait={math.ceil(left_s)}"}  # the API waits at most 30 s in one request
        if order.get("time_in_force") is not None:
            wait["If-None-Match"] = f'"{order["version"]}"'  # it answers each change, so also that the order rests
        order = call(api, user, "GET", f"/orders/{order['order_id']}", None, **wait) or order
        if order["status"] not in ENDED and not is_resting(order):
            time.sleep(0.1)  # with too many requests that wait, the API answers this one at once
    return order


def cancel(api: Api, user: str, order_id: object) -> dict[str, Any]:
    """Request the cancellation of an order as its user, and return the order as it was then."""
    return call(api, user, "PUT", f"/orders/{order_id}/cancel")


def amend(api: Api, user: str, order_id: object, changes: Mapping[str, Any], key: str, wait_s: float) -> dict[str, Any]:
    """Amend an order as its user, and return it when the amend is in force, or after `wait_s`.

    The same key amends once. Raises `Trouble` with the reason when it is refused.
    """
    headers = {"Idempotency-Key": key} | _wait(wait_s)
    return call(api, user, "PATCH", f"/orders/{order_id}", changes, **headers)


def suspend(api: Api, user: str, order_id: object, wish: str, wait_s: float) -> dict[str, Any]:
    """Hold or release an order as its user, and return it when that is done, or after `wait_s`."""
    return call(api, user, "PUT", f"/orders/{order_id}/{wish}", None, **_wait(wait_s))


def _wait(wait_s: float) -> dict[str, str]:
    return {"Prefer": f"wait={math.ceil(wait_s)}"} if wait_s else {}


def orders(api: Api, user: str, **filters: object) -> dict[str, Any]:
    """List a page of a user's orders; filters by the names of the API's query, empty ones left out."""
    query = urlencode({name: value for name, value in filters.items() if value}, doseq=True)
    return call(api, user, "GET", f"/orders?{query}")


def given(**fields: str) -> dict[str, str]:
    """Keep the fields that say something."""
    return {name: value for name, value in fields.items() if value}


def preview(api: Api, user: str, order: Mapping[str, Any]) -> dict[str, Any]:
    """Ask what would become of an order."""
    return call(api, user, "POST", "/orders/preview", order)


def cancel_all(api: Api, user: str, wanted: Mapping[str, str], key: str) -> dict[str, Any]:
    """Cancel a user's open orders that fit; the same key cancels once, and tells how far it is."""
    return call(api, user, "POST", "/orders/cancel-all", wanted, **{"Idempotency-Key": key})


def count_cancelable(api: Api, user: str, wanted: Mapping[str, str]) -> int:
    """Count the orders that a cancel of all would be about, page by page."""
    filters: dict[str, Any] = {name: value for name, value in wanted.items() if name != "side"}
    number, cursor = 0, ""
    while True:
        page = orders(api, user, **filters, status=("PENDING", "CONFIRMED"), limit=200, cursor=cursor)
        fitting = (one for one in page["orders"] if one["order_type"].endswith(wanted.get("side", "")))
        number += sum(not one["cancel_requested"] for one in fitting)
        if not page["has_more"]:
            return number
        cursor = page["next_cursor"]


def cancel_timer(api: Api, user: str, timeout_s: int | None) -> dict[str, Any]:
    """Set a user's cancel timer, or read it; 0 switches it off."""
    if timeout_s is None:
        return call(api, user, "GET", "/orders/cancel-all-after")
    return call(api, user, "PUT", "/orders/cancel-all-after", {"timeout_s": timeout_s})
