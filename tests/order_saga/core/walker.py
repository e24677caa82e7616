"""Walks every history of one order: over all its states, with every message that may come in each of them.

Two histories with the same future in the core end in one state (`canonical`). A state leaves out the version and
history number (each step is checked to increase them by one), the texts and the times of closed questions. There are
two models of the clock. `Clock.REGIONS` stores of the time only what a decision depends on: whether a question is due,
whether its patience is over (or it is overdue), whether the quote is too old. Each of these may become true at any
moment, in any order, so the model includes every real timing. `Clock.REAL` stores the times themselves.

In both models the number of states is finite, so a walk ends by itself and covers histories of every length.
`test_every_history` also runs short histories one by one, without any reduction, and compares every step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from msgspec import structs

from contracts.orders import OrderRequested
from contracts.vocabulary import TimeInForce
from order_saga.core.advance import NO_MARKS, advance
from order_saga.core.phases import MAX_QUOTE_AGE_S, QUESTIONS, RESTING, TERMINAL
from order_saga.core.saga import (
    Answer,
    Ask,
    Fill,
    Ignored,
    Incoming,
    Mark,
    Participant,
    Phase,
    Progress,
    Question,
    Requested,
    Saga,
    Step,
    Why,
)
from tests.order_saga.core.invariants import NOBODY, availability, check
from tests.order_saga.core.sample import NOW, blank, fitting, with_question

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from contracts.terms import Terms

_ZERO: Final = timedelta(0)
_TOO_OLD: Final = timedelta(seconds=MAX_QUOTE_AGE_S, microseconds=1)
_ATTEMPTS_TOLD_APART: Final = 6
"""From this attempt on, the wait before the next attempt does not grow."""
EXPIRES_AT: Final = NOW + timedelta(days=1)
"""When an order expires whose time has not come yet."""
PAUSES: Final = (NOBODY, frozenset({Participant.BALANCE}), frozenset({Participant.ASSETS}))
"""Who may be paused when a message comes. A pause of balance stops all questions, so both equal balance alone."""
SILENT: Final = {
    "timer, assets silent": frozenset({Participant.ASSETS}),
    "timer, balance silent": frozenset({Participant.BALANCE}),
}
"""The silent participants when a message of this name comes; with any other name there are none."""
DECIDING: Final = frozenset({Phase.VALIDATING, Phase.RESERVING})
"""The phases in which a quote's age, or the reason of a refusal, can still affect a decision."""

EXPIRING: Final = DECIDING | RESTING
"""The phases in which an order's `expires_at` can still affect a decision."""


# Any graph ------------------------------------------------------------------------------------------------------------

N = TypeVar("N", bound=Hashable)


class Explored(NamedTuple, Generic[N]):
    """All reachable nodes, the number of nodes at each distance, and the number of moves."""

    nodes: set[N]
    layers: list[int]
    moves: int


def explore(start: N, successors: Callable[[N], Iterable[N]]) -> Explored[N]:
    """Make every move from every node, breadth first, until no new node is found."""
    nodes, layers, moves, layer = {start}, [1], 0, [start]
    while layer:
        found = []
        for node in layer:
            for to in successors(node):
                moves += 1
                if to not in nodes:
                    nodes.add(to)
                    found.append(to)
        layer = found
        layers.append(len(found))
    return Explored(nodes, layers[:-1], moves)


def histories(start: N, successors: Callable[[N], Iterable[N]], length: int) -> int:
    """Count the distinct sequences of `length` moves."""
    ends = {start: 1}
    for _ in range(length):
        reached: dict[N, int] = {}
        for node, ways in ends.items():
            for to in successors(node):
                reached[to] = reached.get(to, 0) + ways
        ends = reached
    return sum(ends.values())


# The graph of an order ------------------------------------------------------------------------------------------------


class Clock(Enum):
    """How exactly a walk tracks the time."""

    REGIONS = auto()
    REAL = auto()


class Edge(NamedTuple):
    """A message's effect in a state: the next state and the output. `moves` are the published status changes."""

    to: int
    asks: tuple[Ask, ...] = ()
    moves: tuple[str, ...] = ()
    fill: Fill | None = None
    ignored: Why | None = None


