"""`advance`: one saga, one message, one decision. Interprets the table in `phases`; pure and total.

No clock, no randomness, no I/O, no logging, and no exception for any message: what fits nothing is `Ignored`, with
its reason. Time comes in as an argument.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from contracts.assets import AssetApproved, AssetRefused, CheckAsset
from contracts.balance import (
    BalanceRefunded,
    BalanceRefusal,
    BalanceRefused,
    BalanceReply,
    BalanceReserved,
    RefundRefused,
    SettleBalance,
    SettlementRefused,
)
from contracts.decimals import Exact, Money, Price, subtract
from contracts.orders import InvalidOrder, OrderCancelRequested, OrderRequested
from contracts.vocabulary import OPERATOR_PREFIX, HoldState, OrderStatus, ReasonCode, id_text
from order_saga.core import money
from order_saga.core.commands import asked_for, command
from order_saga.core.decision import (
    Turn,
    ask_again,
    ask_all,
    begin_anew,
    due_questions,
    hold_back,
    note_overdue,
    patience_over,
    postpone,
    who_is_paused,
)
from order_saga.core.phases import (
    EARLY_CANCELS_MAX,
    MAX_QUOTE_AGE_S,
    MAX_REQUEST_AGE_S,
    PHASES,
    QUESTIONS,
    TERMINAL,
    steps,
    target,
)
from order_saga.core.saga import (
    Answer,
    AskAgainRequested,
    Decision,
    Fill,
    Ignored,
    Incoming,
    Outcome,
    ParkRequested,
    Participant,
    Phase,
    Question,
    Quote,
    Reply,
    Requested,
    ResumeRequested,
    Saga,
    Step,
    TimerDue,
    Why,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def advance(
    saga: Saga,
    message: Incoming,
    now: datetime,
    time_scale: float = 1.0,
    paused: frozenset[Participant] = frozenset(),
) -> Decision | Ignored:
    """Decide what a message does to a saga.

    `now` is the database's clock, read after the saga was locked; `time_scale` multiplies the table's times; `paused`
    are the participants whom nobody is to ask at present.
    """
    turn = Turn(saga, now, time_scale, paused)
    ignored = _HANDLERS[type(message)](turn, message)
    return ignored if ignored is not None else turn.decision()


# What comes in --------------------------------------------------------------------------------------------------------


def _requested(turn: Turn, message: Requested) -> Ignored | None:
    saga, request = turn.saga, message.request
    if saga.phase is not Phase.NEW:
        return Ignored(Why.DUPLICATE if _same_request(saga, request) else Why.CONFLICT, "OrderRequested")
    _record_request(turn, message)
    turn.note("received", "OrderRequested")
    turn.set(phase=Phase.VALIDATING)
    turn.show(OrderStatus.PENDING)
    if outcome := _ends_at_once(turn, message):
        turn.set(cancel_requested=outcome.reason_code in _BY_CANCEL)
        _refund(turn, outcome)
    else:
        ask_all(turn)
    return None


def _cancel(turn: Turn, message: OrderCancelRequested) -> Ignored | None:
    saga, name = turn.saga, "OrderCancelRequested"
    if saga.phase is Phase.NEW:
        return _cancel_early(turn, message)
    outcome = _cancel_outcome(message.user_id, message.requested_by, saga.user_id)
    if outcome is None:
        return Ignored(Why.NOT_ALLOWED, name, {"requested_by": message.requested_by})
    if saga.cancel_requested:
        return Ignored(Why.DUPLICATE, name, {"requested_by": message.requested_by})
    leads_to = PHASES[saga.phase].cancel
    if leads_to is None:
        return Ignored(Why.TOO_LATE, name, {"requested_by": message.requested_by})
    turn.note("received", name, requested_by=message.requested_by)
    turn.set(cancel_requested=True)
    if saga.parked_reason is not None:
        turn.learn(outcome=outcome)
    else:
        _abort(turn, leads_to, outcome)
    if not turn.events:
        turn.show()
    return None


def _reply(turn: Turn, message: Reply) -> Ignored | None:
    saga, name, step = turn.saga, type(message).__name__, _STEP_OF[type(message)]
    question = saga.progress.question(step)
    if question is None or message.command_id != saga.command_id(step):
        return Ignored(Why.UNKNOWN, name, {"command_id": message.command_id})
    if saga.parked_reason is not None:
        return Ignored(Why.PARKED, name, _told(message))
    if not question.sent:  # whoever answers has been asked, whatever is written here
        question = structs.replace(question, sent=True)
        turn.put(question)
    if impossible := _impossible(saga, question, message):
        turn.note("answered", name, **_told(message))
        _park(turn, impossible)
        return None
    if question.answer is not Answer.OPEN:
        return Ignored(Why.LATE if question.answer is Answer.ABANDONED else Why.DUPLICATE, name, _told(message))
    if not question.held_back and not who_is_paused(turn) and patience_over(turn, question):
        # As if the timer had come first: whoever waited with an answer in hand must not act on it.
        turn.note("ignored", name, why=Why.LATE, **_told(message))
        _give_up(turn, question)
    elif isinstance(message, AssetApproved) and _too_old(turn, _made_at(turn, message)):
        # To an asking before a pause, or before a resume: the one that goes on brings a price to trade on.
        return Ignored(Why.STALE, name, _told(message))
    else:
        turn.note("answered", name, **_told(message))
        _answer(turn, question, message)
        _go_on(turn)
    return None


def _timer(turn: Turn, message: TimerDue) -> Ignored | None:
    due = due_questions(turn.saga, turn.now)
    if not due:
        return Ignored(Why.NOT_DUE, "TimerDue")
    if absent := who_is_paused(turn):
        hold_back(turn, absent)
        return None
    due = tuple(begin_anew(question, turn.now) if question.held_back else question for question in due)
    over = next((question for question in due if patience_over(turn, question)), None)
    if over is not None:
        _give_up(turn, over)
        return None
    for question in due:
        if question.step in message.held_back:
            postpone(turn, question)
        else:
            ask_again(turn, question)
        note_overdue(turn, question)
    return None


def _park_requested(turn: Turn, message: ParkRequested) -> Ignored | None:
    if turn.saga.parked_reason is not None:
        return Ignored(Why.PARKED, "ParkRequested", {"reason": message.reason})
    _park(turn, message.reason)
    return None


def _resume(turn: Turn, message: ResumeRequested) -> Ignored | None:
    """Wake a parked order: its open questions are due at once; a cancel that came meanwhile is carried out."""
    saga = turn.saga
    if saga.parked_reason is None:
        return Ignored(Why.DUPLICATE, "ResumeRequested", {"requested_by": message.requested_by})
    turn.note("resumed", "ResumeRequested", requested_by=message.requested_by, parked_reason=saga.parked_reason)
    turn.set(parked_reason=None)
    outcome, leads_to = saga.progress.outcome, PHASES[saga.phase].cancel
    if outcome is not None and leads_to is not None:
        _abort(turn, leads_to, outcome)
        return None
    for question in saga.progress.open():
        turn.put(begin_anew(question, turn.now))
    return None


def _hurry(turn: Turn, message: AskAgainRequested) -> Ignored | None:
    """Make the open questions due at once, the wait between attempts short again; patience goes on as it was."""
    saga, name, detail = turn.saga, "AskAgainRequested", {"requested_by": message.requested_by}
    if saga.parked_reason is not None:
        return Ignored(Why.PARKED, name, detail)
    waiting = saga.progress.open()
    if not waiting:
        return Ignored(Why.TOO_LATE, name, detail)
    turn.note("woken", name, **detail)
    for question in waiting:
        turn.put(structs.replace(question, due_at=turn.now, attempts=0))
    return None


_HANDLERS: Final[dict[type, Callable[[Turn, Any], Ignored | None]]] = {
    Requested: _requested,
    OrderCancelRequested: _cancel,
    TimerDue: _timer,
    ParkRequested: _park_requested,
    ResumeRequested: _resume,
    AskAgainRequested: _hurry,
    **{answer: _reply for row in QUESTIONS.values() for answer in (row.yes, row.no)},
}
_STEP_OF: Final = {answer: step for step, row in QUESTIONS.items() for answer in (row.yes, row.no)}
_BY_CANCEL: Final = frozenset({ReasonCode.USER_REQUESTED, ReasonCode.OPERATOR})


# A request ------------------------------------------------------------------------------------------------------------


def _record_request(turn: Turn, message: Requested) -> None:
    request = message.request
    turn.set(
        user_id=request.user_id,
        asset_id=request.asset_id,
        order_type=request.order_type,
        quantity=request.quantity,
        price=request.price,
        slippage_bps=request.slippage_bps,
        client_order_id=request.client_order_id,
        traceparent=message.traceparent,
        created_at=_created_at(request.requested_at, min(message.sent_at, turn.now)),
    )


def _created_at(requested_at: datetime | None, sent_at: datetime) -> datetime:
    """Believe a requester's clock, unless it is ahead of the broker's by more than a request may be old."""
    if requested_at is None or requested_at - sent_at > timedelta(seconds=MAX_REQUEST_AGE_S):
        return sent_at
    return requested_at


def _ends_at_once(turn: Turn, message: Requested) -> Outcome | None:
    """Find what ends a request before anything is asked: a name that is taken, its faults, its age, an early cancel.

    The name comes first: only one order may hold it, whatever else is wrong with the second.
    """
    request = message.request
    if message.duplicate_of is not None:
        first = f"order {message.duplicate_of} has this client order id"
        return Outcome(OrderStatus.FAILED, ReasonCode.DUPLICATE_CLIENT_ORDER_ID, first)
    if isinstance(request, InvalidOrder):
        return Outcome(OrderStatus.FAILED, ReasonCode.INVALID_ORDER, request.reason)
    made_at = min(message.sent_at, request.requested_at or message.sent_at)
    if turn.now - made_at > timedelta(seconds=MAX_REQUEST_AGE_S):
        return Outcome(OrderStatus.CANCELLED, ReasonCode.EXPIRED, f"not handled within {MAX_REQUEST_AGE_S:.0f} s")
    wishes = (early.split(" ") for early in turn.saga.progress.early_cancels)
    outcomes = (_cancel_outcome(user_id, by, request.user_id) for user_id, by in wishes)
    return next((outcome for outcome in outcomes if outcome is not None), None)


def _same_request(saga: Saga, request: OrderRequested | InvalidOrder) -> bool:
    fields = ("user_id", "asset_id", "order_type", "quantity", "price", "slippage_bps", "client_order_id")
    return all(getattr(saga, name) == getattr(request, name) for name in fields)


# A cancel -------------------------------------------------------------------------------------------------------------


def _cancel_early(turn: Turn, message: OrderCancelRequested) -> Ignored | None:
    """Remember a cancel whose request has not come yet, if it may count: the request will say who the user is."""
    name, detail = "OrderCancelRequested", {"requested_by": message.requested_by}
    known, wish = turn.saga.progress.early_cancels, f"{message.user_id} {message.requested_by}"
    if _cancel_outcome(message.user_id, message.requested_by, message.user_id) is None:
        return Ignored(Why.NOT_ALLOWED, name, detail)
    if wish in known:
        return Ignored(Why.DUPLICATE, name, detail)
    if len(known) >= EARLY_CANCELS_MAX:
        return Ignored(Why.TOO_MANY, name, detail)
    turn.note("received", name, **detail)
    turn.learn(early_cancels=(*known, wish))
    return None


def _cancel_outcome(named_user: str, requested_by: str, owner: str) -> Outcome | None:
    """Judge who cancels: the order's user, or an operator who names that user; nobody else."""
    if named_user != owner:
        return None
    if requested_by == owner:
        return Outcome(OrderStatus.CANCELLED, ReasonCode.USER_REQUESTED)
    if requested_by.startswith(OPERATOR_PREFIX):
        return Outcome(OrderStatus.CANCELLED, ReasonCode.OPERATOR, f"cancelled by {requested_by}")
    return None


