"""Judges a trailing stop: whether a price reaches it, and at which level it stands, exactly.

A watermark is the best price since the order rests: for a SELL the highest, for a BUY the lowest. The trail is an
amount of cash, or basis points of the watermark; exactly one of the two is given.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from contracts.decimals import EXACT, ZERO, Price, add, multiply, subtract
from contracts.vocabulary import Side

BASIS: Final = Decimal(10_000)
_BASIS_POINT: Final = Decimal("0.0001")


def trail_reached(side: Side, price: Decimal, watermark: Decimal, amount: Decimal | None, bps: int | None) -> bool:
    """Tell whether a price fires a trailing stop. Nothing is rounded: both sides are multiplied by 10,000 instead."""
    level = _level_scaled(side, watermark, amount, bps)
    scaled = multiply(price, BASIS)
    return scaled <= level if side is Side.SELL else scaled >= level


def trail_level(side: Side, watermark: Decimal, amount: Decimal | None, bps: int | None, tick: Decimal) -> Price:
    """Return the price that fires a trailing stop, rounded to the tick away from early firing.

    For every price on the tick it agrees with `trail_reached`. It is 0 for a SELL that no price on the tick can fire.
    """
    level = max(multiply(_level_scaled(side, watermark, amount, bps), _BASIS_POINT), ZERO)
    beyond = EXACT.remainder(level, tick)
    floor = subtract(level, beyond)
    return Price(add(floor, tick) if beyond and side is Side.BUY else floor)


def _level_scaled(side: Side, watermark: Decimal, amount: Decimal | None, bps: int | None) -> Decimal:
    """Return the level, not rounded, times 10,000."""
    trail = multiply(watermark, Decimal(bps or 0)) if amount is None else multiply(amount, BASIS)
    whole = multiply(watermark, BASIS)
    return subtract(whole, trail) if side is Side.SELL else add(whole, trail)
