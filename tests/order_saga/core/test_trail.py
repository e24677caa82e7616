"""A trailing stop by itself: exact, never early, and its level never moves against the trader."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import pytest

from contracts.decimals import EXACT, is_multiple
from contracts.vocabulary import Side
from order_saga.core.trail import trail_level, trail_reached

BPS_MAX = 5_000


def _decimal(number: int, places: int) -> Decimal:
    return EXACT.scaleb(Decimal(number), -places)


def _reached_by_integers(side: Side, price: int, watermark: int, amount: int | None, bps: int | None) -> bool:
    """Judge whole units of one size, as the rule says it."""
    away = watermark - price if side is Side.SELL else price - watermark
    return away >= amount if amount is not None else away * 10_000 >= watermark * (bps or 0)


@pytest.mark.parametrize("side", list(Side))
def test_a_trail_is_compared_exactly(side: Side) -> None:
    """A hundred thousand random trails, near their level and far from it, are judged as integers judge them."""
    random = Random(19)  # noqa: S311 - the same paths in every run
    for _ in range(50_000):
        places, watermark = random.randrange(19), random.randint(1, 10 ** random.randint(1, 24))
        bps = random.randrange(5, BPS_MAX + 1, 5)
        level = watermark * (10_000 - bps if side is Side.SELL else 10_000 + bps) // 10_000
        price = max(1, level + random.choice((-1, 0, 1, random.randint(-watermark, watermark))))
        expected = _reached_by_integers(side, price, watermark, None, bps)
        assert expected == trail_reached(side, _decimal(price, places), _decimal(watermark, places), None, bps)
        amount = random.randint(1, watermark)
        price = max(1, watermark + (-amount if side is Side.SELL else amount) + random.choice((-1, 0, 1)))
        expected = _reached_by_integers(side, price, watermark, amount, None)
        told, best, trail = (_decimal(number, places) for number in (price, watermark, amount))
        assert expected == trail_reached(side, told, best, trail, None)


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("tick", ["0.01", "0.25", "5", "1", "0.000000000000000001"])
def test_the_level_that_is_shown_is_the_level_that_fires(side: Side, tick: str) -> None:
    """For every price on the tick, coarse ticks too, comparing with the level says the same as the exact rule."""
    random = Random(7)  # noqa: S311 - the same paths in every run
    step = Decimal(tick)
    for _ in range(400):
        watermark = step * random.randint(1, 400)
        amount = step * random.randint(1, 40) if random.random() < 0.5 else None
        bps = random.randrange(5, BPS_MAX + 1, 5) if amount is None else None
        level = trail_level(side, watermark, amount, bps, step)
        assert is_multiple(level, step)
        for number in range(max(1, int(level / step) - 3), int(level / step) + 4):
            price = step * number
            shown = price <= level if side is Side.SELL else price >= level
            assert shown == trail_reached(side, price, watermark, amount, bps)


def test_a_coarse_tick_pulls_no_stop_towards_the_price() -> None:
    """5 % of 101 on a tick of 5: the level is 95 below and 110 above, never the nearer multiple."""
    assert Decimal(95) == trail_level(Side.SELL, Decimal(101), None, 500, Decimal(5))
    assert Decimal(110) == trail_level(Side.BUY, Decimal(101), None, 500, Decimal(5))


def test_a_trail_as_wide_as_the_price_is_reached_by_no_price() -> None:
    """A SELL whose trail takes all of its watermark stands at 0, and the smallest price does not fire it."""
    assert Decimal(0) == trail_level(Side.SELL, Decimal(3), Decimal(7), None, Decimal(1))
    assert not trail_reached(Side.SELL, Decimal("1e-18"), Decimal(3), Decimal(7), None)


@pytest.mark.parametrize("side", list(Side))
def test_a_better_watermark_never_loosens_the_stop(side: Side) -> None:
    """Over a rising path the level of a SELL never falls, and over a falling one that of a BUY never rises."""
    random = Random(3)  # noqa: S311 - the same paths in every run
    tick = Decimal("0.5")
    for _ in range(300):
        watermarks = sorted(tick * random.randint(1, 300) for _ in range(8))
        amount = tick * random.randint(1, 30) if random.random() < 0.5 else None
        bps = random.randrange(5, BPS_MAX + 1, 5) if amount is None else None
        levels = [trail_level(side, watermark, amount, bps, tick) for watermark in watermarks]
        assert levels == sorted(levels)
