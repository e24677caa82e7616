"""The admission limit that new orders must fit in: found by measuring, on simulated systems whose knee is known."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from order_saga.worker.admission import CEILING, FLOOR, SAMPLES_MIN, AdmissionLimit

YOUNG_S = 2.0
STEPS = ("check", "reserve", "settle")
BATCH = 500
Delay = Callable[[float, str], float | None]


def at_once(_now: float, _step: str) -> float | None:
    """Answer when the batch is done."""
    return 0.0


@dataclass
class Simulated:
    """A system that works in batches and has a request waiting whenever there is room for one.

    A batch takes `batch_s`, and `message_s` for each message; then each question waits for what `delay` says (None: it
    is lost). An order is three questions.
    """

    batch_s: float
    message_s: float
    delay: Delay = at_once
    wanted: Callable[[float], float] = lambda _: 1e9
    """How many orders were asked for until then."""
    now: float = 0.0
    taken: int = 0
    ended: int = 0
    admission: AdmissionLimit = field(init=False)

    def __post_init__(self) -> None:
        self.admission = AdmissionLimit(lambda: self.now, young_s=YOUNG_S)
        self._due: list[tuple[float, int, int]] = []
        self._asked: deque[tuple[int, int]] = deque()

    @property
    def peak(self) -> float:
        """Orders a second when every batch is full."""
        return BATCH / (self.batch_s + self.message_s * BATCH) / len(STEPS)

    def run(self, seconds: float) -> float:
        """Let time pass; return the orders a second that ended meanwhile."""
        began, before = self.now, self.ended
        while self.now < began + seconds:
            self._batch()
        return (self.ended - before) / (self.now - began)

    def _batch(self) -> None:
        for _ in range(min(self.admission.room(), BATCH, int(self.wanted(self.now)) - self.taken)):
            self.taken += 1
            self._ask(self.taken, 0)
        batch = [self._asked.popleft() for _ in range(min(BATCH, len(self._asked)))]
        self.now += self.batch_s + self.message_s * len(batch)
        for order, step in batch:
            if (delay_s := self.delay(self.now, STEPS[step])) is not None:
                heapq.heappush(self._due, (self.now + delay_s, order, step))
        while self._due and self._due[0][0] <= self.now:
            _, order, step = heapq.heappop(self._due)
            self.admission.answered(f"{order}:{step}")
            if step + 1 < len(STEPS):
                self._ask(order, step + 1)
            else:
                self.ended += 1

    def _ask(self, order: int, step: int) -> None:
        self.admission.asked(f"{order}:{step}", STEPS[step])
        self._asked.append((order, step))


@pytest.mark.parametrize(("batch_s", "message_s"), [(0.004, 0.0001), (0.02, 0.0006), (0.002, 0.00005), (0.05, 0.0002)])
def test_it_settles_at_the_knee(batch_s: float, message_s: float) -> None:
    """With any number of requests waiting, nearly all is carried that can be, and no answer takes long."""
    system = Simulated(batch_s, message_s)
    system.run(10)
    assert system.run(20) >= 0.9 * system.peak
    assert system.admission.limit / (system.peak * len(STEPS)) < YOUNG_S / 2, "the wait for an answer, by Little's law"
    assert FLOOR <= system.admission.limit < CEILING / 2


def test_a_slow_participant_that_takes_any_number_at_once_gets_them() -> None:
    """Time that an answer takes by itself is no queue: the limit grows to cover it; without it, it is small."""
    quick, slow = Simulated(0.004, 0.0001), Simulated(0.004, 0.0001, lambda _, step: 1.5 if step == "check" else 0.0)
    quick.run(20)
    slow.run(20)
    assert slow.run(10) >= 0.85 * slow.peak
    assert quick.admission.limit < 1_500
    assert slow.admission.limit > 4_000


def test_one_that_becomes_slow_is_found_out() -> None:
    """What was quick and is slow from now on is taken for a queue at first, and then learned anew."""
    system = Simulated(0.004, 0.0001, lambda now, step: 0.5 if step == "check" and now > 20 else 0.0)
    system.run(40)
    assert system.run(10) >= 0.85 * system.peak


def test_an_outage_lets_some_in_all_the_time_and_is_over_when_it_is_over() -> None:
    """Nobody answers for a minute: orders still come in, no more than a little; then it is as before at once."""
    system = Simulated(0.004, 0.0001, lambda now, step: None if step == "reserve" and 20 < now < 80 else 0.0)
    system.run(20)
    system.run(10)
    before = system.taken
    system.run(45)
    assert FLOOR / YOUNG_S * 45 * 0.8 < system.taken - before < FLOOR / YOUNG_S * 45 * 2
    system.run(10)
    assert system.run(20) >= 0.9 * system.peak


def test_a_light_load_never_meets_it() -> None:
    """Orders that come no faster than they end are all let in when they come, and the limit stays where it was."""
    system = Simulated(0.004, 0.0001, wanted=lambda now: now * 300)
    system.run(60)
    assert system.taken >= 300 * 60 - 10
    assert system.admission.limit == FLOOR


def test_a_least_that_has_not_been_seen_for_long_is_measured_anew() -> None:
    """What was learned while a disturbance lasted is forgotten, at the price of a moment with a small limit."""
    system = Simulated(0.05, 0.001, lambda now, _: 1.0 if now < 20 else 0.0)
    system.run(30)
    assert system.admission.limit > 1_500, "it was right for what answers took"
    sizes = []
    for _ in range(150):
        system.run(1)
        sizes.append(system.admission.limit)
    assert FLOOR <= min(sizes) < 1.5 * FLOOR
    assert sizes[-1] < 1_500


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return it."""
        return self.now


