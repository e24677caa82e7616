"""The routes: from HTTP to the desk and back. The one hot route is plain Starlette, the others are FastAPI's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, Final
from uuid import UUID

import msgspec
from fastapi import FastAPI
from opentelemetry import trace
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from uuid_utils.compat import uuid7

from contracts import codec
from contracts.decimals import Exact, Money
from contracts.orders import Order
from contracts.vocabulary import (
    NAME_PATTERN,
    NAME_RULE,
    PATH_NAME_RULE,
    AssetId,
    Count,
    Instant,
    OrderStatus,
    ReasonCode,
)
from order_api.http.authentication import Gate
from order_api.http.bodies import read_body_bytes
from order_api.http.limits import InFlight
from order_api.http.preferences import knows, read_wait
from order_api.http.problems import Code, FieldError, Problem, invalid, quote
from order_api.http.tokens import Caller, Scope
from order_api.orders.audit_trail import Origin
from order_api.orders.listing import read_wanted
from order_api.orders.service import Desk, address
from order_api.orders.store import Entry
from order_api.orders.submission import KEY_HEADER, make_claim, read_body, read_key
from order_api.orders.views import refuse_late_cancel
from saga_kit.runtime.errors import classify

_ORDER_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SEQ: Final = re.compile(r"[0-9]{1,9}")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_NAME: Final = re.compile(NAME_PATTERN)
JSON: Final = "application/json"
ADDRESS_LENGTH_MAX: Final = 64
"""Characters of an address that the trail keeps: a trusted proxy passes on what it was told."""
PREFERENCE_APPLIED: Final = "preference-applied"


class OrderState(msgspec.Struct, frozen=True):
    """The few fields of an order that change."""

    order_id: UUID
    status: OrderStatus
    reason_code: ReasonCode | None
    reason: str | None
    cancel_requested: bool
    filled_quantity: Money
    average_price: Exact | None
    fee: Money
    version: Count
    updated_at: Instant
    cash_asset_id: AssetId | None
    fee_asset_id: AssetId | None


class History(msgspec.Struct, frozen=True):
    """A page of what happened to an order, oldest first; the next page is asked for with `after` = the last `seq`."""

    order_id: UUID
    history: list[Entry]
    has_more: bool


class OrderRoutes:
    """The endpoints of `/orders`."""

    def __init__(self, desk: Desk, gate: Gate, in_flight: InFlight, *, body_bytes_max: int) -> None:
        self._desk = desk
        self._gate = gate
        self._in_flight = in_flight
        self._body_bytes_max = body_bytes_max

    def attach(self, app: FastAPI) -> None:
        """Put the endpoints where they are found; `openapi` describes them."""
        app.router.routes.append(Route("/orders", self.submit, methods=["POST"]))
        for method, path, endpoint in (
            ("GET", "/orders", self.orders),
            ("GET", "/orders/by-client-id/{client_order_id}", self.named_order),
            ("PUT", "/orders/by-client-id/{client_order_id}/cancel", self.cancel_named),
            ("GET", "/orders/{order_id}", self.order),
            ("GET", "/orders/{order_id}/status", self.status),
            ("GET", "/orders/{order_id}/history", self.history),
            ("PUT", "/orders/{order_id}/cancel", self.cancel),
        ):
            app.add_api_route(path, endpoint, methods=[method], include_in_schema=False, response_model=None)

    async def submit(self, request: Request) -> Response:
        """Accept an order: 202 with the order as PENDING, or 201 with the order that has ended while we waited.

        The same keys again give the order that they have made before.
        """
        caller = await self._caller(request, Scope.WRITE)
        key = read_key(request.headers.getlist(KEY_HEADER))
        body = read_body(await self._read(request))
        user_id = body.user_id or caller.user_id
        if not caller.acts_for(user_id):
            raise Problem(Code.OTHER_USER)
        order_id = _about(request, uuid7())  # RFC 9562: ids in the order of time lie side by side in every index
        traceparent = _traceparent(request)
        claim = make_claim(order_id, user_id, key, body, traceparent)
        order, replayed = await self._desk.submit(claim, caller, _origin(request, caller))
        headers = {"idempotency-replayed": "true"} if replayed else {}
        order = await self._settled(request, order, caller, headers)
        headers |= {"location": address(order.order_id), "etag": _etag(order)}
        ended = PREFERENCE_APPLIED in headers and order.status.terminal
        return _json(order, 201 if ended else 202, headers)

    async def orders(self, request: Request) -> Response:
        """List a user's orders, newest first."""
        caller = await self._caller(request, Scope.READ, Scope.OPERATE)
        return _json(await self._desk.orders(read_wanted(request.query_params.multi_items()), caller))

    async def order(self, request: Request, order_id: str) -> Response:
        """Show an order."""
        caller = await self._caller(request, Scope.READ, Scope.OPERATE)
        return await self._show(request, _order_id(order_id), caller)

    async def status(self, request: Request, order_id: str) -> Response:
        """Show what changes about an order."""
        caller = await self._caller(request, Scope.READ, Scope.OPERATE)
        return await self._show(request, _order_id(order_id), caller, OrderState)

    async def named_order(self, request: Request, client_order_id: str) -> Response:
        """Show an order by the name that its user gave it."""
        caller = await self._caller(request, Scope.READ, Scope.OPERATE)
        return await self._show(request, await self._named(request, client_order_id, caller), caller)

    async def history(self, request: Request, order_id: str) -> Response:
        """Show what happened to an order."""
        caller = await self._caller(request, Scope.READ, Scope.OPERATE)
        after = _once(request, "after", "0")
        if _SEQ.fullmatch(after) is None:
            raise invalid(FieldError("after", "must be the seq of an entry, a whole number", quote(after)))
        number = _about(request, _order_id(order_id))
        return _json(History(number, *await self._desk.history(number, caller, int(after))))

    async def cancel(self, request: Request, order_id: str) -> Response:
        """Ask for an order to be cancelled: 202, or 200 when it is already."""
        caller = await self._caller(request, Scope.WRITE, Scope.OPERATE)
        return await self._cancel(request, _order_id(order_id), caller)

    async def cancel_named(self, request: Request, client_order_id: str) -> Response:
        """Ask for an order to be cancelled by the name that its user gave it."""
        caller = await self._caller(request, Scope.WRITE, Scope.OPERATE)
        return await self._cancel(request, await self._named(request, client_order_id, caller), caller)

    async def _caller(self, request: Request, *any_of: Scope) -> Caller:
        caller = await self._gate.caller(request)
        caller.need(*any_of)
        return caller

    async def _named(self, request: Request, client_order_id: str, caller: Caller) -> UUID:
        user_id = _once(request, "user_id", caller.user_id)
        if _NAME.fullmatch(user_id) is None:
            raise invalid(FieldError("user_id", f"must be {NAME_RULE}", quote(user_id)))
        if _NAME.fullmatch(client_order_id) is None:  # what was taken before . and .. were refused is still found
            raise Problem(Code.ORDER_NOT_FOUND, f"a client order id is {PATH_NAME_RULE}")
        return (await self._desk.named(user_id, client_order_id, caller)).order_id

    async def _show(
        self, request: Request, order_id: UUID, caller: Caller, kind: type[msgspec.Struct] = Order
    ) -> Response:
        """Answer with an order, or with 304 when the client has this version; wait for something new if it prefers."""
        _about(request, order_id)
        known = request.headers.getlist("if-none-match")

        def fits(order: Order) -> bool:
            return order.status.terminal or (bool(known) and not knows(known, _etag(order)))

        headers: dict[str, str] = {}
        wait_s = self._wait_s(request, caller, headers)
        if wait_s:
            when = self._desk.order_when(fits, order_id, caller, wait_s, for_end=not known)
            order = await self._await(request, when)
        else:
            order = await self._desk.order(order_id, caller)
        headers["etag"] = _etag(order)
        if knows(known, _etag(order)):
            return Response(status_code=304, headers=headers)
        return _json(order if kind is Order else _part(order, kind), 200, headers)

    async def _settled(self, request: Request, order: Order, caller: Caller, headers: dict[str, str]) -> Order:
        """Wait for the end of an order that is accepted, if the client prefers. It stays accepted, whatever happens."""
        wait_s = self._wait_s(request, caller, headers)
        if not wait_s:
            return order
        when = self._desk.order_when(_ended, order.order_id, caller, wait_s, for_end=True)
        try:
            return await self._await(request, when)
        except Exception as error:
            if classify(error) != "infrastructure":
                raise
            del headers[PREFERENCE_APPLIED]
            return order

    def _wait_s(self, request: Request, caller: Caller, headers: dict[str, str]) -> int:
        """Say how long this request waits, and promise it in the answer's headers; 0: not at all."""
        wait_s = read_wait(request.headers.getlist("prefer"))
        if wait_s == 0 or self._desk.crowded(caller):
            return 0
        headers[PREFERENCE_APPLIED] = f"wait={wait_s}"
        return wait_s

    async def _await(self, request: Request, work: Coroutine[Any, Any, Order]) -> Order:
        """Wait for an order, unless the client hangs up; meanwhile others may work in this request's place."""
        with self._in_flight.waiting():
            return await _unless_gone(request, work)

    async def _cancel(self, request: Request, order_id: UUID, caller: Caller) -> Response:
        """Accept a cancel; wait for the order's end if the client prefers, and answer as if it were asked for then."""
        order, over = await self._desk.cancel(_about(request, order_id), caller, _origin(request, caller))
        headers: dict[str, str] = {}
        if not over:
            order = await self._settled(request, order, caller, headers)
            refuse_late_cancel(order, headers)
            if order.status is not OrderStatus.CANCELLED:
                return _json(msgspec.structs.replace(order, cancel_requested=True), 202, headers)
        return _json(order, 200, headers | {"etag": _etag(order)})

    async def _read(self, request: Request) -> bytes:
        """Read the body of an order."""
        kinds = request.headers.getlist("content-type")
        if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != JSON:
            raise Problem(Code.UNSUPPORTED_MEDIA_TYPE)
        with self._in_flight.waiting():  # a client that sends slowly takes nobody's place
            return await read_body_bytes(request, bytes_max=self._body_bytes_max)


