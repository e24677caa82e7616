"""The protocol's invariants, as far as one order shows them, for any sequence of messages.

`check` judges one step: the saga before it, and the outcome of `advance`. It repeats the rules of the protocol and not
the code of the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contracts.balance import RefundBalance, ReserveBalance, SettleBalance
from contracts.vocabulary import HoldState, OrderKind, OrderStatus, TimeInForce
from order_saga.core.phases import MOVES, PHASES, QUESTIONS, TERMINAL, steps
from order_saga.core.saga import Answer, Availability, Decision, Ignored, Participant, Phase, Saga, Step, Why, snapshot

if TYPE_CHECKING:
    from datetime import datetime

RANK: Final = {
    Phase.NEW: 0,
    Phase.VALIDATING: 1,
    Phase.RESERVING: 2,
    Phase.QUEUED: 3,
    Phase.WORKING: 3,
    Phase.SETTLING: 4,
    Phase.REFUNDING: 4,
    Phase.COMPLETED: 5,
    Phase.CANCELLED: 5,
    Phase.FAILED: 5,
}
"""A saga moves only to a phase of a higher rank, and never stops in ENTRY, which has none."""
RESTING: Final = frozenset({Phase.QUEUED, Phase.WORKING})
"""The phases in which an order waits for the market."""
KINDS: Final = frozenset(
    {
        "received",
        "asked",
        "answered",
        "waits",
        "timed_out",
        "ignored",
        "status",
        "overdue",
        "parked",
        "resumed",
        "woken",
        "rests",
        "triggered",
        "fired",
        "expired",
    }
)
NOBODY: Final[frozenset[Participant]] = frozenset()


def availability(
    paused: frozenset[Participant] = NOBODY, silent: frozenset[Participant] = NOBODY
) -> dict[Participant, Availability]:
    """Map each unavailable participant to the reason; one that is both paused and silent counts as paused."""
    return dict.fromkeys(silent, Availability.SILENT) | dict.fromkeys(paused, Availability.PAUSED)


def check(before: Saga, now: datetime, outcome: Decision | Ignored, paused: frozenset[Participant] = NOBODY) -> None:
    """Fail with the broken rule's name unless this step is right; `paused` are the participants paused during it."""
    if isinstance(outcome, Ignored):
        assert isinstance(outcome.why, Why)
        assert outcome.name, "an ignored message is named"
        return
    after = outcome.saga
    _goes_on(before, after)
    _versions(before, outcome, now)
    _history(before, outcome)
    _questions(before, outcome)
    _pauses(before, outcome, paused)
    _cancels(before, after)
    _fills(before, outcome)
    _waits(before, after)
    check_saga(after)


def check_saga(saga: Saga) -> None:
    """Fail unless this saga may exist between two steps."""
    shown = PHASES[saga.phase].status
    assert saga.phase in RANK, "nothing stops in ENTRY"
    if saga.phase is Phase.REFUNDING:
        before = OrderStatus.PENDING if saga.progress.rest is None else OrderStatus.CONFIRMED
        assert saga.status is before, "a refunding order shows what it showed before"
    else:
        assert saga.status is shown
    ended_badly = saga.status in {OrderStatus.CANCELLED, OrderStatus.FAILED}
    assert (saga.reason_code is not None) == ended_badly, "a reason exactly for CANCELLED and FAILED"
    assert (saga.phase is Phase.NEW) == (saga.version == 0)
    _always_wakeable(saga)
    _money_at_rest(saga)
    _outcome(saga)
    _conditional(saga)
    if saga.overdue_since is not None:
        assert saga.phase in {Phase.SETTLING, Phase.REFUNDING}, "only what is never given up becomes overdue"
    filled = saga.status in {OrderStatus.PROCESSING, OrderStatus.COMPLETED}
    assert (saga.average_price is not None) == filled, "a fill exactly for PROCESSING and COMPLETED"
    assert saga.filled_quantity == (saga.quantity if filled else 0)
    assert filled or saga.fee == 0
    named = [question.step for question in saga.progress.questions]
    assert len(named) == len(set(named)), "a question is asked once and then repeated"


