"""`advance`: one saga, one message, one decision. Interprets the table in `phases`; pure and total.

No clock, no randomness, no I/O, no logging, and no exception for any message: what fits nothing is `Ignored`, with
its reason. Time comes in as an argument.
"""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from contracts.amends import AmendRefusal, OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested
from contracts.assets import AssetApproved, AssetRefused
from contracts.balance import AdjustmentRefused, BalanceAdjusted, BalanceRefusal
from contracts.orders import OrderCancelRequested
from contracts.vocabulary import OrderStatus, ReasonCode
from order_saga.core.asking import (
    ask_again,
    ask_all,
    ask_anew,
    begin_anew,
    due_questions,
    hold_back,
    is_silent,
    note_overdue,
    patience_over,
    paused_for,
    postpone,
)
from order_saga.core.changes import amend, hold, release
from order_saga.core.commands import hold_terms
from order_saga.core.draft import Draft
from order_saga.core.judgement import (
    amend_refusal,
    cancel_outcome,
    contradiction,
    created_at,
    ends_at_once,
    expired_outcome,
    is_same_request,
    is_stale,
    made_at,
    objection,
    quote_of,
    resolved_fields,
    told_by,
)
from order_saga.core.levels import limit_behind
from order_saga.core.phases import (
    ANSWERS,
    EARLY_CANCELS_MAX,
    PHASES,
    QUESTIONS,
    RESTING,
    Way,
    steps,
    target,
)
from order_saga.core.recovery import lacks_terms, recover
from order_saga.core.saga import (
    REQUESTED_FIELDS,
    Answer,
    AskAgainRequested,
    Availability,
    Decision,
    ExpiryDue,
    Fired,
    Ignored,
    Incoming,
    Mark,
    Outcome,
    ParkRequested,
    Participant,
    Phase,
    Question,
    RecoveryRequested,
    Reply,
    Requested,
    ResumeRequested,
    Saga,
    Step,
    TimerDue,
    Triggered,
    Why,
    requested_fields,
    snapshot,
)
from order_saga.core.transition import arrive, end_amend, enter_phase, next_phase, park
from order_saga.core.weighing import AmendRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from contracts.decimals import Price

ALL_AVAILABLE: Final[Mapping[Participant, Availability]] = MappingProxyType({})
"""Whoever is not named is available."""
NO_MARKS: Final[Mapping[str, Mark]] = MappingProxyType({})
"""Nothing is known of any market but what a quote says."""
NO_WATERMARKS: Final[Mapping[UUID, Price]] = MappingProxyType({})
"""Nothing is known of any trailing stop's best price but where it began."""


def advance(
    saga: Saga,
    message: Incoming,
    now: datetime,
    time_scale: float = 1.0,
    availability: Mapping[Participant, Availability] = ALL_AVAILABLE,
    marks: Mapping[str, Mark] = NO_MARKS,
    watermarks: Mapping[UUID, Price] = NO_WATERMARKS,
) -> Decision | Ignored:
    """Decide what a message does to a saga.

    `now` is the database's clock, read after the saga was locked; `time_scale` multiplies the table's times;
    `availability` says of whom it is not AVAILABLE whether it is SILENT or PAUSED. `marks` say what is known of the
    market, `watermarks` the best price since each trailing stop rests; they hold still while an order that rests is
    decided on.
    """
    draft = Draft(saga, now, time_scale, availability, marks, watermarks)
    ignored = _HANDLERS[type(message)](draft, message)
    return ignored if ignored is not None else draft.decision()


# What comes in --------------------------------------------------------------------------------------------------------


def _requested(draft: Draft, message: Requested) -> Ignored | None:
    saga, request = draft.saga, message.request
    if saga.phase is not Phase.NEW:
        return Ignored(Why.DUPLICATE if is_same_request(saga, request) else Why.CONFLICT, "OrderRequested")
    _record_request(draft, message)
    draft.note("received", "OrderRequested")
    arrive(draft, next_phase(target(saga.phase, draft.saga.side)))
    if outcome := ends_at_once(draft.saga, message, draft.now):
        draft.set(cancel_requested=outcome.reason_code in _BY_CANCEL)
        enter_phase(draft, PHASES[draft.saga.phase].no, outcome)
    else:
        ask_all(draft)
    return None


