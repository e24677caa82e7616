"""The prices of a conditional order: what fires it, the worst one it can pay, and the bound of its slippage. Pure.

A price p fires a LIMIT_BUY and a TAKE_PROFIT_BUY at p <= level, a STOP_LOSS_BUY at p >= level, and each SELL the other
way round. No earlier price and no equality is needed: one comparison decides. `trail` judges trailing stops.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.decimals import EXACT, Price, add, multiply, subtract
from contracts.terms import SLIPPAGE_BPS_DEFAULT
from contracts.vocabulary import OrderKind, OrderType, Side
from order_saga.core.trail import trail_level

if TYPE_CHECKING:
    from contracts.terms import Terms
    from order_saga.core.saga import Saga

_BASIS_POINT: Final = Decimal("0.0001")
PRICE_MAX: Final = Price.maximum


class Level(NamedTuple):
    """A price that an order waits for, and from which side the market must reach it."""

    price: Price
    is_up: bool
    """Reached by a price at or above it; else by one at or below it."""

    def is_reached(self, price: Decimal) -> bool:
        """Tell whether a price reaches the level."""
        return price >= self.price if self.is_up else price <= self.price


def level(order_type: OrderType, terms: Terms, *, triggered: bool) -> Level | None:
    """Name the level that an order waits for next, or None for one that waits for none of its own.

    That is a trailing stop, whose level follows the market, and a market order, which waits for an opening.
    """
    buy = order_type.side is Side.BUY
    if order_type.kind is OrderKind.LIMIT or triggered:
        assert terms.limit_price is not None  # noqa: S101 - `contracts.terms.faults` refuses such a request
        return Level(terms.limit_price, is_up=not buy)
    if terms.trigger_price is None:
        return None
    return Level(terms.trigger_price, is_up=buy is (order_type.kind is OrderKind.STOP_LOSS))


def meets_limit(order_type: OrderType, terms: Terms, price: Decimal) -> bool:
    """Tell whether an order may fill at a price: its limit or better, or any price if it has none."""
    if terms.limit_price is None:
        return True
    return price <= terms.limit_price if order_type.side is Side.BUY else price >= terms.limit_price


def worst_price(saga: Saga) -> Price:
    """Return the price that a conditional order is judged and, if it buys, holds at; it needs the quote.

    A BUY never pays more. A SELL holds its quantity; for it this is the price at which its notional is judged.
    """
    terms, quote = saga.terms, saga.progress.quote
    assert saga.order_type is not None and terms is not None and quote is not None  # noqa: S101, PT018 - see callers
    if terms.limit_price is not None:
        return terms.limit_price
    start = terms.trigger_price
    if saga.order_type.kind is OrderKind.MARKET:
        if quote.is_open:
            return quote.price  # it fills there, or not at all
        start = saga.price
    if start is None:
        start = trail_level(saga.side, quote.price, terms.trail_amount, terms.trail_bps, quote.tick)
    if saga.side is Side.SELL or saga.order_type.kind is OrderKind.TAKE_PROFIT:
        return start
    return _slipped(start, saga.slippage_bps, quote.tick)


def slippage_cap(saga: Saga, watermark: Price | None) -> Price | None:
    """Return the most that a BUY pays when a tick fires it, or None for a SELL.

    No tick fires a BUY above its limit or its trigger; should one come all the same, its hold is never exceeded.
    """
    terms, quote = saga.terms, saga.progress.quote
    if terms is None or quote is None or saga.side is Side.SELL:
        return None
    worst = worst_price(saga)
    if watermark is None:
        return worst
    trigger = trail_level(saga.side, watermark, terms.trail_amount, terms.trail_bps, quote.tick)
    return min(worst, _slipped(trigger, saga.slippage_bps, quote.tick))


def sale_floor(saga: Saga) -> Price | None:
    """Return the least that a SELL takes: its limit, or, of one that queued, its price less its slippage.

    None for a BUY, and for a SELL that exits at any price.
    """
    if saga.terms is None or saga.side is Side.BUY:
        return None
    if saga.price is None or saga.slippage_bps is None:
        return saga.terms.limit_price
    return Price(multiply(saga.price, subtract(Decimal(1), multiply(Decimal(saga.slippage_bps), _BASIS_POINT))))


def _slipped(price: Price, slippage_bps: int | None, tick: Decimal) -> Price:
    """Return a price that is worse for a buyer by the slippage, rounded down to the tick but never below the price."""
    bps = SLIPPAGE_BPS_DEFAULT if slippage_bps is None else slippage_bps
    worse = multiply(price, add(Decimal(1), multiply(Decimal(bps), _BASIS_POINT)))
    return Price(max(price, subtract(worse, EXACT.remainder(worse, tick))))
