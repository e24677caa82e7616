"""Judges conditional orders tick by tick, one order at a time, from what was read on `assets.prices`.

It is as simple as it can be and shares no code with the system. An order fires at the first live tick after the one it
rests from that meets what it waits for. Whether a tick was live depends on when the system judged it. The marks that
were looked at during the run say when at the earliest and at the latest. A tick that may have been too old to fire may
be passed over; it may not fire if it was surely too old.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final, NamedTuple

from tests.evidence.chaos.books import Books, Row
from tests.evidence.chaos.finding import Finding, Findings
from tests.evidence.chaos.story import Point, Rest, Story, number, terms_of

MAX_AGE: Final = timedelta(seconds=30)
PRICE_TICK: Final = Fraction(1, 100)
BPS: Final = 10_000
UNITS: Final = 10**8
"""Units of a price in one of cash."""
UNSURE: Final = "ticks that may have been too old to fire, or were not to"
FEE_RATE: Final = Fraction(10, BPS)
NEVER_YET: Final = datetime.min.replace(tzinfo=UTC)
NEVER: Final = datetime.max.replace(tzinfo=UTC)
Terms = Mapping[str, Any]


class Tick(NamedTuple):
    """A record of `assets.prices`: when its source stood by it, as it says, and since when the broker has it."""

    sequence: int
    price: Fraction
    trading: str
    confirmed_at: datetime
    appended_at: datetime

    @property
    def as_of(self) -> datetime:
        """Return from when on its age counts."""
        return min(self.confirmed_at, self.appended_at)


class Look(NamedTuple):
    """A look at an asset's mark: the database read it after `since` and before `until`.

    A batch of ticks is judged after the mark of the batch before was committed, and before its own mark is. So a tick
    was judged before any look at a mark that is as new, and after the last look at an older mark than the one before.
    """

    sequence: int
    since: datetime
    until: datetime


class Moment(NamedTuple):
    """A tick that counts: when its source stood by it, first and last, and when the system judged it."""

    sequence: int
    price: int
    """In units."""
    is_open: bool
    first: datetime
    last: datetime
    judged_after: datetime
    judged_by: datetime = NEVER

    def __str__(self) -> str:
        """Name the tick."""
        return f"{self.price / UNITS} of {self.sequence}"

    @property
    def surely_fires(self) -> bool:
        """Whether it was young enough even if it was judged as late as can be."""
        return self.is_open and self.judged_by - self.first <= MAX_AGE

    @property
    def may_fire(self) -> bool:
        """Whether it was young enough if it was judged as soon as can be."""
        return self.is_open and self.judged_after - self.last <= MAX_AGE


class Market(NamedTuple):
    """One asset: its ticks that count, in order, and what was told under each sequence."""

    path: list[Moment]
    told: dict[int, Fraction]
    closed: set[int]
    """Sequences under which the asset did not trade."""
    missed: dict[int, Fraction]
    """Prices that an order was quoted and that were never published: they move watermarks if an order rests from
    them."""


def market(ticks: Sequence[Tick], looks: Sequence[Look]) -> Market:
    """Leave out late ticks and repetitions, and find out when each of the others was judged."""
    path: list[Moment] = []
    for tick in ticks:
        price = units(tick.price)
        if not path or tick.sequence > path[-1].sequence:
            is_open = tick.trading == "OPEN"
            path.append(Moment(tick.sequence, price, is_open, tick.as_of, tick.as_of, tick.appended_at))
        elif tick.sequence == path[-1].sequence:
            path[-1] = path[-1]._replace(last=max(path[-1].last, tick.as_of))
    mark, older, at = -1, NEVER_YET, 0
    for place, moment in enumerate(path):
        while at < len(looks) and looks[at].sequence < moment.sequence:
            if looks[at].sequence > mark and at > 0:
                older = looks[at - 1].since
            mark, at = looks[at].sequence, at + 1
        by = looks[at].until if at < len(looks) else NEVER
        path[place] = moment._replace(judged_after=max(moment.judged_after, older), judged_by=by)
    closed = {tick.sequence for tick in ticks if tick.trading != "OPEN"}
    return Market(path, {tick.sequence: tick.price for tick in ticks}, closed, {})


def two_prices(asset_id: str, ticks: Sequence[Tick]) -> Findings:
    """Expect one price and one trading state under each sequence."""
    known: dict[int, tuple[Fraction, str]] = {}
    for tick in ticks:
        said = (tick.price, tick.trading)
        if known.setdefault(tick.sequence, said) != said:
            yield Finding("wire", "assets.prices", f"{asset_id} {tick.sequence} is {known[tick.sequence]} and {said}")


def judge_all(
    books: Books,
    stories: Mapping[str, Story],
    ticks: Mapping[str, Sequence[Tick]],
    looks: Mapping[str, Sequence[Look]],
    seen: Counter[str],
) -> Findings:
    """Judge all conditional orders, each with its asset's ticks; `seen` counts what happened."""
    waiting = {order_id: order for order_id, order in books.orders.items() if terms_of(order)}
    assets: dict[str, Market] = {}
    for asset_id in {order["asset_id"] for order in waiting.values()}:
        assets[asset_id] = market(ticks.get(asset_id, ()), looks.get(asset_id, ()))
        seen[UNSURE] += sum(not tick.surely_fires for tick in assets[asset_id].path)
    for asset_id, told in ticks.items():
        yield from two_prices(asset_id, told)
    for order_id, order in waiting.items():
        rest, asset = stories.get(order_id, Story()).rest, assets[order["asset_id"]]
        if rest is not None and rest.watermark is not None and rest.from_sequence not in asset.told:
            asset.missed[rest.from_sequence] = rest.watermark
    for order_id, order in waiting.items():
        story = stories.get(order_id, Story())
        yield from judge(order_id, order, story, assets[order["asset_id"]], seen)
        yield from held_at_worst(order_id, order, story, books.holds.get(order_id, []))


