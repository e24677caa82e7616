"""How a conditional order meets the market: refused on the approval, filled on entry, or laid to rest. Pure.

It is judged twice. On the approval, by the quote alone and before any money is held; and when its money is held, by the
newer of the quote and the asset's mark. After that only ticks count which are newer than what it was judged by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from contracts.decimals import plain_text
from contracts.terms import EXPIRES_WITHIN
from contracts.vocabulary import OrderKind, OrderStatus, ReasonCode, TimeInForce
from order_saga.core import money
from order_saga.core.commands import asked_for, fill_sums, sums_at
from order_saga.core.levels import PRICE_MAX, levels, meets_limit, sale_floor, slippage_cap, worst_price
from order_saga.core.money import uncarried
from order_saga.core.phases import Entry
from order_saga.core.saga import Fire, Mark, Outcome, Quote, Rest, Saga
from order_saga.core.trail import trail_level

if TYPE_CHECKING:
    from datetime import datetime

    from contracts.decimals import Price
    from contracts.terms import Terms


class Entered(NamedTuple):
    """What becomes of an order that reaches the market, and what is fixed by that."""

    entry: Entry
    fire: Fire | None = None
    rest: Rest | None = None
    triggered: bool = False
    ends_at: datetime | None = None
    """When it is over with the order, if it can be."""


def objection_to_terms(saga: Saga, terms: Terms, quote: Quote, now: datetime) -> tuple[ReasonCode, str | None] | None:
    """Say why an approved conditional order is not let in at its quote, or None."""
    assert saga.order_type is not None  # noqa: S101 - an order with terms has a type
    if (over := _objection_to_time(saga, terms, quote, now)) is not None:
        return over
    if saga.order_type.kind is OrderKind.MARKET:
        return _objection_to_queue(saga, quote)
    waits_for = levels(saga.order_type, terms, triggered=False)
    met = next((level for level in waits_for if level.is_reached(quote.price)), None)
    if saga.order_type.kind is OrderKind.LIMIT:
        if not (met is not None and quote.is_open) and not terms.time_in_force.rests:
            why = f"does not meet the limit {terms.limit_price:f}" if quote.is_open else "is not traded at now"
            return ReasonCode.UNFILLED, f"the quote {quote.price:f} {why}"
    elif met is not None:
        which = "trigger" if met.price == terms.trigger_price else "limit"
        return ReasonCode.WOULD_TRIGGER_IMMEDIATELY, f"the quote {quote.price:f} meets the {which} already"
    if not waits_for and (trail := trail_out_of_range(saga, quote.price)):
        return ReasonCode.PRICE_OUT_OF_RANGE, trail
    return uncarried_terms(saga)


def trail_out_of_range(saga: Saga, began_at: Price) -> str | None:
    """Say that a trail that begins at this price leads to none at which anything trades, or None."""
    start = trail_start(saga, began_at)
    return None if 0 < start <= PRICE_MAX else f"the trail leads from {began_at:f} to {plain_text(start)}"


def trail_start(saga: Saga, began_at: Price) -> Price:
    """Return the level of a trailing stop whose best price is the one that it begins at."""
    terms, quote = saga.terms, saga.progress.quote
    assert terms is not None and quote is not None  # noqa: S101, PT018 - an order trails after its approval
    return trail_level(saga.side, began_at, terms.trail_amount, terms.trail_bps, quote.tick)


def uncarried_terms(saga: Saga) -> tuple[ReasonCode, str | None] | None:
    """Say why the sums of an order can't be moved at a price that its terms allow, or None."""
    assert saga.order_type is not None and saga.terms is not None  # noqa: S101, PT018 - see callers
    prices = [worst_price(saga)]
    if saga.order_type.kind is OrderKind.BRACKET:  # it may fill by either level
        prices += [level.price for level in levels(saga.order_type, saga.terms, triggered=False)]
    return next((found for price in prices if (found := uncarried(sums_at(saga, price))) is not None), None)


def newest(quote: Quote, mark: Mark | None, *, quote_is_fresh: bool) -> Mark:
    """Give the newer of an asset's mark and an order's quote: no order is judged by a price from before its quote."""
    if mark is not None and mark.sequence >= quote.sequence:
        return mark
    return Mark(quote.sequence, quote.price, quote.as_of, live=quote_is_fresh and quote.is_open)


