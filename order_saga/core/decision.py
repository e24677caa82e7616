"""A decision in the making, and how it asks: what `advance` works with while it interprets the table. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from msgspec import structs

from contracts.orders import OrderStatusChanged
from contracts.vocabulary import OrderStatus
from order_saga.core.commands import command
from order_saga.core.phases import JITTER, LOOK_AGAIN_S, QUESTIONS, needed, steps
from order_saga.core.saga import (
    Answer,
    Ask,
    Decision,
    Entry,
    Fill,
    Participant,
    Question,
    Saga,
    Step,
    snapshot,
)


class Turn:
    """A decision in the making: the saga as it stands so far, and what the message brought about. Lives one call."""

    __slots__ = ("asks", "entries", "events", "fill", "now", "paused", "saga", "time_scale")

    def __init__(self, saga: Saga, now: datetime, time_scale: float, paused: frozenset[Participant]) -> None:
        # Copies of its own, changed in place until the turn is closed.
        self.saga = structs.replace(saga, progress=structs.replace(saga.progress))
        self.now = now
        self.time_scale = time_scale
        self.paused = paused
        self.entries: list[Entry] = []
        self.asks: list[Ask] = []
        self.events: list[OrderStatusChanged] = []
        self.fill: Fill | None = None

    def decision(self) -> Decision:
        """Close the turn: an order that is neither ended nor parked wakes when its first open question is due."""
        saga = self.saga
        due = [question.due_at for question in saga.progress.open()] if saga.parked_reason is None else []
        self.set(due_at=min(due, default=None), history_seq=saga.history_seq + len(self.entries))
        return Decision(self.saga, tuple(self.entries), tuple(self.asks), tuple(self.events), self.fill)

    def set(self, **changes: Any) -> None:
        """Change the saga."""
        for name, value in changes.items():
            structs.force_setattr(self.saga, name, value)

    def learn(self, **changes: Any) -> None:
        """Change what the saga knows beyond the public order."""
        for name, value in changes.items():
            structs.force_setattr(self.saga.progress, name, value)

    def put(self, question: Question) -> None:
        """Write a question down as it is now."""
        others = [known for known in self.saga.progress.questions if known.step is not question.step]
        structs.force_setattr(self.saga.progress, "questions", (*others, question))

    def note(self, kind: str, name: str, **detail: Any) -> None:
        """Add a line to the history."""
        self.entries.append(Entry(kind, name, detail=detail))

    def scaled(self, seconds: float) -> timedelta:
        """Make a time of the table one of this system."""
        return _scaled(seconds, self.time_scale)

    def show(self, status: OrderStatus | None = None) -> None:
        """Make a version that the public sees: a new status, or another visible change under the same one."""
        before = self.saga.status
        self.set(status=status or before, version=self.saga.version + 1, updated_at=self.now)
        saga = self.saga
        order = snapshot(saga)
        detail = {"reason_code": saga.reason_code} if saga.reason_code else {}
        self.entries.append(Entry("status", order.status, order.status, saga.version, detail))
        self.events.append(
            OrderStatusChanged(
                order_id=saga.order_id,
                version=saga.version,
                status=order.status,
                previous_status=before,
                reason_code=saga.reason_code,
                occurred_at=self.now,
                order=order,
            )
        )


def ask_all(turn: Turn) -> None:
    """Ask everything that the saga's phase asks; with somebody paused whom it needs, only write the questions down."""
    absent = who_is_paused(turn)
    for step in steps(turn.saga.phase, turn.saga.side):
        question = Question(step, turn.now, turn.now, attempts=0, sent=False)
        if absent:
            turn.put(question)
        else:
            ask_again(turn, question)
    if absent:
        hold_back(turn, absent)


def due_questions(saga: Saga, now: datetime) -> tuple[Question, ...]:
    """List what a timer is about: the questions that are due, or all open ones of an order that was woken early."""
    if saga.parked_reason is not None or saga.due_at is None or saga.due_at > now:
        return ()
    still_open = saga.progress.open()
    return tuple(question for question in still_open if question.due_at <= now) or still_open


def patience_over(turn: Turn, question: Question) -> bool:
    """Tell whether a question has been asked for as long as the table allows."""
    patience_s = QUESTIONS[question.step].patience_s
    return patience_s is not None and question.asked_at + turn.scaled(patience_s) <= turn.now


