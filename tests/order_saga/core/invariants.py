"""The protocol's invariants, as far as one order shows them, for any sequence of messages.

`check` judges one step: the saga before it, and the outcome of `advance`. It repeats the rules of the protocol and not
the code of the core.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Final

from msgspec import structs

from contracts.amends import AmendState
from contracts.balance import AdjustBalance, RefundBalance, ReserveBalance, SettleBalance
from contracts.vocabulary import HoldState, OrderKind, OrderStatus, Side, TimeInForce
from order_saga.core.levels import worst_price
from order_saga.core.phases import IDLE, MOVES, PHASES, QUESTIONS, RESTING, TERMINAL, steps
from order_saga.core.saga import Answer, Availability, Decision, Ignored, Participant, Phase, Saga, Step, Why, snapshot

if TYPE_CHECKING:
    from datetime import datetime

    from contracts.orders import Order
    from order_saga.core.saga import Question

RANK: Final = {
    Phase.NEW: 0,
    Phase.VALIDATING: 1,
    Phase.RESERVING: 2,
    Phase.QUEUED: 3,
    Phase.WORKING: 3,
    Phase.AMENDING: 3,
    Phase.RAISING: 3,
    Phase.LOWERING: 3,
    Phase.SETTLING: 4,
    Phase.REFUNDING: 4,
    Phase.COMPLETED: 5,
    Phase.CANCELLED: 5,
    Phase.FAILED: 5,
}
"""A saga moves only to a phase of a higher rank, or from one in which it rests to another, and never stops in ENTRY or
REVISING, which have none."""
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
        "recovered",
        "rests",
        "triggered",
        "fired",
        "expired",
        "amended",
        "amend_refused",
        "held",
        "released",
    }
)
CHECKS: Final = frozenset({Step.CHECK, Step.RECHECK})
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
    if any(entry.kind == "recovered" for entry in outcome.entries):
        _recovered(before, outcome)
        return
    _goes_on(before, after)
    _versions(before, outcome, now)
    _history(before, outcome)
    _questions(before, outcome)
    _pauses(before, outcome, paused)
    _cancels(before, after)
    _fills(before, outcome)
    _terms_in_force(before, outcome)
    _waits(before, outcome)
    check_saga(after)


def check_saga(saga: Saga) -> None:
    """Fail unless this saga may exist between two steps."""
    shown = PHASES[saga.phase].status
    assert saga.phase in RANK, "nothing stops in ENTRY or REVISING"
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
    _changes(saga)
    if saga.overdue_since is not None:
        asks_for_ever = {Phase.SETTLING, Phase.REFUNDING, Phase.LOWERING}
        assert saga.phase in asks_for_ever, "only what is never given up becomes overdue"
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
        assert saga.progress.rest is not None, "a resting order knows since when it waits"
    if saga.phase in IDLE:
        assert not waiting, "an order that only rests asks nothing; the market wakes it"
        assert saga.due_at is None
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
    if saga.phase in RESTING:
        assert sure_hold(saga) >= most_that_it_costs(saga), "what is surely held pays for the terms in force"
    sent = {question.step for question in saga.progress.questions if question.sent}
    assert not {Step.SETTLE, Step.REFUND} <= sent, "a hold is settled or refunded, never both"
    if saga.phase in TERMINAL and saga.terms is not None:
        assert snapshot(saga).held_amount is None, "an order that has ended holds nothing"


def _recovered(before: Saga, decision: Decision) -> None:
    """Expect of an order that was brought forward that it settles or refunds, by a legal way without a gap."""
    after = decision.saga
    assert before.phase not in TERMINAL, "terminal has no exit"
    assert after.phase in {Phase.SETTLING, Phase.REFUNDING, Phase.CANCELLED, Phase.FAILED}
    status, version = before.status, before.version
    for event in decision.events:
        assert (event.version, event.previous_status) == (version + 1, status)
        assert event.status in MOVES[status] or (event.status is status and not event.status.terminal)
        status, version = event.status, event.version
    assert (after.status, after.version) == (status, version)
    assert (decision.fill is not None) == (after.phase is Phase.SETTLING is not before.phase)
    _history(before, decision)
    _always_wakeable(after)


def sure_hold(saga: Saga) -> Decimal:
    """Give the least that an order may hold, as far as it knows: an adjustment in doubt may count or not."""
    hold = saga.progress.hold
    assert hold is not None
    return min((hold.amount, *saga.progress.unconfirmed))


def most_that_it_costs(saga: Saga) -> Decimal:
    """Work out what an order can cost by its terms in force: of a sell its quantity, of a buy its worst fill."""
    quantity, quote = saga.quantity, saga.progress.quote
    assert quantity is not None
    assert quote is not None
    if saga.side is Side.SELL:
        return quantity
    cents = Decimal(1).scaleb(-quote.cash_scale)
    value = quantity * worst_price(saga)
    parts = (value, value * quote.fee_bps / 10_000)
    return sum((part.quantize(cents, ROUND_CEILING) for part in parts), Decimal(0))


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


def _changes(saga: Saga) -> None:
    """Expect of an order that is being changed that it rests, that its questions fit, and that everybody sees it."""
    progress, amend = saga.progress, saga.progress.amend
    assert (progress.amending is not None) == (saga.phase in {Phase.AMENDING, Phase.RAISING})
    assert progress.revision >= 1
    assert len(progress.amend_ids) == len(set(progress.amend_ids)), "no amend counts twice"
    if saga.phase in {Phase.RAISING, Phase.LOWERING}:
        assert progress.adjusting in progress.unconfirmed, "what is asked for may be held"
    if progress.rest is None:
        assert (progress.revision, amend, progress.amend_ids, progress.suspended) == (1, None, (), None)
        return
    shown = snapshot(saga)
    assert (shown.revision, shown.amend) == (progress.revision, amend)
    assert (progress.as_requested is None) == (progress.revision == 1), "what was asked for is kept"
    assert shown.on_hold == (progress.suspended is not None and saga.phase in {*RESTING, Phase.REFUNDING})
    assert progress.release_refused is None or progress.suspended is not None
    if amend is not None:
        assert (amend.reason_code is not None) == (amend.state is AmendState.REFUSED)
        assert amend.state is not AmendState.PENDING or progress.amending is not None, "each amend ends"


def _terms_in_force(before: Saga, decision: Decision) -> None:
    """Expect that terms change only with a version that shows the amend as APPLIED, and one revision at a time."""
    after = decision.saga
    was, now = before.progress, after.progress
    amended = [entry for entry in decision.entries if entry.kind == "amended"]
    assert now.revision == was.revision + len(amended) <= was.revision + 1
    if amended:
        assert before.phase in RESTING
        assert now.amend is not None
        assert now.amend.state is AmendState.APPLIED
        assert now.amend.amend_id in now.amend_ids
        assert was.amending is None or was.amending.asked.amend_id == now.amend.amend_id
        return
    if before.phase is not Phase.NEW:
        kept = ("terms", "quantity", "slippage_bps", "price", "asset_id", "order_type", "user_id")
        assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert before.phase not in RESTING or now.quote == was.quote, "the rules of the terms in force stay"
    assert now.trails_from == was.trails_from
    assert was.ends_at is None or now.ends_at == was.ends_at, "only an amend moves the end"


def _waits(before: Saga, decision: Decision) -> None:
    """Expect that what is fixed stays: the settlement, the trigger that was met, the fire, and the confirmed hold."""
    after = decision.saga
    was, now = before.progress, after.progress
    for name in ("settlement", "fire"):
        fixed = getattr(was, name)
        assert fixed is None or getattr(now, name) == fixed, f"the {name} is fixed once"
    if was.hold is not None and now.hold != was.hold:
        assert now.hold is not None
        assert before.phase in {Phase.RAISING, Phase.LOWERING}
        assert now.hold.asset_id == was.hold.asset_id
        assert (now.hold.revision, now.hold.amount) == (was.adjustments, was.adjusting), "the newest adjustment counts"
        assert now.hold.revision > was.hold.revision
    for name in ("checks", "adjustments", "suspensions", "amend_ids"):
        assert getattr(now, name) >= getattr(was, name), f"no number of {name} is used again"
    assert now.triggered >= was.triggered, "a trigger is never tested again"
    if was.rest is not None:
        assert now.rest is not None
        kinds = {entry.kind for entry in decision.entries}
        if "held" in kinds:
            was_best = structs.replace(was.rest, watermark=now.rest.watermark)
            assert now.rest == was_best, "a trailing stop on hold keeps the best price that it had"
        else:
            assert now.rest == was.rest or kinds & {"resumed", "amended", "released"}, "only these begin it anew"
        assert now.rest.entered_at >= was.rest.entered_at or "resumed" in kinds or "released" in kinds
    if after.phase is Phase.CANCELLED:
        assert now.fire is None, "a fired order is never cancelled and never expires"


def _goes_on(before: Saga, after: Saga) -> None:
    assert after.order_id == before.order_id
    if before.phase in TERMINAL:
        assert after.phase is before.phase, "terminal has no exit"
        assert after.version == before.version
    rests_on = before.phase in RESTING and after.phase in RESTING
    assert after.phase is before.phase or rests_on or RANK[after.phase] > RANK[before.phase]
    if before.progress.outcome is not None and before.parked_reason is None:
        assert after.progress.outcome == before.progress.outcome, "the outcome is fixed on entry"


def _versions(before: Saga, decision: Decision, now: datetime) -> None:
    """I7: versions have no gap, one event each, follow legal moves, and show every change that a client can see."""
    status, version, shown = before.status, before.version, None if before.status is None else snapshot(before)
    for event in decision.events:
        version += 1
        assert (event.version, event.previous_status) == (version, status)
        assert event.occurred_at == now
        assert (event.status, event.reason_code) == (event.order.status, event.order.reason_code)
        assert event.order.version == version
        assert event.order.updated_at == now
        if event.status is status:
            assert shown is not None
            assert _but_version(event.order) != _but_version(shown), "each version shows something new"
        else:
            assert event.status in MOVES[status], f"{status} -> {event.status}"
        status, shown = event.status, event.order
    assert (decision.saga.status, decision.saga.version) == (status, version)
    if decision.events:
        assert decision.events[-1].order == snapshot(decision.saga), "the last event shows the order as it is"
    elif before.status is not None:
        assert snapshot(decision.saga) == snapshot(before), "what a client can see changes only with a version"


def _but_version(order: Order) -> Order:
    return structs.replace(order, version=0, updated_at=order.created_at)


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
        if now.number != known.number:
            assert known.answer is not Answer.OPEN, "one at a time"
            assert (now.number or 0) > (known.number or 0), "another question of its kind"
            continue
        assert known.answer is Answer.OPEN or now.answer is known.answer, "an answer stays"
        assert now.sent >= known.sent, "what was sent stays sent"
        assert now.sent_at == known.sent_at or not known.sent, "and so does when it was sent first"
    opened = {step for step, _ in _named(after.progress.open()) - _named(before.progress.questions)}
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
        ends = {Step.RECHECK: f"check.{question.number}"} | dict.fromkeys(
            (Step.RAISE, Step.LOWER), f"adjust.{question.number}"
        )
        assert ask.command_id == ask.message.command_id == f"{after.order_id}:{ends.get(ask.step, ask.step)}"
        numbered = ask.step in ends
        assert (question.number is not None) == numbered
        most = QUESTIONS[ask.step].attempts_max
        assert most is None or ask.attempt <= most
        if isinstance(ask.message, SettleBalance):
            assert ask.message.capture <= ask.message.amount, "a settlement never exceeds the hold"
        if isinstance(ask.message, (SettleBalance, RefundBalance)):
            known_hold = after.progress.hold
            assert known_hold is None or ask.message.revision == known_hold.revision, "the last that was confirmed"
        if isinstance(ask.message, AdjustBalance):
            assert ask.message.revision == question.number == after.progress.adjustments
        if isinstance(ask.message, (ReserveBalance, SettleBalance, RefundBalance, AdjustBalance)):
            assert ask.message.hold_id == f"{after.order_id}:reserve"
            assert ask.message.user_id == after.user_id
            reserve = after.progress.question(Step.RESERVE)
            assert reserve is not None
            assert ask.message.hold_asked_at == (reserve.sent_at or after.created_at), "whatever was asked since"


def _named(questions: tuple[Question, ...]) -> set[tuple[Step, int | None]]:
    return {(question.step, question.number) for question in questions}


def _pauses(before: Saga, decision: Decision, paused: frozenset[Participant]) -> None:
    """Expect that a pause stops questions, patience and overdue for each order that needs the paused participant.

    An order needs the balance service until it ends, and the asset service until the check is answered.
    """
    for question in decision.saga.progress.questions:
        assert question.sent or (question.attempts == 0 and question.answer in {Answer.OPEN, Answer.ABANDONED})
        assert not question.held_back or question.answer in {Answer.OPEN, Answer.ABANDONED}
    opened = _named(decision.saga.progress.open()) - _named(before.progress.questions)
    held_back = {(q.step, q.number) for q in decision.saga.progress.open() if q.held_back}
    assert paused or not held_back & opened, "held back only by a pause"
    check_open = any(question.step in CHECKS for question in decision.saga.progress.open())
    checked_before = any(question.step in CHECKS for question in before.progress.open())
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
