"""The participants' barrier: commands in, however late, repeated or out of order; each hold's effect at most once.

A hold's row is idempotency key, verdict and tombstone in one. `ACTIONS` is the whole protocol and `apply` interprets
it: pure, no clock and no I/O. The barrier knows no order and no asset. A ledger (accounts, stock, seats) does what an
action asks for, in memory; `holds` stores the holds, `handler` runs batches, an adapter translates the messages.

An active hold can be adjusted. Its adjustments are numbered: `Hold.revision` is the newest that was asked for, and each
is used up by its first answer. The other commands carry the last one that their sender has confirmed; while a newer one
is known, the hold's amount may be another than theirs. They then act on the hold as it is, and end it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import Enum, StrEnum, auto
from typing import Final, Generic, Protocol, TypeVar, runtime_checkable

import msgspec

from contracts.decimals import ZERO, subtract
from contracts.vocabulary import HoldState
from saga_kit.runtime.transactions import Transaction

C = TypeVar("C")

HOLD_CONFLICT: Final = "HOLD_CONFLICT"
"""The id is known with another amount, unit or owner, or may be known to another ledger. Nothing changes."""
CLOSED: Final = "CLOSED"
"""The hold has ended, so it can't be reserved, refunded or adjusted any more."""
NOT_HELD: Final = "NOT_HELD"
"""There is nothing to settle or to adjust, and there never will be."""
EXCEEDS_HOLD: Final = "EXCEEDS_HOLD"
"""More is to be captured than is held. The settlement is refused for good, and the hold is refunded."""
SUPERSEDED: Final = "SUPERSEDED"
"""A newer adjustment was answered before. Nothing changes, now or later."""
NOT_SUPPORTED: Final = "NOT_SUPPORTED"
"""The ledger changes no hold. Nothing moves."""


class CommandKind(StrEnum):
    """What a command asks of a hold."""

    RESERVE = "RESERVE"
    REFUND = "REFUND"
    SETTLE = "SETTLE"
    ADJUST = "ADJUST"


class HoldAction(Enum):
    """What a command does to a hold."""

    OPEN = auto()
    """Ask the ledger to reserve: HELD or REFUSED."""
    RELEASE = auto()
    """Refund: REFUNDED."""
    CAPTURE = auto()
    """Ask the ledger to settle: SETTLED, or REFUNDED when it refuses."""
    BURY = auto()
    """Store a tombstone, so that a reservation that comes later is refused."""
    RESIZE = auto()
    """Ask the ledger for the difference, if the adjustment is a new one."""
    CONFIRM = auto()
    """Say yes again; nothing changes."""
    DENY = auto()
    """Say no; nothing changes."""


ACTIONS: Final[Mapping[tuple[CommandKind, HoldState | None], HoldAction]] = {
    (CommandKind.RESERVE, None): HoldAction.OPEN,
    (CommandKind.RESERVE, HoldState.HELD): HoldAction.CONFIRM,
    (CommandKind.RESERVE, HoldState.REFUSED): HoldAction.DENY,
    (CommandKind.RESERVE, HoldState.TOMBSTONE): HoldAction.DENY,
    (CommandKind.RESERVE, HoldState.REFUNDED): HoldAction.DENY,
    (CommandKind.RESERVE, HoldState.SETTLED): HoldAction.CONFIRM,
    (CommandKind.REFUND, None): HoldAction.BURY,
    (CommandKind.REFUND, HoldState.HELD): HoldAction.RELEASE,
    (CommandKind.REFUND, HoldState.REFUSED): HoldAction.CONFIRM,
    (CommandKind.REFUND, HoldState.TOMBSTONE): HoldAction.CONFIRM,
    (CommandKind.REFUND, HoldState.REFUNDED): HoldAction.CONFIRM,
    (CommandKind.REFUND, HoldState.SETTLED): HoldAction.DENY,
    (CommandKind.SETTLE, None): HoldAction.BURY,
    (CommandKind.SETTLE, HoldState.HELD): HoldAction.CAPTURE,
    (CommandKind.SETTLE, HoldState.REFUSED): HoldAction.DENY,
    (CommandKind.SETTLE, HoldState.TOMBSTONE): HoldAction.DENY,
    (CommandKind.SETTLE, HoldState.REFUNDED): HoldAction.DENY,
    (CommandKind.SETTLE, HoldState.SETTLED): HoldAction.CONFIRM,
    (CommandKind.ADJUST, None): HoldAction.BURY,
    (CommandKind.ADJUST, HoldState.HELD): HoldAction.RESIZE,
    (CommandKind.ADJUST, HoldState.REFUSED): HoldAction.DENY,
    (CommandKind.ADJUST, HoldState.TOMBSTONE): HoldAction.DENY,
    (CommandKind.ADJUST, HoldState.REFUNDED): HoldAction.DENY,
    (CommandKind.ADJUST, HoldState.SETTLED): HoldAction.DENY,
}
"""Total: every command in every state (None: no row)."""


