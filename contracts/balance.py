"""The conversation with the balance service: reserve, settle, refund, and what it answers.

A command carries final amounts: the balance service never computes a price or a fee. `amount` is always the whole
hold, so that a command under a known hold id with other terms is seen. `hold_asked_at` is when the order first asked
for its hold, in each of its commands: a ledger that began later and does not know the hold must move nothing, because
the one before may hold it (HOLD_CONFLICT, with the state HELD). Every reply says the hold's state. A yes says also
whose hold it is, of what; a service that does not say it is believed.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

import msgspec

from contracts.decimals import Money
from contracts.vocabulary import AssetId, HoldState, Instant, ReasonText, StepId, UserId


class BalanceRefusal(StrEnum):
    """Why the balance service says no. CLOSED: the hold was already refunded, refused or settled."""

    ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    HOLD_CONFLICT = "HOLD_CONFLICT"
    CLOSED = "CLOSED"
    NOT_HELD = "NOT_HELD"
    EXCEEDS_HOLD = "EXCEEDS_HOLD"


class ReserveBalance(msgspec.Struct, frozen=True, omit_defaults=True):
    """Hold `amount` of `asset_id` from the user's available balance."""

    command_id: StepId
    order_id: UUID
    hold_id: StepId
    user_id: UserId
    asset_id: AssetId
    amount: Money
    hold_asked_at: Instant | None = None


class SettleBalance(msgspec.Struct, frozen=True, omit_defaults=True):
    """Capture the hold and credit the other leg, in one transaction; what is not captured returns to the user.

    `capture` leaves the user in `asset_id`, `credit` reaches the user in `credit_asset_id`, `fee` goes to `@fees` in
    `fee_asset_id` (out of the capture of a buy, out of what the market pays for a sell).
    """

    command_id: StepId
    order_id: UUID
    hold_id: StepId
    user_id: UserId
    asset_id: AssetId
    amount: Money
    capture: Money
    credit_asset_id: AssetId
    credit: Money
    fee_asset_id: AssetId
    fee: Money
    hold_asked_at: Instant | None = None


class RefundBalance(msgspec.Struct, frozen=True, omit_defaults=True):
    """Give the whole hold back, whether or not it was ever made: a hold that comes later is refused."""

    command_id: StepId
    order_id: UUID
    hold_id: StepId
    user_id: UserId
    asset_id: AssetId
    amount: Money
    hold_asked_at: Instant | None = None


class BalanceReserved(msgspec.Struct, frozen=True, omit_defaults=True):
    """The amount is held."""

    command_id: StepId
    order_id: UUID
    hold_id: StepId
    hold_state: HoldState
    amount: Money
    user_id: UserId | None = None
    asset_id: AssetId | None = None


class BalanceRefused(msgspec.Struct, frozen=True):
    """The amount is not held."""

    command_id: StepId
    order_id: UUID
    hold_id: StepId
    hold_state: HoldState
    reason_code: BalanceRefusal
    reason: ReasonText


class BalanceSettled(msgspec.Struct, frozen=True, omit_defaults=True):
    """Both legs are booked; `returned` is the part of the hold that went back to the user."""

    command_id: StepId
    order_id: UUID
    hold_id: StepId
    hold_state: HoldState
    captured: Money
    returned: Money
    user_id: UserId | None = None
    asset_id: AssetId | None = None


class SettlementRefused(msgspec.Struct, frozen=True):
    """The settlement will never happen. Unless the reason is HOLD_CONFLICT, nothing is held any more."""

    command_id: StepId
    order_id: UUID
    hold_id: StepId
    hold_state: HoldState
    reason_code: BalanceRefusal
    reason: ReasonText


class BalanceRefunded(msgspec.Struct, frozen=True, omit_defaults=True):
    """Nothing is held: `refunded` went back to the user (0 when there was no hold)."""

    command_id: StepId
    order_id: UUID
    hold_id: StepId
    hold_state: HoldState
    refunded: Money
    user_id: UserId | None = None
    asset_id: AssetId | None = None


class RefundRefused(msgspec.Struct, frozen=True):
    """The hold is settled, or known with other terms: nothing was refunded."""

    command_id: StepId
    order_id: UUID
    hold_id: StepId
    hold_state: HoldState
    reason_code: BalanceRefusal
    reason: ReasonText
