"""The prices of a conditional order: what fires it, the worst one it can pay, and the bound of its slippage. Pure.

A price p fires a LIMIT_BUY and a TAKE_PROFIT_BUY at p <= level, a STOP_LOSS_BUY at p >= level, and each SELL the other
way round. A BRACKET has the level of a limit order and that of a stop loss. No earlier price and no equality is needed:
one comparison decides. `trail` judges trailing stops.
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


def levels(order_type: OrderType, terms: Terms, *, triggered: bool) -> tuple[Level, ...]:
    """Name the levels that an order waits for next, each of which fires it; its limit comes first.

    A bracket has two, on both sides of the market. A trailing stop has none, since its level follows the market, and
    neither has a market order, which waits for an opening.
    """
    buy, kind = order_type.side is Side.BUY, order_type.kind
    limit, trigger = terms.limit_price, terms.trigger_price
    found: tuple[Level, ...] = ()
    if limit is not None and (triggered or kind in {OrderKind.LIMIT, OrderKind.BRACKET}):
        found += (Level(limit, is_up=not buy),)
    if trigger is not None and not triggered:
        found += (Level(trigger, is_up=buy is not (kind is OrderKind.TAKE_PROFIT)),)
    return found


def limit_behind(order_type: OrderType, terms: Terms) -> Price | None:
    """Return the limit that an order waits for once its trigger is met, or None for one that fills by its trigger."""
    return None if terms.trigger_price is None or order_type.kind is OrderKind.BRACKET else terms.limit_price


def _bound(order_type: OrderType, terms: Terms) -> Price | None:
    """Return the limit that every fill of an order respects; a bracket has none, since its limit is only a level."""
    return None if order_type.kind is OrderKind.BRACKET else terms.limit_price


def meets_limit(order_type: OrderType, terms: Terms, price: Decimal) -> bool:
    """Tell whether an order may fill at a price: its limit or better, or any price if none bounds it."""
    limit = _bound(order_type, terms)
    if limit is None:
        return True
    return price <= limit if order_type.side is Side.BUY else price >= limit


def worst_price(saga: Saga) -> Price:
    """Return the price that a conditional order is judged and, if it buys, holds at; it needs the quote.

    A BUY never pays more. A SELL holds its quantity; for it this is the price at which its notional is judged.
    """
    terms, quote = saga.terms, saga.progress.quote
    assert saga.order_type is not None and terms is not None and quote is not None  # noqa: S101, PT018 - see callers
    limit = _bound(saga.order_type, terms)
    if limit is not None:
        return limit
    start = terms.trigger_price
    if saga.order_type.kind is OrderKind.MARKET:
        if quote.is_open:
            return quote.price  # it fills there, or not at all
        start = saga.price
    if start is None:
        began_at = saga.progress.trails_from or quote.price
        start = trail_level(saga.side, began_at, terms.trail_amount, terms.trail_bps, quote.tick)
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
    if saga.terms is None or saga.order_type is None or saga.side is Side.BUY:
        return None
    if saga.price is None or saga.slippage_bps is None:
        return _bound(saga.order_type, saga.terms)
    return Price(multiply(saga.price, subtract(Decimal(1), multiply(Decimal(saga.slippage_bps), _BASIS_POINT))))


def _slipped(price: Price, slippage_bps: int | None, tick: Decimal) -> Price:
    """Return a price that is worse for a buyer by the slippage, rounded down to the tick but never below the price."""
    bps = SLIPPAGE_BPS_DEFAULT if slippage_bps is None else slippage_bps
    worse = multiply(price, add(Decimal(1), multiply(Decimal(bps), _BASIS_POINT)))
    return Price(max(price, subtract(worse, EXACT.remainder(worse, tick))))
