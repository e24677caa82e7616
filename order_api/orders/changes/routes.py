"""The routes that change an order that rests, each declared with what the document says of it."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from order_api.http.bodies import read_json_body
from order_api.http.limits import InFlight
from order_api.http.problems import Code
from order_api.http.request_headers import read_key, read_wait
from order_api.http.tokens import Caller
from order_api.openapi.declarations import Body, operation
from order_api.orders.changes.bodies import AmendBody, read_amend
from order_api.orders.changes.service import Changes
from order_api.orders.description import examples
from order_api.orders.description.parts import (
    AMEND_KEY,
    AMEND_PROBLEMS,
    AMEND_TEXT,
    AMENDED,
    CANCELLERS,
    CLIENT_ORDER_ID,
    HELD,
    HOLD_PROBLEMS,
    HOLD_TEXT,
    IF_MATCH,
    ORDER_ID,
    RELEASE_PROBLEMS,
    RELEASE_TEXT,
    RELEASED,
    USER_ID,
    WAIT,
)
from order_api.orders.publication.messages import Wish
from order_api.orders.requests import (
    about,
    etag_of,
    json_response,
    named_order_id,
    order_id_of,
    origin_of,
    waited_header,
)
from order_api.orders.service import OrderService
from order_api.orders.waiting import Waiting


class ChangeRoutes:
    """The endpoints that amend, hold and release one order, for callers that are known."""

    def __init__(
        self,
        orders: OrderService,
        changes: Changes,
        waiting: Waiting,
        in_flight: InFlight,
        *,
        body_bytes_max: int,
    ) -> None:
        self._orders = orders
        self._changes = changes
        self._waiting = waiting
        self._in_flight = in_flight
        self._body_bytes_max = body_bytes_max

    @operation(
        "PATCH",
        "/orders/{order_id}",
        "amendOrder",
        AMENDED,
        description=AMEND_TEXT,
        parameters=(ORDER_ID, AMEND_KEY, IF_MATCH, WAIT),
        scopes=CANCELLERS,
        problems=(Code.ORDER_NOT_FOUND, *AMEND_PROBLEMS),
        body=Body(AmendBody, examples.amend_bodies),
    )
    async def amend(self, request: Request, caller: Caller) -> Response:
        """Change an order that rests."""
        return await self._amend(request, order_id_of(request), caller)

    @operation(
        "PATCH",
        "/orders/by-client-id/{client_order_id}",
        "amendOrderByClientId",
        AMENDED,
        description=AMEND_TEXT,
        parameters=(CLIENT_ORDER_ID, USER_ID, AMEND_KEY, IF_MATCH, WAIT),
        scopes=CANCELLERS,
        problems=(Code.ORDER_NOT_FOUND, *AMEND_PROBLEMS),
        body=Body(AmendBody, examples.amend_bodies),
    )
    async def amend_named(self, request: Request, caller: Caller) -> Response:
        """Change an order that rests by the user's own name for it."""
        return await self._amend(request, await named_order_id(request, self._orders, caller), caller)

    @operation(
        "PUT",
        "/orders/{order_id}/hold",
        "holdOrder",
        HELD,
        description=HOLD_TEXT,
        parameters=(ORDER_ID, WAIT),
        scopes=CANCELLERS,
        problems=(Code.ORDER_NOT_FOUND, *HOLD_PROBLEMS),
    )
    async def hold(self, request: Request, caller: Caller) -> Response:
        """Put an order on hold."""
        return await self._suspend(request, order_id_of(request), Wish.HOLD, caller)

    @operation(
        "PUT",
        "/orders/by-client-id/{client_order_id}/hold",
        "holdOrderByClientId",
        HELD,
        description=HOLD_TEXT,
        parameters=(CLIENT_ORDER_ID, USER_ID, WAIT),
        scopes=CANCELLERS,
        problems=(Code.ORDER_NOT_FOUND, Code.INVALID_REQUEST, *HOLD_PROBLEMS),
    )
    async def hold_named(self, request: Request, caller: Caller) -> Response:
        """Put an order on hold by the user's own name for it."""
        order_id = await named_order_id(request, self._orders, caller)
        return await self._suspend(request, order_id, Wish.HOLD, caller)

    @operation(
        "PUT",
        "/orders/{order_id}/release",
        "releaseOrder",
        RELEASED,
        description=RELEASE_TEXT,
        parameters=(ORDER_ID, WAIT),
        scopes=CANCELLERS,
        problems=(Code.ORDER_NOT_FOUND, *RELEASE_PROBLEMS),
    )
    async def release(self, request: Request, caller: Caller) -> Response:
        """Release an order that is on hold."""
        return await self._suspend(request, order_id_of(request), Wish.RELEASE, caller)

    @operation(
        "PUT",
        "/orders/by-client-id/{client_order_id}/release",
        "releaseOrderByClientId",
        RELEASED,
        description=RELEASE_TEXT,
        parameters=(CLIENT_ORDER_ID, USER_ID, WAIT),
        scopes=CANCELLERS,
        problems=(Code.ORDER_NOT_FOUND, Code.INVALID_REQUEST, *RELEASE_PROBLEMS),
    )
    async def release_named(self, request: Request, caller: Caller) -> Response:
        """Release an order that is on hold by the user's own name for it."""
        order_id = await named_order_id(request, self._orders, caller)
        return await self._suspend(request, order_id, Wish.RELEASE, caller)

    async def _amend(self, request: Request, order_id: UUID, caller: Caller) -> Response:
        """Accept an amend; wait until it is decided if the client prefers, and say what is known of it."""
        key, if_match = read_key(request.headers), request.headers.getlist("if-match")
        body = read_amend(await read_json_body(request, self._in_flight, bytes_max=self._body_bytes_max))
        origin = origin_of(request, caller)
        order, amend, replayed = await self._changes.amend(
            about(request, order_id), body, key, if_match, caller, origin
        )
        headers = {"idempotency-replayed": "true"} if replayed else {}
        wait_s, waited = read_wait(request.headers), False
        if wait_s:
            order, waited = await self._waiting.patiently(
                request, order, partial(self._changes.amend_is_over, amend), caller, wait_s
            )
            headers |= waited_header(wait_s if waited else 0)
        applied = (replayed or waited) and await self._changes.amend_is_applied(order, amend, headers)
        if replayed or waited:
            headers["etag"] = etag_of(order)
        return json_response(order, 200 if applied else 202, headers)

    async def _suspend(self, request: Request, order_id: UUID, wish: Wish, caller: Caller) -> Response:
        """Accept a hold or a release; wait until it is decided if the client prefers, and say what is known of it."""
        origin = origin_of(request, caller)
        order, one = await self._changes.suspend(about(request, order_id), wish, caller, origin)
        if one is None:
            return json_response(order, 200, {"etag": etag_of(order)})
        wait_s = read_wait(request.headers)
        order, waited = await self._waiting.patiently(
            request, order, partial(self._changes.wish_is_over, one), caller, wait_s
        )
        if not waited:
            return json_response(order, 202)
        headers = waited_header(wait_s)
        order, granted = await self._changes.granted(one, order, caller, headers)
        if not granted:
            return json_response(order, 202, headers)
        return json_response(order, 200, headers | {"etag": etag_of(order)})
