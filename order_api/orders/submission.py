"""From a request's bytes to a claim, by the rules of `OrderRequested` and of `contracts.terms`. No I/O, no clock.

Whether `expires_at` is in time only the database's clock can tell: the store asks it as it commits the claim.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec

from contracts import codec
from contracts.decimals import Price, Quantity
from contracts.envelope import format_time
from contracts.orders import OrderRequested
from contracts.terms import EXPIRES_WITHIN, faults, slippage_of
from contracts.vocabulary import (
    NAME_RULE,
    PATH_NAME_RULE,
    AssetId,
    BasisPoints,
    ClientOrderId,
    Instant,
    OrderKind,
    OrderType,
    TimeInForce,
    TrailBps,
    UserId,
)
from order_api.http.fields import BodyReader
from order_api.http.problems import BrokenRule, Problem, invalid
from order_api.orders.publication.messages import Claim


class OrderBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a client sends: each field as in `OrderRequested`; `user_id` defaults to the caller.

    Which of the later fields an order type takes stands in `contracts.terms`.
    """

    asset_id: AssetId
    order_type: OrderType
    quantity: Quantity
    user_id: UserId | None = None
    price: Price | None = None
    slippage_bps: BasisPoints | None = None
    client_order_id: ClientOrderId | None = None
    limit_price: Price | None = None
    trigger_price: Price | None = None
    trail_amount: Price | None = None
    trail_bps: TrailBps | None = None
    time_in_force: TimeInForce | None = None
    expires_at: Instant | None = None
    queue_when_closed: bool | None = None


EXPIRES_AT_RULE: Final = (
    f"an RFC 3339 time with its offset, such as 2026-01-31T12:00:00Z, later than now and at most {EXPIRES_WITHIN.days}"
    " days away"
)


def refuse_out_of_time(expires_at: datetime | None, now: datetime) -> None:
    """Raise the problem of an `expires_at` that is not ahead of the database's time, or too far ahead."""
    if expires_at is not None and not now < expires_at <= now + EXPIRES_WITHIN:
        raise out_of_time(format_time(expires_at), now)


def out_of_time(expires_at: str | None, now: datetime) -> Problem:
    """Make the problem of an `expires_at`, in the text of the wire, that was judged at this time."""
    return invalid(BrokenRule("expires_at", f"must be {EXPIRES_AT_RULE}; it is {format_time(now)}", expires_at))


RULES: Final = {
    "asset_id": NAME_RULE,
    "order_type": "one of " + ", ".join(OrderType),
    "quantity": Quantity.rule,
    "user_id": NAME_RULE,
    "price": Price.rule,
    "slippage_bps": "a whole number from 0 to 10000",
    "client_order_id": PATH_NAME_RULE,
    "limit_price": Price.rule,
    "trigger_price": Price.rule,
    "trail_amount": Price.rule,
    "trail_bps": "a whole number from 5 to 5000, a multiple of 5",
    "time_in_force": "one of " + ", ".join(TimeInForce),
    "expires_at": EXPIRES_AT_RULE,
    "queue_when_closed": "true or false",
}
"""The rules of the types above, in words."""
_ASKED: Final = tuple(name for name in OrderBody.__struct_fields__ if name != "user_id")
"""The fields that are those of `OrderRequested`, whoever the user is."""
read_body: Final = BodyReader(OrderBody, RULES, "an order").read
"""Reads an order; raises the problem that says where the JSON breaks, or lists every field that breaks its rule."""


def make_claim(order_id: UUID, user_id: str, key: str | None, body: OrderBody, traceparent: str | None) -> Claim:
    """Make the claim of an order. Raises the problem that lists the fields that do not fit together.

    Equal intents give equal texts: 1.0 and 1.00, a default left out or given. The request is as the client wrote it.
    """
    if body.expires_at is not None:
        body = msgspec.structs.replace(body, expires_at=body.expires_at.astimezone(UTC))
    request = OrderRequested(order_id, user_id, **{name: getattr(body, name) for name in _ASKED})
    if found := faults(request):
        raise invalid(*(BrokenRule(fault.field, fault.rule, _given(body, fault.field)) for fault in found))
    intent = codec.encode(_intent(body, request)).decode()
    return Claim(order_id, user_id, key, body.client_order_id, intent, _stored(request), traceparent)


class _MarketRequest(msgspec.Struct, frozen=True):
    """The request of an order that takes no terms, with each field written down, and in its place."""

    order_id: UUID
    user_id: UserId
    asset_id: AssetId
    order_type: OrderType
    quantity: Quantity
    price: Price | None
    slippage_bps: BasisPoints | None
    client_order_id: ClientOrderId | None


_PLAIN: Final = _MarketRequest.__struct_fields__
_TERMS: Final = tuple(name for name in _ASKED if name not in _PLAIN)


def _stored(request: OrderRequested) -> bytes:
    """Encode a request, as it is published and shown until the orchestrator has read it.

    That of a market order must be readable for processes of version 0.2.0 beside this one: they expect each field,
    and their default where this version leaves one out.
    """
    if request.order_type.kind is not OrderKind.MARKET or any(getattr(request, name) is not None for name in _TERMS):
        return codec.encode(request)
    plain = {name: getattr(request, name) for name in _PLAIN}
    return codec.encode(_MarketRequest(**plain | {"slippage_bps": slippage_of(request)}))


def _given(body: OrderBody, field: str) -> object:
    value = getattr(body, field)
    return msgspec.UNSET if value is None else msgspec.json.decode(codec.encode(value))


def _intent(body: OrderBody, request: OrderRequested) -> OrderBody:
    """Leave out what a request says only by the way: its user, and what would be the same if it were left out."""
    without = msgspec.structs.replace(request, slippage_bps=None)
    return msgspec.structs.replace(
        body,
        user_id=None,
        slippage_bps=None if slippage_of(without) == request.slippage_bps else request.slippage_bps,
        time_in_force=None if body.time_in_force is TimeInForce.GTC else body.time_in_force,
        queue_when_closed=True if body.queue_when_closed else None,
    )
