"""The three facts of a path, each by itself, against a naive walk."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from random import Random

import pytest

from contracts.assets import Trading
from contracts.vocabulary import Side
from order_saga.core.trail import trail_reached
from order_saga.triggers.feed import Point, Tick
from order_saga.triggers.path import Conflated, SidePath, Step, Trail, better

LONG_AGO = datetime(2030, 1, 1, tzinfo=UTC)


def _prices(random: Random, number: int) -> list[Decimal]:
    """Draw a wild path: calm stretches on very different heights."""
    height, prices = random.choice((10, 1_000)), []
    for _ in range(number):
        height = random.choice((10, 100, 1_000)) if random.random() < 0.2 else height
        prices.append(Decimal(max(1, height + random.randint(-height // 2, height // 2))) / 4)
    return prices


def _trail(random: Random, side: Side) -> Trail:
    if random.random() < 0.5:
        return Trail(side, Decimal(random.randint(1, 400)) / 4, None)
    return Trail(side, None, random.randrange(5, 5_001, 5))


def _naive(points: list[Point], trail: Trail, watermark: Decimal) -> Point | None:
    for point in points:
        watermark = point.price if better(trail.side, point.price, watermark) else watermark
        if point.fires and trail_reached(trail.side, point.price, watermark, trail.amount, trail.bps):
            return point
    return None


@pytest.mark.parametrize("side", list(Side))
def test_records_say_when_every_trail_fires(side: Side) -> None:
    """Fact 3: for any run of ticks, live or not, any trail and any watermark, the records find the walk's tick."""
    random = Random(5)  # noqa: S311 - the same paths in every run
    found = 0
    for _ in range(3_000):
        prices = _prices(random, random.randint(1, 30))
        points = [Point(number, price, random.random() < 0.8) for number, price in enumerate(prices)]
        run = Conflated(side, points)
        for _ in range(6):
            trail, watermark = _trail(random, side), random.choice(_prices(random, 3))
            expected = _naive(points, trail, watermark)
            assert expected == run.first(trail, watermark)
            found += expected is not None
    assert found > 3_000


def test_lowest_and_highest_price_are_not_enough() -> None:
    """100, 110, 104 fires a trail of 5, and 100, 104, 110 does not, though both have the same extremes and end."""
    trail = Trail(Side.SELL, Decimal(5), None)

    def fires(*prices: int) -> Point | None:
        points = [Point(number, Decimal(price), fires=True) for number, price in enumerate(prices, 1)]
        return Conflated(Side.SELL, points).first(trail, Decimal(100))

    assert Point(3, Decimal(104), fires=True) == fires(100, 110, 104)
    assert fires(100, 104, 110) is None


@pytest.mark.parametrize("side", list(Side))
def test_steps_are_the_best_price_since_each_start(side: Side) -> None:
    """Fact 1: for each sequence that was a mark or a quote, the step has the best price since, and who set it.

    Steps that follow each other always get worse, so that there are no more of them than needed.
    """
    random = Random(6)  # noqa: S311 - the same
    for _ in range(500):
        prices = _prices(random, 40)
        mark: Tick | None = None
        steps: list[Step] = []
        starts: list[int] = []
        at = 0
        while at < 30:
            if random.random() < 0.4 and mark is not None:
                quote = at + random.randint(0, 3)
                starts.append(quote)
                steps = sorted({step.upto: step for step in [Step(quote, prices[quote], quote), *steps]}.values())
            ticks = range(at, at + random.randint(1, 5))
            points = [Point(number, prices[number], fires=True) for number in ticks]
            moved = SidePath(side, steps, mark, points).moved()
            steps = [step for step in steps if step.upto not in moved.gone]
            steps = sorted(({step.upto: step for step in steps} | {step.upto: step for step in moved.put}).values())
            at = ticks[-1] + 1
            mark = Tick(ticks[-1], prices[ticks[-1]], LONG_AGO, LONG_AGO, LONG_AGO, Trading.OPEN, live=True)
            starts.append(mark.sequence)
            old = [*(step for step in steps if step.upto < mark.sequence), Step(mark.sequence, mark.price, at - 1)]
            assert all(better(side, one.price, other.price) for one, other in pairwise(old))
            for start in (start for start in starts if start <= mark.sequence):
                step = next(step for step in old if step.upto >= start)
                since = prices[start:at]
                assert step.price == (max if side is Side.SELL else min)(since)
                assert step.price == prices[step.set_by]
                assert step.set_by >= start


def test_one_step_that_does_not_fire_ends_the_search() -> None:
    """Fact 2: fronts come from the oldest on, and younger steps than one that does not fire are not looked at."""
    steps = [Step(1, Decimal(120), 1), Step(5, Decimal(110), 4)]
    mark = Tick(7, Decimal(101), LONG_AGO, LONG_AGO, LONG_AGO, Trading.OPEN, live=True)
    path = SidePath(Side.SELL, steps, mark, [Point(8, Decimal(104), fires=True)])
    trail = Trail(Side.SELL, Decimal(10), None)
    assert [1] == [front.upto for front in path.fronts(trail, 0)]
    assert [] == list(path.fronts(trail, 2))
    assert [1, 5] == [front.upto for front in path.fronts(trail._replace(amount=Decimal(6)), 0)]
