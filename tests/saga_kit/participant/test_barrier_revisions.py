"""Adjusted holds: the table by revision in full, and every order of a hold's commands with late and repeated ones."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum, auto
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.vocabulary import HoldState
from saga_kit.participant.barrier import (
    CLOSED,
    EXCEEDS_HOLD,
    HOLD_CONFLICT,
    NOT_HELD,
    NOT_SUPPORTED,
    SUPERSEDED,
    CommandKind,
    Hold,
    HoldCommand,
    apply,
    not_adjustable,
)
from tests.saga_kit.participant.test_barrier_table import (
    AMOUNT,
    CAPTURE,
    MORE,
    POOR,
    AdjustingLedger,
    OneAccountLedger,
    command,
    hold_in,
)

RESERVE, REFUND, SETTLE, ADJUST = CommandKind.RESERVE, CommandKind.REFUND, CommandKind.SETTLE, CommandKind.ADJUST
ROW = 2
"""The revision of the row in the tables below."""
OTHER = Decimal(11)
ENDED = (HoldState.REFUSED, HoldState.TOMBSTONE, HoldState.REFUNDED, HoldState.SETTLED)


class Age(Enum):
    """How a command's revision compares with the row's."""

    OLDER = auto()
    SAME = auto()
    NEWER = auto()

    @property
    def revision(self) -> int:
        """The command's."""
        return {Age.OLDER: ROW - 1, Age.SAME: ROW, Age.NEWER: ROW + 1}[self]


def held(*, refused: bool = False) -> Hold:
    """Make an active hold of which revision 2 asked for 12; it was 10 before."""
    hold = Hold("h", "s", "alice", "USD", AMOUNT if refused else MORE, HoldState.HELD, revision=ROW, asked=MORE)
    return msgspec.structs.replace(hold, adjust_code=POOR.code, adjust_reason=POOR.reason) if refused else hold


def ended(state: HoldState) -> Hold:
    """Make a hold that has ended at revision 2, of 12."""
    captured, refunded = {
        HoldState.SETTLED: (CAPTURE, MORE - CAPTURE),
        HoldState.REFUNDED: (Decimal(0), MORE),
    }.get(state, (Decimal(0), Decimal(0)))
    hold = hold_in(state)
    assert hold is not None
    return msgspec.structs.replace(hold, amount=MORE, captured=captured, refunded=refunded, revision=ROW, asked=MORE)


# Of an active hold of 12 at revision 2, by the command's revision and amount: refusal, state, effects.
Cell = tuple[str | None, HoldState, list[str]]
_NOTHING: Cell = (None, HoldState.HELD, [])
_CONFLICT: Cell = (HOLD_CONFLICT, HoldState.HELD, [])
_REFUNDED: Cell = (None, HoldState.REFUNDED, ["refund"])
_SETTLED: Cell = (None, HoldState.SETTLED, ["settle"])
_SUPERSEDED: Cell = (SUPERSEDED, HoldState.HELD, [])
EXPECTED: dict[tuple[CommandKind, Age, bool], Cell] = {
    # kind, revision, the row's amount
    (RESERVE, Age.OLDER, True): _NOTHING,
    (RESERVE, Age.OLDER, False): _NOTHING,
    (RESERVE, Age.SAME, True): _NOTHING,
    (RESERVE, Age.SAME, False): _CONFLICT,
    (RESERVE, Age.NEWER, True): _CONFLICT,
    (RESERVE, Age.NEWER, False): _CONFLICT,
    (REFUND, Age.OLDER, True): _REFUNDED,
    (REFUND, Age.OLDER, False): _REFUNDED,
    (REFUND, Age.SAME, True): _REFUNDED,
    (REFUND, Age.SAME, False): _CONFLICT,
    (REFUND, Age.NEWER, True): _CONFLICT,
    (REFUND, Age.NEWER, False): _CONFLICT,
    (SETTLE, Age.OLDER, True): _SETTLED,
    (SETTLE, Age.OLDER, False): _SETTLED,
    (SETTLE, Age.SAME, True): _SETTLED,
    (SETTLE, Age.SAME, False): _CONFLICT,
    (SETTLE, Age.NEWER, True): _CONFLICT,
    (SETTLE, Age.NEWER, False): _CONFLICT,
    (ADJUST, Age.OLDER, True): _SUPERSEDED,
    (ADJUST, Age.OLDER, False): _SUPERSEDED,
    (ADJUST, Age.SAME, True): _NOTHING,
    (ADJUST, Age.SAME, False): _CONFLICT,
    (ADJUST, Age.NEWER, True): _NOTHING,  # but for the revision
    (ADJUST, Age.NEWER, False): (None, HoldState.HELD, ["adjust 12 by -1"]),
}