def judge(order_id: str, order: Row, story: Story, asset: Market, seen: Counter[str]) -> Findings:
    """Expect that a conditional order fired when it had to, and not otherwise."""
    terms = terms_of(order)
    if len(story.fired) > 1:
        yield Finding("trigger", order_id, f"it fired {len(story.fired)} times: {story.fired}")
    for point in (*story.fired, *story.triggered):
        if asset.told.get(point.sequence, point.price) != point.price:
            yield Finding("trigger", order_id, f"{point} is not the price that was published")
    if story.rest is not None and not (story.fired and story.fired[0].on_entry and story.changed_at):
        words = _rested(order, terms, story, story.rest, asset, seen)
    elif story.fired:
        seen["fired on entry"] += 1
        words = _fired_on_entry(order, terms, story, asset)
    else:
        words = _by_quote(order, terms, story, asset)
    yield from (Finding("trigger", order_id, text) for text in words)
    yield from (Finding("trigger", order_id, text) for text in _end(order, terms, story))


# What an order waits for ----------------------------------------------------------------------------------------------


Meets = Callable[[int, int], bool]
"""Whether a price meets what an order waits for, at a watermark; both in units."""


def _waits_for(order: Row, terms: Terms, *, triggered: bool) -> Meets:
    """Say what an order waits for."""
    kind, _, side = order["order_type"].rpartition("_")
    if kind == "TRAILING_STOP":
        amount, bps = units(Fraction(terms.get("trail_amount") or 0)), int(terms.get("trail_bps") or 0)
        if side == "BUY":
            return lambda price, mark: BPS * price >= mark * (BPS + bps) + BPS * amount
        return lambda price, mark: BPS * price <= mark * (BPS - bps) - BPS * amount
    if kind == "BRACKET":
        low, high = sorted(units(Fraction(terms[name])) for name in ("limit_price", "trigger_price"))
        return lambda price, _: price <= low or price >= high
    is_limit = kind == "LIMIT" or triggered
    level = units(Fraction(terms["limit_price" if is_limit else "trigger_price"]))
    if (side == "BUY") is (kind == "STOP_LOSS" and not is_limit):
        return lambda price, _: price >= level
    return lambda price, _: price <= level


def units(price: Fraction) -> int:
    """Count a price in units, exactly: comparing fractions is slow."""
    counted = price * UNITS
    if counted.denominator != 1:
        raise ValueError(f"{price} has too many places")
    return counted.numerator


def within_limit(order: Row, terms: Terms, price: Fraction) -> bool:
    """Tell whether a price is the limit or better; a bracket's limit is only a level, and bounds nothing."""
    if terms.get("limit_price") is None or order["order_type"].startswith("BRACKET"):
        return True
    limit = Fraction(terms["limit_price"])
    return price <= limit if order["order_type"].endswith("_BUY") else price >= limit


# An order that rests --------------------------------------------------------------------------------------------------