# An answer ------------------------------------------------------------------------------------------------------------


def _impossible(saga: Saga, question: Question, message: Reply) -> str | None:
    """Say why a reply contradicts what is known or what was asked, or None: such an order needs a person."""
    if question.answer is Answer.OPEN and (other := _other_terms(saga, question.step, message)) is not None:
        return f"{BalanceRefusal.HOLD_CONFLICT}: {type(message).__name__} {other}"
    if isinstance(message, (AssetApproved, AssetRefused)):
        return None
    if isinstance(message, BalanceReserved) and saga.progress.hold_state in _NEVER_HELD:
        return f"{_hold_in(message)}, although it was {saga.progress.hold_state} before"
    if question.answer is not Answer.OPEN:
        return None
    row = QUESTIONS[question.step]
    if isinstance(message, (BalanceRefused, SettlementRefused, RefundRefused)):
        believable = message.hold_state in row.no_proof and message.reason_code is not BalanceRefusal.HOLD_CONFLICT
        return None if believable else f"{_hold_in(message)} ({message.reason_code}): {message.reason}"
    return None if message.hold_state in row.proof else _hold_in(message)


def _other_terms(saga: Saga, step: Step, message: Reply) -> str | None:
    """Say what a reply tells that was not asked about, or None. What it does not tell is believed."""
    if isinstance(message, (AssetApproved, AssetRefused)):
        if isinstance(message, AssetApproved) and message.cash_asset_id == saga.asset_id:
            return f"quotes {saga.asset_id} in itself"
        return None if message.asset_id == saga.asset_id else f"is about {message.asset_id}, not {saga.asset_id}"
    if message.hold_id != saga.command_id(Step.RESERVE):
        return f"is about the hold {message.hold_id}"
    if isinstance(message, (BalanceRefused, SettlementRefused, RefundRefused)):
        return None
    asked = command(saga, step)
    assert not isinstance(asked, CheckAsset)  # noqa: S101 - that question is answered above
    held = asked.amount if message.hold_state not in _NEVER_HELD else Money(0)
    if message.user_id not in {None, asked.user_id}:
        return "is about another user"  # whose name is nobody's business who reads this order's history
    pairs: list[tuple[object, object]] = [(message.asset_id or asked.asset_id, asked.asset_id)]
    if isinstance(message, BalanceReserved):
        pairs.append((message.amount, asked.amount))
    elif isinstance(message, BalanceRefunded):
        pairs.append((message.refunded, held))
    else:
        assert isinstance(asked, SettleBalance)  # noqa: S101 - only a settlement has this answer
        pairs += [(message.captured, asked.capture), (message.returned, subtract(asked.amount, asked.capture))]
    told = [f"says {said}, not {wanted}" for said, wanted in pairs if said != wanted]
    return told[0] if told else None


