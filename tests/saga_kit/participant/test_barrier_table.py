"""The barrier's table, enumerated: no sequence of commands, however late, repeated or out of order, does harm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.vocabulary import HoldState
from saga_kit.participant.barrier import (
    ACTIONS,
    CLOSED,
    EXCEEDS_HOLD,
    HOLD_CONFLICT,
    NOT_HELD,
    CommandKind,
    Hold,
    HoldCommand,
    Refusal,
    apply,
    may_be_elsewhere,
)

POOR = Refusal("POOR", "not enough")
LATE = Refusal("LATE", "the market is shut")
AMOUNT, CAPTURE = Decimal(10), Decimal("7.5")
STATES = (None, *HoldState)


@dataclass
class Purse:
    """A ledger with one account that notes every effect."""

    free: Decimal = Decimal(10)
    held: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    settles: bool = True
    effects: list[str] = field(default_factory=list)

    async def lock(self, tx: AsyncConnection, commands: Sequence[HoldCommand[None]]) -> None:
        """Nothing to lock."""

    async def save(self, tx: AsyncConnection) -> None:
        """Nothing to save."""

    def reserve(self, command: HoldCommand[None]) -> Refusal | None:
        """Move free to held."""
        if command.amount > self.free:
            return POOR
        self.effects.append("reserve")
        self.free, self.held = self.free - command.amount, self.held + command.amount
        return None

    def refund(self, _: HoldCommand[None], hold: Hold) -> None:
        """Move held to free."""
        self.effects.append("refund")
        self.free, self.held = self.free + hold.amount, self.held - hold.amount

    def settle(self, command: HoldCommand[None], hold: Hold) -> Refusal | None:
        """Spend what is captured."""
        if not self.settles:
            return LATE
        self.effects.append("settle")
        self.held -= hold.amount
        self.free, self.spent = self.free + hold.amount - command.capture, self.spent + command.capture
        return None


def command(kind: CommandKind, **changes: object) -> HoldCommand[None]:
    """Make a command."""
    fields = {"hold_id": "h", "saga_id": "s", "owner": "alice", "unit": "USD", "amount": AMOUNT, "capture": CAPTURE}
    return HoldCommand(kind=kind, message=None, **{**fields, **changes})  # type: ignore[arg-type]  # the tests' shorthand


def hold_in(state: HoldState | None) -> Hold | None:
    """Make a hold as it is in a state."""
    if state is None:
        return None
    captured, refunded = {
        HoldState.SETTLED: (CAPTURE, AMOUNT - CAPTURE),
        HoldState.REFUNDED: (Decimal(0), AMOUNT),
    }.get(state, (Decimal(0), Decimal(0)))
    code, reason = (POOR.code, POOR.reason) if state is HoldState.REFUSED else (None, None)
    return Hold("h", "s", "alice", "USD", AMOUNT, state, captured, refunded, code, reason)


def test_the_table_is_total() -> None:
    """Every command has an action in every state, and there is nothing else in the table."""
    assert set(ACTIONS) == set(product(CommandKind, STATES))


# What the protocol's table says: the state afterwards, the refusal's code or None, and the ledger's effects.
EXPECTED: dict[tuple[CommandKind, HoldState | None], tuple[HoldState, str | None, list[str]]] = {
    (CommandKind.RESERVE, None): (HoldState.HELD, None, ["reserve"]),
    (CommandKind.RESERVE, HoldState.HELD): (HoldState.HELD, None, []),
    (CommandKind.RESERVE, HoldState.REFUSED): (HoldState.REFUSED, "POOR", []),
    (CommandKind.RESERVE, HoldState.TOMBSTONE): (HoldState.TOMBSTONE, CLOSED, []),
    (CommandKind.RESERVE, HoldState.REFUNDED): (HoldState.REFUNDED, CLOSED, []),
    (CommandKind.RESERVE, HoldState.SETTLED): (HoldState.SETTLED, None, []),
    (CommandKind.REFUND, None): (HoldState.TOMBSTONE, None, []),
    (CommandKind.REFUND, HoldState.HELD): (HoldState.REFUNDED, None, ["refund"]),
    (CommandKind.REFUND, HoldState.REFUSED): (HoldState.REFUSED, None, []),
    (CommandKind.REFUND, HoldState.TOMBSTONE): (HoldState.TOMBSTONE, None, []),
    (CommandKind.REFUND, HoldState.REFUNDED): (HoldState.REFUNDED, None, []),
    (CommandKind.REFUND, HoldState.SETTLED): (HoldState.SETTLED, CLOSED, []),
    (CommandKind.SETTLE, None): (HoldState.TOMBSTONE, NOT_HELD, []),
    (CommandKind.SETTLE, HoldState.HELD): (HoldState.SETTLED, None, ["settle"]),
    (CommandKind.SETTLE, HoldState.REFUSED): (HoldState.REFUSED, NOT_HELD, []),
    (CommandKind.SETTLE, HoldState.TOMBSTONE): (HoldState.TOMBSTONE, NOT_HELD, []),
    (CommandKind.SETTLE, HoldState.REFUNDED): (HoldState.REFUNDED, NOT_HELD, []),
    (CommandKind.SETTLE, HoldState.SETTLED): (HoldState.SETTLED, None, []),
}


@pytest.mark.parametrize(("kind", "state"), tuple(product(CommandKind, STATES)))
def test_each_cell_is_the_protocols(kind: CommandKind, state: HoldState | None) -> None:
    """State, answer and effect of every cell are those of the protocol; what changes nothing returns the same hold."""
    purse = Purse(free=Decimal(100), held=Decimal(10))
    before = hold_in(state)
    hold, refusal = apply(command(kind), before, purse)
    expected_state, code, effects = EXPECTED[kind, state]
    assert (hold.state, refusal and refusal.code, purse.effects) == (expected_state, code, effects)
    refunded = {HoldState.REFUNDED: AMOUNT, HoldState.SETTLED: AMOUNT - CAPTURE}.get(hold.state, Decimal(0))
    assert hold.refunded == refunded
    assert hold.captured == (CAPTURE if hold.state is HoldState.SETTLED else 0)
    if state is not None and not effects:
        assert hold is before


@pytest.mark.parametrize(("kind", "state"), tuple(product(CommandKind, HoldState)))
@pytest.mark.parametrize("change", [{"amount": Decimal(9)}, {"unit": "EUR"}, {"owner": "bob"}])
def test_other_terms_under_a_known_id_change_nothing(
    kind: CommandKind, state: HoldState, change: dict[str, object]
) -> None:
    """Another amount, unit or owner is refused as HOLD_CONFLICT in every state, and the hold stays as it is."""
    purse, before = Purse(), hold_in(state)
    hold, refusal = apply(command(kind, **change), before, purse)
    assert hold is before
    assert refusal is not None
    assert refusal.code == HOLD_CONFLICT
    assert purse.effects == []


def test_equal_decimals_are_no_conflict() -> None:
    """10 and 10.00 are the same amount."""
    _, refusal = apply(command(CommandKind.RESERVE, amount=Decimal("10.00")), hold_in(HoldState.HELD), Purse())
    assert refusal is None


SEQUENCES = [sequence for length in range(1, 5) for sequence in product(CommandKind, repeat=length)]


@pytest.mark.parametrize("free", [Decimal(10), Decimal(9)])
@pytest.mark.parametrize("settles", [True, False])
def test_no_sequence_moves_money_twice(*, free: Decimal, settles: bool) -> None:
    """In no sequence of up to four commands is there a second effect, lost money or another answer.

    At most one reserve and one end, money is conserved, an ended hold stays ended, and the same question in the same
    state gets the same answer.
    """
    for sequence in SEQUENCES:
        purse = Purse(free=free, settles=settles)
        hold: Hold | None = None
        answers: dict[tuple[CommandKind, HoldState], object] = {}
        for kind in sequence:
            before = hold
            hold, refusal = apply(command(kind), hold, purse)
            assert purse.free + purse.held + purse.spent == free, sequence
            assert min(purse.free, purse.held) >= 0, sequence
            assert purse.held == (AMOUNT if hold.state is HoldState.HELD else 0), sequence
            if before is not None and before.state is not HoldState.HELD:
                assert hold is before, sequence
            if before is hold:
                assert answers.setdefault((kind, hold.state), refusal) == refusal, sequence
        assert purse.effects in ([], ["reserve"], ["reserve", "refund"], ["reserve", "settle"]), sequence


def test_a_refused_settlement_refunds_and_says_so_again() -> None:
    """A definite no refunds in the same step; asked again it repeats its reason; a refund then confirms the amount."""
    purse = Purse(settles=False)
    hold, _ = apply(command(CommandKind.RESERVE), None, purse)
    hold, refusal = apply(command(CommandKind.SETTLE), hold, purse)
    assert (hold.state, hold.refunded, refusal) == (HoldState.REFUNDED, AMOUNT, LATE)
    assert apply(command(CommandKind.SETTLE), hold, purse) == (hold, LATE)
    assert apply(command(CommandKind.REFUND), hold, purse) == (hold, None)
    _, again = apply(command(CommandKind.RESERVE), hold, purse)
    assert again is not None
    assert again.code == CLOSED
    assert purse.effects == ["reserve", "refund"]


@pytest.mark.parametrize("capture", [Decimal("10.000000000000000001"), Decimal(-1)])
def test_settlement_never_exceeds_the_hold(capture: Decimal) -> None:
    """To capture more than is held is definitely refused: the ledger is not asked, the hold is refunded."""
    purse = Purse()
    hold, _ = apply(command(CommandKind.RESERVE), None, purse)
    hold, refusal = apply(command(CommandKind.SETTLE, capture=capture), hold, purse)
    assert hold.state is HoldState.REFUNDED
    assert refusal is not None
    assert refusal.code == EXCEEDS_HOLD
    assert purse.effects == ["reserve", "refund"]


def test_the_remainder_is_exact_at_36_digits() -> None:
    """What returns is computed in a context of our own: the default one would cut it at 28 digits."""
    amount, capture = Decimal("999999999999999999.000000000000000001"), Decimal("0.000000000000000002")
    hold, _ = apply(command(CommandKind.RESERVE, amount=amount), None, Purse(free=amount))
    hold, _ = apply(command(CommandKind.SETTLE, amount=amount, capture=capture), hold, Purse())
    assert str(hold.refunded) == "999999999999999998.999999999999999999"


@pytest.mark.parametrize("kind", CommandKind)
def test_an_unknown_hold_of_before_the_ledger_is_neither_made_nor_proven_to_be_none(kind: CommandKind) -> None:
    """The ledger before may hold it: the answer is a conflict with a hold that counts as held, and nothing else."""
    hold, refusal = may_be_elsewhere(command(kind))
    assert (HoldState.HELD, HOLD_CONFLICT) == (hold.state, refusal.code)
    assert (Decimal(0), Decimal(0)) == (hold.captured, hold.refunded)
