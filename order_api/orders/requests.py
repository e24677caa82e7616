"""What the routes of this room share: where a request came from, a parameter that comes once, an answer of JSON."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from order_api.http.bodies import JSON
from order_api.http.problems import BrokenRule, invalid
from order_api.http.tokens import Caller
from order_api.orders.audit_trail import Origin
from order_api.orders.views import written

ADDRESS_LENGTH_MAX: Final = 64
"""Characters of an address in the trail: a trusted proxy passes on what a client claims."""


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
    return Response(written(body), status, headers, JSON)
