"""The routes of `/orders`, from HTTP to the order service and back, each declared with what the document says of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from uuid_utils.compat import uuid7

from contracts.orders import Order
from contracts.vocabulary import OrderStatus
from order_api.http.bodies import BODY_PROBLEMS, read_json_body
from order_api.http.limits import InFlight
from order_api.http.problems import BrokenRule, Code, Problem, invalid
from order_api.http.request_headers import knows, read_key, read_wait
from order_api.http.tokens import Caller, Scope
from order_api.openapi.declarations import Body, Parameter, Returns, operation
from order_api.orders.description import examples
from order_api.orders.description.parts import (
    CANCEL_PROBLEMS,
    CANCEL_TEXT,
    CANCELLED,
    CANCELLERS,
    CLIENT_ORDER_ID,
    CONDITIONAL_TEXT,
    IF_NONE_MATCH,
    KEY,
    ORDER_ID,
    READERS,
    SUBMITTED,
    THE_ORDER,
    THE_STATE,
    USER_ID,
    WAIT,
    WAITING_TEXT,
)
from order_api.orders.list_parameters import LIST_PARAMETERS, read_wanted
from order_api.orders.listing import Page
from order_api.orders.requests import (
    about,
    etag_of,
    json_response,
    kept,
    named_order_id,
    once,
    order_id_of,
    origin_of,
    waited_header,
)
from order_api.orders.service import OrderService, address
from order_api.orders.submission import OrderBody, make_claim, read_body
from order_api.orders.views import History, refuse_late_cancel, state_of
from order_api.orders.waiting import Waiting

_SEQ: Final = re.compile(r"[0-9]{1,9}")


SEQ_MAX: Final = 999_999_999
_AFTER: Final = Parameter(
    "after",
    "query",
    "Show what came after this `seq`.",
    {"type": "integer", "minimum": 0, "maximum": SEQ_MAX, "default": 0},
    0,
)


class OrderRoutes:
    """The endpoints of `/orders`, for callers that are known.

    Routes are tried in the order in which they stand: an order may be named `status`, so its name comes before that.
    """

    def __init__(
        self,
        service: OrderService,
        waiting: Waiting,
        in_flight: InFlight,
        *,
        body_bytes_max: int,
    ) -> None:
        self._service = service
        self._waiting = waiting
        self._in_flight = in_flight
        self._body_bytes_max = body_bytes_max

    @operation(
        "POST",
        "/orders",
        "submitOrder",
        SUBMITTED,
        description="Give an `Idempotency-Key`, a `client_order_id` or both, and repeat the request as often as you"
        " like: the same order is answered, with `Idempotency-Replayed: true`. What breaks a rule of this document is"
        " a `422`, and no order exists; what only the asset's rules can tell (step, tick, limits) ends the order FAILED"
        " with a reason.\n\n" + CONDITIONAL_TEXT,
        parameters=(KEY, WAIT),
        scopes=(Scope.WRITE,),
        problems=(
            *(Code.OTHER_USER, Code.CLIENT_ORDER_ID_REUSED, Code.KEYS_DISAGREE, *BODY_PROBLEMS),
            *(Code.IDEMPOTENCY_KEY_REUSED, Code.NOT_PUBLISHED),
        ),
        body=Body(OrderBody, examples.bodies),
    )
    async def submit(self, request: Request, caller: Caller) -> Response:
        """Submit an order.

        The answer is 202 with the order as PENDING, or 201 with the order that has ended while its client waited. The
        same keys again give the order that they have made before.
        """
        origin = origin_of(request, caller)
        wait_s, key = read_wait(request.headers), read_key(request.headers)
        raw = await read_json_body(request, self._in_flight, bytes_max=self._body_bytes_max)
        body = read_body(raw)
        user_id = body.user_id or caller.user_id
        if not caller.acts_for(user_id):
            raise Problem(Code.OTHER_USER)
        # RFC 9562: ids in the order of time lie side by side in every index
        claim = make_claim(uuid7(), user_id, key, body, request.scope["state"].get("traceparent"))
        about(request, claim.order_id)
        order, replayed = await self._service.submit(claim, caller, origin)
        order, waited = await self._waiting.for_end(request, order, caller, wait_s)
        headers = waited_header(wait_s if waited else 0) | {"location": address(order.order_id), "etag": etag_of(order)}
        if replayed:
            headers["idempotency-replayed"] = "true"
        return json_response(order, 201 if waited and order.status.terminal else 202, headers)

    @operation(
        "GET",
        "/orders",
        "listOrders",
        {200: Returns("A page of them, newest first.", Page, examples.pages)},
        description="An order keeps its place, so that whoever follows `next_cursor` sees every order once.",
        parameters=LIST_PARAMETERS,
        scopes=READERS,
        problems=(Code.OTHER_USER, Code.INVALID_REQUEST),
    )
    async def orders(self, request: Request, caller: Caller) -> Response:
        """List orders."""
        return json_response(await self._service.orders(read_wanted(request.query_params.multi_items()), caller))

    @operation(
        "GET",
        "/orders/{order_id}",
        "readOrder",
        THE_ORDER,
        description="Never a `404` for an order that was accepted here. Another user's order does not exist. "
        + WAITING_TEXT,
        parameters=(ORDER_ID, WAIT, IF_NONE_MATCH),
        scopes=READERS,
        problems=(Code.ORDER_NOT_FOUND,),
    )
    async def order(self, request: Request, caller: Caller) -> Response:
        """Read an order."""
        return await self._show(request, order_id_of(request), caller)

    @operation(
        "GET",
        "/orders/by-client-id/{client_order_id}",
        "readOrderByClientId",
        THE_ORDER,
        description=WAITING_TEXT,
        parameters=(CLIENT_ORDER_ID, USER_ID, WAIT, IF_NONE_MATCH),
        scopes=READERS,
        problems=(Code.ORDER_NOT_FOUND, Code.INVALID_REQUEST),
    )
    async def named_order(self, request: Request, caller: Caller) -> Response:
        """Read an order by the user's own name for it."""
        return await self._show(request, await named_order_id(request, self._service, caller), caller)

    @operation(
        "GET",
        "/orders/{order_id}/status",
        "readOrderStatus",
        THE_STATE,
        description=WAITING_TEXT,
        parameters=(ORDER_ID, WAIT, IF_NONE_MATCH),
        scopes=READERS,
        problems=(Code.ORDER_NOT_FOUND,),
    )
    async def status(self, request: Request, caller: Caller) -> Response:
        """Read what changes about an order."""
        return await self._show(request, order_id_of(request), caller, state_of)

    @operation(
        "GET",
        "/orders/{order_id}/history",
        "readOrderHistory",
        {200: Returns("A page of its history.", History, examples.history)},
        description="Every status, question, answer and ignored reply, with times and reasons; the next page begins"
        " after the last `seq`.",
        parameters=(ORDER_ID, _AFTER),
        scopes=READERS,
        problems=(Code.ORDER_NOT_FOUND, Code.INVALID_REQUEST),
    )
    async def history(self, request: Request, caller: Caller) -> Response:
        """Read what happened to an order."""
        after = once(request, "after", "0")
        if _SEQ.fullmatch(after) is None:
            raise invalid(BrokenRule("after", "must be the seq of an entry, a whole number", after))
        number = about(request, order_id_of(request))
        return json_response(History(number, *await self._service.history(number, caller, int(after))))

    @operation(
        "PUT",
        "/orders/{order_id}/cancel",
        "cancelOrder",
        CANCELLED,
        description=CANCEL_TEXT,
        parameters=(ORDER_ID, WAIT),
        scopes=CANCELLERS,
        problems=(Code.ORDER_NOT_FOUND, *CANCEL_PROBLEMS),
    )
    async def cancel(self, request: Request, caller: Caller) -> Response:
        """Cancel an order."""
        return await self._cancel(request, order_id_of(request), caller)

    @operation(
        "PUT",
        "/orders/by-client-id/{client_order_id}/cancel",
        "cancelOrderByClientId",
        CANCELLED,
        description=CANCEL_TEXT,
        parameters=(CLIENT_ORDER_ID, USER_ID, WAIT),
        scopes=CANCELLERS,
        problems=(Code.ORDER_NOT_FOUND, Code.INVALID_REQUEST, *CANCEL_PROBLEMS),
    )
    async def cancel_named(self, request: Request, caller: Caller) -> Response:
        """Cancel an order by the user's own name for it."""
        return await self._cancel(request, await named_order_id(request, self._service, caller), caller)

    async def _show(
        self, request: Request, order_id: UUID, caller: Caller, view: Callable[[Order], msgspec.Struct] | None = None
    ) -> Response:
        """Answer with an order, or with 304 when the client has this version; wait for something new if it prefers."""
        about(request, order_id)
        known = request.headers.getlist("if-none-match")

        async def fits(order: Order) -> bool:
            return order.status.terminal or (bool(known) and not knows(known, etag_of(order)))

        wait_s = 0 if self._waiting.full(caller) else read_wait(request.headers)
        if wait_s:
            order = await self._waiting.until(request, fits, order_id, caller, wait_s, for_end=not known)
        else:
            order = await self._service.order(order_id, caller)
        headers = waited_header(wait_s) | {"etag": etag_of(order)} | kept(order)
        if knows(known, etag_of(order)):
            return Response(status_code=304, headers=headers)
        return json_response(order if view is None else view(order), 200, headers)

    async def _cancel(self, request: Request, order_id: UUID, caller: Caller) -> Response:
        """Accept a cancel; wait for the order's end if the client prefers, and answer as if it were asked for then."""
        order, over = await self._service.cancel(about(request, order_id), caller, origin_of(request, caller))
        headers: dict[str, str] = {}
        if not over:
            wait_s = read_wait(request.headers)
            order, waited = await self._waiting.for_end(request, order, caller, wait_s)
            headers = waited_header(wait_s if waited else 0)
            refuse_late_cancel(order, headers)
            if order.status is not OrderStatus.CANCELLED:
                return json_response(msgspec.structs.replace(order, cancel_requested=True), 202, headers)
        return json_response(order, 200, headers | {"etag": etag_of(order)})