def _cancel(draft: Draft, message: OrderCancelRequested) -> Ignored | None:
    saga, name = draft.saga, "OrderCancelRequested"
    if saga.phase is Phase.NEW:
        return _cancel_early(draft, message)
    outcome = cancel_outcome(message.user_id, message.requested_by, saga.user_id)
    if outcome is None:
        return Ignored(Why.NOT_ALLOWED, name, {"requested_by": message.requested_by})
    if saga.cancel_requested:
        return Ignored(Why.DUPLICATE, name, {"requested_by": message.requested_by})
    if PHASES[saga.phase].cancel is None or saga.progress.fire is not None:  # a fire is binding, also while parked
        return Ignored(Why.TOO_LATE, name, {"requested_by": message.requested_by})
    draft.note("received", name, requested_by=message.requested_by)
    draft.set(cancel_requested=True)
    if saga.parked_reason is not None:
        draft.learn(outcome=outcome)
    else:
        enter_phase(draft, PHASES[saga.phase].cancel, outcome)
    if not draft.events:
        draft.show()
    return None


def _reply(draft: Draft, message: Reply) -> Ignored | None:
    saga, name = draft.saga, type(message).__name__
    step = next((one for one in ANSWERS[type(message)] if saga.command_id(one) == message.command_id), None)
    question = None if step is None else saga.progress.question(step)
    if question is None:
        return Ignored(Why.UNKNOWN, name, {"command_id": message.command_id})
    if saga.parked_reason is not None:
        return Ignored(Why.PARKED, name, told_by(message))
    if not question.sent:  # an answer proves that the command was sent, whatever was stored
        question = structs.replace(question, sent=True)
        draft.put(question)
        if step is Step.RESERVE and saga.progress.hold is None:
            draft.learn(hold=hold_terms(saga))
    if impossible := contradiction(saga, question, message):
        draft.note("answered", name, **told_by(message))
        park(draft, impossible)
        return None
    if question.answer is not Answer.OPEN:
        return Ignored(Why.LATE if question.answer is Answer.ABANDONED else Why.DUPLICATE, name, told_by(message))
    if not question.held_back and not paused_for(draft) and patience_over(draft, question):
        # As if the timer had come first: an answer that was held up until after its patience must not move money.
        draft.note("ignored", name, why=Why.LATE, **told_by(message))
        _give_up(draft, question)
    elif isinstance(message, AssetApproved) and is_stale(draft, made_at(message, draft.now)):
        # It answers a command from before a pause or a resume. The question stays open and brings a fresh price.
        return Ignored(Why.STALE, name, told_by(message))
    else:
        draft.note("answered", name, **told_by(message))
        shown = snapshot(saga) if saga.phase in RESTING else None
        _answer(draft, question, message)
        _go_on(draft, message)
        if shown is not None and not draft.events and snapshot(draft.saga) != shown:
            draft.show()  # less is held than before
    return None


def _timer(draft: Draft, message: TimerDue) -> Ignored | None:
    due = due_questions(draft.saga, draft.now)
    if not due:
        return Ignored(Why.NOT_DUE, "TimerDue")
    if paused := paused_for(draft):
        hold_back(draft, paused)
        return None
    due = tuple(begin_anew(question, draft.now) if question.held_back else question for question in due)
    over = next((question for question in due if patience_over(draft, question)), None)
    if over is not None:
        _give_up(draft, over)
        return None
    for question in due:
        if is_silent(draft, question) and not message.probe:
            postpone(draft, question)
        else:
            ask_again(draft, question)
        note_overdue(draft, question)
    return None


def _fired(draft: Draft, message: Fired) -> Ignored | None:
    """Bind an order to the tick that fired it, and fill it; a parked one when it is resumed."""
    fire, leads_to = message.fire, PHASES[draft.saga.phase].fired
    told = {"sequence": fire.sequence, "price": fire.price}
    if leads_to is None or draft.saga.progress.fire is not None:
        return Ignored(Why.DUPLICATE, "Fired", told)
    if draft.saga.progress.outcome is not None:  # cancelled while it was parked
        return Ignored(Why.TOO_LATE, "Fired", told)
    told |= {"as_of": fire.as_of} | ({} if fire.watermark is None else {"watermark": fire.watermark})
    draft.note("fired", "Fired", **told)
    draft.learn(fire=fire)
    if draft.saga.parked_reason is None:
        enter_phase(draft, leads_to, None)
    return None


def _triggered(draft: Draft, message: Triggered) -> Ignored | None:
    saga, told = draft.saga, {"sequence": message.sequence, "price": message.price}
    if PHASES[saga.phase].fired is None or saga.progress.triggered or saga.progress.fire is not None:
        return Ignored(Why.DUPLICATE, "Triggered", told)
    if saga.terms is None or saga.order_type is None or limit_behind(saga.order_type, saga.terms) is None:
        return Ignored(Why.CONFLICT, "Triggered", told)
    draft.note("triggered", "Triggered", **told)
    draft.learn(triggered=True)
    draft.show()
    return None


