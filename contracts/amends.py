"""The messages that change an order that rests: amend its terms, suspend it, release it. Each is acted on once.

An amend names only what changes. Of those fields stands in `contracts.terms` which ones an order type takes; an amend
neither adds nor removes a limit, a trigger or a trail. What became of it is shown on the order (`OrderAmendment`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from contracts.decimals import Price, Quantity
from contracts.vocabulary import (
    BasisPoints,
    Count,
    Instant,
    ReasonText,
    Requester,
    TimeInForce,
    TrailBps,
    UserId,
    Word,
)

AmendId = Annotated[
    str,
    Meta(
        pattern=r"^[\x21-\x7e]{1,255}\Z",
        description="The requester's own name for the amend: of two with one name, the second is a repetition.",
    ),
]

EXPECTED_MAX: Final = 100
Versions = Annotated[tuple[Count, ...], Meta(min_length=1, max_length=EXPECTED_MAX)]


class OrderAmendRequested(msgspec.Struct, frozen=True, omit_defaults=True):
    """A client asks to change a resting order. `user_id` is the order's user, `requested_by` who asks.

    A field that is left out stays as it is; `quantity` is the new whole. With `expected_versions` the amend is refused
    unless the order's version is one of them.
    """

    order_id: UUID
    user_id: UserId
    requested_by: Requester
    amend_id: AmendId
    expected_versions: Versions | None = None
    requested_at: Instant | None = None
    quantity: Quantity | None = None
    limit_price: Price | None = None
    trigger_price: Price | None = None
    trail_amount: Price | None = None
    trail_bps: TrailBps | None = None
    slippage_bps: BasisPoints | None = None
    time_in_force: TimeInForce | None = None
    expires_at: Instant | None = None


CHANGES: Final = OrderAmendRequested.__struct_fields__[OrderAmendRequested.__struct_fields__.index("quantity") :]
"""The fields of an amend that say what changes."""


class OrderHoldRequested(msgspec.Struct, frozen=True, omit_defaults=True):
    """A client asks to suspend a resting order: no price fires it until it is released. Its money stays held.

    FIX calls it ExecInst S. What an operator has suspended only an operator can release.
    """

    order_id: UUID
    user_id: UserId
    requested_by: Requester
    requested_at: Instant | None = None
    reason: ReasonText | None = None


class OrderReleaseRequested(msgspec.Struct, frozen=True, omit_defaults=True):
    """A client asks to let a suspended order rest again, as of now: prices from before do not count (ExecInst q)."""

    order_id: UUID
    user_id: UserId
    requested_by: Requester
    requested_at: Instant | None = None


class AmendState(Word):
    """How far an amend has come. While it is PENDING the old terms stay in force."""

    PENDING = "PENDING"
    APPLIED = "APPLIED"
    REFUSED = "REFUSED"


class AmendRefusal(Word):
    """Why an amend changed nothing."""

    NOT_AMENDABLE = "NOT_AMENDABLE"
    TOO_LATE = "TOO_LATE"
    AMEND_IN_PROGRESS = "AMEND_IN_PROGRESS"
    VERSION_MISMATCH = "VERSION_MISMATCH"
    TOO_MANY_AMENDS = "TOO_MANY_AMENDS"
    TIMED_OUT = "TIMED_OUT"
    INVALID_ORDER = "INVALID_ORDER"
    EXPIRED = "EXPIRED"
    WOULD_TRIGGER_IMMEDIATELY = "WOULD_TRIGGER_IMMEDIATELY"
    ASSET_NOT_FOUND = "ASSET_NOT_FOUND"
    ASSET_NOT_TRADABLE = "ASSET_NOT_TRADABLE"
    ASSET_UNAVAILABLE = "ASSET_UNAVAILABLE"
    STALE_PRICE = "STALE_PRICE"
    INVALID_STEP = "INVALID_STEP"
    INVALID_TICK = "INVALID_TICK"
    QUANTITY_OUT_OF_RANGE = "QUANTITY_OUT_OF_RANGE"
    NOTIONAL_OUT_OF_RANGE = "NOTIONAL_OUT_OF_RANGE"
    PRICE_OUT_OF_RANGE = "PRICE_OUT_OF_RANGE"
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    NOT_SUPPORTED = "NOT_SUPPORTED"


AMEND_REFUSALS: Final[dict[AmendRefusal, str]] = {
    AmendRefusal.NOT_AMENDABLE: "The order can't be changed in this: its type, or what it was asked with, forbids it.",
    AmendRefusal.TOO_LATE: "The order was fired, cancelled or had expired before the change was made.",
    AmendRefusal.AMEND_IN_PROGRESS: "Another amend of the order is not done yet.",
    AmendRefusal.VERSION_MISMATCH: "The order's version is another than the amend expected.",
    AmendRefusal.TOO_MANY_AMENDS: "The order was amended as often as is allowed.",
    AmendRefusal.TIMED_OUT: "A service did not answer within the saga's patience.",
    AmendRefusal.INVALID_ORDER: "The order's fields would not fit together; `reason` names them.",
    AmendRefusal.EXPIRED: "The new `expires_at` has come already.",
    AmendRefusal.WOULD_TRIGGER_IMMEDIATELY: "The market meets the new trigger already.",
    AmendRefusal.ASSET_NOT_FOUND: "No such asset is traded here any more.",
    AmendRefusal.ASSET_NOT_TRADABLE: "Trading in the asset is closed for good.",
    AmendRefusal.ASSET_UNAVAILABLE: "The asset is not available in this quantity now.",
    AmendRefusal.STALE_PRICE: "The asset's price was not confirmed lately enough to judge the change by.",
    AmendRefusal.INVALID_STEP: "The quantity is not a multiple of the asset's step.",
    AmendRefusal.INVALID_TICK: "A price is not a multiple of the asset's tick.",
    AmendRefusal.QUANTITY_OUT_OF_RANGE: "The quantity is below the asset's minimum or above its maximum.",
    AmendRefusal.NOTIONAL_OUT_OF_RANGE: "Quantity times price is outside the asset's notional limits.",
    AmendRefusal.PRICE_OUT_OF_RANGE: "A price is too far from the market, or its trail is not below it.",
    AmendRefusal.INSUFFICIENT_BALANCE: "The user's available balance does not cover what the order would hold more.",
    AmendRefusal.NOT_SUPPORTED: "The balance service can't change a hold.",
}


class OrderAmendment(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last amend of an order, and what became of it. The fields after `reason` are what it asked to change."""

    amend_id: AmendId
    state: AmendState
    reason_code: AmendRefusal | None = None
    reason: ReasonText | None = None
    quantity: Quantity | None = None
    limit_price: Price | None = None
    trigger_price: Price | None = None
    trail_amount: Price | None = None
    trail_bps: TrailBps | None = None
    slippage_bps: BasisPoints | None = None
    time_in_force: TimeInForce | None = None
    expires_at: Instant | None = None


def changes_of(asked: OrderAmendRequested | OrderAmendment) -> dict[str, Any]:
    """Map each field that an amend changes to its new value."""
    given = ((name, getattr(asked, name)) for name in CHANGES)
    return {name: value for name, value in given if value is not None}
