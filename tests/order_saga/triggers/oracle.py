"""The oracle: judges every tick alone and every order by itself, with a running watermark each. Slow and plain.

Nothing here knows of batches, steps, queues or records. It shares with the engine only the names of its values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from contracts.vocabulary import Side


class Outcome(NamedTuple):
    """What became of an order: the tick that fired it, and the tick that triggered it before that."""

    fired: int | None
    price: Decimal | None
    triggered: int | None
    watermark: Decimal | None = None
    """Of a trailing order that fired: its best price until then."""


@dataclass
class Order:
    """A resting order. A trailing one begins with the price of the tick or quote that it rests from."""

    side: Side
    start: int
    up: Decimal | None = None
    down: Decimal | None = None
    limit: Decimal | None = None
    amount: Decimal | None = None
    bps: int | None = None
    watermark: Decimal | None = None
    expires_at: datetime | None = None
    queued: bool = False
    triggered: int | None = None

    def ratchet(self, price: Decimal) -> None:
        """Move the watermark, if the price is better."""
        if self.watermark is not None:
            self.watermark = (max if self.side is Side.SELL else min)(self.watermark, price)

    def reached(self, price: Decimal) -> bool:
        """Tell whether a price meets the condition that the order waits for."""
        if self.watermark is not None:
            away = self.watermark - price if self.side is Side.SELL else price - self.watermark
            return away >= self.amount if self.amount is not None else away * 10_000 >= self.watermark * (self.bps or 0)
        crossed = (self.up is not None and price >= self.up) or (self.down is not None and price <= self.down)
        return self.queued or crossed

    def acceptable(self, price: Decimal) -> bool:
        """Tell whether a price is the limit or better."""
        return self.limit is None or (price <= self.limit if self.side is Side.BUY else price >= self.limit)


@dataclass
class Oracle:
    """One asset: its mark, the quotes that no tick has come for, its resting orders, and what became of the others."""

    mark: tuple[int, Decimal] | None = None
    mark_live: bool = False
    quotes: dict[Side, dict[int, Decimal]] = field(default_factory=lambda: {side: {} for side in Side})
    resting: dict[int, Order] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def rest(self, number: int, order: Order, quote: tuple[int, Decimal] | None = None) -> None:
        """Let an order rest; `quote`: a trailing one rests from a quote that is newer than the mark."""
        if quote is not None:
            order.watermark = self.quotes[order.side].setdefault(*quote)
        self.resting[number] = order
        self.outcomes[number] = Outcome(None, None, None)

    def tick(self, sequence: int, price: Decimal, now: datetime, *, live: bool) -> None:
        """Judge one tick, or one repetition of the mark."""
        if self.mark is not None and sequence <= self.mark[0]:
            if sequence < self.mark[0] or self.mark_live or not live:
                return
            price = self.mark[1]
        for side, quotes in self.quotes.items():
            for missed in sorted(number for number in quotes if number <= sequence):
                quote = quotes.pop(missed)
                for order in self.resting.values():
                    if missed < sequence and order.side is side and order.start < missed:
                        order.ratchet(quote)
        self.mark, self.mark_live = (sequence, price), live
        for number, order in list(self.resting.items()):
            if sequence <= order.start:
                continue
            order.ratchet(price)
            if live and (order.expires_at is None or order.expires_at > now) and order.reached(price):
                self._hit(number, order, sequence, price)

    def _hit(self, number: int, order: Order, sequence: int, price: Decimal) -> None:
        if order.acceptable(price):
            del self.resting[number]
            self.outcomes[number] = Outcome(sequence, price, order.triggered, order.watermark)
            return
        order.triggered = sequence
        self.outcomes[number] = Outcome(None, None, sequence)
        order.up, order.down = (None, order.limit) if order.side is Side.BUY else (order.limit, None)
        order.limit = None