def test_the_table_by_revision_is_total() -> None:
    """The table has each command, at an older, the same and a newer revision, with the same and another amount."""
    assert set(EXPECTED) == set(product(CommandKind, Age, (True, False)))


@pytest.mark.parametrize(("kind", "age", "same_amount"), EXPECTED)
def test_each_cell_of_an_adjusted_hold(kind: CommandKind, age: Age, *, same_amount: bool) -> None:
    """State, answer and effects match the table; whatever ends the hold ends the whole of it, by the row's amount."""
    ledger, before = AdjustingLedger(free=Decimal(100), held=MORE), held()
    asked = command(kind, revision=age.revision, amount=MORE if same_amount else OTHER)
    hold, refusal = apply(asked, before, ledger)
    code, state, effects = EXPECTED[kind, age, same_amount]
    assert (code, state, effects) == (refusal and refusal.code, hold.state, ledger.effects)
    assert ledger.free + ledger.held + ledger.spent == Decimal(100) + MORE
    assert ledger.held == (hold.amount if state is HoldState.HELD else 0)
    if state is not HoldState.HELD:
        assert (MORE, MORE) == (hold.amount, hold.captured + hold.refunded)
    elif kind is ADJUST and age is Age.NEWER:
        assert (ROW + 1, asked.amount, asked.amount) == (hold.revision, hold.asked, hold.amount)
    else:
        assert hold is before


@pytest.mark.parametrize(("kind", "state", "age"), tuple(product(CommandKind, ENDED, Age)))
def test_an_adjusted_hold_that_has_ended_answers_as_before(kind: CommandKind, state: HoldState, age: Age) -> None:
    """At any revision the answer is that of a hold which was never adjusted; an adjustment is refused as CLOSED."""
    never = hold_in(state)
    _, expected = apply(command(kind), never, OneAccountLedger())
    ledger, before = AdjustingLedger(), ended(state)
    hold, refusal = apply(command(kind, revision=age.revision, amount=MORE), before, ledger)
    assert (before, []) == (hold, ledger.effects)
    assert expected == refusal
    if kind is ADJUST:
        assert CLOSED == (refusal and refusal.code)


@pytest.mark.parametrize(("kind", "state", "age"), tuple(product((RESERVE, REFUND, SETTLE), ENDED, Age)))
def test_another_amount_of_an_ended_hold_is_known_from_an_older_revision_only(
    kind: CommandKind, state: HoldState, age: Age
) -> None:
    """A command of before the last adjustment may name another amount; any other command that does is a conflict."""
    before = ended(state)
    asked = command(kind, revision=age.revision, amount=OTHER)
    hold, refusal = apply(asked, before, AdjustingLedger())
    _, expected = apply(command(kind), hold_in(state), OneAccountLedger())
    assert hold is before
    if age is Age.OLDER:
        assert expected == refusal
    else:
        assert HOLD_CONFLICT == (refusal and refusal.code)


@pytest.mark.parametrize("state", HoldState)
@pytest.mark.parametrize("change", [{"unit": "EUR"}, {"owner": "bob"}])
@pytest.mark.parametrize("age", Age)
def test_an_adjustment_of_another_owners_hold_is_a_conflict(state: HoldState, change: dict[str, Any], age: Age) -> None:
    """Unit and owner are compared at every revision and in every state."""
    before, ledger = held() if state is HoldState.HELD else ended(state), AdjustingLedger()
    hold, refusal = apply(command(ADJUST, revision=age.revision, **change), before, ledger)
    assert (HOLD_CONFLICT, []) == (refusal and refusal.code, ledger.effects)
    assert hold is before


# The ledger's refusal -------------------------------------------------------------------------------------------------