class Walk:
    """The graph of one order's states, built on demand. State 0 is an order without any message, or the one given."""

    def __init__(
        self,
        messages: Mapping[str, Incoming],
        clock: Clock = Clock.REGIONS,
        during_pauses: Collection[str] | None = None,
        marks: Mapping[str, Mark] = NO_MARKS,
        start: Saga | None = None,
    ) -> None:
        """Take every message that may come, by name; only those of `during_pauses` (or all) come in pauses too.

        `marks` says how the market of the order's asset stands when a message of this name comes.
        """
        self.marks = marks
        self.messages = messages
        self._during_pauses = messages.keys() if during_pauses is None else during_pauses
        self.clock = clock
        self.states: list[Saga] = [blank() if start is None else self.reduced(start, NOW)]
        self.edges: dict[tuple[int, str, frozenset[Participant]], Edge] = {}
        self._numbers: dict[Saga, int] = {self.states[0]: 0}
        self._passes: dict[int, dict[str, int]] = {}

    def edge(self, state: int, name: str, paused: frozenset[Participant] = NOBODY) -> Edge:
        """Give the order a message in this state, with these participants paused."""
        edge = self.edges.get((state, name, paused))
        if edge is None:
            edge = self.edges[state, name, paused] = self._tell(state, name, paused)
        return edge

    def passes(self, state: int) -> dict[str, int]:
        """List the ways in which time may pass in this state, and where each leads."""
        passes = self._passes.get(state)
        if passes is None:
            pass_time = _pass_to_next_region if self.clock is Clock.REGIONS else _pass_to_next_instant
            found = pass_time(self.states[state])
            passes = self._passes[state] = {name: self._number(self.reduced(*then)) for name, then in found}
        return passes

    def successors(self, state: int) -> Iterator[int]:
        """List the target of each move, also of moves that change nothing."""
        for name in self.messages:
            pauses = PAUSES if name in self._during_pauses else PAUSES[:1]
            yield from {self.edge(state, name, paused).to for paused in pauses}
        yield from self.passes(state).values()

    def ending(self, nodes: Collection[int]) -> set[int]:
        """List those of these states from which the order can come to an end. All their edges must be built."""
        came_from = defaultdict(set)
        for (state, _, _), edge in self.edges.items():
            came_from[edge.to].add(state)
        for state in nodes:
            for to in self.passes(state).values():
                came_from[to].add(state)
        ending = {number for number in nodes if self.states[number].phase in TERMINAL}
        layer = set(ending)
        while layer:
            layer = {before for number in layer for before in came_from[number]} - ending
            ending |= layer
        return ending

    def find(self, saga: Saga, now: datetime) -> int | None:
        """Return the number of a saga's state; None if the walk has not met it."""
        return self._numbers.get(self.reduced(saga, now))

    def reduced(self, saga: Saga, now: datetime) -> Saga:
        """Reduce a saga to what tells its state from others."""
        return canonical(saga, now, self.clock)

    def market(self, name: str) -> Mapping[str, Mark]:
        """Say what is known of the market when a message of this name comes."""
        return {"BTC": self.marks[name]} if name in self.marks else NO_MARKS

    def _tell(self, state: int, name: str, paused: frozenset[Participant]) -> Edge:
        before = self.states[state]
        message = as_seen(before, self.messages[name])
        away = availability(paused, SILENT.get(name, NOBODY))
        outcome = advance(before, fitting(before, message), NOW, availability=away, marks=self.market(name))
        check(before, NOW, outcome, paused)
        if isinstance(outcome, Ignored):
            return Edge(state, ignored=outcome.why)
        moves = tuple(f"{event.previous_status or ''}>{event.status}" for event in outcome.events)
        to = self._number(self.reduced(outcome.saga, NOW))
        return Edge(to, outcome.asks, moves, outcome.fill)

    def _number(self, saga: Saga) -> int:
        number = self._numbers.setdefault(saga, len(self.states))
        if number == len(self.states):
            self.states.append(saga)
        return number