class Refusal(msgspec.Struct, frozen=True):
    """A refusal: a code of a closed vocabulary, and a sentence of at most 500 characters."""

    code: str
    reason: str


class HoldCommand(msgspec.Struct, Generic[C], frozen=True):
    """A command of the wire as the barrier sees it.

    `amount` is the whole hold in every kind; the adapter refuses a reservation of 0, and an adjustment to 0. A SETTLE
    alone uses `capture`: the part that does not return to the owner.
    """

    kind: CommandKind
    hold_id: str
    saga_id: str
    owner: str
    unit: str
    amount: Decimal
    message: C
    capture: Decimal = ZERO
    hold_asked_at: datetime | None = None
    """When the hold was first asked for; None when the command does not say."""
    revision: int = 0
    """Of an ADJUST: its number, from 1. Of any other: the last adjustment that its sender has confirmed."""


class Hold(msgspec.Struct, frozen=True):
    """A stored hold. `amount` is what is held now. `refunded` of a SETTLED hold is the part that was not captured."""

    hold_id: str
    saga_id: str
    owner: str
    unit: str
    amount: Decimal
    state: HoldState
    captured: Decimal = ZERO
    refunded: Decimal = ZERO
    reason_code: str | None = None
    reason: str | None = None
    revision: int = 0
    """The newest adjustment that was asked for, whatever the answer; 0 as it was reserved."""
    asked: Decimal | None = None
    """The amount that it asked for; None as it was reserved."""
    adjust_code: str | None = None
    adjust_reason: str | None = None

    @property
    def adjustment_refusal(self) -> Refusal | None:
        """Why the newest adjustment was refused, if it was: the amount is what it was before."""
        return None if self.adjust_code is None else Refusal(self.adjust_code, self.adjust_reason or self.adjust_code)

    @property
    def refusal(self) -> Refusal | None:
        """The ledger's own refusal, if any: of the reservation (REFUSED) or of the settlement (REFUNDED)."""
        return None if self.reason_code is None else Refusal(self.reason_code, self.reason or self.reason_code)


class Ledger(Protocol[C]):
    """The accounts, stock or seats of a participant. An instance serves one try of one batch, so nothing is undone."""

    async def lock(self, tx: Transaction, commands: Sequence[HoldCommand[C]]) -> None:
        """Create, lock and load all rows that the commands may touch, both legs of a settlement, in sorted order."""

    def reserve(self, command: HoldCommand[C]) -> Refusal | None:
        """Hold the amount, in memory; a refusal changes nothing."""

    def refund(self, command: HoldCommand[C], hold: Hold, /) -> None:
        """Return the whole hold, in memory. The command is a REFUND, or a SETTLE that was refused."""

    def settle(self, command: HoldCommand[C], hold: Hold) -> Refusal | None:
        """Capture `command.capture`, return the rest, book the other legs, in memory; a refusal changes nothing."""

    async def save(self, tx: Transaction) -> None:
        """Write each changed row once."""


@runtime_checkable
class Adjusts(Protocol[C]):
    """What a ledger has besides, if its holds can be adjusted; without it every adjustment is NOT_SUPPORTED."""

    def adjust(self, command: HoldCommand[C], hold: Hold, delta: Decimal) -> Refusal | None:
        """Take `delta` more from the owner, or return `-delta`, in memory; a refusal changes nothing. It is never 0."""


def apply(command: HoldCommand[C], hold: Hold | None, ledger: Ledger[C]) -> tuple[Hold, Refusal | None]:
    """Apply a command to its hold (None: no row); return the hold after it, and the refusal if it is refused."""
    if hold is not None and _has_other_terms(command, hold):
        return hold, Refusal(HOLD_CONFLICT, f"hold {hold.hold_id} is known with another amount, unit or owner")
    action = ACTIONS[command.kind, hold.state if hold is not None else None]
    if hold is None or action in (HoldAction.OPEN, HoldAction.BURY):
        return _begin(command, action, ledger)
    match action:
        case HoldAction.RELEASE:
            ledger.refund(command, hold)
            return msgspec.structs.replace(hold, state=HoldState.REFUNDED, refunded=hold.amount), None
        case HoldAction.CAPTURE:
            return _capture(command, hold, ledger)
        case HoldAction.RESIZE:
            return _resize(command, hold, ledger)
        case HoldAction.DENY | HoldAction.CONFIRM:
            return hold, _denial(command, hold) if action is HoldAction.DENY else None