def test_a_raise_that_is_not_covered_uses_its_revision_up() -> None:
    """It changes no amount, and is answered the same again, even when there is money meanwhile."""
    ledger = AdjustingLedger(free=AMOUNT)
    hold, _ = apply(command(RESERVE), None, ledger)
    hold, refusal = apply(command(ADJUST), hold, ledger)
    assert (POOR, AMOUNT, 1, MORE) == (refusal, hold.amount, hold.revision, hold.asked)
    ledger.free += 100
    assert (hold, POOR) == apply(command(ADJUST), hold, ledger)
    _, other = apply(command(ADJUST, amount=OTHER), hold, ledger)
    assert HOLD_CONFLICT == (other and other.code)
    hold, refusal = apply(command(ADJUST, revision=2), hold, ledger)
    assert (None, MORE) == (refusal, hold.amount)
    assert (hold, None) == apply(command(ADJUST, revision=2), hold, ledger)
    assert ["reserve", "adjust 10 by 2"] == ledger.effects


def test_a_refused_adjustment_is_no_reason_of_the_hold() -> None:
    """Who asks for a settlement after the refund is told about the hold, not about its adjustment."""
    hold, _ = apply(command(REFUND, revision=1, amount=AMOUNT), held(refused=True), AdjustingLedger(held=AMOUNT))
    _, refusal = apply(command(SETTLE, revision=1, amount=AMOUNT), hold, AdjustingLedger())
    assert NOT_HELD == (refusal and refusal.code)


@pytest.mark.parametrize("capture", [MORE, Decimal("12.000000000000000001")])
def test_a_capture_is_compared_with_what_is_held_now(capture: Decimal) -> None:
    """The row's amount is the bound, whatever amount the command names."""
    ledger = AdjustingLedger(free=Decimal(0), held=MORE)
    hold, refusal = apply(command(SETTLE, revision=1, amount=AMOUNT, capture=capture), held(), ledger)
    exceeds = capture > MORE
    assert (EXCEEDS_HOLD if exceeds else None) == (refusal and refusal.code)
    assert (HoldState.REFUNDED if exceeds else HoldState.SETTLED) == hold.state
    assert ["refund" if exceeds else "settle"] == ledger.effects


# A ledger that adjusts nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [MORE, Decimal(8)])
def test_without_an_adjusting_ledger_nothing_moves(amount: Decimal) -> None:
    """A raise and a lowering are NOT_SUPPORTED, again and again; the hold then ends as it was reserved."""
    ledger = OneAccountLedger()
    hold, _ = apply(command(RESERVE), None, ledger)
    for _ in range(2):
        hold, refusal = apply(command(ADJUST, amount=amount), hold, ledger)
        assert (NOT_SUPPORTED, AMOUNT) == (refusal and refusal.code, hold.amount)
    hold, refusal = apply(command(REFUND), hold, ledger)
    assert (None, HoldState.REFUNDED, AMOUNT) == (refusal, hold.state, hold.refunded)
    assert ["reserve", "refund"] == ledger.effects


def test_without_an_adjusting_ledger_a_raise_in_doubt_can_be_undone() -> None:
    """The undo asks for the amount that is held, so nothing must move and the answer is yes; the raise is late."""
    ledger = OneAccountLedger()
    hold, _ = apply(command(RESERVE), None, ledger)
    hold, refusal = apply(command(ADJUST, revision=2, amount=AMOUNT), hold, ledger)
    assert (None, 2, AMOUNT) == (refusal, hold.revision, hold.amount)
    _, late = apply(command(ADJUST, revision=1), hold, ledger)
    assert SUPERSEDED == (late and late.code)
    hold, refusal = apply(command(REFUND, revision=2), hold, ledger)
    assert (None, HoldState.REFUNDED) == (refusal, hold.state)


@pytest.mark.parametrize("state", [None, *HoldState])
def test_where_holds_have_no_place_for_adjustments(state: HoldState | None) -> None:
    """The answer is NOT_SUPPORTED with the hold as it is; of an unknown one it does not prove that nothing is held."""
    before = hold_in(state)
    hold, refusal = not_adjustable(command(ADJUST), before)
    assert NOT_SUPPORTED == refusal.code
    assert (HoldState.HELD if state is None else state) == hold.state
    assert before is None or hold is before


