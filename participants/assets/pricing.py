"""The price at which an order is judged before it may rest: the worst one that a buy can pay under its terms. Pure.

The saga reckons its hold from the same rule; the two rooms share no code, so that a platform's own asset service can
leave this out. All levels are rounded to the tick, away from early firing.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from contracts.assets import CheckAsset, Trading
from contracts.decimals import EXACT, Price, add, multiply, subtract
from contracts.vocabulary import OrderKind, Side

BPS: Final = 10_000
SLIPPAGE_BPS_DEFAULT: Final = 100
"""What a buy may pay above its trigger when the order does not say."""
_PRICE_MAX: Final = Price.maximum or Decimal(0)


def reference_prices(command: CheckAsset) -> Iterator[tuple[str, Price]]:
    """Yield the prices that a client chose and that may be too far from the quote, by their fields' names."""
    if command.limit_price is not None:
        yield "limit_price", command.limit_price
    if command.trigger_price is not None:
        yield "trigger_price", command.trigger_price


def deviates(price: Decimal, quote: Decimal, bps: int) -> bool:
    """Say whether a price is farther from the quote than `bps` of the quote; exact."""
    distance = subtract(max(price, quote), min(price, quote))
    return distance > _share(quote, bps)


def prices_to_judge(
    command: CheckAsset, tick: Decimal, quote: Decimal, trading: Trading
) -> tuple[tuple[str, Decimal], ...]:
    """Return the prices for the limits on quantity times price, and what each is; none for a trail that leaves none.

    A bracket can fill at its limit or at its trigger, so both are judged; every other order is judged at one price.
    """
    worst = _worst_price(command, tick, quote, trading)
    if worst is None:
        return ()
    if command.limit_price is not None and _is_bracket(command):
        return ("limit_price", command.limit_price), worst
    return (worst,)


def _worst_price(command: CheckAsset, tick: Decimal, quote: Decimal, trading: Trading) -> tuple[str, Decimal] | None:
    """Return the worst price at which an order may fill, and what it is; None for a trail that leaves no price.

    A limit is the worst price of its order, but of a bracket. A buy with only a trigger or a trail may pay its slippage
    more; a TAKE_PROFIT_BUY fires below its trigger, and so pays no more than that. A market order that waits for the
    opening is judged by the price that it names.
    """
    if command.limit_price is not None and not _is_bracket(command):
        return "limit_price", command.limit_price
    name, price, waits = "quote", quote, False
    if command.trigger_price is not None:
        name, price, waits = "trigger_price", command.trigger_price, True
    elif command.trail_amount is not None or command.trail_bps is not None:
        name, price, waits = "first trigger", trail_level(command, tick, quote), True
        if not Decimal(0) < price <= _PRICE_MAX or (command.trail_amount or 0) >= quote:
            return None
    elif trading is not Trading.OPEN and command.price is not None:
        name, price, waits = "price", command.price, True
    if waits and _may_slip(command):
        return f"{name} with slippage", _slipped(command, price, tick)
    return name, price


def trail_level(command: CheckAsset, tick: Decimal, watermark: Decimal) -> Decimal:
    """Return the trigger of a trailing stop at a watermark: down to the tick for a sell, up for a buy."""
    buys = command.order_type.side is Side.BUY
    if command.trail_amount is not None:
        level = (add if buys else subtract)(watermark, command.trail_amount)
    else:
        bps = command.trail_bps or 0
        level = _share(watermark, BPS + bps if buys else BPS - bps)
    return _on_tick(level, tick, up=buys)


def _is_bracket(command: CheckAsset) -> bool:
    return command.order_type.kind is OrderKind.BRACKET


def _may_slip(command: CheckAsset) -> bool:
    return command.order_type.side is Side.BUY and not command.order_type.startswith("TAKE_PROFIT")


def _slipped(command: CheckAsset, price: Decimal, tick: Decimal) -> Decimal:
    bps = SLIPPAGE_BPS_DEFAULT if command.slippage_bps is None else command.slippage_bps
    return max(price, _on_tick(_share(price, BPS + bps), tick, up=False))


def _share(price: Decimal, bps: int) -> Decimal:
    return multiply(price, Decimal(bps).scaleb(-4))


def _on_tick(price: Decimal, tick: Decimal, *, up: bool) -> Decimal:
    """Round to a multiple of the tick."""
    rest = EXACT.remainder(price, tick)
    floor = subtract(price, rest)
    return add(floor, tick) if rest and up else floor
