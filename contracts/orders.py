"""The messages about orders: requests on `orders.requests`, and every version of an order on `orders.events`."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import msgspec

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
    UserId,
)

SLIPPAGE_BPS_DEFAULT = 100


class OrderRequested(msgspec.Struct, frozen=True):
    """A client asks for an order. `price` is the price that the client saw, `requested_at` when it was accepted."""

    order_id: UUID
    user_id: UserId
    asset_id: AssetId
    order_type: OrderType
    quantity: Quantity
    price: Price | None = None
    slippage_bps: BasisPoints = SLIPPAGE_BPS_DEFAULT
    client_order_id: ClientOrderId | None = None
    requested_at: Instant | None = None


class OrderCancelRequested(msgspec.Struct, frozen=True):
    """A client asks to cancel an order. `user_id` is the order's user, `requested_by` who asks."""

    order_id: UUID
    user_id: UserId
    requested_by: Requester
    requested_at: Instant | None = None


class Order(msgspec.Struct, frozen=True):
    """An order as its users see it. Fields that an invalid request did not give are null.

    `cash_asset_id` is the currency of `average_price` and of all that is worked out from the quote, `fee_asset_id` the
    one of `fee`; today they are the same. Both are null while the order is PENDING, since learning a quote is no new
    version, and when it ended without a quote. Events of older versions do not tell them.
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
