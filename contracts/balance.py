"""The messages of the balance service: reserve, adjust, settle, refund, and the replies.

A command carries final amounts: the balance service computes no price and no fee. `amount` is the whole hold in every
command, so that other terms under a known hold id are noticed. `hold_asked_at`, also in every command, is when the
order first asked for its hold. A ledger that began later and does not know the hold must move nothing, because the
ledger before it may hold the money; it answers HOLD_CONFLICT with the state HELD. Every reply carries the hold's state.
`revision` counts the adjustments of a hold, which has 0 as it was reserved. Reserve, settle and refund carry the last
one that the order has confirmed, and as `amount` what that one made of the hold.
A reply that says yes also names the hold's user and asset; when it does not, the saga does not check them.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

import msgspec

from contracts.decimals import Money
from contracts.vocabulary import AssetId, Count, HoldState, Instant, ReasonText, Revision, StepId, UserId


class BalanceRefusal(StrEnum):
    """Why the balance service refuses. CLOSED: the hold was already refunded, refused or settled.

    Only adjustments are refused as SUPERSEDED (a newer one was answered before) and NOT_SUPPORTED (the service adjusts
    no hold).
    """

    ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    HOLD_CONFLICT = "HOLD_CONFLICT"
    CLOSED = "CLOSED"
    NOT_HELD = "NOT_HELD"
    EXCEEDS_HOLD = "EXCEEDS_HOLD"
    SUPERSEDED = "SUPERSEDED"
    NOT_SUPPORTED = "NOT_SUPPORTED"


class _Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first fields of every command."""

    command_id: StepId
    order_id: UUID
    hold_id: StepId
    user_id: UserId
    asset_id: AssetId
    amount: Money


class ReserveBalance(_Command, frozen=True):
    """Hold `amount` of `asset_id` from the user's available balance."""

    hold_asked_at: Instant | None = None
    revision: Count = 0


class SettleBalance(_Command, frozen=True):
    """Capture the hold and credit the other leg, in one transaction; what is not captured returns to the user.

    `capture` leaves the user in `asset_id`, `credit` reaches the user in `credit_asset_id`, `fee` goes to `@fees` in
    `fee_asset_id` (out of the capture of a buy, out of what the market pays for a sell).
    """

    capture: Money
    credit_asset_id: AssetId
    credit: Money
    fee_asset_id: AssetId
    fee: Money
    hold_asked_at: Instant | None = None
    revision: Count = 0


class RefundBalance(_Command, frozen=True):
    """Return the whole hold, whether or not it was made; a reservation that comes later is refused."""

    hold_asked_at: Instant | None = None
    revision: Count = 0


class AdjustBalance(_Command, frozen=True):
    """Make `amount` the whole of the hold: more is taken from the available balance, less is returned to it.

    The order counts `revision` up from 1. Each one that was asked for is used up, whatever the answer, so none is ever
    asked for with another amount. Refund and settlement end the hold as it is, and an adjustment that comes later is
    refused.
    """

    revision: Revision
    hold_asked_at: Instant | None = None


class _Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first fields of every reply."""

    command_id: StepId
    order_id: UUID
    hold_id: StepId
    hold_state: HoldState


class _Refusal(_Reply, frozen=True):
    """A reply that refuses, and says why."""

    reason_code: BalanceRefusal
    reason: ReasonText


class BalanceReserved(_Reply, frozen=True):
    """The amount is held."""

    amount: Money
    user_id: UserId | None = None
    asset_id: AssetId | None = None


class BalanceRefused(_Refusal, frozen=True):
    """The amount is not held."""


class BalanceSettled(_Reply, frozen=True):
    """Both legs are booked; `returned` is the part of the hold that went back to the user."""

    captured: Money
    returned: Money
    user_id: UserId | None = None
    asset_id: AssetId | None = None


class SettlementRefused(_Refusal, frozen=True):
    """The settlement will never happen. Unless the reason is HOLD_CONFLICT, nothing is held any more."""


class BalanceRefunded(_Reply, frozen=True):
    """Nothing is held: `refunded` went back to the user (0 when there was no hold)."""

    refunded: Money
    user_id: UserId | None = None
    asset_id: AssetId | None = None


class RefundRefused(_Refusal, frozen=True):
    """The hold is settled, or known with other terms: nothing was refunded."""


class BalanceAdjusted(_Reply, frozen=True):
    """The hold is `amount` as of `revision`."""

    revision: Revision
    amount: Money
    user_id: UserId | None = None
    asset_id: AssetId | None = None


class AdjustmentRefused(_Refusal, frozen=True):
    """The hold is what it was, and `revision` will never change it."""

    revision: Revision


BalanceCommand = ReserveBalance | SettleBalance | RefundBalance | AdjustBalance
RefusalReply = BalanceRefused | SettlementRefused | RefundRefused | AdjustmentRefused
BalanceReply = (
    BalanceReserved
    | BalanceRefused
    | BalanceSettled
    | SettlementRefused
    | BalanceRefunded
    | RefundRefused
    | BalanceAdjusted
    | AdjustmentRefused
)
