"""The saga on one screen: what each phase asks, what it does on entry, and where each answer leads.

A buy:          VALIDATING (check) -> RESERVING (reserve) -> ENTRY
A sell:         VALIDATING (check and reserve side by side) -> ENTRY
From ENTRY:     -> SETTLING (settle) -> COMPLETED, for a market order, or if the market meets the order's price
                -> WORKING (wait for a tick) -> SETTLING when a tick fires it
                -> QUEUED (wait for the opening) -> SETTLING, for a market order while its asset does not trade
An amend:       WORKING -> AMENDING (check the new terms) -> REVISING -> WORKING, with the new terms in force
                REVISING -> RAISING (hold more first) -> REVISING, or REVISING -> LOWERING (hold less, after) -> WORKING
Anything else:  -> REFUNDING (refund what is held or may be held) -> FAILED or CANCELLED

Theory of operation
-------------------
`advance` interprets this table, and nothing else decides where a saga goes. Three rules are enough to read it.

1. A phase is a set of questions. On entry a saga does the phase's actions, shows its status and asks its questions, all
   in one transaction; then it waits. The last yes, a no, a timeout or a cancel ends the phase, and the table names the
   next phase for each. None says that this cannot end the phase.
2. Money may be held from the moment RESERVE is sent until a reply proves that it is not. So every way out before the
   pivot leads through REFUNDING, which is passed at once when nothing can be held, and which asks until it knows.
3. SETTLING is the pivot. Its entry records the fill, and from there on a saga only goes forward: it asks for ever and
   takes no cancel. Only a refused settlement, which proves that no money moved, takes the fill back.

What the table does not say, and why:

- An answer counts once, and only for a question that is open. A repeated, late or unknown reply is ignored with its
  reason, and so is a timer that no longer fits. Else each phase would need a row for each message out of time.
- A reply that contradicts what was asked or what is known cannot come from a correct participant. The saga parks: it
  keeps all that it knows and moves only when a person resumes it. A wrong guess here would lose or double money.
- A paused participant is not asked, and no timeout counts against its pause. A silent one gets a few probes. Whom to
  ask is not the saga's business: it comes in from outside (`Availability`), and no phase differs by it.
- ENTRY and REVISING ask nothing and are left in the decision that reaches them. What an order does there follows from
  its terms and the market (`entry`, `weighing`). What a resting order waits for is no question: the trigger engine
  watches the market for it, and its tick is binding, since it was committed first. A cancel or an expiry that comes
  later is too late.
- An amend changes nothing until its new terms are put in force, in one decision: an order rests by its old terms in
  AMENDING and RAISING, and by the new ones in LOWERING. More money is held before they count and less after, so what
  is held always pays for the terms in force, whatever becomes of a question. A refused or unanswered amend leads back.
- A suspended order stays in its phase: no tick fires it, and everything else goes on.
- A quote ages while other questions wait, so its age is judged on entry into the pivot, not by a timer.
- A command that is sent again is the very same command, and the participant's barrier makes it one effect. So the terms
  of the hold and of the settlement are fixed before the first command is sent, and never reckoned again.

Times are in seconds and scale with `ORDER_SAGA_TIME_SCALE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.assets import AssetApproved, AssetRefused
from contracts.balance import (
    AdjustmentRefused,
    BalanceAdjusted,
    BalanceRefunded,
    BalanceRefused,
    BalanceReserved,
    BalanceSettled,
    RefundRefused,
    SettlementRefused,
)
from contracts.vocabulary import HoldState, OrderStatus, Side, Word
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
    """The same for a no. Unless the no parks the order, each of them proves that nothing is held, or that nothing has
    changed."""


QUESTIONS: Final = {
    Step.CHECK: QuestionRow(Participant.ASSETS, AssetApproved, AssetRefused, 2, 8, 5, 30),
    Step.RESERVE: QuestionRow(
        Participant.BALANCE, BalanceReserved, BalanceRefused, 2, 8, 5, 30, no_waits_for=Step.CHECK,
        proof=(HoldState.HELD,), no_proof=(HoldState.REFUSED,),
    ),
    Step.RECHECK: QuestionRow(Participant.ASSETS, AssetApproved, AssetRefused, 2, 8, 5, 30),
    Step.RAISE: QuestionRow(
        Participant.BALANCE, BalanceAdjusted, AdjustmentRefused, 2, 8, 5, 30,
        proof=(HoldState.HELD,), no_proof=(HoldState.HELD,),
    ),
    # Refused as NOT_SUPPORTED it is a yes all the same: the hold stays larger than it need be, until the order ends.
    Step.LOWER: QuestionRow(
        Participant.BALANCE, BalanceAdjusted, AdjustmentRefused, 2, 60, None, None, overdue_s=300,
        proof=(HoldState.HELD,), no_proof=(HoldState.HELD,),
    ),
    Step.SETTLE: QuestionRow(
        Participant.BALANCE, BalanceSettled, SettlementRefused, 2, 60, None, None, overdue_s=300,
        proof=(HoldState.SETTLED,), no_proof=(HoldState.REFUNDED, HoldState.TOMBSTONE, HoldState.REFUSED),
    ),
    Step.REFUND: QuestionRow(
        Participant.BALANCE, BalanceRefunded, RefundRefused, 2, 60, None, None, overdue_s=300,
        proof=(HoldState.REFUNDED, HoldState.TOMBSTONE, HoldState.REFUSED), no_proof=(HoldState.SETTLED,),
    ),
}  # fmt: skip


class Way(Word):
    """Where a phase can lead besides a phase of the table."""

    BY_OUTCOME = "as the outcome says"
    """FAILED or CANCELLED, as was fixed when the order began to refund."""
    PARKED = "parks"
    """It stays where it is until a person resumes it."""


class EntryAction(Word):
    """What a saga does on entering a phase, before it shows the phase's status and asks its questions."""

    RECORD_FILL = "record the fill"
    FIX_OUTCOME = "fix the outcome"
    """How the order will end is known from here on, and shown at the end. What is still open is waited for no more."""
    TAKE_BACK_FILL = "take back the fill"
    """If there is one: its row stays, marked as busted, and the order shows that nothing was filled."""
    GIVE_REASON = "give the reason"