def _objection_to_time(saga: Saga, terms: Terms, quote: Quote, now: datetime) -> tuple[ReasonCode, str | None] | None:
    if terms.time_in_force is TimeInForce.DAY and quote.session_ends_at is None:
        return ReasonCode.NO_SESSION, f"a DAY order ends with the session, and {saga.asset_id} has no sessions"
    if (ends_at := end_of(saga, now)) is not None and ends_at <= now:
        return ReasonCode.EXPIRED, f"expires_at {ends_at.isoformat()} has come"
    return None


def _objection_to_queue(saga: Saga, quote: Quote) -> tuple[ReasonCode, str | None] | None:
    """Judge a market order that may queue: at its quote as any other one, but while its asset does not trade."""
    if not quote.is_open:
        return uncarried(sums_at(saga, worst_price(saga)))
    asset_id, quantity = asked_for(saga)
    return money.refusal(saga.side, asset_id, quantity, saga.price, saga.slippage_bps or 0, quote)


def end_of(saga: Saga, now: datetime) -> datetime | None:
    """Say when it is over with an order that may reach the market now: its time, its session, or what waits longest."""
    terms, quote = saga.terms, saga.progress.quote
    if terms is None or saga.expires_at is not None:
        return saga.expires_at
    if terms.time_in_force is TimeInForce.DAY:
        return None if quote is None else quote.session_ends_at
    return now + EXPIRES_WITHIN if terms.time_in_force is TimeInForce.GTD else None


def enter(saga: Saga, mark: Mark | None, now: datetime, *, quote_is_fresh: bool) -> Entered:
    """Decide what becomes of an order that may reach the market now, its money being held."""
    terms, quote, order_type = saga.terms, saga.progress.quote, saga.order_type
    if terms is None or not terms.time_in_force.rests:
        return Entered(Entry.FILLS)  # at the quote, whose age the next phase judges
    assert quote is not None and order_type is not None  # noqa: S101, PT018 - an order enters after its approval
    ends_at = end_of(saga, now)
    if ends_at is not None and ends_at <= now:
        return Entered(Entry.ENDS, ends_at=ends_at)
    quote_counts = quote_is_fresh and quote.is_open
    if _fills_at_quote(saga, quote, quote_counts=quote_counts):
        return Entered(Entry.FILLS)
    triggered = saga.progress.triggered
    waits_for = levels(order_type, terms, triggered=triggered)
    mark = newest(quote, mark, quote_is_fresh=quote_is_fresh)
    if order_type.kind is OrderKind.MARKET:
        return _queue(mark, now, ends_at)
    if mark.live and any(level.is_reached(mark.price) for level in waits_for):
        if meets_limit(order_type, terms, mark.price):
            return Entered(Entry.FILLS, fire=Fire(mark.sequence, mark.price, mark.as_of))
        triggered = True
    # A tick that could not fire counts once more when it is repeated; a trailing stop takes its start from it.
    counted = mark.live or not waits_for
    watermark = None if waits_for else mark.price
    rest = Rest(mark.sequence if counted else max(0, mark.sequence - 1), now, watermark)
    return Entered(Entry.RESTS, rest=rest, triggered=triggered, ends_at=ends_at)


def _fills_at_quote(saga: Saga, quote: Quote, *, quote_counts: bool) -> bool:
    """Tell whether an order fills at its quote. If it is a market order, the next phase judges the age of that."""
    terms, order_type = saga.terms, saga.order_type
    assert terms is not None and order_type is not None  # noqa: S101, PT018 - see `enter`
    if order_type.kind is OrderKind.MARKET:
        return quote.is_open
    first = saga.progress.rest is None
    return first and quote_counts and order_type.kind is OrderKind.LIMIT and meets_limit(order_type, terms, quote.price)


def _queue(mark: Mark, now: datetime, ends_at: datetime | None) -> Entered:
    """Let a market order whose asset did not trade fire at the opening, if that came on its way in, or wait for it.

    A tick of the opening that came too late to fire counts once more when it is repeated.
    """
    if mark.live:
        return Entered(Entry.FILLS, fire=Fire(mark.sequence, mark.price, mark.as_of))
    return Entered(Entry.QUEUES, rest=Rest(max(0, mark.sequence - 1), now), ends_at=ends_at)


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
        least = f"the limit {floor:f}" if saga.price is None else f"{plain_text(floor)}, the least that the order takes"
        reason = f"the price {fire.price:f} of sequence {fire.sequence} is below {least}"
        return Outcome(OrderStatus.FAILED, ReasonCode.SLIPPAGE_EXCEEDED, reason)
    found = uncarried(fill_sums(saga))
    return None if found is None else Outcome(OrderStatus.FAILED, *found)