def _always_wakeable(saga: Saga) -> None:
    """I6: an order that has not ended is parked, or has an open question and a time to ask it again."""
    waiting = saga.progress.open()
    if saga.phase in TERMINAL or saga.phase is Phase.NEW:
        assert not waiting
        assert saga.due_at is None
        return
    if saga.phase in RESTING:
        assert not waiting, "a resting order asks nothing; the market wakes it"
        assert saga.due_at is None
        assert saga.progress.rest is not None, "and it knows since when it waits"
        return
    assert waiting, "an order that has not ended waits for an answer"
    assert {question.step for question in waiting} <= set(steps(saga.phase, saga.side)), "only for its phase's answers"
    if saga.parked_reason is None:
        assert saga.due_at == min(question.due_at for question in waiting)
    else:
        assert saga.due_at is None


def _money_at_rest(saga: Saga) -> None:
    """I3 and I4, as far as the saga knows: the last hold state that it was told of proves how it ended."""
    state, reserve = saga.progress.hold_state, saga.progress.question(Step.RESERVE)
    if saga.phase is Phase.COMPLETED:
        assert state is HoldState.SETTLED
    if saga.phase in {Phase.CANCELLED, Phase.FAILED}:
        never_asked = reserve is None or not reserve.sent
        assert (never_asked and state is None) or (state is not None and state.nothing_held)
    if saga.phase in {*RESTING, Phase.SETTLING}:
        assert state is HoldState.HELD
    sent = {question.step for question in saga.progress.questions if question.sent}
    assert not {Step.SETTLE, Step.REFUND} <= sent, "a hold is settled or refunded, never both"
    if saga.phase in TERMINAL and saga.terms is not None:
        assert snapshot(saga).held_amount is None, "an order that has ended holds nothing"


def _outcome(saga: Saga) -> None:
    """Expect an outcome from the entry to REFUNDING on, or after a cancel while parked; never in one that fills."""
    fixed = saga.progress.outcome
    if fixed is None:
        assert saga.phase is not Phase.REFUNDING
    elif saga.phase in {Phase.VALIDATING, Phase.RESERVING, *RESTING}:
        assert saga.parked_reason is not None
        assert saga.cancel_requested
    else:
        assert saga.phase in {Phase.REFUNDING, Phase.CANCELLED, Phase.FAILED}
        assert saga.phase is Phase.REFUNDING or saga.reason_code is fixed.reason_code, "the outcome does not change"


def _conditional(saga: Saga) -> None:
    """Expect that a fire is binding, and that an order shows what it holds and how it waits while it rests."""
    progress = saga.progress
    if saga.terms is None:
        assert (progress.rest, progress.fire, progress.triggered) == (None, None, False), "a market order waits never"
        return
    if progress.fire is not None:
        assert saga.phase in {*RESTING, Phase.SETTLING, Phase.REFUNDING, Phase.COMPLETED, Phase.FAILED}
        assert saga.phase not in RESTING or saga.parked_reason is not None, "a fired order fills at once"
        assert not saga.cancel_requested, "a fired order is never cancelled"
        fixed = progress.outcome
        assert fixed is None or fixed.status is OrderStatus.FAILED, "nor does it expire"
    if saga.status is None:
        return
    shown, rests = snapshot(saga), saga.phase in {*RESTING, Phase.REFUNDING} and progress.rest is not None
    assert shown.triggered == progress.triggered
    assert (shown.held_amount is not None) == (shown.held_asset_id is not None) == rests
    assert (shown.revision is not None) == (progress.rest is not None)
    market = saga.order_type is not None and saga.order_type.kind is OrderKind.MARKET
    assert (saga.phase is Phase.QUEUED) <= market <= (saga.phase is not Phase.WORKING), "what waits for an opening"
    ends = market or saga.terms.time_in_force in {TimeInForce.GTD, TimeInForce.DAY}
    if rests:
        assert (shown.expires_at is not None) == ends, "whoever waits sees until when"
    if rests:
        assert progress.hold is not None
        assert (shown.held_asset_id, shown.held_amount) == (progress.hold.asset_id, progress.hold.amount)
    trails = saga.order_type is not None and saga.order_type.kind is OrderKind.TRAILING_STOP
    assert trails or shown.watermark is None
    assert (shown.watermark is not None) == (trails and progress.rest is not None)