def _rested(order: Row, terms: Terms, story: Story, rest: Rest, asset: Market, seen: Counter[str]) -> Iterator[str]:
    fired = story.fired[0] if story.fired else None
    last, left_at = fired.sequence if fired else math.inf, _left_at(terms, story)
    if rest.watermark is not None and asset.told.get(rest.from_sequence, rest.watermark) != rest.watermark:
        yield f"its watermark began at {rest.watermark}, the price was {asset.told[rest.from_sequence]}"
    triggered = _triggered_on_entry(order, terms, rest)
    meets = _waits_for(order, terms, triggered=triggered)
    told = {point.sequence for point in story.triggered}
    for tick, marks in _ticks(order, rest, asset):
        met = [meets(tick.price, mark) for mark in marks]
        if tick.sequence >= last:
            assert fired is not None
            yield from _fire_faults(terms, fired, tick, marks, met, seen)
            return
        if tick.judged_after >= left_at:
            return
        if tick.sequence in told and not triggered:
            triggered, meets = True, _waits_for(order, terms, triggered=True)
            if True not in met or within_limit(order, terms, Fraction(tick.price, UNITS)):
                yield f"it was triggered by {tick}, which does not trigger it"
        elif False not in met and _must_fire(terms, story, rest, tick):
            yield f"{tick} did not fire it, {_what_then(story)}"
            return
    if fired is not None:
        yield f"it was fired by {fired}, which was never published"


def _ticks(order: Row, rest: Rest, asset: Market) -> Iterator[tuple[Moment, list[int]]]:
    """Go through the ticks that count for an order, with what its watermark may be at each of them."""
    begin = bisect_right(asset.path, rest.from_sequence, key=lambda tick: tick.sequence)
    best = min if order["order_type"].endswith("_BUY") else max
    trails = rest.watermark is not None
    marks = [units(rest.watermark or Fraction(0))]
    missed = sorted(one for one in asset.missed if one > rest.from_sequence) if trails else []
    for tick in asset.path[begin:]:
        while missed and missed[0] < tick.sequence:
            price = units(asset.missed[missed.pop(0)])
            marks = list({*marks, *(best(mark, price) for mark in marks)})
        if trails:
            marks = [best(mark, tick.price) for mark in marks]
        yield tick, marks


def _left_at(terms: Terms, story: Story) -> datetime:
    """Return when an order had left its rest, without a tick, at the latest."""
    return NEVER if story.fired else min(story.left_at or NEVER, _expires_at(terms) or NEVER)


def _triggered_on_entry(order: Row, terms: Terms, rest: Rest) -> bool:
    """Tell whether an order with a trigger rests with its limit as its level; a bracket is never triggered."""
    if order["order_type"].startswith("BRACKET"):
        return False
    return terms.get("trigger_price") is not None and rest.level != number(terms["trigger_price"])


def _fire_faults(
    terms: Terms, fired: Point, tick: Moment, marks: list[int], met: list[bool], seen: Counter[str]
) -> Iterator[str]:
    seen["fired by a tick"] += 1
    if tick.sequence != fired.sequence:
        yield f"it was fired by {fired}, which was late or never published"
    elif True not in met:
        yield f"it was fired by {tick}, which does not meet it"
    elif fired.watermark is not None and units(fired.watermark) not in marks:
        yield f"its watermark was {fired.watermark} when it fired, and must be one of {marks}"
    if not tick.may_fire:
        yield f"it was fired by {tick}, which was too old or not open"
    if (expires_at := _expires_at(terms)) is not None and tick.judged_after >= expires_at:
        yield f"it was fired by {tick} after it expired at {expires_at}"


def _must_fire(terms: Terms, story: Story, rest: Rest, tick: Moment) -> bool:
    """Tell whether a tick that meets an order had to fire it: it was live, and the order was at rest."""
    if not tick.surely_fires or tick.judged_by >= (_expires_at(terms) or NEVER):
        return False
    if tick.judged_after <= (story.changed_at or NEVER_YET):
        return False  # it may have met the order as it was before
    if tick.sequence == rest.from_sequence + 1 and rest.at - tick.first > MAX_AGE:
        return False  # the order rests from before this tick only because it was too old then
    return bool(story.fired) or tick.judged_by < (story.left_at or NEVER)


def _expires_at(terms: Terms) -> datetime | None:
    return datetime.fromisoformat(terms["expires_at"]) if terms.get("expires_at") else None


def _what_then(story: Story) -> str:
    return f"{story.fired[0]} did" if story.fired else f"and nothing did; its rest ended at {story.left_at}"


# An order that never rested -------------------------------------------------------------------------------------------


def _fired_on_entry(order: Row, terms: Terms, story: Story, asset: Market) -> Iterator[str]:
    """Expect that it meets the newest price: as it comes in, is amended, or is released."""
    point, trails = story.fired[0], order["order_type"].startswith("TRAILING_STOP")
    triggered = story.rest is not None and (bool(story.triggered) or _triggered_on_entry(order, terms, story.rest))
    meets = not trails and _waits_for(order, terms, triggered=triggered)(units(point.price), 0)
    if not (meets and within_limit(order, terms, point.price)):
        yield f"it was fired on entry by {point}, which does not meet it"
    if point.sequence in asset.closed:
        yield f"it was fired on entry by {point}, when the asset did not trade"


