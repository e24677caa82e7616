"""The messages of the asset service: is an order allowed, at which quote, and how prices change."""

from __future__ import annotations

from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from contracts.decimals import Price, Quantity
from contracts.vocabulary import AssetId, BasisPoints, Count, Instant, OrderType, ReasonText, Scale, StepId


class AssetRefusal(StrEnum):
    """Why the asset service refuses an order; each is a `ReasonCode` too."""

    ASSET_NOT_FOUND = "ASSET_NOT_FOUND"
    ASSET_NOT_TRADABLE = "ASSET_NOT_TRADABLE"
    ASSET_UNAVAILABLE = "ASSET_UNAVAILABLE"
    STALE_PRICE = "STALE_PRICE"
    INVALID_STEP = "INVALID_STEP"
    INVALID_TICK = "INVALID_TICK"
    QUANTITY_OUT_OF_RANGE = "QUANTITY_OUT_OF_RANGE"
    NOTIONAL_OUT_OF_RANGE = "NOTIONAL_OUT_OF_RANGE"
    PRICE_OUT_OF_RANGE = "PRICE_OUT_OF_RANGE"


class Trading(StrEnum):
    """Whether an asset trades. `HALTED` is unplanned, `CLOSED` is planned. Prices fill orders only while it is OPEN."""

    OPEN = "OPEN"
    HALTED = "HALTED"
    CLOSED = "CLOSED"


class Purpose(StrEnum):
    """What a check is for: a new order, or changed terms of a resting one (which may pass in a halt)."""

    ENTRY = "ENTRY"
    AMEND = "AMEND"


_PREVIEW: Final = ":preview"


def preview_id(order_id: UUID) -> str:
    """Name the check of a preview: it is about no order, and its answer is for whoever previews."""
    return f"{order_id}{_PREVIEW}"


def is_for_preview(command_id: str) -> bool:
    """Tell whether a check, or its answer, belongs to a preview."""
    return command_id.endswith(_PREVIEW)


class CheckAsset(msgspec.Struct, frozen=True, omit_defaults=True):
    """Check an order against the asset's rules, and quote a price.

    `price` is the price that the client saw. The fields after it are written only when they say something, so that a
    plain market order's check has the bytes that it always had. With `queue_when_closed` the order may be accepted
    while the asset does not trade. A `command_id` that ends with `:preview` is about no order: somebody asks what would
    become of one. It is answered like every other, and nothing of it is remembered.
    """

    command_id: StepId
    order_id: UUID
    asset_id: AssetId
    order_type: OrderType
    quantity: Quantity
    price: Price | None = msgspec.field(default_factory=lambda: None)
    """Always written, even as null: `omit_defaults` leaves out only plain defaults."""
    limit_price: Price | None = None
    trigger_price: Price | None = None
    trail_amount: Price | None = None
    trail_bps: BasisPoints | None = None
    slippage_bps: BasisPoints | None = None
    purpose: Purpose = Purpose.ENTRY
    queue_when_closed: bool = False


class AssetApproved(msgspec.Struct, frozen=True, omit_defaults=True):
    """The order is allowed at this quote; carries all that later sums need. `fee_bps` is the fee rate in 1/10,000.

    `quoted_at` is when the quote was made. A quote's age counts from the earliest of `quoted_at`, the reply's `ce_time`
    and its append time, so that a delayed answer makes no price younger. `sequence` is the one of `assets.prices`, so
    that quotes and published prices have one order. `trading` is the asset's state when the quote was made.
    `session_ends_at` is when the session ends that runs then, or, if none does, the next one; null without sessions.
    """

    command_id: StepId
    order_id: UUID
    asset_id: AssetId
    price: Price
    sequence: Count
    as_of: Instant
    tick: Price
    step: Quantity
    fee_bps: BasisPoints
    cash_asset_id: AssetId
    cash_scale: Scale
    rules_version: Count
    quoted_at: Instant | None = None
    trading: Trading = Trading.OPEN
    session_ends_at: Instant | None = None


class AssetRefused(msgspec.Struct, frozen=True):
    """The order is not allowed."""

    command_id: StepId
    order_id: UUID
    asset_id: AssetId
    reason_code: AssetRefusal
    reason: ReasonText


class AssetPriceChanged(msgspec.Struct, frozen=True, omit_defaults=True):
    """An asset's newest price and trading state, or a repetition of it.

    `sequence` rises with each change of the price or of `trading`, and it alone says which of two messages is newer. A
    repetition (heartbeat) has the old sequence and a new `confirmed_at`: when the source last stood by the price, which
    is `as_of` where it is left out. `reopens_at` is when a closed asset is expected to open, if that is known.
    """

    asset_id: AssetId
    sequence: Count
    price: Price
    as_of: Instant
    confirmed_at: Instant | None = None
    trading: Trading = Trading.OPEN
    reopens_at: Instant | None = None
