"""The messages of holds beside the saga: a service holds a user's money, and captures or releases it.

A withdrawal or a fee needs a hold that belongs to no order. Whoever asks mints `hold_id`, a UUID that is never used
again; so no request here can name the hold of an order. Every request carries the whole terms of its hold, so that
other terms under a known id are noticed (HOLD_CONFLICT), and `amount` is always the whole hold.

Each request is answered by an event. The same request again is answered by the same event, and moves nothing. A hold
ends once: it is refused, captured, released or expired. A refused capture or release changes nothing, unless the hold
was never placed: then it never will be.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from contracts.decimals import Money, Quantity
from contracts.vocabulary import NAME_PATTERN, AssetId, Instant, ReasonText

HELD_AT_MOST: Final = timedelta(days=90)
"""`expires_at` is at most so far away when a hold is placed: money is not held for ever by a caller who forgot it."""

Owner = Annotated[str, Meta(pattern=NAME_PATTERN, description="The user whose money it is.")]
SystemAccount = Annotated[
    str,
    Meta(
        pattern=r"^@[a-z0-9._-]{1,63}\Z",
        description="An account of the house, such as `@fees`. Which of them may be paid to, the ledger decides.",
    ),
]


class HoldRefusal(StrEnum):
    """Why a request is refused.

    CLOSED: the hold was captured, or ended before it was placed. NOT_HELD: it is not held, and will not be any more.
    EXCEEDS_HOLD: more is to be captured than is held. EXPIRY_OUT_OF_RANGE: `expires_at` was not ahead, or too far.
    DESTINATION_NOT_ALLOWED: a capture may not pay to that account.
    """

    ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    EXPIRY_OUT_OF_RANGE = "EXPIRY_OUT_OF_RANGE"
    HOLD_CONFLICT = "HOLD_CONFLICT"
    CLOSED = "CLOSED"
    NOT_HELD = "NOT_HELD"
    EXCEEDS_HOLD = "EXCEEDS_HOLD"
    DESTINATION_NOT_ALLOWED = "DESTINATION_NOT_ALLOWED"


class _Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first fields of every request and of every event."""

    hold_id: UUID
    user_id: Owner
    asset_id: AssetId
    amount: Quantity


class HoldRequested(_Terms, frozen=True):
    """Hold `amount` of `asset_id` from the user's available balance until `expires_at`, by the ledger's clock."""

    expires_at: Instant


class HoldCaptureRequested(_Terms, frozen=True):
    """Pay `capture` out of the hold `to` an account of the house, once; what is not captured returns to the user."""

    capture: Quantity
    to: SystemAccount
    hold_asked_at: Instant | None = None
    """When the hold was first asked for. A ledger that began later and does not know it answers HOLD_CONFLICT."""


class HoldReleaseRequested(_Terms, frozen=True):
    """Return the whole hold, whether or not it was placed; a hold that is to be placed later is refused."""

    hold_asked_at: Instant | None = None


class HoldPlaced(_Terms, frozen=True):
    """The amount is held, or was: this answers a repeated request after the hold's end, too."""

    expires_at: Instant


class HoldRefused(_Terms, frozen=True):
    """The hold is not placed and never will be. With HOLD_CONFLICT it is a known hold of other terms, left as it is."""

    reason_code: HoldRefusal
    reason: ReasonText


class HoldCaptured(_Terms, frozen=True):
    """`captured` was paid `to` the account, and `returned` to the user."""

    captured: Money
    to: SystemAccount
    returned: Money


class HoldReleased(_Terms, frozen=True):
    """Nothing is held: `returned` went back to the user (0 when the hold was never placed)."""

    returned: Money


class HoldExpired(_Terms, frozen=True):
    """`expires_at` has come, and `returned`, the whole hold, went back to the user. It answers a late release, too."""

    returned: Money


class HoldCaptureRefused(_Terms, frozen=True):
    """Nothing was captured by this request. Unless the reason is NOT_HELD, the hold is as it was."""

    capture: Quantity
    to: SystemAccount
    reason_code: HoldRefusal
    reason: ReasonText


class HoldReleaseRefused(_Terms, frozen=True):
    """The hold was captured (CLOSED), or is known with other terms (HOLD_CONFLICT): nothing was released."""

    reason_code: HoldRefusal
    reason: ReasonText


HoldRequest = HoldRequested | HoldCaptureRequested | HoldReleaseRequested
HoldEvent = (
    HoldPlaced | HoldRefused | HoldCaptured | HoldReleased | HoldExpired | HoldCaptureRefused | HoldReleaseRefused
)