def _by_quote(order: Row, terms: Terms, story: Story, asset: Market) -> Iterator[str]:
    """Expect that the quote alone decided rightly: filled at it, refused for it, or not filled at once."""
    is_limit = order["order_type"].startswith("LIMIT")
    fills = story.quote is not None and is_limit and within_limit(order, terms, story.quote[1])
    if story.quote is not None and asset.told.get(story.quote[0], story.quote[1]) != story.quote[1]:
        yield f"its quote {story.quote} is not the price that was published"
    if order["status"] == "COMPLETED" and story.quote is not None and story.quote[0] in asset.closed:
        yield f"it was filled at the quote {story.quote}, when the asset did not trade"
    if order["status"] == "COMPLETED" and not fills:
        yield f"it was filled without a tick, at the quote {story.quote}"
    if story.quote is None or order["order_type"].startswith("TRAILING_STOP"):
        return
    meets = _waits_for(order, terms, triggered=False)(units(story.quote[1]), 0)
    if order["reason_code"] == "WOULD_TRIGGER_IMMEDIATELY" and not meets:
        yield f"it was refused, and its quote {story.quote} does not trigger it"
    if order["reason_code"] == "UNFILLED" and meets:
        yield f"it was not filled, and its quote {story.quote} meets its limit"


# What it may pay ------------------------------------------------------------------------------------------------------


def _end(order: Row, terms: Terms, story: Story) -> Iterator[str]:
    """Expect that who fired is filled, unless a buy would pay more than it may."""
    if not story.fired:
        return
    point, most = story.fired[0], cap(order, terms, story)
    wanted = "COMPLETED" if most is None or point.price <= most else "FAILED SLIPPAGE_EXCEEDED"
    if (end := " ".join(filter(None, (order["status"], order["reason_code"])))) != wanted:
        yield f"it was fired at {float(point.price)} and ended as {end}, not as {wanted}"


def held_at_worst(order_id: str, order: Row, story: Story, holds: Sequence[Row]) -> Findings:
    """Expect that a conditional buy held its money at the worst price of its terms; more, if that was being changed."""
    if order["order_type"].endswith("_SELL") or story.quote is None:
        return
    gross = Fraction(order["quantity"]) * worst_price(order, terms_of(order), _trails_from(order) or story.quote[1])
    worst = up(gross) + up(gross * FEE_RATE)
    for hold in holds:
        amount, adjusted = Fraction(hold["amount"]), hold.get("revision", 0) > 0 or story.lowers
        if hold["state"] != "TOMBSTONE" and (amount < worst or (amount > worst and not adjusted)):
            yield Finding("money", order_id, f"it held {hold['amount']}, its terms cost up to {float(worst)}")


def up(amount: Fraction) -> Fraction:
    """Round up to the cent."""
    return Fraction(math.ceil(amount * 100), 100)


def worst_price(order: Row, terms: Terms, quote: Fraction) -> Fraction:
    """Work out the most that a buy pays under its terms; its money is held at that price."""
    kind = order["order_type"].rpartition("_")[0]
    if terms.get("limit_price") is not None and kind != "BRACKET":
        return Fraction(terms["limit_price"])
    if kind == "TRAILING_STOP":
        return _slipped(_trail_from(terms, quote), order)
    trigger = Fraction(terms["trigger_price"])
    return trigger if kind == "TAKE_PROFIT" else _slipped(trigger, order)


def cap(order: Row, terms: Terms, story: Story) -> Fraction | None:
    """Work out the most that a buy pays at the tick that fired it; None for a sale."""
    if order["order_type"].endswith("_SELL") or story.quote is None:
        return None
    worst = worst_price(order, terms, _trails_from(order) or story.quote[1])
    watermark = story.fired[0].watermark
    return worst if watermark is None else min(worst, _slipped(_trail_from(terms, watermark), order))


def _trails_from(order: Row) -> Fraction | None:
    """Return the price that the worst price of an amended trailing stop is reckoned from, if there is one."""
    return number(json.loads(order.get("progress") or "{}").get("trails_from"))


def _trail_from(terms: Terms, price: Fraction) -> Fraction:
    trail = number(terms.get("trail_amount")) or price * int(terms.get("trail_bps") or 0) / BPS
    return math.ceil((price + trail) / PRICE_TICK) * PRICE_TICK


def _slipped(price: Fraction, order: Row) -> Fraction:
    worse = price * (BPS + int(order["slippage_bps"])) / BPS
    return max(price, math.floor(worse / PRICE_TICK) * PRICE_TICK)
