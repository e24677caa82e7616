"""The routes of `/orders`, from HTTP to the order service and back: a hot one of Starlette, the others of FastAPI."""

from __future__ import annotations

import re
from typing import Any, Final
from uuid import UUID

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
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
from order_api.http.authentication import Authentication
from order_api.http.bodies import JSON, read_json_body
from order_api.http.limits import InFlight
from order_api.http.problems import BrokenRule, Code, Problem, invalid
from order_api.http.request_headers import knows, read_key, read_wait
from order_api.http.tokens import Caller, Scope
from order_api.orders.audit_trail import Origin
from order_api.orders.listing import read_wanted
from order_api.orders.service import OrderService, address
from order_api.orders.store import Entry
from order_api.orders.submission import make_claim, read_body
from order_api.orders.views import refuse_late_cancel
from order_api.orders.waiting import Waiting

_ORDER_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SEQ: Final = re.compile(r"[0-9]{1,9}")
_NAME: Final = re.compile(NAME_PATTERN)
ADDRESS_LENGTH_MAX: Final = 64
"""Characters of an address that the trail keeps: a trusted proxy passes on what it was told."""


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

    def __init__(
        self,
        service: OrderService,
        waiting: Waiting,
        authentication: Authentication,
        in_flight: InFlight,
        *,
        body_bytes_max: int,
    ) -> None:
        self._service = service
        self._waiting = waiting
        self._authentication = authentication
        self._in_flight = in_flight
        self._body_bytes_max = body_bytes_max

    def attach(self, app: FastAPI) -> None:
        """Put the endpoints where they are found; `openapi` describes them."""
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
        origin = _origin(request, caller)
        wait_s, key = read_wait(request.headers), read_key(request.headers)
        raw = await read_json_body(request, self._in_flight, bytes_max=self._body_bytes_max)
        body = read_body(raw)
        user_id = body.user_id or caller.user_id
        if not caller.acts_for(user_id):
            raise Problem(Code.OTHER_USER)
        # RFC 9562: ids in the order of time lie side by side in every index
        claim = make_claim(uuid7(), user_id, key, body, request.scope["state"].get("traceparent"))
        _about(request, claim.order_id)
        order, replayed = await self._service.submit(claim, caller, origin)
        order, waited = await self._waiting.for_end(request, order, caller, wait_s)
        headers = _waited(wait_s if waited else 0) | {"location": address(order.order_id), "etag": _etag(order)}
        if replayed:
            headers["idempotency-replayed"] = "true"
        return _json(order, 201 if waited and order.status.terminal else 202, headers)

    async def orders(self, request: Request) -> Response:
        """List a user's orders, newest first."""
        caller = await self._caller(request, Scope.READ, Scope.OPERATE)
        return _json(await self._service.orders(read_wanted(request.query_params.multi_items()), caller))

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
            raise invalid(BrokenRule("after", "must be the seq of an entry, a whole number", after))
        number = _about(request, _order_id(order_id))
        return _json(History(number, *await self._service.history(number, caller, int(after))))

    async def cancel(self, request: Request, order_id: str) -> Response:
        """Ask for an order to be cancelled: 202, or 200 when it is already."""
        caller = await self._caller(request, Scope.WRITE, Scope.OPERATE)
        return await self._cancel(request, _order_id(order_id), caller)

    async def cancel_named(self, request: Request, client_order_id: str) -> Response:
        """Ask for an order to be cancelled by the name that its user gave it."""
        caller = await self._caller(request, Scope.WRITE, Scope.OPERATE)
        return await self._cancel(request, await self._named(request, client_order_id, caller), caller)

    async def _caller(self, request: Request, *any_of: Scope) -> Caller:
        caller = await self._authentication.caller(request)
        caller.need(*any_of)
        return caller

    async def _named(self, request: Request, client_order_id: str, caller: Caller) -> UUID:
        user_id = _once(request, "user_id", caller.user_id)
        if _NAME.fullmatch(user_id) is None:
            raise invalid(BrokenRule("user_id", f"must be {NAME_RULE}", user_id))
        if _NAME.fullmatch(client_order_id) is None:  # what was taken before . and .. were refused is still found
            raise Problem(Code.ORDER_NOT_FOUND, f"a client order id is {PATH_NAME_RULE}")
        return (await self._service.named(user_id, client_order_id, caller)).order_id

    async def _show(
        self, request: Request, order_id: UUID, caller: Caller, kind: type[msgspec.Struct] = Order
    ) -> Response:
        """Answer with an order, or with 304 when the client has this version; wait for something new if it prefers."""
        _about(request, order_id)
        known = request.headers.getlist("if-none-match")

        def fits(order: Order) -> bool:
            return order.status.terminal or (bool(known) and not knows(known, _etag(order)))

        wait_s = 0 if self._waiting.full(caller) else read_wait(request.headers)
        if wait_s:
            order = await self._waiting.until(request, fits, order_id, caller, wait_s, for_end=not known)
        else:
            order = await self._service.order(order_id, caller)
        headers = _waited(wait_s) | {"etag": _etag(order)}
        if knows(known, _etag(order)):
            return Response(status_code=304, headers=headers)
        return _json(order if kind is Order else _part(order, kind), 200, headers)

    async def _cancel(self, request: Request, order_id: UUID, caller: Caller) -> Response:
        """Accept a cancel; wait for the order's end if the client prefers, and answer as if it were asked for then."""
        order, over = await self._service.cancel(_about(request, order_id), caller, _origin(request, caller))
        headers: dict[str, str] = {}
        if not over:
            wait_s = read_wait(request.headers)
            order, waited = await self._waiting.for_end(request, order, caller, wait_s)
            headers = _waited(wait_s if waited else 0)
            refuse_late_cancel(order, headers)
            if order.status is not OrderStatus.CANCELLED:
                return _json(msgspec.structs.replace(order, cancel_requested=True), 202, headers)
        return _json(order, 200, headers | {"etag": _etag(order)})


def _about(request: Request, order_id: UUID) -> UUID:
    """Note which order a request is about: when it fails from here on, its answer says where to look."""
    request.state.order_id = order_id
    request.state.instance = address(order_id)
    return order_id


def _origin(request: Request, caller: Caller) -> Origin:
    return Origin(
        caller=caller.user_id,
        token_id=caller.token_id,
        address=request.client.host[:ADDRESS_LENGTH_MAX] if request.client is not None else None,
        trace_id=request.scope["state"].get("trace_id"),
    )


def _waited(wait_s: int) -> dict[str, str]:
    """Say in the answer's headers how long its client was waited for at most, if it was."""
    return {"preference-applied": f"wait={wait_s}"} if wait_s else {}


def _part(order: Order, kind: type[msgspec.Struct]) -> msgspec.Struct:
    return kind(**{name: getattr(order, name) for name in kind.__struct_fields__})


def _once(request: Request, name: str, default: str) -> str:
    """Return a parameter of the query; two of one name would leave it to chance which is meant."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise invalid(BrokenRule(name, "must come once", values))
    return values[0] if values else default


def _order_id(text: str) -> UUID:
    if _ORDER_ID.fullmatch(text) is None:
        raise Problem(Code.ORDER_NOT_FOUND, "an order id is a UUID in its canonical text, in lower case")
    return UUID(text)


def _etag(order: Order) -> str:
    return f'"{order.version}"'


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(codec.encode(body), status, headers, JSON)