def ask_again(turn: Turn, question: Question) -> None:
    """Send the same command once more, or, with its attempts used up, only wait for the end of patience."""
    most = QUESTIONS[question.step].attempts_max
    attempts = question.attempts + 1
    sent_at = turn.now if question.step is Step.RESERVE and not question.sent else question.sent_at
    due_at = _next_due(turn, question.step, question.asked_at, attempts)
    counted = min(attempts, most or attempts)
    turn.put(structs.replace(question, attempts=counted, due_at=due_at, sent=True, sent_at=sent_at))
    if most is None or attempts <= most:
        _send(turn, question.step, attempts)


def postpone(turn: Turn, question: Question) -> None:
    """Wait as if the question had been asked again: its participant is silent, and others probe it.

    No attempt is counted, so the pauses double with the time that it has waited already: what waits for who is away
    for long must not be looked at every few seconds.
    """
    waited_s = (turn.now - question.asked_at).total_seconds() / turn.time_scale
    wait_s = waited_s + QUESTIONS[question.step].retry_s
    turn.put(structs.replace(question, due_at=_due_after(turn, question.step, question.asked_at, wait_s)))


def who_is_paused(turn: Turn) -> frozenset[Participant]:
    """Name the participants whom the order needs and who are paused."""
    if not turn.paused:
        return turn.paused
    saga = turn.saga
    answered = [question.step for question in saga.progress.questions if question.answer is not Answer.OPEN]
    return turn.paused & needed(saga.phase, saga.side, answered)


def hold_back(turn: Turn, absent: frozenset[Participant]) -> None:
    """Let every open question wait unasked while its order needs who is paused; the history is told once.

    Nothing times out against a pause: patience begins when it is over, and nobody is paged.
    """
    waiting = turn.saga.progress.open()
    if not all(question.held_back for question in waiting):
        turn.note("waits", " and ".join(sorted(absent)), why="paused")
    look_again_at = turn.now + turn.scaled(LOOK_AGAIN_S) * _spread(turn)
    for question in waiting:
        turn.put(structs.replace(question, asked_at=turn.now, due_at=look_again_at, held_back=True))
    turn.set(overdue_since=None)


def begin_anew(question: Question, now: datetime) -> Question:
    """Give a question all of its patience and attempts again, due now."""
    return structs.replace(question, asked_at=now, due_at=now, attempts=0, held_back=False)


def note_overdue(turn: Turn, question: Question) -> None:
    """Say once that a question which is never given up has waited for too long."""
    overdue_s = QUESTIONS[question.step].overdue_s
    if overdue_s is None or turn.saga.overdue_since is not None:
        return
    if question.asked_at + turn.scaled(overdue_s) <= turn.now:
        turn.note("overdue", question.step, attempts=question.attempts)
        turn.set(overdue_since=turn.now)


def _next_due(turn: Turn, step: Step, asked_at: datetime, attempts: int) -> datetime:
    """Say when a question needs attention again: its next attempt or the end of its patience, whichever is first."""
    return _due_after(turn, step, asked_at, QUESTIONS[step].retry_s * 2 ** min(attempts - 1, 16))


def _due_after(turn: Turn, step: Step, asked_at: datetime, wait_s: float) -> datetime:
    """Say when a pause is over that the table bounds, or the patience if that is first."""
    row = QUESTIONS[step]
    next_at = turn.now + timedelta(seconds=min(wait_s, row.retry_max_s) * turn.time_scale * _spread(turn))
    return next_at if row.patience_s is None else min(next_at, asked_at + turn.scaled(row.patience_s))


@lru_cache
def _scaled(seconds: float, time_scale: float) -> timedelta:
    return timedelta(seconds=seconds * time_scale)


def _spread(turn: Turn) -> float:
    """Say by how much an order's waits are longer: a share taken from its id, so that it is spread and repeatable."""
    return 1 + JITTER * (turn.saga.order_id.int % 997) / 997


def _send(turn: Turn, step: Step, attempt: int) -> None:
    saga = turn.saga
    command_id = saga.command_id(step)
    turn.asks.append(Ask(step, command(saga, step), command_id, attempt, saga.traceparent))
    turn.note("asked", step, **({"attempt": attempt} if attempt > 1 else {}))