def as_seen(saga: Saga, message: Incoming) -> Incoming:
    """Let a repeated request name the same `expires_at` as its order, which may have come (`_terms`)."""
    asked = message.request if isinstance(message, Requested) else None
    if not isinstance(asked, OrderRequested) or asked.expires_at is None or saga.terms is None:
        return message
    assert isinstance(message, Requested)
    return structs.replace(message, request=structs.replace(asked, expires_at=saga.terms.expires_at))


# What tells two states apart ------------------------------------------------------------------------------------------


def canonical(saga: Saga, now: datetime, clock: Clock) -> Saga:
    """Reduce a saga to what affects its future, and shift its times so that `now` is `NOW`."""
    asking = saga.phase not in TERMINAL and saga.phase is not Phase.NEW and saga.parked_reason is None
    progress = saga.progress
    questions = tuple(_question(saga, question, now, clock) for question in sorted(progress.questions, key=_order))
    due_at = min((question.due_at for question in questions if question.answer is Answer.OPEN), default=NOW)
    woken = saga.due_at is not None and saga.due_at <= now
    quote = progress.quote
    if quote is not None:
        age = min(now - quote.made_at, _TOO_OLD) if _quote_counts(saga) else _ZERO
        known_age = age if clock is Clock.REAL or age == _TOO_OLD else _ZERO
        ends_at = _end(saga, quote.session_ends_at, now)
        quote = structs.replace(quote, made_at=NOW - known_age, session_ends_at=ends_at)
    outcome = None if progress.outcome is None else structs.replace(progress.outcome, reason=None)
    return structs.replace(
        saga,
        created_at=NOW,
        updated_at=NOW,
        version=min(saga.version, 1),
        history_seq=0,
        reason=None,
        due_at=(NOW if woken else due_at) if asking else None,
        overdue_since=None if saga.overdue_since is None else NOW,
        parked_reason=None if saga.parked_reason is None else "parked",
        terms=_terms(saga, now),
        progress=Progress(
            questions=questions,
            quote=quote,
            hold=None if saga.terms is None else progress.hold,
            rest=None if progress.rest is None else structs.replace(progress.rest, from_sequence=0, entered_at=NOW),
            ends_at=_end(saga, progress.ends_at, now),
            fire=progress.fire,
            triggered=progress.triggered,
            hold_state=progress.hold_state,
            outcome=None if saga.phase in TERMINAL else outcome,
            early_cancels=progress.early_cancels if saga.phase is Phase.NEW else (),
            **_changes(progress),
        ),
    )


def _changes(progress: Progress) -> dict[str, Any]:
    """Keep of the changes of an order what is open, what was used up, and what the hold may be; not what it shows."""
    amending = progress.amending
    return {
        "revision": progress.revision,
        "amend": None if amending is None else amending.asked,
        "amending": amending,
        "amend_ids": tuple(sorted(progress.amend_ids)),
        "as_requested": progress.as_requested,
        "trails_from": progress.trails_from,
        "checks": progress.checks,
        "adjustments": progress.adjustments,
        "adjusting": progress.adjusting,
        "unconfirmed": progress.unconfirmed,
        "suspended": progress.suspended,
        "release_refused": progress.release_refused,
    }


def _quote_counts(saga: Saga) -> bool:
    """Tell whether the age of the quote can still affect a decision: a resting order may be resumed into the market."""
    return saga.phase in DECIDING or (saga.phase in RESTING and saga.progress.fire is None)


def _terms(saga: Saga, now: datetime) -> Terms | None:
    """Keep of `expires_at` only whether it has come, and that only as long as the order can expire."""
    terms = saga.terms
    return None if terms is None else structs.replace(terms, expires_at=_end(saga, terms.expires_at, now))


def _end(saga: Saga, ends_at: datetime | None, now: datetime) -> datetime | None:
    """Keep of an end only whether it has come, and that only as long as the order can expire."""
    if ends_at is None:
        return None
    return NOW if ends_at <= now and saga.phase in EXPIRING else EXPIRES_AT


