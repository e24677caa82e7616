"""Call the REST API as a user, by the client; a refusal is one line, and an unknown outcome an error of its own.

What is returned is what the API shows, in its words: what prints it knows no class of the client.
"""

from __future__ import annotations

import json
import re
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from contracts import codec
from contracts.orders import Order
from contracts.vocabulary import OrderStatus
from operations.access.errors import OutcomeUnknown, Trouble, WrongRequest
from operations.access.tokens import OPERATOR_SCOPES, SCOPES
from order_client import Client, NoAnswerError, ProblemError, Retry, UnexpectedAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from uuid import UUID

    from operations.access.tokens import Signer
    from order_client import OrderStreamItem, StreamItem

ENDED: Final = frozenset(one for one in OrderStatus if one.terminal)
KEY_RULE: Final = "--key must be 1 to 255 visible ASCII characters"
_ASK_OTHERWISE: Final = frozenset({400, 413, 415, 422})
"""The statuses of a request that breaks a rule."""
_SERVER_ERROR: Final = 500
_RETRY: Final = Retry(times=2, first_s=0.1)
"""Somebody waits at the terminal, and can type the command again."""
_ORDER: Final = codec.decoder(Order)


class Api(NamedTuple):
    """Where the API is, and what signs its users' tokens."""

    address: str
    signer: Signer


def ask(api: Api, user: str, call: Callable[[Client], Any], scopes: Sequence[str] = SCOPES) -> Any:
    """Call the API as a user with these scopes, and return what it shows; a list for several.

    Raises `WrongRequest` for a request that breaks a rule, `OutcomeUnknown` after no answer or a server's error, and
    `Trouble` for any other problem.
    """
    with _calling(api, user, scopes) as client:
        return shown(call(client))


@contextmanager
def followed(
    api: Api, user: str, order_id: UUID | None, *, prices: Sequence[str] = (), everybody: bool = False
) -> Iterator[Iterator[StreamItem | OrderStreamItem]]:
    """Follow one order to its end, or a user's orders, or `everybody`'s, and prices: give what the stream tells.

    Raises within it what `ask` does.
    """
    scopes = OPERATOR_SCOPES if everybody else SCOPES
    with _calling(api, user, scopes) as client:
        if order_id is None:
            items: Any = client.events(all_orders=everybody, prices=prices)
        else:
            items = client.order_events(order_id, after=0)
        with closing(items):
            yield items


@contextmanager
def _calling(api: Api, user: str, scopes: Sequence[str]) -> Iterator[Client]:
    """Give a client; what it raises is raised as trouble."""
    try:
        client = Client(api.address, lambda: api.signer.sign(user, scopes), retry=_RETRY)
    except ValueError as error:
        raise WrongRequest(f"ORDER_API_URL: {error}") from None
    try:
        with client:
            yield client
    except ValueError as error:
        raise WrongRequest(f"this can't be sent: {error}") from None
    except ProblemError as error:
        raise _trouble(error) from None
    except NoAnswerError as error:
        raise OutcomeUnknown(f"the API at {api.address} can't be reached: {error}") from None
    except UnexpectedAnswerError as error:
        raise Trouble(f"what answers at {api.address} is not the API: {error}") from None


def _trouble(error: ProblemError) -> Trouble:
    if error.status in _ASK_OTHERWISE:
        return WrongRequest(str(error))
    return OutcomeUnknown(str(error)) if error.status >= _SERVER_ERROR else Trouble(str(error))


def shown(found: Any) -> Any:
    """Write an answer as the API does: of an order, also the fields that do not apply."""
    return json.loads(codec.encode(_whole(found)))


def _whole(found: Any) -> Any:
    if isinstance(found, list):
        return [_whole(one) for one in found]
    if not isinstance(found, msgspec.Struct):
        return found
    fields = {name: getattr(found, name) for name in found.__struct_fields__}
    return {name: _whole(value) if isinstance(value, list | Order) else value for name, value in fields.items()}