def _hold_in(message: BalanceReply) -> str:
    return f"{type(message).__name__} with a hold that is {message.hold_state}"


_NEVER_HELD: Final = frozenset({HoldState.REFUSED, HoldState.TOMBSTONE})


def _answer(turn: Turn, question: Question, message: Reply) -> None:
    """Write an answer to its question, and keep what it tells: the quote, or the hold's state."""
    if isinstance(message, AssetApproved):
        turn.learn(quote=_quote(message, _made_at(turn, message)))
    elif not isinstance(message, AssetRefused):
        turn.learn(hold_state=message.hold_state)
    no = _objection(turn.saga, message)
    code, reason = no or (None, None)
    answer = Answer.YES if no is None else Answer.NO
    turn.put(structs.replace(question, answer=answer, held_back=False, reason_code=code, reason=reason))
    turn.set(overdue_since=None)


def _made_at(turn: Turn, message: AssetApproved) -> datetime:
    return min(turn.now, message.quoted_at or turn.now)


def _too_old(turn: Turn, made_at: datetime) -> bool:
    return turn.now - made_at > turn.scaled(MAX_QUOTE_AGE_S)


def _quote(message: AssetApproved, made_at: datetime) -> Quote:
    return Quote(
        price=message.price,
        sequence=message.sequence,
        as_of=message.as_of,
        tick=message.tick,
        step=message.step,
        fee_bps=message.fee_bps,
        cash_asset_id=message.cash_asset_id,
        cash_scale=message.cash_scale,
        rules_version=message.rules_version,
        made_at=made_at,
    )


