"""The saga on one screen: what each phase asks, how long it waits, and where each answer leads.

A phase is a set of questions that we have asked; their answers, a cancel or a silence end it. `advance` interprets
this table and nothing else decides where a saga goes. Times are in seconds and scale with `ORDER_SAGA_TIME_SCALE`.

A market buy:   VALIDATING (check) -> RESERVING (reserve) -> SETTLING (settle) -> COMPLETED
A market sell:  VALIDATING (check and reserve side by side) -> SETTLING (settle) -> COMPLETED
Anything else:  -> REFUNDING (refund what is held or may be held) -> FAILED or CANCELLED
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.assets import AssetApproved, AssetRefused
from contracts.balance import (
    BalanceRefunded,
    BalanceRefused,
    BalanceReserved,
    BalanceSettled,
    RefundRefused,
    SettlementRefused,
)
from contracts.vocabulary import HoldState, OrderStatus, Side
from order_saga.core.saga import Participant, Phase, Step

if TYPE_CHECKING:
    from collections.abc import Collection

    import msgspec

CANCELLED, COMPLETED, CONFIRMED, FAILED, PENDING, PROCESSING = (
    OrderStatus.CANCELLED,
    OrderStatus.COMPLETED,
    OrderStatus.CONFIRMED,
    OrderStatus.FAILED,
    OrderStatus.PENDING,
    OrderStatus.PROCESSING,
)


class QuestionRow(NamedTuple):
    """How a question is asked. `None` for patience and attempts: for ever."""

    participant: Participant
    yes: type[msgspec.Struct]
    no: type[msgspec.Struct]
    retry_s: float
    """Asked again after this, doubling ..."""
    retry_max_s: float
    """... up to this, plus up to a fifth of jitter."""
    attempts_max: int | None
    patience_s: float | None
    """Given up when this long without an answer."""
    overdue_s: float | None = None
    """A person is paged when this long without an answer; the saga keeps asking."""
    no_waits_for: Step | None = None
    """A no counts only once that question is answered: its no is the better reason."""
    proof: tuple[HoldState, ...] = ()
    """The hold states that a yes may report; any other is impossible and parks the order."""
    no_proof: tuple[HoldState, ...] = ()
    """The same for a no: each proves that nothing is held."""


QUESTIONS: Final = {
    Step.CHECK: QuestionRow(Participant.ASSETS, AssetApproved, AssetRefused, 2, 8, 5, 30),
    Step.RESERVE: QuestionRow(
        Participant.BALANCE, BalanceReserved, BalanceRefused, 2, 8, 5, 30, no_waits_for=Step.CHECK,
        proof=(HoldState.HELD,), no_proof=(HoldState.REFUSED,),
    ),
    Step.SETTLE: QuestionRow(
        Participant.BALANCE, BalanceSettled, SettlementRefused, 2, 60, None, None, overdue_s=300,
        proof=(HoldState.SETTLED,), no_proof=(HoldState.REFUNDED, HoldState.TOMBSTONE, HoldState.REFUSED),
    ),
    # A refund that is refused is settled, or known with other terms: never believable, a person must look.
    Step.REFUND: QuestionRow(
        Participant.BALANCE, BalanceRefunded, RefundRefused, 2, 60, None, None, overdue_s=300,
        proof=(HoldState.REFUNDED, HoldState.TOMBSTONE, HoldState.REFUSED),
    ),
}  # fmt: skip


class PhaseRow(NamedTuple):
    """What a phase shows and asks, and where it leads. `None` as a target: that can't end this phase."""

    status: OrderStatus | None
    """What the public sees; None: what it saw before."""
    via: tuple[OrderStatus, ...] = ()
    """Statuses passed on the way in, a version each."""
    asks: tuple[tuple[Side, Step], ...] = ()
    yes: tuple[tuple[Side, Phase], ...] = ()
    """All questions answered yes."""
    no: Phase | None = None
    silence: Phase | None = None
    """Patience over."""
    cancel: Phase | None = None