class Entry(Word):
    """What becomes of an order whose money is held, or which needs none, when it reaches the market."""

    FILLS = "the market meets it"
    QUEUES = "it waits for the opening"
    RESTS = "it waits for a price"
    ENDS = "its time is over"


class Change(Word):
    """What becomes of an order whose new terms the asset service has approved."""

    LOWERS = "they are in force, and hold less"
    RAISES = "they need more money first"
    RESTS = "they are in force, or refused, and hold as much"
    FILLS = "they are in force, and the market meets them"


class PhaseRow(NamedTuple):
    """What a phase does, shows and asks, and where it leads. `None` as a target: that can't end this phase."""

    status: OrderStatus | None
    """What the public sees; None: what it saw before."""
    via: tuple[OrderStatus, ...] = ()
    """Statuses passed on the way in, a version each."""
    on_entry: tuple[EntryAction, ...] = ()
    asks: tuple[tuple[Side, Step], ...] = ()
    yes: tuple[tuple[Side, Phase | Way], ...] = ()
    """All questions answered yes."""
    no: Phase | Way | None = None
    timeout: Phase | None = None
    """Patience over."""
    cancel: Phase | None = None
    fired: Phase | None = None
    """A tick meets what the order waits for."""
    expiry: Phase | None = None
    """Its `expires_at` has come."""
    entry: tuple[tuple[Entry | Change, Phase], ...] = ()
    """Left at once, by what the market says. The first way is the one that asks most."""
    stale: Phase | None = None
    """The quote is too old on entry: the order goes there instead, and nothing of this phase is done."""
    passed_if_nothing_held: bool = False
    """Entered and left by its yes at once if RESERVE was never sent, or was refused: then there is nothing to ask."""
    lacks: str = ""
    """What an order lacks that stands here for long, in words for a person."""


BUY, SELL = Side.BUY, Side.SELL