def _expiry_due(draft: Draft, _message: ExpiryDue) -> Ignored | None:
    saga = draft.saga
    leads_to = PHASES[saga.phase].expiry
    outcome = expired_outcome(saga.expires_at, draft.now)
    if leads_to is None or outcome is None or saga.parked_reason is not None or saga.progress.fire is not None:
        return Ignored(Why.NOT_DUE, "ExpiryDue")
    draft.note("expired", "ExpiryDue")
    enter_phase(draft, leads_to, outcome)
    return None


def _park_requested(draft: Draft, message: ParkRequested) -> Ignored | None:
    if draft.saga.parked_reason is not None:
        return Ignored(Why.PARKED, "ParkRequested", {"reason": message.reason})
    park(draft, message.reason)
    return None


def _resume(draft: Draft, message: ResumeRequested) -> Ignored | None:
    """Wake a parked order: its open questions are due at once; a cancel that came meanwhile is carried out.

    A resting order enters the market anew, unless a tick had fired it: what came while it was parked does not count.
    A trailing stop's new start, or a trigger that is met now, is a version.
    """
    saga = draft.saga
    if saga.parked_reason is None:
        return Ignored(Why.DUPLICATE, "ResumeRequested", {"requested_by": message.requested_by})
    if lacks_terms(saga):  # nobody knows what to ask for
        return Ignored(Why.CONFLICT, "ResumeRequested", {"requested_by": message.requested_by})
    draft.note("resumed", "ResumeRequested", requested_by=message.requested_by, parked_reason=saga.parked_reason)
    draft.set(parked_reason=None)
    outcome, leads_to = saga.progress.outcome, PHASES[saga.phase].cancel
    if outcome is not None and leads_to is not None:
        enter_phase(draft, leads_to, outcome)
    elif saga.phase in RESTING and saga.progress.suspended is not None and saga.progress.fire is None:
        ask_anew(draft)  # its release will be a new acceptance
    elif (fired := PHASES[saga.phase].fired) is not None:
        before = snapshot(saga)
        enter_phase(draft, Phase.ENTRY if saga.progress.fire is None else fired, None)
        if not draft.events and snapshot(draft.saga) != before:
            draft.show()
    else:
        ask_anew(draft)
    return None


def _ask_again_requested(draft: Draft, message: AskAgainRequested) -> Ignored | None:
    """Make the open questions due at once, with short waits between attempts again; patience goes on as it was."""
    saga, name, detail = draft.saga, "AskAgainRequested", {"requested_by": message.requested_by}
    if saga.parked_reason is not None:
        return Ignored(Why.PARKED, name, detail)
    waiting = saga.progress.open()
    if not waiting:
        return Ignored(Why.TOO_LATE, name, detail)
    draft.note("woken", name, **detail)
    for question in waiting:
        draft.put(structs.replace(question, due_at=draft.now, attempts=0))
    return None


_HANDLERS: Final[dict[type, Callable[[Draft, Any], Ignored | None]]] = {
    Requested: _requested,
    OrderCancelRequested: _cancel,
    OrderAmendRequested: amend,
    OrderHoldRequested: hold,
    OrderReleaseRequested: release,
    TimerDue: _timer,
    Fired: _fired,
    Triggered: _triggered,
    ExpiryDue: _expiry_due,
    ParkRequested: _park_requested,
    ResumeRequested: _resume,
    AskAgainRequested: _ask_again_requested,
    RecoveryRequested: recover,
    **dict.fromkeys(ANSWERS, _reply),
}
_CANCELLED_BY: Final = dict.fromkeys((ReasonCode.UNFILLED, ReasonCode.EXPIRED), OrderStatus.CANCELLED)
"""What ends an order without anybody's fault: its market was not there in its time."""
_BY_CANCEL: Final = frozenset({ReasonCode.USER_REQUESTED, ReasonCode.OPERATOR})


# What is stored of it -------------------------------------------------------------------------------------------------


def _record_request(draft: Draft, message: Requested) -> None:
    request = message.request
    draft.set(
        **dict(zip(REQUESTED_FIELDS, requested_fields(request), strict=True)),
        **resolved_fields(request),
        traceparent=message.traceparent,
        created_at=created_at(request.requested_at, min(message.sent_at, draft.now)),
    )