def _objection(saga: Saga, message: Reply) -> tuple[ReasonCode, str | None] | None:
    """Read the no in an answer, or None for a yes; an approval at a quote that the order can't take is a no."""
    if isinstance(message, AssetApproved):
        assert saga.progress.quote is not None  # noqa: S101 - just learnt
        asset_id, quantity = asked_for(saga)
        return money.refusal(saga.side, asset_id, quantity, saga.price, saga.slippage_bps or 0, saga.progress.quote)
    if isinstance(message, (AssetRefused, BalanceRefused)) and message.reason_code in ReasonCode.__members__:
        return ReasonCode(message.reason_code), message.reason
    if isinstance(message, (AssetRefused, BalanceRefused, SettlementRefused, RefundRefused)):
        return ReasonCode.EXECUTION_FAILED, message.reason
    return None


def _go_on(turn: Turn) -> None:
    """Leave the phase if its answers allow it: by a no that need not wait, or by the last yes."""
    asked = _asked(turn.saga)
    still_open = [question.step for question in asked if question.answer is Answer.OPEN]
    refused = _first_no(asked)
    if refused is not None and QUESTIONS[refused.step].no_waits_for not in still_open:
        outcome = Outcome(OrderStatus.FAILED, refused.reason_code or ReasonCode.EXECUTION_FAILED, refused.reason)
        _abort(turn, PHASES[turn.saga.phase].no, outcome)
    elif not still_open:
        _leave_by_yes(turn)


def _asked(saga: Saga) -> list[Question]:
    """List the questions of the phase that the saga is in."""
    phase_asks = steps(saga.phase, saga.side)
    return [question for question in saga.progress.questions if question.step in phase_asks]


def _first_no(asked: list[Question]) -> Question | None:
    """Pick the no that names the reason: the asset's before the balance's."""
    refused = [question for question in asked if question.answer is Answer.NO]
    return min(refused, key=lambda question: list(Step).index(question.step), default=None)


