"""The routes: from HTTP to the desk and back. The one hot route is plain Starlette, the others are FastAPI's."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec
from fastapi import FastAPI
from opentelemetry import trace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from contracts import codec
from contracts.decimals import Exact, Money
from contracts.orders import Order
from contracts.vocabulary import OrderStatus, ReasonCode
from order_api.desk import Desk, address
from order_api.problems import Code, FieldError, Problem, invalid, quote
from order_api.store import Entry
from order_api.submission import KEY_HEADER, make_claim, read_body, read_key
from order_api.tokens import Scope, Tokens

_ORDER_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SEQ: Final = re.compile(r"[0-9]{1,9}")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
JSON: Final = "application/json"
DRAINED_BYTES_MAX: Final = 1_048_576
"""A body that is too large is read up to here and thrown away: a client that is still sending would miss the answer."""


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
    version: int
    updated_at: datetime


class History(msgspec.Struct, frozen=True):
    """A page of what happened to an order, oldest first; the next page is asked for with `after` = the last `seq`."""

    order_id: UUID
    history: list[Entry]
    has_more: bool


class OrderRoutes:
    """The endpoints of `/orders`."""

    def __init__(self, desk: Desk, tokens: Tokens, *, body_bytes_max: int) -> None:
        self._desk = desk
        self._tokens = tokens
        self._body_bytes_max = body_bytes_max

    def attach(self, app: FastAPI) -> None:
        """Put the endpoints where they are found; `openapi` describes them."""
        app.router.routes.append(Route("/orders", self.submit, methods=["POST"]))
        for path, endpoint, method in (
            ("/orders/{order_id}", self.order, "GET"),
            ("/orders/{order_id}/status", self.status, "GET"),
            ("/orders/{order_id}/history", self.history, "GET"),
            ("/orders/{order_id}/cancel", self.cancel, "PUT"),
        ):
            app.add_api_route(path, endpoint, methods=[method], include_in_schema=False, response_model=None)

    async def submit(self, request: Request) -> Response:
        """Accept an order: 202 with the order as PENDING, or the order that the same keys have already made."""
        caller = await self._tokens.caller(request.headers)
        caller.need(Scope.WRITE)
        key = read_key(request.headers.getlist(KEY_HEADER))
        body = read_body(await self._read(request))
        user_id = body.user_id or caller.user_id
        if not caller.acts_for(user_id):
            raise Problem(Code.OTHER_USER)
        order_id = uuid4()
        request.state.instance = address(order_id)  # where to look when this fails from here on
        claim = make_claim(order_id, user_id, key, body, _traceparent(request))
        order, replayed = await self._desk.submit(claim, caller)
        headers = {"location": address(order.order_id), "etag": _etag(order)}
        if replayed:
            headers["idempotency-replayed"] = "true"
        return _json(order, 202, headers)

    async def order(self, request: Request, order_id: str) -> Response:
        """Show an order."""
        order = await self._find(request, order_id)
        return _json(order, 200, {"etag": _etag(order)})

    async def status(self, request: Request, order_id: str) -> Response:
        """Show what changes about an order."""
        order = await self._find(request, order_id)
        state = OrderState(**{name: getattr(order, name) for name in OrderState.__struct_fields__})
        return _json(state, 200, {"etag": _etag(order)})

    async def history(self, request: Request, order_id: str) -> Response:
        """Show what happened to an order."""
        caller = await self._tokens.caller(request.headers)
        caller.need(Scope.READ, Scope.OPERATE)
        after = request.query_params.get("after", "0")
        if _SEQ.fullmatch(after) is None:
            raise invalid(FieldError("after", "must be the seq of an entry, a whole number", quote(after)))
        number = _order_id(order_id)
        return _json(History(number, *await self._desk.history(number, caller, int(after))))

    async def cancel(self, request: Request, order_id: str) -> Response:
        """Ask for an order to be cancelled: 202, or 200 when it is already."""
        caller = await self._tokens.caller(request.headers)
        caller.need(Scope.WRITE, Scope.OPERATE)
        order, over = await self._desk.cancel(_order_id(order_id), caller)
        return _json(order, 200, {"etag": _etag(order)}) if over else _json(order, 202)

    async def _find(self, request: Request, order_id: str) -> Order:
        caller = await self._tokens.caller(request.headers)
        caller.need(Scope.READ, Scope.OPERATE)
        return await self._desk.order(_order_id(order_id), caller)

    async def _read(self, request: Request) -> bytes:
        """Read the body, and keep no more of it than the limit."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise Problem(Code.UNSUPPORTED_MEDIA_TYPE)
        body, size = bytearray(), 0
        async for chunk in request.stream():
            size += len(chunk)
            if size <= self._body_bytes_max:
                body += chunk
            elif size > DRAINED_BYTES_MAX:
                break
        if size > self._body_bytes_max:
            detail = f"at most {self._body_bytes_max} bytes are taken"
            raise Problem(Code.BODY_TOO_LARGE, detail, headers={"connection": "close"})
        return bytes(body)


def _order_id(text: str) -> UUID:
    if _ORDER_ID.fullmatch(text) is None:
        raise Problem(Code.ORDER_NOT_FOUND, "an order id is a UUID in its canonical text, in lower case")
    return UUID(text)


def _etag(order: Order) -> str:
    return f'"{order.version}"'


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(codec.encode(body), status, {"cache-control": "no-store", **(headers or {})}, JSON)


def _traceparent(request: Request) -> str | None:
    """Return the trace that the order belongs to: our own span where traces are kept, else the caller's."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    header: str = request.headers.get("traceparent", "")
    return header if _TRACEPARENT.fullmatch(header) else None