def test_only_young_open_questions_count() -> None:
    """An answer, a second asking and age make room; an answer that nobody waits for makes none."""
    clock = Clock()
    admission = AdmissionLimit(clock, young_s=YOUNG_S)
    for name in "abc":
        admission.asked(name, "check")
    assert admission.in_flight == 3
    admission.answered("a")
    admission.asked_again("b")
    admission.answered("a")
    admission.answered("stranger")
    assert admission.in_flight == 1
    assert admission.room() == FLOOR - 1
    clock.now = YOUNG_S + 0.01
    assert admission.in_flight == 0
    assert admission.room() == FLOOR


STEP = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 400)),
    st.tuples(st.just("answer"), st.integers(1, 400)),
    st.tuples(st.just("ask again"), st.integers(1, 400)),
    st.tuples(st.just("wait"), st.floats(0.0, 3.0)),
)


@given(st.lists(STEP, max_size=60))
def test_it_is_never_shut_for_longer_than_a_question_is_young(steps: list[tuple[str, float]]) -> None:
    """Whatever was asked and answered: its size keeps its bounds, and without any answer it opens by time alone."""
    clock, number, answered = Clock(), 0, 0
    admission = AdmissionLimit(clock, young_s=YOUNG_S)
    for what, amount in steps:
        for _ in range(int(amount) if what != "wait" else 0):
            if what == "ask":
                number += 1
                admission.asked(str(number), "check")
            elif answered < number:
                answered += 1
                (admission.answered if what == "answer" else admission.asked_again)(str(answered))
        clock.now += amount if what == "wait" else 0.001
        assert admission.room() == max(0, admission.limit - admission.in_flight)
        assert FLOOR <= admission.limit <= CEILING
    clock.now += YOUNG_S + 0.001
    assert admission.room() == admission.limit
    assert SAMPLES_MIN < FLOOR, "or so few of them would never be a round"


def test_a_question_that_begins_anew_holds_up_nobody_s_end_of_youth() -> None:
    """It goes behind those that were asked meanwhile, and they stop counting when their time is over."""
    clock = Clock()
    admission = AdmissionLimit(clock, young_s=YOUNG_S)
    admission.asked("a", "check")
    clock.now = YOUNG_S / 4
    admission.asked("b", "check")
    clock.now = YOUNG_S / 2
    admission.asked("a", "check")
    clock.now = YOUNG_S * 1.25 + 0.01
    assert admission.in_flight == 1
