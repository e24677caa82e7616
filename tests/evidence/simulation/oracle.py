"""The oracle of a simulated market: every tick alone, every order by itself. It shares no code with the engine.

A tick counts when its sequence is newer than the mark's. A repetition of the mark counts if it is live and the mark was
not. An order looks only at ticks after its `start`; it fires at the first live one that meets what it waits for.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, Final, NamedTuple

MAX_AGE: Final = timedelta(seconds=30)


class Seen(NamedTuple):
    """A tick as the trigger engine received it, and whether it was live when it was judged."""

    sequence: int
    price: Fraction
    trading: str
    confirmed: datetime
    live: bool


class Hit(NamedTuple):
    """What ticks have done to an order."""

    fired: tuple[int, Fraction] | None
    triggered: tuple[int, Fraction] | None
    watermark: Fraction | None
    """Of a trailing order that fired."""


@dataclass(frozen=True)
class Waiting:
    """An order that waits for a price. A trailing one has a watermark from the beginning."""

    asset_id: str
    is_sell: bool
    start: int
    up: Fraction | None = None
    down: Fraction | None = None
    limit: Fraction | None = None
    amount: Fraction | None = None
    bps: int | None = None
    watermark: Fraction | None = None
    expires_at: datetime | None = None
    queued: bool = False
    """It waits for the opening: every live price meets it."""
    since: tuple[int, datetime] | None = None

    def after(self, price: Fraction) -> Waiting:
        """Move the watermark, if the price is better."""
        if self.watermark is None:
            return self
        return replace(self, watermark=(max if self.is_sell else min)(self.watermark, price))

    def is_met(self, price: Fraction) -> bool:
        """Tell whether a price meets what the order waits for."""
        if self.queued:
            return True
        if self.watermark is None:
            return (self.up is not None and price >= self.up) or (self.down is not None and price <= self.down)
        away = self.watermark - price if self.is_sell else price - self.watermark
        trail = self.amount if self.amount is not None else self.watermark * Fraction(self.bps or 0, 10_000)
        return away >= trail

    def accepts(self, price: Fraction) -> bool:
        """Tell whether a price is the limit or better."""
        return self.limit is None or (price >= self.limit if self.is_sell else price <= self.limit)

    def triggered(self, sequence: int) -> Waiting:
        """Make a limit order of a stop: its trigger is never tested again."""
        up, down = (self.limit, None) if self.is_sell else (None, self.limit)
        return replace(self, start=sequence, up=up, down=down, limit=None)


@dataclass
class Market:
    """One asset: its mark, the quotes from which trailing orders rest and whose tick has not come, and who waits."""

    mark: Seen | None = None
    quotes: dict[bool, dict[int, Fraction]] = field(default_factory=lambda: {True: {}, False: {}})
    """By whether the orders sell."""
    waiting: dict[Any, Waiting] = field(default_factory=dict)

    def copy(self) -> Market:
        """Make a market that goes its own way."""
        return Market(self.mark, {side: dict(known) for side, known in self.quotes.items()}, dict(self.waiting))

    def rest(self, order_id: Any, order: Waiting) -> None:
        """Let an order wait, from a quote too that is newer than the mark."""
        if order.watermark is not None and (self.mark is None or self.mark.sequence < order.start):
            order = replace(order, watermark=self.quotes[order.is_sell].setdefault(order.start, order.watermark))
        self.waiting[order_id] = order

    def judge(self, ticks: list[Seen], now: datetime) -> dict[Any, Hit]:
        """Judge ticks, one after the other; say what they do."""
        hits: dict[Any, Hit] = {}
        for tick in ticks:
            self._tick(tick, now, hits)
        return hits

    def _tick(self, tick: Seen, now: datetime, hits: dict[Any, Hit]) -> None:
        mark = self.mark
        if mark is not None and tick.sequence < mark.sequence:
            return
        if mark is not None and tick.sequence == mark.sequence:
            revived = tick.live and not mark.live
            confirmed = max(mark.confirmed, tick.confirmed)
            self.mark = mark._replace(confirmed=confirmed, live=mark.live or tick.live)
            if not revived:
                return
            tick = self.mark
        self.mark = tick
        self._pass_quotes(tick.sequence)
        for order_id, order in list(self.waiting.items()):
            if tick.sequence <= order.start:
                continue
            moved = self.waiting[order_id] = order.after(tick.price)
            expired = order.expires_at is not None and order.expires_at <= now
            if tick.live and not expired and moved.is_met(tick.price):
                self._hit(order_id, moved, tick, hits)

    def _pass_quotes(self, sequence: int) -> None:
        """Have quotes whose tick was left out move the watermarks of those that waited already."""
        for is_sell, quotes in self.quotes.items():
            for missed in sorted(one for one in quotes if one <= sequence):
                price = quotes.pop(missed)
                for order_id, order in self.waiting.items():
                    if missed < sequence and order.is_sell is is_sell and order.start < missed:
                        self.waiting[order_id] = order.after(price)

    def _hit(self, order_id: Any, order: Waiting, tick: Seen, hits: dict[Any, Hit]) -> None:
        at, before = (tick.sequence, tick.price), hits.get(order_id)
        if order.accepts(tick.price):
            del self.waiting[order_id]
            hits[order_id] = Hit(at, before and before.triggered, order.watermark)
        else:
            self.waiting[order_id] = order.triggered(tick.sequence)
            hits[order_id] = Hit(None, at, None)


def seen(tick: Any, read_at: datetime) -> Seen:
    """Judge the age of a received tick, by the clock at which the market of its asset was first read."""
    confirmed = min(tick.appended_at, tick.confirmed_at)
    live = tick.trading == "OPEN" and read_at - confirmed <= MAX_AGE
    return Seen(tick.sequence, Fraction(tick.price), str(tick.trading), confirmed, live)


def markets() -> dict[str, Market]:
    """Make markets, each when it is first asked for."""
    return defaultdict(Market)
