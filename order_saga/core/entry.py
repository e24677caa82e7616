"""How a conditional order meets the market: refused on the approval, filled on entry, or laid to rest. Pure.

It is judged twice. On the approval, by the quote alone and before any money is held; and when its money is held, by the
newer of the quote and the asset's mark. After that only ticks count which are newer than what it was judged by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from contracts.decimals import plain_text
from contracts.vocabulary import OrderKind, OrderStatus, ReasonCode
from order_saga.core.commands import fill_sums, sums_at
from order_saga.core.levels import PRICE_MAX, level, meets_limit, sale_floor, slippage_cap, worst_price
from order_saga.core.money import uncarried
from order_saga.core.phases import Entry
from order_saga.core.saga import Fire, Mark, Outcome, Quote, Rest, Saga
from order_saga.core.trail import trail_level

if TYPE_CHECKING:
    from datetime import datetime

    from contracts.terms import Terms


class Entered(NamedTuple):
    """What becomes of an order that reaches the market, and what is fixed by that."""

    entry: Entry
    fire: Fire | None = None
    rest: Rest | None = None
    triggered: bool = False


def objection_to_terms(saga: Saga, terms: Terms, quote: Quote, now: datetime) -> tuple[ReasonCode, str | None] | None:
    """Say why an approved conditional order is not let in at its quote, or None."""
    assert saga.order_type is not None  # noqa: S101 - an order with terms has a type
    if terms.expires_at is not None and terms.expires_at <= now:
        return ReasonCode.EXPIRED, f"expires_at {terms.expires_at.isoformat()} has come"
    waits_for = level(saga.order_type, terms, triggered=False)
    met = waits_for is not None and waits_for.is_reached(quote.price)
    if saga.order_type.kind is OrderKind.LIMIT:
        if not (met and quote.is_open) and not terms.time_in_force.rests:
            why = f"does not meet the limit {terms.limit_price:f}" if quote.is_open else "is not traded at now"
            return ReasonCode.UNFILLED, f"the quote {quote.price:f} {why}"
    elif met:
        return ReasonCode.WOULD_TRIGGER_IMMEDIATELY, f"the quote {quote.price:f} meets the trigger already"
    if waits_for is None:
        start = trail_level(saga.side, quote.price, terms.trail_amount, terms.trail_bps, quote.tick)
        if not 0 < start <= PRICE_MAX:
            return (
                ReasonCode.PRICE_OUT_OF_RANGE,
                f"the trail leads from the quote {quote.price:f} to {plain_text(start)}",
            )
    return uncarried(sums_at(saga, worst_price(saga)))


def newest(quote: Quote, mark: Mark | None, *, quote_is_fresh: bool) -> Mark:
    """Give the newer of an asset's mark and an order's quote: no order is judged by a price from before its quote."""
    if mark is not None and mark.sequence >= quote.sequence:
        return mark
    return Mark(quote.sequence, quote.price, quote.as_of, live=quote_is_fresh and quote.is_open)


def enter(saga: Saga, mark: Mark | None, now: datetime, *, quote_is_fresh: bool) -> Entered:
    """Decide what becomes of an order that may reach the market now, its money being held."""
    terms, quote, order_type = saga.terms, saga.progress.quote, saga.order_type
    if terms is None or not terms.time_in_force.rests:
        return Entered(Entry.FILLS)  # at the quote, whose age the next phase judges
    assert quote is not None and order_type is not None  # noqa: S101, PT018 - an order enters after its approval
    if terms.expires_at is not None and terms.expires_at <= now:
        return Entered(Entry.ENDS)
    triggered = saga.progress.triggered
    waits_for = level(order_type, terms, triggered=triggered)
    quote_counts = quote_is_fresh and quote.is_open
    first = saga.progress.rest is None
    if first and quote_counts and order_type.kind is OrderKind.LIMIT and meets_limit(order_type, terms, quote.price):
        return Entered(Entry.FILLS)
    mark = newest(quote, mark, quote_is_fresh=quote_is_fresh)
    if waits_for is not None and mark.live and waits_for.is_reached(mark.price):
        if meets_limit(order_type, terms, mark.price):
            return Entered(Entry.FILLS, fire=Fire(mark.sequence, mark.price, mark.as_of))
        triggered = True
    # A tick that could not fire counts once more when it is repeated; a trailing stop takes its start from it.
    counted = mark.live or waits_for is None
    watermark = mark.price if waits_for is None else None
    rest = Rest(mark.sequence if counted else max(0, mark.sequence - 1), now, watermark)
    return Entered(Entry.RESTS, rest=rest, triggered=triggered)


def unfillable(saga: Saga) -> Outcome | None:
    """Say how a fired order ends that can't be filled at its tick, or None."""
    fire = saga.progress.fire
    if fire is None:
        return None
    cap, floor = slippage_cap(saga, fire.watermark), sale_floor(saga)
    if cap is not None and fire.price > cap:
        most = plain_text(cap)
        reason = f"the price {fire.price:f} of sequence {fire.sequence} is above {most}, the most that the order pays"
        return Outcome(OrderStatus.FAILED, ReasonCode.SLIPPAGE_EXCEEDED, reason)
    if floor is not None and fire.price < floor:
        reason = f"the price {fire.price:f} of sequence {fire.sequence} is below the limit {floor:f}"
        return Outcome(OrderStatus.FAILED, ReasonCode.SLIPPAGE_EXCEEDED, reason)
    found = uncarried(fill_sums(saga))
    return None if found is None else Outcome(OrderStatus.FAILED, *found)
