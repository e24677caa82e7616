"""The admission limit: how many questions may wait for an answer before new orders are let in.

Beyond as many as keep everybody at work, a further order only makes all others wait. Nobody sets this limit. It is
found by how long answers take, measured against the least that they took, as TCP Vegas finds how much a network holds.
Answers that take about as long as the least let the limit grow while it is what orders wait for; at twice as long it
shrinks. Only young questions count: a participant that is down or slow must not keep orders out for good. Pure but for
the clock, which is an argument.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from uuid import UUID

    from order_saga.core.saga import Ask, Incoming

FLOOR: Final = 512
"""A batch: with fewer, what each transaction costs falls on too few orders."""
CEILING: Final = 8192
TARGET: Final = 2.0
"""How many times as long as the least an answer may take."""
QUICK_S: Final = 0.04
"""An answer that takes less has not waited for anybody: what batches need by themselves."""
SAMPLES_MIN: Final = 16
GROWTH_MAX: Final = 1.5
SHRINK_MAX: Final = 0.7
ROUND_S: Final = 0.1
FORGET_S: Final = 120.0
"""When answers have taken longer than the least for all this time, the least may be another one by now."""
FIRES_SHARE: Final = 0.25
"""How many fired orders may be asked about at once, as a share of the limit, which is for new orders. A fired order
asks one question and a new one three in turn, so they are executed about as fast as new ones, and crowd nobody out."""
FIRE_YOUNG_S: Final = 0.5
"""A fired order counts for so long at most: another process may get its answer, for any may execute it."""
NEAR: Final = 1.2
"""Times the least that count as the least."""


class _Kind:
    """The answers to one kind of question: those of this round, and the least mean of a round lately."""

    __slots__ = ("least_at", "least_s", "number", "total_s")

    def __init__(self) -> None:
        self.least_s: float | None = None
        self.least_at = 0.0
        self.number = 0
        self.total_s = 0.0


class AdmissionLimit:
    """Counts the open questions that are young, and says for how many more there is room."""

    def __init__(self, clock: Callable[[], float], *, young_s: float) -> None:
        """`clock` gives seconds that never go back; a question counts for `young_s` at most."""
        self._clock = clock
        self._young_s = young_s
        self._limit = float(FLOOR)
        self._asked: dict[str, tuple[float, str]] = {}
        """When each open question was asked, and its kind; the oldest first."""
        self._kinds: dict[str, _Kind] = {}
        self._round_began = self._clock()
        self._round_s = ROUND_S
        self._late = 0
        self._most = 0
        self._firing: frozenset[UUID] = frozenset()
        self._fires: dict[str, float] = {}
        """When each open question about a fired order was asked; the oldest first. They tell nothing of the limit."""

    @property
    def limit(self) -> int:
        """How many questions may wait at once."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """How many do: the young ones."""
        self._forget_old()
        return len(self._asked)

    def room(self) -> int:
        """Return how many more orders may be let in now."""
        self._end_round()
        in_flight = len(self._asked)
        self._most = max(self._most, in_flight)
        return max(0, int(self._limit) - in_flight)

    def room_for_fires(self) -> int:
        """Return how many fired orders may be executed now: what is left of their share, also when no place is free."""
        self._end_round()
        long_ago = self._clock() - FIRE_YOUNG_S
        while self._fires and self._fires[oldest := next(iter(self._fires))] <= long_ago:
            del self._fires[oldest]
        return max(0, int(self._limit * FIRES_SHARE) - len(self._fires))

    @contextmanager
    def firing(self, order_ids: Iterable[UUID]) -> Iterator[None]:
        """Count what is asked about these orders, while the block runs, as questions about fired orders."""
        self._firing = frozenset(order_ids)
        try:
            yield
        finally:
            self._firing = frozenset()

    def note(self, messages: Iterable[Incoming], asks: Iterable[Ask]) -> None:
        """Note the answers and questions of a batch that is committed and published."""
        for message in messages:
            if (command_id := getattr(message, "command_id", None)) is not None:
                self.answered(command_id)
        for ask in asks:
            if ask.attempt > 1:
                self.asked_again(ask.command_id)
            elif ask.message.order_id in self._firing:
                self._fires[ask.command_id] = self._clock()
            else:
                self.asked(ask.command_id, ask.step)

    def asked(self, command_id: str, kind: str) -> None:
        """Note a question that was asked for the first time. Kinds are measured each by itself."""
        self._asked.pop(command_id, None)  # one that begins anew goes behind those that were asked meanwhile
        self._asked[command_id] = self._clock(), kind
        self._most = max(self._most, len(self._asked))

    def answered(self, command_id: str) -> None:
        """Note an answer; one to a question that is not waited for tells nothing."""
        question = self._asked.pop(command_id, None)
        self._fires.pop(command_id, None)
        if question is not None:
            self._count(question[1], self._clock() - question[0])

    def asked_again(self, command_id: str) -> None:
        """Forget a question whose answer could now be to either asking."""
        self._asked.pop(command_id, None)
        self._fires.pop(command_id, None)

    def _count(self, kind: str, took_s: float) -> None:
        one = self._kinds.get(kind)
        if one is None:
            one = self._kinds[kind] = _Kind()
        one.number += 1
        one.total_s += took_s

    def _forget_old(self) -> None:
        """Stop waiting for what has waited too long: that it did is the strongest sign that there is too much."""
        long_ago = self._clock() - self._young_s
        while self._asked:
            command_id = next(iter(self._asked))
            if self._asked[command_id][0] > long_ago:
                return
            del self._asked[command_id]
            self._late += 1

    def _end_round(self) -> None:
        """End a round when what was asked since the last one began has had time to show."""
        self._forget_old()
        now = self._clock()
        kinds = [one for one in self._kinds.values() if one.number]
        number = sum(one.number for one in kinds)
        if now - self._round_began < self._round_s or number + self._late < SAMPLES_MIN:
            return
        total_s = sum(one.total_s for one in kinds)
        limiting = self._most >= self._limit * 0.75
        least_s = sum(self._least(one, now, limiting=limiting) * one.number for one in kinds)
        slower = (total_s + self._late * self._young_s) / (least_s + self._late * QUICK_S)
        self._resize(TARGET / slower, limiting=limiting)
        self._round_s = min(self._young_s, max(ROUND_S, total_s / number if number else self._young_s))
        self._round_began, self._late, self._most = now, 0, 0
        for one in kinds:
            one.number, one.total_s = 0, 0.0

    def _least(self, one: _Kind, now: float, *, limiting: bool) -> float:
        """Return the least that this kind of answer takes, after learning from its round."""
        mean_s = max(QUICK_S, one.total_s / one.number)
        if one.least_s is None or mean_s <= one.least_s * NEAR:
            one.least_s, one.least_at = min(mean_s, one.least_s or mean_s), now
        elif limiting and self._limit <= FLOOR:
            one.least_s, one.least_at = (one.least_s + mean_s) / 2, now  # with so few, it takes what it takes
        elif not limiting:
            one.least_at = now  # no order waits to be let in, so nothing has to be found out
        elif now - one.least_at > FORGET_S:
            self._limit = FLOOR  # find it anew from there
            one.least_s, one.least_at = mean_s, now
        return one.least_s

    def _resize(self, by: float, *, limiting: bool) -> None:
        by = min(GROWTH_MAX, max(SHRINK_MAX, 1 + (by - 1) / 2))
        if by < 1 or limiting:
            self._limit = min(float(CEILING), max(float(FLOOR), self._limit * by))