# Every order ----------------------------------------------------------------------------------------------------------

UP, DOWN, LOW = Decimal(15), Decimal(8), Decimal("7.5")
BY_REVISION = {0: AMOUNT, 1: UP, 2: DOWN}
LETTERS: dict[str, HoldCommand[None]] = {
    "reserve": command(RESERVE),
    "up": command(ADJUST, revision=1, amount=UP),
    "down": command(ADJUST, revision=2, amount=DOWN),
}
ENDS = [
    command(kind, revision=revision, amount=amount)
    for kind in (REFUND, SETTLE)
    for revision, amount in BY_REVISION.items()
]
FREE = [Decimal(9), Decimal(10), Decimal("14.999999999999999999"), Decimal(15)]
"""Too little for the hold, for the hold alone, for all but a digit of the raise, and for all."""


@pytest.mark.parametrize("end", ENDS, ids=lambda end: f"{end.kind}-{end.revision}")
@pytest.mark.parametrize("free", FREE, ids=str)
def test_no_order_and_no_repetition_moves_money_twice(end: HoldCommand[None], free: Decimal) -> None:
    """All sequences of up to six of reserve, raise, lowering and one end: each command has at most one effect.

    Money is conserved, what is held is the active hold's amount, an ended hold does not move again, a revision never
    falls, and a command that comes again at once gets the answer that it had.
    """
    letters = [*LETTERS.values(), end]
    for sequence in (one for length in range(1, 7) for one in product(letters, repeat=length)):
        ledger = AdjustingLedger(free=free)
        hold: Hold | None = None
        for asked in sequence:
            before, effects = hold, len(ledger.effects)
            hold, refusal = apply(asked, before, ledger)
            _holds(ledger, hold, free)
            assert len(ledger.effects) <= effects + 1
            if before is not None and before.state is not HoldState.HELD:
                assert hold is before
            if before is not None:
                assert before.revision <= hold.revision
            again, same = apply(asked, hold, ledger)
            assert again is hold
            if before is not None or asked.kind is not ADJUST:  # an unknown hold is buried, which closes it
                assert refusal == same
        kinds = [effect.partition(" ")[0] for effect in ledger.effects]
        assert kinds == kinds[:1] + ["adjust"] * kinds.count("adjust") + kinds[-1:] * (
            kinds[-1:] in (["refund"], ["settle"])
        )
        assert len(set(ledger.effects)) == len(ledger.effects)
        assert kinds.count("adjust") <= 2


def _holds(ledger: AdjustingLedger, hold: Hold, free: Decimal) -> None:
    assert free == ledger.free + ledger.held + ledger.spent
    assert min(ledger.free, ledger.held) >= 0
    assert ledger.held == (hold.amount if hold.state is HoldState.HELD else 0)
    assert ledger.spent == hold.captured
    if hold.state in {HoldState.REFUNDED, HoldState.SETTLED}:
        assert hold.amount == hold.captured + hold.refunded


AMOUNTS = st.sampled_from([Decimal("0.000000000000000001"), DOWN, AMOUNT, UP, Decimal(10**18 - 1)])
COMMANDS = st.lists(
    st.builds(
        lambda kind, revision, amount, capture: command(kind, revision=revision, amount=amount, capture=capture),
        st.sampled_from(CommandKind),
        st.integers(0, 4),
        AMOUNTS,
        AMOUNTS,
    ),
    max_size=12,
)


@given(COMMANDS, AMOUNTS)
def test_no_commands_at_all_lose_money(commands: list[HoldCommand[None]], free: Decimal) -> None:
    """Commands that no sender would mint, in any order, conserve money too, and move nothing after the end."""
    ledger = AdjustingLedger(free=free)
    hold: Hold | None = None
    for asked in commands:
        before, effects = hold, list(ledger.effects)
        hold, refusal = apply(asked, before, ledger)
        _holds(ledger, hold, free)
        if refusal is not None and hold.state is HoldState.HELD:
            assert effects == ledger.effects
        if before is not None and before.state is not HoldState.HELD:
            assert (before, effects) == (hold, ledger.effects)