def may_be_elsewhere(command: HoldCommand[C]) -> tuple[Hold, Refusal]:
    """Answer a command on an unknown hold that was asked for before the ledger began: another ledger may hold it.

    Nothing is stored and nothing moves. The answer must not prove that nothing is held, so it says HELD. A command that
    comes again after the hold was taken over is executed.
    """
    reason = "asked for before this ledger began: the one before must end it, or hand it over"
    return _new(command, HoldState.HELD), Refusal(HOLD_CONFLICT, reason)


def not_adjustable(command: HoldCommand[C], hold: Hold | None) -> tuple[Hold, Refusal]:
    """Refuse an adjustment where holds have no place for one. Nothing is stored; of an unknown hold it says HELD."""
    refusal = Refusal(NOT_SUPPORTED, "this ledger has no place for adjustments of its holds")
    return hold or _new(command, HoldState.HELD), refusal


def _begin(command: HoldCommand[C], action: HoldAction, ledger: Ledger[C]) -> tuple[Hold, Refusal | None]:
    if action is HoldAction.OPEN:
        refusal = ledger.reserve(command)
        return _new(command, HoldState.REFUSED if refusal else HoldState.HELD, refusal), refusal
    buried = _new(command, HoldState.TOMBSTONE)
    nothing = Refusal(NOT_HELD, f"the hold is {buried.state}")
    return buried, None if command.kind is CommandKind.REFUND else nothing


def _capture(command: HoldCommand[C], hold: Hold, ledger: Ledger[C]) -> tuple[Hold, Refusal | None]:
    if not ZERO <= command.capture <= hold.amount:
        refusal: Refusal | None = Refusal(EXCEEDS_HOLD, f"can't capture {command.capture:f} of {hold.amount:f}")
    else:
        refusal = ledger.settle(command, hold)
    if refusal is None:
        rest = subtract(hold.amount, command.capture)
        settled = msgspec.structs.replace(hold, state=HoldState.SETTLED, captured=command.capture, refunded=rest)
        return settled, None
    ledger.refund(command, hold)
    refunded = msgspec.structs.replace(
        hold, state=HoldState.REFUNDED, refunded=hold.amount, reason_code=refusal.code, reason=refusal.reason
    )
    return refunded, refusal


def _resize(command: HoldCommand[C], hold: Hold, ledger: Ledger[C]) -> tuple[Hold, Refusal | None]:
    """Adjust an active hold, once for each revision; a revision that was answered is answered the same again."""
    if command.revision < hold.revision:
        return hold, Refusal(SUPERSEDED, f"the hold is at revision {hold.revision}")
    if command.revision == hold.revision:
        if command.amount == hold.asked:
            return hold, hold.adjustment_refusal
        return hold, Refusal(HOLD_CONFLICT, f"revision {hold.revision} of the hold was asked for with another amount")
    refusal = _move_difference(command, hold, ledger)
    resized = msgspec.structs.replace(
        hold,
        amount=hold.amount if refusal else command.amount,
        revision=command.revision,
        asked=command.amount,
        adjust_code=refusal.code if refusal else None,
        adjust_reason=refusal.reason if refusal else None,
    )
    return resized, refusal


def _move_difference(command: HoldCommand[C], hold: Hold, ledger: Ledger[C]) -> Refusal | None:
    delta = subtract(command.amount, hold.amount)
    if not delta:
        return None
    if not isinstance(ledger, Adjusts):
        return Refusal(NOT_SUPPORTED, "this ledger adjusts no hold")
    return ledger.adjust(command, hold, delta)


def _denial(command: HoldCommand[C], hold: Hold) -> Refusal:
    """Refuse a command on a hold that has ended, with the ledger's own refusal if it answered the same question."""
    asked_before = {CommandKind.RESERVE: HoldState.REFUSED, CommandKind.SETTLE: HoldState.REFUNDED}.get(command.kind)
    if hold.state is asked_before and hold.refusal is not None:
        return hold.refusal
    return Refusal(NOT_HELD if command.kind is CommandKind.SETTLE else CLOSED, f"the hold is {hold.state}")


def _has_other_terms(command: HoldCommand[C], hold: Hold) -> bool:
    """Tell whether the command is about another hold than the known one, or about one that it can't know."""
    if (command.owner, command.unit) != (hold.owner, hold.unit):
        return True
    if command.kind is CommandKind.ADJUST or hold.revision > command.revision:
        return False  # it asks for another amount, or the hold's has moved on since
    if hold.state is HoldState.HELD and hold.revision < command.revision:
        return True  # an adjustment that was never answered here was confirmed: another ledger's hold
    return command.amount != hold.amount


def _new(command: HoldCommand[C], state: HoldState, refusal: Refusal | None = None) -> Hold:
    hold = Hold(command.hold_id, command.saga_id, command.owner, command.unit, command.amount, state)
    if command.revision:
        hold = msgspec.structs.replace(hold, revision=command.revision, asked=command.amount)
    if refusal is None:
        return hold
    return msgspec.structs.replace(hold, reason_code=refusal.code, reason=refusal.reason)