def _cancel_early(draft: Draft, message: OrderCancelRequested) -> Ignored | None:
    """Remember a cancel whose request has not come yet, if it may count: the request will say who the user is."""
    name, detail = "OrderCancelRequested", {"requested_by": message.requested_by}
    known, wish = draft.saga.progress.early_cancels, f"{message.user_id} {message.requested_by}"
    if cancel_outcome(message.user_id, message.requested_by, message.user_id) is None:
        return Ignored(Why.NOT_ALLOWED, name, detail)
    if wish in known:
        return Ignored(Why.DUPLICATE, name, detail)
    if len(known) >= EARLY_CANCELS_MAX:
        return Ignored(Why.TOO_MANY, name, detail)
    draft.note("received", name, **detail)
    draft.learn(early_cancels=(*known, wish))
    return None


def _answer(draft: Draft, question: Question, message: Reply) -> None:
    """Write an answer to its question, and keep what it tells: the quote, or the hold's state and amount."""
    if isinstance(message, AssetApproved):
        _learn_quote(draft, message)
    elif not isinstance(message, AssetRefused):
        draft.learn(hold_state=message.hold_state)
    if isinstance(message, BalanceAdjusted):
        hold = structs.replace(hold_terms(draft.saga), amount=message.amount, revision=message.revision)
        draft.learn(hold=hold, unconfirmed=())
    elif isinstance(message, AdjustmentRefused) and message.reason_code is not BalanceRefusal.NOT_SUPPORTED:
        draft.learn(unconfirmed=draft.saga.progress.unconfirmed[:-1])
    no = objection(draft.saga, message, draft.now)
    code, reason = no or (None, None)
    answer = Answer.YES if no is None else Answer.NO
    draft.put(structs.replace(question, answer=answer, held_back=False, reason_code=code, reason=reason))
    draft.set(overdue_since=None)


def _learn_quote(draft: Draft, message: AssetApproved) -> None:
    """Keep the quote: of an amend until its terms are in force."""
    quote, amending = quote_of(message, draft.now), draft.saga.progress.amending
    if amending is None:
        draft.learn(quote=quote)
    else:
        draft.learn(amending=structs.replace(amending, quote=quote))


def _go_on(draft: Draft, message: Reply) -> None:
    """Leave the phase if its answers allow it: by a no that need not wait, or by the last yes."""
    asked = _asked(draft.saga)
    still_open = [question.step for question in asked if question.answer is Answer.OPEN]
    refused = _first_no(asked)
    if refused is not None and QUESTIONS[refused.step].no_waits_for not in still_open:
        if draft.saga.progress.amending is not None:
            _refuse_amend(draft, amend_refusal(message), PHASES[draft.saga.phase].no)
            return
        code = refused.reason_code or ReasonCode.EXECUTION_FAILED
        outcome = Outcome(_CANCELLED_BY.get(code, OrderStatus.FAILED), code, refused.reason)
        enter_phase(draft, PHASES[draft.saga.phase].no, outcome)
    elif not still_open:
        enter_phase(draft, target(draft.saga.phase, draft.saga.side), draft.saga.progress.outcome)


def _asked(saga: Saga) -> list[Question]:
    """List the questions of the phase that the saga is in."""
    phase_asks = steps(saga.phase, saga.side)
    return [question for question in saga.progress.questions if question.step in phase_asks]


def _first_no(asked: list[Question]) -> Question | None:
    """Pick the no that names the reason: the asset's before the balance's."""
    refused = [question for question in asked if question.answer is Answer.NO]
    return min(refused, key=lambda question: list(Step).index(question.step), default=None)


def _give_up(draft: Draft, question: Question) -> None:
    """End a phase by a timeout. A no that waited for the unanswered question is the better reason."""
    saga = draft.saga
    draft.note("timed_out", question.step, attempts=question.attempts)
    if saga.progress.amending is not None:
        why = f"no answer to {question.step} after {question.attempts} attempts"
        draft.put(structs.replace(question, answer=Answer.ABANDONED))
        _refuse_amend(draft, AmendRefused(AmendRefusal.TIMED_OUT, why), PHASES[saga.phase].timeout)
        return
    refused = _first_no(_asked(saga))
    if refused is not None and refused.reason_code is not None:
        outcome = Outcome(OrderStatus.FAILED, refused.reason_code, refused.reason)
    else:
        unanswered = f"no answer to {question.step} after {question.attempts} attempts"
        outcome = Outcome(OrderStatus.FAILED, ReasonCode.TIMED_OUT, unanswered)
    enter_phase(draft, PHASES[saga.phase].timeout, outcome)


def _refuse_amend(draft: Draft, refusal: AmendRefused, leads_to: Phase | Way | None) -> None:
    """End an open amend where everybody sees it; the order goes on resting by its terms in force."""
    end_amend(draft, refusal)
    draft.show()
    enter_phase(draft, leads_to, None)