def _question(saga: Saga, question: Question, now: datetime, clock: Clock) -> Question:
    step, reason_code = question.step, question.reason_code if saga.phase in DECIDING else None
    attempts = 1 if question.sent else 0
    known = Question(
        step, NOW, NOW, question.answer, attempts, question.sent, reason_code=reason_code, number=question.number
    )
    if question.answer is not Answer.OPEN or saga.parked_reason is not None:
        return known
    wait = max(question.due_at - now, _ZERO)
    age = _ZERO if question.held_back else min(now - question.asked_at, _limit(step))  # patience begins after a pause
    known = structs.replace(known, held_back=question.held_back)
    if clock is Clock.REAL:
        attempts = min(question.attempts, _ATTEMPTS_TOLD_APART)
        return structs.replace(known, asked_at=NOW - age, due_at=NOW + wait, attempts=attempts)
    asked_at = NOW - age if age == _limit(step) else NOW
    return structs.replace(known, asked_at=asked_at, due_at=NOW + timedelta(seconds=1 if wait else 0))


def _order(question: Question) -> int:
    return list(Step).index(question.step)


def _limit(step: Step) -> timedelta:
    """Return the age from which a question is given up, or overdue."""
    row = QUESTIONS[step]
    return timedelta(seconds=row.patience_s or row.overdue_s or 0)


# How time passes ------------------------------------------------------------------------------------------------------


def _pass_to_next_region(saga: Saga) -> Iterator[tuple[str, tuple[Saga, datetime]]]:
    """Make one condition of time true, independent of the others; or wake the order early, as the worker may."""
    progress, quote = saga.progress, saga.progress.quote
    if _quote_counts(saga) and quote is not None and quote.made_at == NOW:
        stale = structs.replace(quote, made_at=NOW - _TOO_OLD)
        yield "the quote is too old", (structs.replace(saga, progress=structs.replace(progress, quote=stale)), NOW)
    if saga.phase in EXPIRING and (ends := _ending(saga)) is not None:
        yield "it expires", (ends, NOW)
    if saga.parked_reason is not None:
        return
    for question in progress.open():
        if question.due_at > NOW:
            yield f"{question.step} is due", (_with(saga, structs.replace(question, due_at=NOW)), NOW)
        if question.asked_at == NOW:
            long_ago = structs.replace(question, asked_at=NOW - _limit(question.step), due_at=NOW)
            yield f"{question.step} was long ago", (_with(saga, long_ago), NOW)
    if saga.due_at is not None and saga.due_at > NOW:
        yield "woken early", (structs.replace(saga, due_at=NOW), NOW)


def _ending(saga: Saga) -> Saga | None:
    """Let the time come at which an order ends: its own, the one that was fixed for it, or that of the session."""
    terms, progress, quote = saga.terms, saga.progress, saga.progress.quote
    if terms is None:
        return None
    if terms.expires_at is not None:
        return structs.replace(saga, terms=structs.replace(terms, expires_at=NOW)) if terms.expires_at > NOW else None
    if progress.ends_at is not None:
        ends = structs.replace(progress, ends_at=NOW)
        return structs.replace(saga, progress=ends) if progress.ends_at > NOW else None
    if terms.time_in_force is TimeInForce.DAY and quote is not None and (quote.session_ends_at or NOW) > NOW:
        ends = structs.replace(progress, quote=structs.replace(quote, session_ends_at=NOW))
        return structs.replace(saga, progress=ends)
    return None


def _with(saga: Saga, question: Question) -> Saga:
    saga = with_question(saga, question)
    return structs.replace(saga, due_at=min(question.due_at for question in saga.progress.open()))


def _pass_to_next_instant(saga: Saga) -> Iterator[tuple[str, tuple[Saga, datetime]]]:
    """Advance the time to each of the next instants that matter."""
    quote = saga.progress.quote
    if saga.phase in DECIDING and quote is not None and quote.made_at > NOW - _TOO_OLD:
        yield "until the quote is too old", (saga, quote.made_at + _TOO_OLD)
    if saga.parked_reason is not None:
        return
    for question in saga.progress.open():
        if question.due_at > NOW:
            yield f"until {question.step} is due", (saga, question.due_at)
        if not question.held_back and question.asked_at + _limit(question.step) > NOW:
            yield f"until {question.step} was long ago", (saga, question.asked_at + _limit(question.step))
