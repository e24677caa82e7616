"""The ledger's arithmetic: reserve, adjust, refund, settle and deposit on accounts in memory, in message order. No I/O.

A hold moves an amount inside its user's account, so it makes no journal entry: per user and asset, available plus held
equals the journal's sum. An amount that is not there is refused, never reduced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, NamedTuple

from contracts.balance import BalanceRefusal, SettleBalance
from contracts.decimals import ZERO, add, negate, plain_text, subtract
from saga_kit.participant.barrier import Hold, HoldCommand, Refusal
from saga_kit.runtime.errors import Contention

AccountKey = tuple[str, str]
"""User and asset."""

MARKET: Final = "@market"
FEES: Final = "@fees"
EXTERNAL: Final = "@external"


@dataclass(slots=True)
class Account:
    """A user's amounts of one asset, and whether a command has changed them."""

    available: Decimal = ZERO
    held: Decimal = ZERO
    changed: bool = False


class JournalLeg(NamedTuple):
    """A part of a journal entry: what `account` gains of `asset_id`."""

    asset_id: str
    account: str
    amount: Decimal


class JournalEntry(NamedTuple):
    """A movement of money, as one row of the journal."""

    entry_id: str
    order_id: str | None
    legs: list[JournalLeg]
    """By asset, then account, each pair once; per asset the amounts sum to zero, and none is zero."""


@dataclass(slots=True)
class AccountLedger:
    """The accounts that a batch may touch, and the journal entries that it makes."""

    accounts: dict[AccountKey, Account] = field(default_factory=dict)
    """The existing ones among those that the batch names."""
    owners: set[str] = field(default_factory=set)
    """Users that have an account in any asset."""
    entries: list[JournalEntry] = field(default_factory=list)

    def reserve(self, command: HoldCommand[Any]) -> Refusal | None:
        """Move the amount from available to held."""
        if command.owner not in self.owners:
            return Refusal(BalanceRefusal.ACCOUNT_NOT_FOUND, f"user {command.owner} has no account")
        account = self.accounts.get((command.owner, command.unit))
        available = account.available if account is not None else ZERO
        if available < command.amount:
            reason = f"{plain_text(command.amount)} {command.unit} needed, {plain_text(available)} available"
            return Refusal(BalanceRefusal.INSUFFICIENT_BALANCE, reason)
        self._move(command.owner, command.unit, available=negate(command.amount), held=command.amount)
        return None

    def adjust(self, command: HoldCommand[Any], hold: Hold, delta: Decimal) -> Refusal | None:
        """Move the difference from available to held, or back from held when it is negative."""
        account = self.accounts.get((hold.owner, hold.unit))
        if account is not None and account.available < delta:
            more = f"{plain_text(delta)} {hold.unit} more needed for {plain_text(command.amount)}"
            return Refusal(BalanceRefusal.INSUFFICIENT_BALANCE, f"{more}, {plain_text(account.available)} available")
        self._move(hold.owner, hold.unit, available=negate(delta), held=delta)
        return None

    def refund(self, _command: HoldCommand[Any], hold: Hold) -> None:
        """Move the whole hold back from held to available."""
        self._move(hold.owner, hold.unit, available=hold.amount, held=negate(hold.amount))

    def settle(self, command: HoldCommand[Any], hold: Hold) -> Refusal | None:
        """Take the capture from the user, return the rest of the hold, credit the other leg, and add the journal entry.

        It refuses nothing: the barrier calls it only when the hold covers the capture.
        """
        message = command.message
        if not isinstance(message, SettleBalance):
            raise TypeError(f"{type(message).__name__} does not settle")
        self._move(hold.owner, hold.unit, available=subtract(hold.amount, message.capture), held=negate(hold.amount))
        self._move(hold.owner, message.credit_asset_id, available=message.credit)
        self._book(
            f"{hold.saga_id}:settle",
            hold.saga_id,
            (hold.owner, hold.unit, negate(message.capture)),
            (hold.owner, message.credit_asset_id, message.credit),
            (FEES, message.fee_asset_id, message.fee),
            against=MARKET,
        )
        return None

    def capture(self, hold: Hold, amount: Decimal, to: str) -> None:
        """Pay a part of a hold to an account of the house, return the rest, and add the journal entry."""
        self._move(hold.owner, hold.unit, available=subtract(hold.amount, amount), held=negate(hold.amount))
        self._book(f"{hold.hold_id}:capture", None, (hold.owner, hold.unit, negate(amount)), against=to)

    def deposit(self, deposit_id: str, user_id: str, asset_id: str, amount: Decimal) -> None:
        """Add an amount from outside."""
        self._move(user_id, asset_id, available=amount)
        self._book(f"deposit:{deposit_id}", None, (user_id, asset_id, amount), against=EXTERNAL)

    def _move(self, user_id: str, asset_id: str, *, available: Decimal, held: Decimal = ZERO) -> None:
        account = self.accounts.get((user_id, asset_id))
        if account is None:
            # There is a hold, so its account was made while this batch took its locks; the next try sees it.
            raise Contention(f"the account of {user_id} in {asset_id} has just been made")
        account.available = add(account.available, available)
        account.held = add(account.held, held)
        account.changed = True

    def _book(self, entry_id: str, order_id: str | None, *legs: tuple[str, str, Decimal], against: str) -> None:
        # Each leg has its counterpart at `against`, so that every entry sums to zero per asset.
        sums: dict[AccountKey, Decimal] = {}
        for account, asset_id, amount in legs:
            for key, gain in (((account, asset_id), amount), ((against, asset_id), negate(amount))):
                sums[key] = add(sums.get(key, ZERO), gain)
        moved = [JournalLeg(asset_id, account, amount) for (account, asset_id), amount in sums.items() if amount]
        if moved:
            self.entries.append(JournalEntry(entry_id, order_id, sorted(moved)))