def _waits(before: Saga, after: Saga) -> None:
    """Expect that what is fixed stays: the terms, the hold, the settlement, the trigger that was met, and the fire."""
    assert before.phase is Phase.NEW or after.terms == before.terms
    was, now = before.progress, after.progress
    for name in ("hold", "settlement", "fire", "ends_at"):
        fixed = getattr(was, name)
        assert fixed is None or getattr(now, name) == fixed, f"the {name} is fixed once"
    assert now.triggered >= was.triggered, "a trigger is never tested again"
    if was.rest is not None:
        assert now.rest is not None
        assert now.rest == was.rest or (before.parked_reason and after.parked_reason is None), (
            "only a resume begins it anew"
        )
    if after.phase is Phase.CANCELLED:
        assert now.fire is None, "a fired order is never cancelled and never expires"


def _goes_on(before: Saga, after: Saga) -> None:
    assert after.order_id == before.order_id
    if before.phase in TERMINAL:
        assert after.phase is before.phase, "terminal has no exit"
        assert after.version == before.version
    assert after.phase is before.phase or RANK[after.phase] > RANK[before.phase]
    if before.progress.outcome is not None and before.parked_reason is None:
        assert after.progress.outcome == before.progress.outcome, "the outcome is fixed on entry"


def _versions(before: Saga, decision: Decision, now: datetime) -> None:
    """I7: versions have no gap, one event each, follow legal moves, and show every change that a client can see."""
    status, version = before.status, before.version
    for event in decision.events:
        version += 1
        assert (event.version, event.previous_status) == (version, status)
        assert event.occurred_at == now
        assert (event.status, event.reason_code) == (event.order.status, event.order.reason_code)
        assert event.order.version == version
        assert event.order.updated_at == now
        if event.status is status:
            _says_something(before, decision)
        else:
            assert event.status in MOVES[status], f"{status} -> {event.status}"
        status = event.status
    assert (decision.saga.status, decision.saga.version) == (status, version)
    if decision.events:
        assert decision.events[-1].order == snapshot(decision.saga), "the last event shows the order as it is"
    elif before.status is not None:
        assert snapshot(decision.saga) == snapshot(before), "what a client can see changes only with a version"


def _says_something(before: Saga, decision: Decision) -> None:
    """Expect of a version with the status of the last one that a client sees why there is one."""
    after = decision.saga
    cancelled = after.cancel_requested > before.cancel_requested
    triggered = after.progress.triggered > before.progress.triggered
    began_anew = after.progress.rest != before.progress.rest and snapshot(after).watermark != snapshot(before).watermark
    assert cancelled or triggered or began_anew, "the same status again shows a cancel, a trigger or a new start"


def _history(before: Saga, decision: Decision) -> None:
    assert decision.saga.history_seq == before.history_seq + len(decision.entries), "history is gapless"
    assert {entry.kind for entry in decision.entries} <= KINDS
    shown = [(entry.status, entry.version) for entry in decision.entries if entry.kind == "status"]
    assert shown == [(event.status, event.version) for event in decision.events]
    asked = [(entry.name, entry.detail.get("attempt", 1)) for entry in decision.entries if entry.kind == "asked"]
    assert asked == [(ask.step, ask.attempt) for ask in decision.asks]


