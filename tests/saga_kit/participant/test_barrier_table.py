"""The barrier's table in full: no sequence of late, repeated or reordered commands loses or duplicates money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product

import pytest

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
from saga_kit.runtime.transactions import Transaction

POOR = Refusal("POOR", "not enough")
LATE = Refusal("LATE", "the market is shut")
AMOUNT, MORE, CAPTURE = Decimal(10), Decimal(12), Decimal("7.5")
STATES = (None, *HoldState)


@dataclass
class OneAccountLedger:
    """A ledger with one account that records every effect."""

    free: Decimal = Decimal(10)
    held: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    settles: bool = True
    effects: list[str] = field(default_factory=list)

    async def lock(self, tx: Transaction, commands: Sequence[HoldCommand[None]]) -> None:
        """Lock nothing."""

    async def save(self, tx: Transaction) -> None:
        """Save nothing."""

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
        """Spend the captured amount."""
        if not self.settles:
            return LATE
        self.effects.append("settle")
        self.held -= hold.amount
        self.free, self.spent = self.free + hold.amount - command.capture, self.spent + command.capture
        return None


class AdjustingLedger(OneAccountLedger):
    """The same ledger, of which holds can be adjusted."""

    def adjust(self, _: HoldCommand[None], hold: Hold, delta: Decimal) -> Refusal | None:
        """Move the difference from free to held."""
        assert delta, "the barrier asks for no difference of 0"
        if delta > self.free:
            return POOR
        self.effects.append(f"adjust {hold.amount} by {delta}")
        self.free, self.held = self.free - delta, self.held + delta
        return None


def command(kind: CommandKind, **changes: object) -> HoldCommand[None]:
    """Make a command. An adjustment is the first, and asks for more."""
    fields = {"hold_id": "h", "saga_id": "s", "owner": "alice", "unit": "USD", "amount": AMOUNT, "capture": CAPTURE}
    if kind is CommandKind.ADJUST:
        fields |= {"amount": MORE, "revision": 1}
    return HoldCommand(kind=kind, message=None, **{**fields, **changes})  # type: ignore[arg-type]  # the tests' shorthand


def hold_in(state: HoldState | None) -> Hold | None:
    """Make a hold in a state."""
    if state is None:
        return None
    captured, refunded = {
        HoldState.SETTLED: (CAPTURE, AMOUNT - CAPTURE),
        HoldState.REFUNDED: (Decimal(0), AMOUNT),
    }.get(state, (Decimal(0), Decimal(0)))
    code, reason = (POOR.code, POOR.reason) if state is HoldState.REFUSED else (None, None)
    return Hold("h", "s", "alice", "USD", AMOUNT, state, captured, refunded, code, reason)


def test_the_table_is_total() -> None:
    """The table has an action for each command in each state, and no other entry."""
    assert set(ACTIONS) == set(product(CommandKind, STATES))


# The protocol's table: the state afterwards, the refusal's code or None, and the ledger's effects.
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
    (CommandKind.ADJUST, None): (HoldState.TOMBSTONE, NOT_HELD, []),
    (CommandKind.ADJUST, HoldState.HELD): (HoldState.HELD, None, ["adjust 10 by 2"]),
    (CommandKind.ADJUST, HoldState.REFUSED): (HoldState.REFUSED, CLOSED, []),
    (CommandKind.ADJUST, HoldState.TOMBSTONE): (HoldState.TOMBSTONE, CLOSED, []),
    (CommandKind.ADJUST, HoldState.REFUNDED): (HoldState.REFUNDED, CLOSED, []),
    (CommandKind.ADJUST, HoldState.SETTLED): (HoldState.SETTLED, CLOSED, []),
}


@pytest.mark.parametrize(("kind", "state"), tuple(product(CommandKind, STATES)))
def test_each_cell_is_the_protocols(kind: CommandKind, state: HoldState | None) -> None:
    """State, answer and effects of each cell match the protocol; a cell without effect returns the same hold."""
    ledger = AdjustingLedger(free=Decimal(100), held=Decimal(10))
    before = hold_in(state)
    hold, refusal = apply(command(kind), before, ledger)
    expected_state, code, effects = EXPECTED[kind, state]
    assert (hold.state, refusal and refusal.code, ledger.effects) == (expected_state, code, effects)
    refunded = {HoldState.REFUNDED: AMOUNT, HoldState.SETTLED: AMOUNT - CAPTURE}.get(hold.state, Decimal(0))
    assert hold.refunded == refunded
    assert hold.captured == (CAPTURE if hold.state is HoldState.SETTLED else 0)
    if state is not None and not effects:
        assert hold is before


CHANGES: list[dict[str, object]] = [{"amount": Decimal(9)}, {"unit": "EUR"}, {"owner": "bob"}]


@pytest.mark.parametrize(
    ("kind", "change"),
    [pair for pair in product(CommandKind, CHANGES) if pair != (CommandKind.ADJUST, CHANGES[0])],
)
@pytest.mark.parametrize("state", HoldState)
def test_other_terms_under_a_known_id_change_nothing(
    kind: CommandKind, state: HoldState, change: dict[str, object]
) -> None:
    """Another amount, unit or owner is refused as HOLD_CONFLICT in every state, and the hold does not change.

    The amount of an adjustment is another by its nature: see `test_barrier_revisions`.
    """
    ledger, before = AdjustingLedger(), hold_in(state)
    hold, refusal = apply(command(kind, **change), before, ledger)
    assert hold is before
    assert refusal is not None
    assert refusal.code == HOLD_CONFLICT
    assert ledger.effects == []


def test_equal_decimals_are_no_conflict() -> None:
    """10 and 10.00 are equal amounts and no conflict."""
    _, refusal = apply(
        command(CommandKind.RESERVE, amount=Decimal("10.00")), hold_in(HoldState.HELD), OneAccountLedger()
    )
    assert refusal is None


SEQUENCES = [sequence for length in range(1, 5) for sequence in product(CommandKind, repeat=length)]


@pytest.mark.parametrize("free", [Decimal(10), Decimal(9)])
@pytest.mark.parametrize("settles", [True, False])
def test_no_sequence_moves_money_twice(*, free: Decimal, settles: bool) -> None:
    """No sequence of up to four commands has a second effect, loses money or gets a different answer.

    A sequence has at most one reserve and one end. Money is conserved and an ended hold stays ended. The same command
    in the same state gets the same answer.
    """
    for sequence in SEQUENCES:
        ledger = OneAccountLedger(free=free, settles=settles)
        hold: Hold | None = None
        answers: dict[tuple[CommandKind, HoldState], object] = {}
        for kind in sequence:
            before = hold
            hold, refusal = apply(command(kind), hold, ledger)
            assert ledger.free + ledger.held + ledger.spent == free, sequence
            assert min(ledger.free, ledger.held) >= 0, sequence
            assert ledger.held == (AMOUNT if hold.state is HoldState.HELD else 0), sequence
            if before is not None and before.state is not HoldState.HELD:
                assert hold is before, sequence
            if before is hold:
                assert answers.setdefault((kind, hold.state), refusal) == refusal, sequence
        assert ledger.effects in ([], ["reserve"], ["reserve", "refund"], ["reserve", "settle"]), sequence


def test_a_refused_settlement_refunds_and_repeats_its_answer() -> None:
    """A refused settlement refunds in the same step; repeated, it repeats its reason; a refund confirms the amount."""
    ledger = OneAccountLedger(settles=False)
    hold, _ = apply(command(CommandKind.RESERVE), None, ledger)
    hold, refusal = apply(command(CommandKind.SETTLE), hold, ledger)
    assert (hold.state, hold.refunded, refusal) == (HoldState.REFUNDED, AMOUNT, LATE)
    assert apply(command(CommandKind.SETTLE), hold, ledger) == (hold, LATE)
    assert apply(command(CommandKind.REFUND), hold, ledger) == (hold, None)
    _, again = apply(command(CommandKind.RESERVE), hold, ledger)
    assert again is not None
    assert again.code == CLOSED
    assert ledger.effects == ["reserve", "refund"]


@pytest.mark.parametrize("capture", [Decimal("10.000000000000000001"), Decimal(-1)])
def test_settlement_never_exceeds_the_hold(capture: Decimal) -> None:
    """A capture above the hold is refused without asking the ledger, and the hold is refunded."""
    ledger = OneAccountLedger()
    hold, _ = apply(command(CommandKind.RESERVE), None, ledger)
    hold, refusal = apply(command(CommandKind.SETTLE, capture=capture), hold, ledger)
    assert hold.state is HoldState.REFUNDED
    assert refusal is not None
    assert refusal.code == EXCEEDS_HOLD
    assert ledger.effects == ["reserve", "refund"]


def test_the_remainder_is_exact_at_36_digits() -> None:
    """The remainder is computed in a context of our own, because the default one would round it to 28 digits."""
    amount, capture = Decimal("999999999999999999.000000000000000001"), Decimal("0.000000000000000002")
    hold, _ = apply(command(CommandKind.RESERVE, amount=amount), None, OneAccountLedger(free=amount))
    hold, _ = apply(command(CommandKind.SETTLE, amount=amount, capture=capture), hold, OneAccountLedger())
    assert str(hold.refunded) == "999999999999999998.999999999999999999"


@pytest.mark.parametrize("kind", CommandKind)
def test_a_hold_that_an_earlier_ledger_may_have_gets_a_conflict(kind: CommandKind) -> None:
    """An earlier ledger may have the hold, so the reply is a conflict with state HELD and proves nothing."""
    hold, refusal = may_be_elsewhere(command(kind))
    assert (HoldState.HELD, HOLD_CONFLICT) == (hold.state, refusal.code)
    assert (Decimal(0), Decimal(0)) == (hold.captured, hold.refunded)