# Orders ---------------------------------------------------------------------------------------------------------------


def check_key(key: str) -> None:
    """Expect an idempotency key that the API takes. Raises `WrongRequest`."""
    if re.fullmatch(r"[\x21-\x7e]{1,255}", key) is None:
        raise WrongRequest(KEY_RULE)


def submit(api: Api, user: str, order: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Submit an order; the same key gives the same order, however often this is called."""
    return _dict(ask(api, user, lambda client: client.submit_order(**order, idempotency_key=key)))


def wait_for_end(api: Api, user: str, order: dict[str, Any], patience_s: float) -> dict[str, Any]:
    """Return an order as it is when it has ended, or rests until a price fires it, or after `patience_s`."""
    known = _ORDER.decode(json.dumps(order))
    return _dict(ask(api, user, lambda client: client.wait_for_end(known, patience_s)))


def cancel(api: Api, user: str, order_id: UUID) -> dict[str, Any]:
    """Request the cancellation of an order as its user, and return the order as it was then."""
    return _dict(ask(api, user, lambda client: client.cancel_order(order_id)))


def amend(api: Api, user: str, order_id: UUID, changes: Mapping[str, Any], key: str, wait_s: float) -> dict[str, Any]:
    """Amend an order as its user, and return it when the amend is in force, or after `wait_s`.

    The same key amends once. Raises `Trouble` with the reason when it is refused.
    """
    fields: Any = {**changes, "wait_s": wait_s, "idempotency_key": key}
    return _dict(ask(api, user, lambda client: client.amend_order(order_id, **fields)))


def suspend(api: Api, user: str, order_id: UUID, wish: str, wait_s: float) -> dict[str, Any]:
    """Hold or release an order as its user, and return it when that is done, or after `wait_s`."""

    def call(client: Client) -> Order:
        wished = client.hold_order if wish == "hold" else client.release_order
        return wished(order_id, wait_s=wait_s)

    return _dict(ask(api, user, call))


def orders(api: Api, user: str, **filters: Any) -> dict[str, Any]:
    """List a page of a user's orders; filters by the names of the API's query, empty ones left out."""
    chosen = given(**filters)
    return _dict(ask(api, user, lambda client: client.list_orders(**chosen)))


def preview(api: Api, user: str, order: Mapping[str, Any]) -> dict[str, Any]:
    """Ask what would become of an order."""
    return _dict(ask(api, user, lambda client: client.preview_order(**order)))


def cancel_all(api: Api, user: str, wanted: Mapping[str, str], key: str) -> dict[str, Any]:
    """Cancel a user's open orders that fit; the same key cancels once, and tells how far it is."""
    fields: Any = {**wanted, "idempotency_key": key}
    return _dict(ask(api, user, lambda client: client.cancel_all_orders(**fields)))


def count_cancelable(api: Api, user: str, wanted: Mapping[str, str]) -> int:
    """Count the orders that a cancel of all would be about, page by page."""
    filters: Any = {name: value for name, value in wanted.items() if name != "side"}
    side = wanted.get("side", "")

    def count(client: Client) -> int:
        found = client.orders(status=(OrderStatus.PENDING, OrderStatus.CONFIRMED), **filters)
        return sum(not one.cancel_requested and str(one.order_type).endswith(side) for one in found)

    return int(ask(api, user, count))


def cancel_timer(api: Api, user: str, timeout_s: int | None) -> dict[str, Any]:
    """Set a user's cancel timer, or read it; 0 switches it off."""
    if timeout_s is None:
        return _dict(ask(api, user, lambda client: client.read_cancel_timer()))
    return _dict(ask(api, user, lambda client: client.set_cancel_timer(timeout_s)))


def given(**fields: Any) -> dict[str, Any]:
    """Keep the fields that say something."""
    return {name: value for name, value in fields.items() if value}


def _dict(shown: Any) -> dict[str, Any]:
    return dict(shown)
