"""The central property: however ticks are cut into batches, the engine does what the oracle does tick by tick."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from order_saga.triggers.feed import Tick
from tests.order_saga.triggers.memory import Memory
from tests.order_saga.triggers.oracle import Oracle
from tests.order_saga.triggers.scenario import Life, life, run


def _agree(oracle: Oracle, memory: Memory) -> None:
    assert oracle.outcomes == memory.outcomes
    assert oracle.resting.keys() == memory.rows.keys()
    shown = {
        number: memory.watermark(order.side, order.start)
        for number, order in oracle.resting.items()
        if order.watermark is not None
    }
    assert {number: oracle.resting[number].watermark for number in shown} == shown


@pytest.mark.parametrize("hundred", range(10))
def test_batches_fire_what_single_ticks_fire(hundred: int) -> None:
    """Random lives, cut at random: the same orders fire, at the same sequence and price, with the same watermarks."""
    fired = 0
    for seed in range(hundred * 1_000, hundred * 1_000 + 1_000):
        random = Random(seed)  # noqa: S311 - the same lives in every run
        drawn = life(random, random.randint(1, 12))
        oracle, memory = run(drawn, random, limit=random.choice((1, 2, 1_000)))
        _agree(oracle, memory)
        fired += sum(outcome.fired is not None for outcome in oracle.outcomes.values())
    assert fired > 1_000


def test_every_cut_fires_the_same() -> None:
    """All ways to cut a run of ticks into batches, for some hundred lives."""
    for seed in range(300):
        random = Random(seed)  # noqa: S311 - the same
        drawn = life(random, 3)
        ticks = [len(step) - 1 for step in drawn.steps if isinstance(step, list)]
        for cuts in product((False, True), repeat=min(7, sum(ticks))):
            _agree(*run(drawn, _Cuts(cuts), limit=1_000))


class _Cuts(Random):
    """Answers where to cut, from a list."""

    def __init__(self, cuts: tuple[bool, ...]) -> None:
        super().__init__(0)
        self._cuts = iter(cuts)

    def random(self) -> float:
        return 0.0 if next(self._cuts, True) else 1.0


def test_a_heartbeat_changes_nothing() -> None:
    """A repetition of every tick that was judged live moves no watermark and fires nothing."""
    for seed in range(300):
        random = Random(seed)  # noqa: S311 - the same
        drawn = life(random, 8)
        doubled = Life(drawn.market, [_doubled(step) if isinstance(step, list) else step for step in drawn.steps])
        oracle, memory = run(drawn, None)
        _agree(oracle, memory)
        _, again = run(doubled, None)
        assert memory.outcomes == again.outcomes
        assert (memory.steps, memory.rows) == (again.steps, again.rows)


def _doubled(ticks: list[Tick]) -> list[Tick]:
    return [tick for tick in ticks for _ in range(2)]
