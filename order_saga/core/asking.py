"""How questions are asked: when, how often, and for how long, as `phases.QUESTIONS` says. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import structs

from order_saga.core.commands import command, hold_terms, required_hold
from order_saga.core.draft import Draft
from order_saga.core.phases import JITTER, LOOK_AGAIN_S, QUESTIONS, needed, steps
from order_saga.core.revision import revised
from order_saga.core.saga import Answer, Ask, Availability, Participant, Question, Saga, Step


def ask_all(draft: Draft) -> None:
    """Ask everything that the saga's phase asks; while somebody whom it needs is paused, only write it down."""
    asked = [
        Question(step, draft.now, draft.now, attempts=0, sent=False, number=_next_number(draft, step))
        for step in steps(draft.saga.phase, draft.saga.side)
    ]
    for question in asked:  # all are open before anybody is asked: who answered one like it needs not have answered it
        draft.put(question)
    if paused := paused_for(draft):
        hold_back(draft, paused)
        return
    for question in asked:
        ask_again(draft, question)


def _next_number(draft: Draft, step: Step) -> int | None:
    """Give the number of a question that an order may ask several times, and use it up.

    What an adjustment asks for is fixed here, and the hold may be that from now on.
    """
    known = draft.saga.progress
    if step is Step.RECHECK:
        draft.learn(checks=known.checks + 1)
        return draft.saga.progress.checks
    if step in {Step.RAISE, Step.LOWER}:
        amending = known.amending
        amount = required_hold(draft.saga if amending is None else revised(draft.saga, amending)).amount
        adjustments = known.adjustments + 1
        draft.learn(adjustments=adjustments, adjusting=amount, unconfirmed=(*known.unconfirmed, amount))
        return draft.saga.progress.adjustments
    return None


def due_questions(saga: Saga, now: datetime) -> tuple[Question, ...]:
    """List what a timer is about: the questions that are due, or all open ones of an order that was woken early."""
    if saga.parked_reason is not None or saga.due_at is None or saga.due_at > now:
        return ()
    still_open = saga.progress.open()
    return tuple(question for question in still_open if question.due_at <= now) or still_open


def patience_over(draft: Draft, question: Question) -> bool:
    """Tell whether a question has been asked for as long as the table allows."""
    patience_s = QUESTIONS[question.step].patience_s
    return patience_s is not None and question.asked_at + draft.scaled(patience_s) <= draft.now


def is_silent(draft: Draft, question: Question) -> bool:
    """Tell whether the question's participant has not answered for a while."""
    return draft.availability.get(QUESTIONS[question.step].participant) is Availability.SILENT


def ask_again(draft: Draft, question: Question) -> None:
    """Send the same command once more, or, with its attempts used up, only wait for the end of patience.

    The first RESERVE fixes the terms of the hold.
    """
    most = QUESTIONS[question.step].attempts_max
    attempts = question.attempts + 1
    sent_at = question.sent_at
    if question.step is Step.RESERVE and not question.sent:
        sent_at = draft.now
        draft.learn(hold=hold_terms(draft.saga))
    due_at = _next_due(draft, question.step, question.asked_at, attempts)
    counted = min(attempts, most or attempts)
    draft.put(structs.replace(question, attempts=counted, due_at=due_at, sent=True, sent_at=sent_at))
    if most is None or attempts <= most:
        _send(draft, question.step, attempts)


def postpone(draft: Draft, question: Question) -> None:
    """Wait as if the question had been asked again: its participant is silent, and others probe it.

    No attempt is counted, so the waits double with the time that it has waited already: what waits long for a silent
    participant must not be looked at every few seconds.
    """
    waited_s = (draft.now - question.asked_at).total_seconds() / draft.time_scale
    wait_s = waited_s + QUESTIONS[question.step].retry_s
    draft.put(structs.replace(question, due_at=_due_after(draft, question.step, question.asked_at, wait_s)))


def paused_for(draft: Draft) -> frozenset[Participant]:
    """Name the paused participants whom the order needs to come to its end."""
    if not draft.availability:
        return frozenset()
    paused = frozenset(one for one, how in draft.availability.items() if how is Availability.PAUSED)
    saga = draft.saga
    answered = [question.step for question in saga.progress.questions if question.answer is not Answer.OPEN]
    return paused & needed(saga.phase, saga.side, answered)


def hold_back(draft: Draft, paused: frozenset[Participant]) -> None:
    """Let every open question wait unasked while its order needs who is paused; the history says so once.

    Nothing times out against a pause: patience begins when it is over, and nobody is paged.
    """
    waiting = draft.saga.progress.open()
    if not all(question.held_back for question in waiting):
        draft.note("waits", " and ".join(sorted(paused)), why="paused")
    look_again_at = draft.now + draft.scaled(LOOK_AGAIN_S) * _spread(draft)
    for question in waiting:
        draft.put(structs.replace(question, asked_at=draft.now, due_at=look_again_at, held_back=True))
    draft.set(overdue_since=None)


def ask_anew(draft: Draft) -> None:
    """Give every open question all of its patience and attempts again, due now."""
    for question in draft.saga.progress.open():
        draft.put(begin_anew(question, draft.now))


def begin_anew(question: Question, now: datetime) -> Question:
    """Give a question all of its patience and attempts again, due now."""
    return structs.replace(question, asked_at=now, due_at=now, attempts=0, held_back=False)


def note_overdue(draft: Draft, question: Question) -> None:
    """Say once that a question which is never given up has waited for too long."""
    overdue_s = QUESTIONS[question.step].overdue_s
    if overdue_s is None or draft.saga.overdue_since is not None:
        return
    if question.asked_at + draft.scaled(overdue_s) <= draft.now:
        draft.note("overdue", question.step, attempts=question.attempts)
        draft.set(overdue_since=draft.now)


def _next_due(draft: Draft, step: Step, asked_at: datetime, attempts: int) -> datetime:
    """Say when a question needs attention again: its next attempt or the end of its patience, whichever is first."""
    return _due_after(draft, step, asked_at, QUESTIONS[step].retry_s * 2 ** min(attempts - 1, 16))


def _due_after(draft: Draft, step: Step, asked_at: datetime, wait_s: float) -> datetime:
    """Say when a wait is over that the table bounds, or the patience if that is first."""
    row = QUESTIONS[step]
    next_at = draft.now + timedelta(seconds=min(wait_s, row.retry_max_s) * draft.time_scale * _spread(draft))
    return next_at if row.patience_s is None else min(next_at, asked_at + draft.scaled(row.patience_s))


def _spread(draft: Draft) -> float:
    """Say by how much an order's waits are longer: a share taken from its id, so that it is spread and repeatable."""
    return 1 + JITTER * (draft.saga.order_id.int % 997) / 997


def _send(draft: Draft, step: Step, attempt: int) -> None:
    saga = draft.saga
    command_id = saga.command_id(step)
    draft.asks.append(Ask(step, command(saga, step), command_id, attempt, saga.traceparent))
    draft.note("asked", step, **({"attempt": attempt} if attempt > 1 else {}))