PHASES: Final = {
    # Known only by a cancel that came before its request, and hidden from everybody: the request is its yes.
    Phase.NEW: PhaseRow(None, yes=((BUY, Phase.VALIDATING), (SELL, Phase.VALIDATING))),
    Phase.VALIDATING: PhaseRow(
        PENDING,
        asks=((BUY, Step.CHECK), (SELL, Step.CHECK), (SELL, Step.RESERVE)),
        yes=((BUY, Phase.RESERVING), (SELL, Phase.ENTRY)),
        no=Phase.REFUNDING, timeout=Phase.REFUNDING, cancel=Phase.REFUNDING,
    ),
    Phase.RESERVING: PhaseRow(
        PENDING,
        asks=((BUY, Step.RESERVE),),
        yes=((BUY, Phase.ENTRY),),
        no=Phase.REFUNDING, timeout=Phase.REFUNDING, cancel=Phase.REFUNDING,
    ),
    Phase.ENTRY: PhaseRow(
        None,
        entry=(
            (Entry.FILLS, Phase.SETTLING), (Entry.QUEUES, Phase.QUEUED), (Entry.RESTS, Phase.WORKING),
            (Entry.ENDS, Phase.REFUNDING),
        ),
    ),
    # The order rests, as in WORKING, but for no price of its own: the first tick of the opening fires it.
    Phase.QUEUED: PhaseRow(
        CONFIRMED, fired=Phase.SETTLING, cancel=Phase.REFUNDING, expiry=Phase.REFUNDING,
    ),
    # The order rests: its money is held, nobody is asked, and a tick, a cancel or its time ends the wait.
    Phase.WORKING: PhaseRow(
        CONFIRMED, fired=Phase.SETTLING, cancel=Phase.REFUNDING, expiry=Phase.REFUNDING,
    ),
    # An amend. In all of its phases the order rests: a tick, a cancel or its time ends it by the terms in force.
    Phase.AMENDING: PhaseRow(
        CONFIRMED, fired=Phase.SETTLING, cancel=Phase.REFUNDING, expiry=Phase.REFUNDING,
        asks=((BUY, Step.RECHECK), (SELL, Step.RECHECK)),
        yes=((BUY, Phase.REVISING), (SELL, Phase.REVISING)),
        no=Phase.WORKING, timeout=Phase.WORKING, lacks="an amend is not approved",
    ),
    Phase.REVISING: PhaseRow(
        None,
        entry=(
            (Change.LOWERS, Phase.LOWERING), (Change.RAISES, Phase.RAISING), (Change.RESTS, Phase.WORKING),
            (Change.FILLS, Phase.SETTLING),
        ),
    ),
    # A raise that nobody answers may come yet. The adjustment after it undoes it, or keeps it from counting.
    Phase.RAISING: PhaseRow(
        CONFIRMED, fired=Phase.SETTLING, cancel=Phase.REFUNDING, expiry=Phase.REFUNDING,
        asks=((BUY, Step.RAISE), (SELL, Step.RAISE)),
        yes=((BUY, Phase.REVISING), (SELL, Phase.REVISING)),
        no=Phase.WORKING, timeout=Phase.LOWERING, lacks="money for an amend is not held",
    ),
    Phase.LOWERING: PhaseRow(
        CONFIRMED, fired=Phase.SETTLING, cancel=Phase.REFUNDING, expiry=Phase.REFUNDING,
        asks=((BUY, Step.LOWER), (SELL, Step.LOWER)),
        yes=((BUY, Phase.WORKING), (SELL, Phase.WORKING)),
        no=Way.PARKED, lacks="money beyond the order's terms is still held",
    ),
    # The pivot: from here on only forward.
    Phase.SETTLING: PhaseRow(
        PROCESSING, via=(CONFIRMED,), on_entry=(EntryAction.RECORD_FILL,), stale=Phase.REFUNDING,
        asks=((BUY, Step.SETTLE), (SELL, Step.SETTLE)),
        yes=((BUY, Phase.COMPLETED), (SELL, Phase.COMPLETED)),
        no=Phase.FAILED, lacks="settlement not acknowledged",
    ),
    # The compensation. The outcome is shown at the end, when the money is at rest. A refund that is refused, because
    # the hold is settled after all, is for a person to look at.
    Phase.REFUNDING: PhaseRow(
        None, on_entry=(EntryAction.FIX_OUTCOME,), passed_if_nothing_held=True,
        asks=((BUY, Step.REFUND), (SELL, Step.REFUND)),
        yes=((BUY, Way.BY_OUTCOME), (SELL, Way.BY_OUTCOME)),
        no=Way.PARKED, lacks="compensation not acknowledged",
    ),
    Phase.COMPLETED: PhaseRow(COMPLETED),
    Phase.CANCELLED: PhaseRow(CANCELLED, on_entry=(EntryAction.TAKE_BACK_FILL, EntryAction.GIVE_REASON)),
    Phase.FAILED: PhaseRow(FAILED, on_entry=(EntryAction.TAKE_BACK_FILL, EntryAction.GIVE_REASON)),
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
MAX_TICK_AGE_S: Final = 30.0
"""A tick that is older than this when it is judged fires nothing. Does not scale: the market has its own clock."""
MAX_REQUEST_AGE_S: Final = 60.0
"""A request for an order that does not wait has expired when it is first handled later than this after it was made.
Does not scale: it bounds a delay of the transport, not of a participant."""
LOOK_AGAIN_S: Final = 60.0
"""An order that waits for a paused participant looks this often whether that is over; whoever ends it wakes it too."""
JITTER: Final = 0.2
EARLY_CANCELS_MAX: Final = 8
AMENDS_MAX: Final = 100
"""Amends of one order; each adds to its history. One more is refused where everybody sees it, others in the history."""
SUSPENSIONS_MAX: Final = 100
"""How often one order may be suspended, for the same reason."""

TERMINAL: Final = frozenset(phase for phase, row in PHASES.items() if row.status is not None and row.status.terminal)

ANSWERS: Final = {
    answer: tuple(step for step, row in QUESTIONS.items() if answer in (row.yes, row.no))
    for question in QUESTIONS.values()
    for answer in (question.yes, question.no)
}
"""Every type of reply, and the questions that it may answer; the id of its command tells which one."""

BY_OUTCOME: Final = tuple(phase for phase, row in PHASES.items() if EntryAction.GIVE_REASON in row.on_entry)
"""The phases that an outcome can lead to."""

_STEPS: Final = {
    (phase, side): tuple(step for asked_by, step in row.asks if asked_by is side)
    for phase, row in PHASES.items()
    for side in Side
}
_TARGETS: Final = {(phase, side): to for phase, row in PHASES.items() for side, to in row.yes}
_ENTRIES: Final = {(phase, entry): to for phase, row in PHASES.items() for entry, to in row.entry}
RESTING: Final = frozenset(phase for phase, row in PHASES.items() if row.fired is not None)
"""The phases in which a tick can fire an order."""
IDLE: Final = frozenset(phase for phase in RESTING if not PHASES[phase].asks)
"""Those of them in which nothing is asked: such an order wakes by its row in `orders.resting` alone."""
PASSED: Final = frozenset(phase for phase, row in PHASES.items() if row.entry)
"""The phases that are left in the decision that reaches them."""


def steps(phase: Phase, side: Side) -> tuple[Step, ...]:
    """List what a phase asks for an order of this side."""
    return _STEPS[phase, side]


def target(phase: Phase, side: Side) -> Phase | Way | None:
    """Name what follows when every answer is yes."""
    return _TARGETS.get((phase, side))


def entered(phase: Phase, by: Entry | Change) -> Phase:
    """Name the phase that an order goes on to from one that it only passes."""
    return _ENTRIES[phase, by]


def needed(phase: Phase, side: Side, answered: Collection[Step] = ()) -> frozenset[Participant]:
    """Name who must still answer, in this phase or in those that a yes leads to, for the order to come to its end.

    Nobody is asked while one of them is paused: a quote that is taken now would be stale when the money can move.
    """
    asked = frozenset(QUESTIONS[step].participant for step in steps(phase, side) if step not in answered)
    following = PHASES[phase].entry[0][1] if PHASES[phase].entry else target(phase, side)
    return asked | needed(following, side) if isinstance(following, Phase) else asked
