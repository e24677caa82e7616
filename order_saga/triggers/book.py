"""Judges resting orders against the path of their asset: which of them fire, at which tick. Pure.

`Book` says which rows must be looked at (`levels`, `probes`), judges each row that is found, and says what becomes of
the asset's steps and trails when all of them are judged.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from contracts.vocabulary import Side
from order_saga.triggers.path import BEATS, Front, Moved, SidePath, Step, Trail, better

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal
    from uuid import UUID

    from order_saga.triggers.feed import Point, Tick


class Row(NamedTuple):
    """What the engine reads of a row of `orders.resting`."""

    order_id: UUID
    revision: int
    asset_id: str
    side: Side
    queued: bool
    up_price: Decimal | None
    down_price: Decimal | None
    limit_price: Decimal | None
    trail_amount: Decimal | None
    trail_bps: int | None
    start: int
    """Only ticks after it count: `from_sequence`, or the tick that triggered it."""
    entered_at: datetime


class Hit(NamedTuple):
    """What the path does to a row: it fires, or is triggered, or both, one after the other."""

    row: Row
    kind: str
    fired: Point | None
    triggered: Point | None = None
    watermark: Decimal | None = None
    """Of a trailing order that fires: its best price up to that point."""

    @property
    def levels(self) -> tuple[Decimal | None, Decimal | None, Decimal | None]:
        """Return the row's level upwards, downwards and its limit from now on: when triggered, it is a limit order."""
        row = self.row
        if self.triggered is None:
            return row.up_price, row.down_price, row.limit_price
        return (None, row.limit_price, None) if row.side is Side.BUY else (row.limit_price, None, None)

    @property
    def place(self) -> tuple[object, ...]:
        """Sort by price, then time: the nearest level first. It decides only who is executed first."""
        row = self.row
        point = self.fired or self.triggered
        up, down = (row.up_price if self.kind == UP else None), (row.down_price if self.kind == DOWN else None)
        near = up if up is not None else -down if down is not None else 0
        return row.asset_id, point, self.kind, near, row.entered_at, row.order_id.int


UP, DOWN, TRAIL, QUEUED = "up", "down", "trail", "queued"
"""What fires an order."""


class Span(NamedTuple):
    """What must be known of the points that fire, to find the rows whose level they reach."""

    low: Decimal
    high: Decimal
    first: int
    last: int


class Levels:
    """Judges rows with a level, and queued ones, against the points that fire."""

    def __init__(self, points: Sequence[Point]) -> None:
        """Take the path in ascending order."""
        self.points = [point for point in points if point.fires]
        self._rises = _records(self.points, Side.SELL)
        self._falls = _records(self.points, Side.BUY)[::-1]
        """Records of the highest price, and of the lowest; both in the order of their prices."""
        self._highs = [point.price for point in self._rises]
        self._lows = [point.price for point in self._falls]

    @property
    def span(self) -> Span | None:
        """Return the extremes of the points; None when none fires."""
        if not self.points:
            return None
        return Span(self._lows[0], self._highs[-1], self.points[0].sequence, self.points[-1].sequence)

    @property
    def extremes(self) -> list[Point]:
        """List the points than which none later is higher, or none lower: one of them reaches what any point does."""
        later = self.points[::-1]
        return sorted({*_records(later, Side.SELL), *_records(later, Side.BUY)})

    def judge(self, row: Row) -> Hit | None:
        """Find the first point after the row's start that fires or triggers it."""
        if row.queued:
            point = next((point for point in self.points if point.sequence > row.start), None)
            return None if point is None else Hit(row, QUEUED, point)
        reached = self._first(row.start, row.up_price, row.down_price)
        if reached is None:
            return None
        kind = UP if row.up_price is not None and reached.price >= row.up_price else DOWN
        if row.limit_price is None or not better(row.side, row.limit_price, reached.price):
            return Hit(row, kind, reached)
        triggered = Hit(row, kind, None, reached)
        up, down, _ = triggered.levels
        return triggered._replace(fired=self._first(reached.sequence, up, down))

    def _first(self, start: int, up: Decimal | None, down: Decimal | None) -> Point | None:
        """Find the first point after `start` at `up` or more, or at `down` or less."""
        if self.points and start < self.points[0].sequence:
            return self._first_of_all(up, down)
        for point in self.points[bisect_left(self.points, start + 1, key=lambda point: point.sequence) :]:
            if (up is not None and point.price >= up) or (down is not None and point.price <= down):
                return point
        return None

    def _first_of_all(self, up: Decimal | None, down: Decimal | None) -> Point | None:
        found = []
        if up is not None:
            place = bisect_left(self._highs, up)
            found += self._rises[place : place + 1]
        if down is not None and (place := bisect_right(self._lows, down)):
            found.append(self._falls[place - 1])
        return min(found, default=None)


def _records(points: Sequence[Point], side: Side) -> list[Point]:
    """List the points with a better price than all before: higher for a SELL, lower for a BUY."""
    beats, best, records = BEATS[side], None, []
    for point in points:
        if best is None or beats(point.price, best):
            best = point.price
            records.append(point)
    return records


class Book:
    """One asset's market and the path that is judged against it."""

    def __init__(
        self,
        mark: Tick | None,
        steps: Mapping[Side, Sequence[Step]],
        trails: Mapping[Trail, int],
        path: Sequence[Point],
    ) -> None:
        """Take the asset's mark, its steps in ascending order, its trails with their `oldest`, and a path."""
        self.levels = Levels(path)
        self._paths = {
            side: SidePath(side, steps.get(side, ()), mark, path) for side in {trail.side for trail in trails} if path
        }
        self._fronts: dict[Trail, list[Front]] = {}
        if self.levels.points:
            for trail, oldest in trails.items():
                if fronts := list(self._paths[trail.side].fronts(trail, oldest)):
                    self._fronts[trail] = fronts

    @property
    def probes(self) -> list[tuple[Trail, int]]:
        """List the queues that fire, each with the youngest `from_sequence` that does."""
        return [(trail, fronts[-1].upto) for trail, fronts in self._fronts.items()]

    def judge(self, row: Row) -> Hit | None:
        """Judge a row that was found by `levels.span` or by a probe."""
        if row.trail_amount is None and row.trail_bps is None:
            return self.levels.judge(row)
        fronts = self._fronts.get(Trail(row.side, row.trail_amount, row.trail_bps), [])
        place = bisect_left(fronts, row.start, key=lambda front: front.upto)
        if place == len(fronts):
            return None
        return Hit(row, TRAIL, fronts[place].point, watermark=fronts[place].watermark)

    def moved(self) -> dict[Side, Moved]:
        """Return how the steps of each side with trailing orders change once the path is judged."""
        return {side: path.moved() for side, path in self._paths.items()}

    def oldest(self) -> dict[Trail, int]:
        """Return the queues whose oldest order is younger, once all rows that their probes find have fired."""
        return {trail: upto + 1 for trail, upto in self.probes}
