"""The admission limit finds by measurement how many orders a system can carry, here on simulated systems."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from order_saga.core.saga import Ask, Step
from order_saga.worker.admission import CEILING, FIRE_YOUNG_S, FIRES_SHARE, FLOOR, SAMPLES_MIN, AdmissionLimit
from tests.participants.support import refund

YOUNG_S = 2.0
STEPS = ("check", "reserve", "settle")
BATCH = 500
Delay = Callable[[float, str], float | None]


def at_once(_now: float, _step: str) -> float | None:
    """Answer when the batch is done."""
    return 0.0


@dataclass
class Simulated:
    """A system that works in batches and has a request waiting whenever the limit has room for one.

    A batch takes `batch_s`, and `message_s` for each message; then each question waits for what `delay` returns (None:
    its answer is lost). An order has three questions.
    """

    batch_s: float
    message_s: float
    delay: Delay = at_once
    wanted: Callable[[float], float] = lambda _: 1e9
    """The number of orders wanted until a time."""
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
        """Run for some seconds; return the orders a second that ended meanwhile."""
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
def test_the_limit_settles_at_the_knee(batch_s: float, message_s: float) -> None:
    """With requests always waiting, the system carries nearly its maximum, and no answer takes long."""
    system = Simulated(batch_s, message_s)
    system.run(10)
    assert system.run(20) >= 0.9 * system.peak
    assert system.admission.limit / (system.peak * len(STEPS)) < YOUNG_S / 2, "the wait for an answer, by Little's law"
    assert FLOOR <= system.admission.limit < CEILING / 2


def test_a_slow_participant_without_a_queue_gets_a_large_limit() -> None:
    """A long answer time without a queue raises the limit to cover that time; without it the limit is small."""
    quick, slow = Simulated(0.004, 0.0001), Simulated(0.004, 0.0001, lambda _, step: 1.5 if step == "check" else 0.0)
    quick.run(20)
    slow.run(20)
    assert slow.run(10) >= 0.85 * slow.peak
    assert quick.admission.limit < 1_500
    assert slow.admission.limit > 4_000


def test_a_participant_that_becomes_slow_is_noticed() -> None:
    """When a participant becomes slow, the limit first takes the delay for a queue, then learns the new time."""
    system = Simulated(0.004, 0.0001, lambda now, step: 0.5 if step == "check" and now > 20 else 0.0)
    system.run(40)
    assert system.run(10) >= 0.85 * system.peak


def test_an_outage_still_admits_a_few_orders_and_ends_at_once() -> None:
    """During a minute without answers a few orders still come in; after it, the throughput returns at once."""
    system = Simulated(0.004, 0.0001, lambda now, step: None if step == "reserve" and 20 < now < 80 else 0.0)
    system.run(20)
    system.run(10)
    before = system.taken
    system.run(45)
    assert FLOOR / YOUNG_S * 45 * 0.8 < system.taken - before < FLOOR / YOUNG_S * 45 * 2
    system.run(10)
    assert system.run(20) >= 0.9 * system.peak


def test_a_light_load_never_meets_the_limit() -> None:
    """Orders that come no faster than they end are all admitted at once, and the limit does not move."""
    system = Simulated(0.004, 0.0001, wanted=lambda now: now * 300)
    system.run(60)
    assert system.taken >= 300 * 60 - 10
    assert system.admission.limit == FLOOR


def test_an_old_minimum_is_measured_again() -> None:
    """A minimum answer time that a disturbance raised is measured again, at the cost of a small limit for a moment."""
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
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the present time."""
        return self.now


def test_only_young_open_questions_count() -> None:
    """A question stops counting when it is answered, asked again or old; an answer to no question changes nothing."""
    clock = Clock()
    admission = AdmissionLimit(clock, young_s=YOUNG_S)
    for name in "abc":
        admission.asked(name, "check")
    assert admission.in_flight == 3
    admission.answered("a")
    admission.asked_again("b")
    admission.answered("a")
    admission.answered("never asked")
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
def test_the_limit_is_never_closed_for_longer_than_a_question_is_young(steps: list[tuple[str, float]]) -> None:
    """The limit stays in its bounds for any history, and without any answer all its room returns by time alone."""
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


def test_a_repeated_first_question_does_not_make_others_count_longer() -> None:
    """A repeated first question counts from its new time, and does not make older questions count for longer."""
    clock = Clock()
    admission = AdmissionLimit(clock, young_s=YOUNG_S)
    admission.asked("a", "check")
    clock.now = YOUNG_S / 4
    admission.asked("b", "check")
    clock.now = YOUNG_S / 2
    admission.asked("a", "check")
    clock.now = YOUNG_S * 1.25 + 0.01
    assert admission.in_flight == 1


def about(order_id: UUID, attempt: int = 1) -> Ask:
    """Ask about an order."""
    return Ask(Step.SETTLE, refund(order_id, "alice", "USD", "1"), f"{order_id}:settle", attempt, None)


def test_fired_orders_have_places_of_their_own_beside_the_limit() -> None:
    """However many fired, they take no place of a new order, and new orders none of theirs; each answer frees one."""
    admission = AdmissionLimit(lambda: 0.0, young_s=YOUNG_S)
    share = admission.room_for_fires()
    assert FLOOR * FIRES_SHARE == share
    ids = [uuid4() for _ in range(share)]
    with admission.firing(ids):
        admission.note([], map(about, ids))
        admission.note([], [about(uuid4())])
    assert (0, FLOOR - 1) == (admission.room_for_fires(), admission.room())
    admission.answered(f"{ids[0]}:settle")
    admission.note([], [about(ids[1], attempt=2)])
    assert 2 == admission.room_for_fires()
    admission.note([], [about(uuid4()) for _ in range(FLOOR)])
    assert (2, 0) == (admission.room_for_fires(), admission.room())


def test_a_fired_order_whose_answer_comes_elsewhere_does_not_count_for_long() -> None:
    """Another process may get the answer: that costs a place for half a second, and says nothing about the limit."""
    now = [0.0]
    admission = AdmissionLimit(lambda: now[0], young_s=YOUNG_S)
    ids = [uuid4() for _ in range(admission.room_for_fires())]
    with admission.firing(ids):
        admission.note([], map(about, ids))
    now[0] = FIRE_YOUNG_S - 0.01
    assert 0 == admission.room_for_fires()
    now[0] = 10.0
    assert (len(ids), FLOOR) == (admission.room_for_fires(), admission.room())
