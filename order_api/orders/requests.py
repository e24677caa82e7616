"""What the routes of this room share: which order a request is about, where it came from, and an answer of JSON."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from contracts.orders import Order
from contracts.vocabulary import NAME_PATTERN, NAME_RULE, PATH_NAME_RULE
from order_api.http.bodies import json_answer
from order_api.http.paths import id_in_path
from order_api.http.problems import BrokenRule, Code, Problem, invalid
from order_api.http.tokens import Caller
from order_api.orders.audit_trail import Origin
from order_api.orders.service import OrderService, address
from order_api.orders.views import written

ADDRESS_LENGTH_MAX: Final = 64
"""Characters of an address in the trail: a trusted proxy passes on what a client claims."""
ENDED_KEPT_S: Final = 60
"""How long a client may keep an order that has ended."""
_NAME: Final = re.compile(NAME_PATTERN)


def order_id_of(request: Request) -> UUID:
    """Read the order's id in the path."""
    return id_in_path(request, "order_id", "an order id", Code.ORDER_NOT_FOUND)


async def named_order_id(request: Request, service: OrderService, caller: Caller) -> UUID:
    """Find the order that the path names by its user's own name for it."""
    client_order_id = request.path_params["client_order_id"]
    user_id = user_of(request, caller)
    if _NAME.fullmatch(client_order_id) is None:  # what was taken before . and .. were refused is still found
        raise Problem(Code.ORDER_NOT_FOUND, f"a client order id is {PATH_NAME_RULE}")
    return (await service.named(user_id, client_order_id, caller)).order_id


def user_of(request: Request, caller: Caller) -> str:
    """Read in the query whose orders a request is about; the caller's own when it does not say."""
    user_id = once(request, "user_id", caller.user_id)
    if _NAME.fullmatch(user_id) is None:
        raise invalid(BrokenRule("user_id", f"must be {NAME_RULE}", user_id))
    return user_id


def about(request: Request, order_id: UUID) -> UUID:
    """Note which order a request is about: a failure from here on names the order's address."""
    request.state.order_id = order_id
    request.state.instance = address(order_id)
    return order_id


def waited_header(wait_s: int) -> dict[str, str]:
    """Say in the answer's headers how long its client was waited for at most, if it was."""
    return {"preference-applied": f"wait={wait_s}"} if wait_s else {}


def etag_of(order: Order) -> str:
    """Give an order's entity tag: its version."""
    return f'"{order.version}"'


def kept(order: Order) -> dict[str, str]:
    """Say how long a client may keep an order, which is for its reader alone.

    One that has ended changes no more, unless it is erased; one that is open is asked for each time.
    """
    control = f"private, max-age={ENDED_KEPT_S}" if order.status.terminal else "private, no-cache"
    return {"cache-control": control, "vary": "authorization"}


def origin_of(request: Request, caller: Caller) -> Origin:
    """Say where a request came from."""
    return Origin(
        caller=caller.user_id,
        token_id=caller.token_id,
        address=request.client.host[:ADDRESS_LENGTH_MAX] if request.client is not None else None,
        trace_id=request.scope["state"].get("trace_id"),
    )


def once(request: Request, name: str, default: str) -> str:
    """Return a parameter of the query; refuse two of one name."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise invalid(BrokenRule(name, "must come once", values))
    return values[0] if values else default


def json_response(body: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with a Struct."""
    return json_answer(written(body), status, headers)
