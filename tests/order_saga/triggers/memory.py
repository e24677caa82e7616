"""The pure engine on rows in memory: it finds candidates as the store's SQL does, by looking at every row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from contracts.vocabulary import Side
from order_saga.triggers.book import Book, Hit, Row, Span
from order_saga.triggers.feed import Point, Tick, admit
from order_saga.triggers.path import Step, Trail
from tests.order_saga.triggers.oracle import Order, Outcome


class Memory:
    """One asset: what the tables hold of it."""

    def __init__(self) -> None:
        self.mark: Tick | None = None
        self.steps: dict[Side, list[Step]] = {side: [] for side in Side}
        self.trails: dict[Trail, int] = {}
        self.rows: dict[int, Row] = {}
        self.expires: dict[int, datetime | None] = {}
        self.outcomes: dict[int, Outcome] = {}

    def rest(self, number: int, order: Order, quote: tuple[int, Decimal] | None, now: datetime) -> None:
        """Do what the accepting transaction does."""
        row = Row(
            UUID(int=number), 1, "A", order.side, order.queued, order.up, order.down, order.limit,
            order.amount, order.bps, order.start, now,
        )  # fmt: skip
        self.rows[number], self.expires[number] = row, order.expires_at
        self.outcomes[number] = Outcome(None, None, None)
        if order.watermark is not None or quote is not None:
            self.join(row)
        if quote is not None and quote[0] not in {step.upto for step in self.steps[order.side]}:
            self.steps[order.side] = sorted([*self.steps[order.side], Step(quote[0], quote[1], quote[0])])

    def join(self, row: Row) -> None:
        """Put a trailing order into its queue."""
        trail = Trail(row.side, row.trail_amount, row.trail_bps)
        self.trails[trail] = min(self.trails.get(trail, row.start), row.start)

    def batch(self, ticks: Sequence[Tick], now: datetime, limit: int) -> None:
        """Judge ticks of one asset, whose ages are judged, in rounds of `limit`."""
        while not self._round(ticks, now, limit):
            pass

    def _round(self, ticks: Sequence[Tick], now: datetime, limit: int) -> bool:
        admitted = admit(self.mark, ticks)
        book = Book(self.mark, self.steps, self.trails, admitted.path)
        living = [
            row for number, row in self.rows.items() if (end := self.expires[number]) is None or end > now
        ]  # fmt: skip
        found = list(_found(living, book, limit))
        for row in found:
            hit = book.judge(row)
            assert hit is not None, "every row that is found fires or is triggered, so every round gets further"
            self._hit(hit)
        if len(found) >= limit:
            return False
        for side, moved in book.moved().items():
            kept = {step.upto: step for step in self.steps[side] if step.upto not in moved.gone}
            self.steps[side] = sorted((kept | {step.upto: step for step in moved.put}).values())
        self.trails |= {trail: max(self.trails[trail], oldest) for trail, oldest in book.oldest().items()}
        self.mark = admitted.mark
        return True

    def _hit(self, hit: Hit) -> None:
        number = hit.row.order_id.int
        triggered = self.outcomes[number].triggered if hit.triggered is None else hit.triggered.sequence
        fired = hit.fired
        self.outcomes[number] = Outcome(fired and fired.sequence, fired and fired.price, triggered, hit.watermark)
        if fired is not None:
            del self.rows[number]
            return
        up, down, limit = hit.levels
        assert triggered is not None
        self.rows[number] = hit.row._replace(up_price=up, down_price=down, limit_price=limit, start=triggered)

    def watermark(self, side: Side, start: int) -> Decimal:
        """Return the watermark of a trailing order that rests from `start`, as of the mark."""
        at = [] if self.mark is None else [Step(self.mark.sequence, self.mark.price, 0)]
        return next(step.price for step in sorted([*self.steps[side], *at]) if step.upto >= start)


def _found(rows: Iterable[Row], book: Book, limit: int) -> list[Row]:
    rows = list(rows)
    found: list[Row] = []
    if (span := book.levels.span) is not None:
        waiting = [row for row in rows if _is_reached(row, span, book.levels.extremes)]
        found += sorted(waiting, key=lambda row: (row.entered_at, row.order_id))[:limit]
    for trail, upto in book.probes:
        queue = [row for row in rows if Trail(row.side, row.trail_amount, row.trail_bps) == trail and row.start <= upto]
        found += sorted(queue, key=lambda row: row.start)[:limit]
    return found


def _is_reached(row: Row, span: Span, points: Sequence[Point]) -> bool:
    if row.queued:
        return row.start < span.last
    later = [point.price for point in points if point.sequence > row.start]
    up, down = row.up_price, row.down_price
    is_up = up is not None and up <= span.high and (row.start < span.first or any(price >= up for price in later))
    is_down = (
        down is not None and down >= span.low and (row.start < span.first or any(price <= down for price in later))
    )
    return is_up or is_down