def _about(request: Request, order_id: UUID) -> UUID:
    """Note which order a request is about: when it fails from here on, its answer says where to look."""
    request.state.order_id = order_id
    request.state.instance = address(order_id)
    return order_id


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Order]) -> Order:
    """Do what takes long, unless the client hangs up."""
    working, hanging_up = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        hanging_up.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _origin(request: Request, caller: Caller) -> Origin:
    traceparent = _traceparent(request)
    return Origin(
        caller=caller.user_id,
        token_id=caller.token_id,
        address=request.client.host[:ADDRESS_LENGTH_MAX] if request.client is not None else None,
        trace_id=traceparent.split("-")[1] if traceparent else None,
    )


def _ended(order: Order) -> bool:
    return order.status.terminal


def _part(order: Order, kind: type[msgspec.Struct]) -> msgspec.Struct:
    return kind(**{name: getattr(order, name) for name in kind.__struct_fields__})


def _once(request: Request, name: str, default: str) -> str:
    """Return a parameter of the query; two of one name would leave it to chance which is meant."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise invalid(FieldError(name, "must come once", quote(values)))
    return values[0] if values else default


def _order_id(text: str) -> UUID:
    if _ORDER_ID.fullmatch(text) is None:
        raise Problem(Code.ORDER_NOT_FOUND, "an order id is a UUID in its canonical text, in lower case")
    return UUID(text)


def _etag(order: Order) -> str:
    return f'"{order.version}"'


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(codec.encode(body), status, headers, JSON)


def _traceparent(request: Request) -> str | None:
    """Return the trace that the order belongs to: our own span where traces are kept, else the caller's."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    headers = request.headers.getlist("traceparent")  # of two, neither is believed
    return headers[0] if len(headers) == 1 and _TRACEPARENT.fullmatch(headers[0]) else None