# Where it leads -------------------------------------------------------------------------------------------------------


def _leave_by_yes(turn: Turn) -> None:
    saga = turn.saga
    if saga.progress.outcome is not None:  # the money is back: end as was decided before
        _end_as(turn, saga.progress.outcome)
        return
    phase = target(saga.phase, saga.side)
    if phase is Phase.SETTLING:
        _fill(turn)
    elif phase is Phase.COMPLETED:
        _end(turn, phase)
    else:
        turn.set(phase=phase)
        ask_all(turn)


def _abort(turn: Turn, phase: Phase | None, outcome: Outcome) -> None:
    """Go where the table says that a no, a silence or a cancel leads."""
    if phase in TERMINAL:
        _end_as(turn, outcome)
    else:
        _refund(turn, outcome)


def _fill(turn: Turn) -> None:
    """Pass the pivot: record the fill at the quote, unless the quote has grown too old meanwhile."""
    saga = turn.saga
    quote = saga.progress.quote
    if quote is None or _too_old(turn, quote.made_at):
        age = f"the quote was older than {turn.scaled(MAX_QUOTE_AGE_S).total_seconds():g} s at the fill"
        _refund(turn, Outcome(OrderStatus.FAILED, ReasonCode.STALE_PRICE, age))
        return
    asset_id, quantity = asked_for(saga)
    fee = money.sums(saga.side, asset_id, quantity, quote).fee
    turn.fill = Fill(f"{id_text(saga.order_id)}:fill", saga.order_id, quantity, quote.price, fee)
    turn.set(phase=Phase.SETTLING)
    for status in PHASES[Phase.SETTLING].via:
        turn.show(status)
    turn.set(filled_quantity=Money(quantity), average_price=Exact(quote.price), fee=fee)
    turn.show(PHASES[Phase.SETTLING].status)
    ask_all(turn)


def _bust(turn: Turn) -> None:
    """Take a fill back, if there is one: its row stays, marked, and the order shows that nothing was filled."""
    saga = turn.saga
    if saga.average_price is None:
        return
    _, quantity = asked_for(saga)
    price = Price(saga.average_price)
    turn.fill = Fill(f"{id_text(saga.order_id)}:fill", saga.order_id, quantity, price, saga.fee, busted=True)
    turn.set(filled_quantity=Money(0), average_price=None, fee=Money(0))


def _refund(turn: Turn, outcome: Outcome) -> None:
    """Fix the outcome, stop waiting for what is open, and give back whatever is held or may be held."""
    progress = turn.saga.progress
    for question in progress.open():
        turn.put(structs.replace(question, answer=Answer.ABANDONED))
    turn.learn(outcome=outcome)
    turn.set(phase=Phase.REFUNDING)
    reserve = progress.question(Step.RESERVE)
    if reserve is None or reserve.answer is Answer.NO or not reserve.sent:
        _end_as(turn, outcome)
    else:
        ask_all(turn)


def _give_up(turn: Turn, question: Question) -> None:
    """End a phase whose patience is over; a no that was waiting for the silent one is the better reason."""
    saga = turn.saga
    turn.note("timed_out", question.step, attempts=question.attempts)
    refused = _first_no(_asked(saga))
    if refused is not None and refused.reason_code is not None:
        outcome = Outcome(OrderStatus.FAILED, refused.reason_code, refused.reason)
    else:
        silent = f"no answer to {question.step} after {question.attempts} attempts"
        outcome = Outcome(OrderStatus.FAILED, ReasonCode.TIMED_OUT, silent)
    _abort(turn, PHASES[saga.phase].silence, outcome)


def _end_as(turn: Turn, outcome: Outcome) -> None:
    _bust(turn)
    turn.set(reason_code=outcome.reason_code, reason=outcome.reason)
    _end(turn, Phase.CANCELLED if outcome.status is OrderStatus.CANCELLED else Phase.FAILED)


def _end(turn: Turn, phase: Phase) -> None:
    turn.set(phase=phase)
    turn.show(PHASES[phase].status)


def _park(turn: Turn, reason: str) -> None:
    turn.note("parked", "Parked", reason=reason)
    turn.set(parked_reason=reason)


def _told(message: Reply) -> dict[str, Any]:
    """Pick what a reply told for the history."""
    return {name: getattr(message, name) for name in _TOLD_BY[type(message)]}


_TOLD = ("reason_code", "reason", "hold_state", "price", "sequence", "amount", "captured", "returned", "refunded")
_TOLD_BY: Final = {answer: [name for name in _TOLD if name in answer.__struct_fields__] for answer in _STEP_OF}