def _questions(before: Saga, decision: Decision) -> None:
    """Expect that an answer does not change, and that a question is sent when it is opened, or waits for a pause."""
    after = decision.saga
    for known in before.progress.questions:
        now = after.progress.question(known.step)
        assert now is not None, "a question is never forgotten"
        assert known.answer is Answer.OPEN or now.answer is known.answer, "an answer stays"
        assert now.sent >= known.sent, "what was sent stays sent"
        assert now.sent_at == known.sent_at or not known.sent, "and so does when it was sent first"
    opened = {q.step for q in after.progress.open()} - {q.step for q in before.progress.questions}
    asked = [ask.step for ask in decision.asks]
    assert opened <= {*asked, *(q.step for q in after.progress.open() if q.held_back)}
    assert len(asked) == len(set(asked)), "once each"
    for ask in decision.asks:
        question = after.progress.question(ask.step)
        assert question is not None
        assert question.answer is Answer.OPEN, "only what is open is asked"
        assert question.sent
        assert not question.held_back
        assert ask.attempt == question.attempts
        assert ask.command_id == ask.message.command_id == f"{after.order_id}:{ask.step}"
        most = QUESTIONS[ask.step].attempts_max
        assert most is None or ask.attempt <= most
        if isinstance(ask.message, SettleBalance):
            assert ask.message.capture <= ask.message.amount, "a settlement never exceeds the hold"
        if isinstance(ask.message, (ReserveBalance, SettleBalance, RefundBalance)):
            assert ask.message.hold_id == f"{after.order_id}:reserve"
            assert ask.message.user_id == after.user_id
            reserve = after.progress.question(Step.RESERVE)
            assert reserve is not None
            assert ask.message.hold_asked_at == (reserve.sent_at or after.created_at), "whatever was asked since"


def _pauses(before: Saga, decision: Decision, paused: frozenset[Participant]) -> None:
    """Expect that a pause stops questions, patience and overdue for each order that needs the paused participant.

    An order needs the balance service until it ends, and the asset service until the check is answered.
    """
    for question in decision.saga.progress.questions:
        assert question.sent or (question.attempts == 0 and question.answer in {Answer.OPEN, Answer.ABANDONED})
        assert not question.held_back or question.answer in {Answer.OPEN, Answer.ABANDONED}
    opened = {q.step for q in decision.saga.progress.open()} - {q.step for q in before.progress.questions}
    held_back = {q.step for q in decision.saga.progress.open() if q.held_back}
    assert paused or not held_back & opened, "held back only by a pause"
    check_open = any(question.step is Step.CHECK for question in decision.saga.progress.open())
    checked_before = any(question.step is Step.CHECK for question in before.progress.open())
    if Participant.BALANCE in paused or (Participant.ASSETS in paused and check_open):
        assert not decision.asks, "an order that needs who is paused asks nothing"
    if Participant.BALANCE in paused or (Participant.ASSETS in paused and checked_before):
        assert not {entry.kind for entry in decision.entries} & {"timed_out", "overdue"}, "nothing times out"
    if any(entry.kind == "waits" for entry in decision.entries):
        assert paused
        assert held_back
        assert decision.saga.overdue_since is None


def _cancels(before: Saga, after: Saga) -> None:
    """`cancel_requested` becomes true only in a commit that can still cancel, and never becomes false again."""
    assert after.cancel_requested >= before.cancel_requested
    if after.cancel_requested > before.cancel_requested:
        assert before.status in {None, OrderStatus.PENDING, OrderStatus.CONFIRMED}
        assert before.phase is not Phase.REFUNDING
        parked = after.parked_reason is not None
        assert after.phase is Phase.CANCELLED or (parked or after.phase is Phase.REFUNDING)
    if after.phase in TERMINAL and after.phase is not before.phase and after.cancel_requested:
        assert after.phase is Phase.CANCELLED, "an accepted cancel wins"


def _fills(before: Saga, decision: Decision) -> None:
    """Expect a fill from the decision that shows PROCESSING, and the same, busted, from the one that reverses it."""
    passed_the_pivot = decision.saga.phase is Phase.SETTLING and before.phase is not Phase.SETTLING
    taken_back = before.phase is Phase.SETTLING and decision.saga.phase is Phase.FAILED
    assert (decision.fill is not None) == (passed_the_pivot or taken_back)
    if decision.fill is not None:
        assert decision.fill.fill_id == f"{decision.saga.order_id}:fill"
        assert decision.fill.busted == taken_back
        assert decision.fill.quantity == decision.saga.quantity
        assert decision.fill.price == (before if taken_back else decision.saga).average_price
        fire, quote = decision.saga.progress.fire, decision.saga.progress.quote
        assert quote is not None
        assert decision.fill.price == (quote.price if fire is None else fire.price), "it fills at what fired it"
        assert before.phase not in RESTING or fire is not None, "only a tick fills what rests"
        assert decision.fill.fee == (before if taken_back else decision.saga).fee
