"""The messages about orders: what users ask for, what they cancel, and every version of an order."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import msgspec

from contracts.amends import OrderAmendment
from contracts.decimals import Exact, Money, Price, Quantity
from contracts.vocabulary import (
    AssetId,
    BasisPoints,
    ClientOrderId,
    Count,
    Instant,
    OrderStatus,
    OrderType,
    ReasonCode,
    ReasonText,
    Requester,
    TimeInForce,
    TrailBps,
    UserId,
)


class OrderRequested(msgspec.Struct, frozen=True, omit_defaults=True):
    """A client asks for an order. `price` is the price that the client saw, `requested_at` when it was accepted.

    Which of the later fields an order type takes stands in `contracts.terms`. A `slippage_bps` that is left out is
    resolved by the type (`terms.slippage_of`).
    """

    order_id: UUID
    user_id: UserId
    asset_id: AssetId
    order_type: OrderType
    quantity: Quantity
    price: Price | None = None
    slippage_bps: BasisPoints | None = None
    client_order_id: ClientOrderId | None = None
    requested_at: Instant | None = None
    limit_price: Price | None = None
    trigger_price: Price | None = None
    trail_amount: Price | None = None
    trail_bps: TrailBps | None = None
    time_in_force: TimeInForce | None = None
    expires_at: Instant | None = None
    queue_when_closed: bool | None = None


class OrderCancelRequested(msgspec.Struct, frozen=True):
    """A client asks to cancel an order. `user_id` is the order's user, `requested_by` who asks."""

    order_id: UUID
    user_id: UserId
    requested_by: Requester
    requested_at: Instant | None = None


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """An order as its users see it. Fields that an invalid request did not give are null.

    `cash_asset_id` is the currency of `average_price` and of all that is worked out from the quote, `fee_asset_id` the
    one of `fee`; today they are the same. Both are null while the order is PENDING, since learning a quote is no new
    version, and when it ended without a quote. Events of older versions do not tell them.

    The fields after `fee_asset_id` are those of conditional orders; what does not apply is left out. Of a trailing
    stop, `watermark` and `trigger_price` are as of this version: the market moves them without a new one.
    `held_amount` of `held_asset_id` is what the order holds while it rests. `revision` numbers the terms that are in
    force, from 1. `on_hold`: no price fires the order until it is released; `release_refused` says why the last release
    was not possible.
    """

    order_id: UUID
    client_order_id: ClientOrderId | None
    user_id: UserId
    asset_id: AssetId | None
    order_type: OrderType | None
    status: OrderStatus
    quantity: Quantity | None
    price: Price | None
    slippage_bps: BasisPoints | None
    filled_quantity: Money
    average_price: Exact | None
    fee: Money
    reason_code: ReasonCode | None
    reason: ReasonText | None
    cancel_requested: bool
    version: Count
    created_at: Instant
    updated_at: Instant
    cash_asset_id: AssetId | None = None
    fee_asset_id: AssetId | None = None
    limit_price: Price | None = None
    trigger_price: Price | None = None
    trail_amount: Price | None = None
    trail_bps: TrailBps | None = None
    time_in_force: TimeInForce | None = None
    expires_at: Instant | None = None
    queue_when_closed: bool = False
    triggered: bool = False
    watermark: Price | None = None
    revision: Count | None = None
    held_asset_id: AssetId | None = None
    held_amount: Money | None = None
    on_hold: bool = False
    release_refused: ReasonCode | None = None
    amend: OrderAmendment | None = None


class OrderStatusChanged(msgspec.Struct, frozen=True):
    """One version of an order, published at least once. Consumers keep the highest version per order."""

    order_id: UUID
    version: Count
    status: OrderStatus
    previous_status: OrderStatus | None
    reason_code: ReasonCode | None
    occurred_at: Instant
    order: Order


class InvalidOrder(msgspec.Struct, frozen=True):
    """The good fields of an `OrderRequested` that breaks a rule; no message. Broken fields are null.

    `reason` quotes each broken field and its rule. The order ends FAILED / INVALID_ORDER, so its producer learns of it.
    """

    order_id: UUID
    user_id: str
    reason: str
    asset_id: str | None = None
    order_type: OrderType | None = None
    quantity: Decimal | None = None
    price: Decimal | None = None
    slippage_bps: int | None = None
    client_order_id: str | None = None
    requested_at: Instant | None = None
    limit_price: Decimal | None = None
    trigger_price: Decimal | None = None
    trail_amount: Decimal | None = None
    trail_bps: int | None = None
    time_in_force: TimeInForce | None = None
    expires_at: Instant | None = None
    queue_when_closed: bool | None = None