BUY, SELL = Side.BUY, Side.SELL

PHASES: Final = {
    # Known only by a cancel that came before its request; hidden from everybody.
    Phase.NEW: PhaseRow(None),
    Phase.VALIDATING: PhaseRow(
        PENDING,
        asks=((BUY, Step.CHECK), (SELL, Step.CHECK), (SELL, Step.RESERVE)),
        yes=((BUY, Phase.RESERVING), (SELL, Phase.SETTLING)),
        no=Phase.REFUNDING, silence=Phase.REFUNDING, cancel=Phase.REFUNDING,
    ),
    Phase.RESERVING: PhaseRow(
        PENDING,
        asks=((BUY, Step.RESERVE),),
        yes=((BUY, Phase.SETTLING),),
        no=Phase.REFUNDING, silence=Phase.REFUNDING, cancel=Phase.REFUNDING,
    ),
    # The pivot: entering it records the fill. From here on only forward.
    Phase.SETTLING: PhaseRow(
        PROCESSING, via=(CONFIRMED,),
        asks=((BUY, Step.SETTLE), (SELL, Step.SETTLE)),
        yes=((BUY, Phase.COMPLETED), (SELL, Phase.COMPLETED)),
        no=Phase.FAILED,
    ),
    # The outcome is fixed on entry and shown at the end, when the money is at rest. With nothing to refund it is
    # passed at once. It leads to FAILED or CANCELLED as the outcome says; a no parks the order.
    Phase.REFUNDING: PhaseRow(None, asks=((BUY, Step.REFUND), (SELL, Step.REFUND))),
    Phase.COMPLETED: PhaseRow(COMPLETED),
    Phase.CANCELLED: PhaseRow(CANCELLED),
    Phase.FAILED: PhaseRow(FAILED),
}  # fmt: skip

MOVES: Final[dict[OrderStatus | None, tuple[OrderStatus, ...]]] = {
    None: (PENDING,),
    PENDING: (CONFIRMED, CANCELLED, FAILED),
    CONFIRMED: (PROCESSING, CANCELLED, FAILED),
    PROCESSING: (COMPLETED, FAILED),
    COMPLETED: (),
    CANCELLED: (),
    FAILED: (),
}
"""Every move of the public status that can ever happen; the database's constraint is made from it."""

MAX_QUOTE_AGE_S: Final = 30.0
"""At the fill, a quote received longer ago than this is stale. Scales."""
MAX_REQUEST_AGE_S: Final = 60.0
"""A market request first handled later than this after it was made has expired. Does not scale: it bounds a delay
of the transport, not of a participant."""
LOOK_AGAIN_S: Final = 60.0
"""An order that waits for a paused participant looks this often whether that is over; whoever ends it wakes it too."""
JITTER: Final = 0.2
EARLY_CANCELS_MAX: Final = 8

TERMINAL: Final = frozenset(phase for phase, row in PHASES.items() if row.status is not None and row.status.terminal)

_STEPS: Final = {
    (phase, side): tuple(step for asked_by, step in row.asks if asked_by is side)
    for phase, row in PHASES.items()
    for side in Side
}


def steps(phase: Phase, side: Side) -> tuple[Step, ...]:
    """List what a phase asks for an order of this side."""
    return _STEPS[phase, side]


def target(phase: Phase, side: Side) -> Phase | None:
    """Name the phase that follows when every answer is yes."""
    return dict(PHASES[phase].yes).get(side)


def needed(phase: Phase, side: Side, answered: Collection[Step] = ()) -> frozenset[Participant]:
    """Name who must still answer, in this phase or in those that a yes leads to, for the order to come to its end.

    Nobody is asked while one of them is paused: a quote that is taken now would be stale when the money can move.
    """
    asked = frozenset(QUESTIONS[step].participant for step in steps(phase, side) if step not in answered)
    following = target(phase, side)
    return asked if following is None else asked | needed(following, side)
