"""What a run of ticks does to the trailing orders of one side of an asset, without looking at any order. Pure.

A trailing order's watermark is the best price since it rests: the highest for a SELL, the lowest for a BUY. So it
depends on the order only by `from_sequence`. Three facts follow.

1. Watermarks form steps. All orders with `from_sequence` in (upto of the step before, upto] have the same one, and
   later steps have worse prices. The mark itself is the last step.
2. Of two orders with the same trail, the older never has the worse watermark, so it never fires later. Each trail is
   a queue, and when a step does not fire, no later one does.
3. An order of a step fires at the first tick that is far enough from the step's price or from the best price of the
   run up to that tick. For the first, only records of the worst price matter; for the second, only records of the
   distance from the best price. Lowest and highest price are not enough: 100, 110, 104 fires a trail of 5, and
   100, 104, 110 does not.

Every tick moves watermarks, also one that may not fire. Otherwise a younger order could have the better watermark.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import gt, lt
from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.decimals import multiply, subtract
from contracts.vocabulary import Side
from order_saga.core.trail import trail_reached
from order_saga.triggers.feed import Point

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from decimal import Decimal

    from order_saga.triggers.feed import Tick


class Step(NamedTuple):
    """One step of the watermarks of a side; a row of `orders.peaks`. `set_by`: the sequence that set the price."""

    upto: int
    price: Decimal
    set_by: int


class Trail(NamedTuple):
    """What one queue of trailing orders has in common. Exactly one of `amount` and `bps` is given."""

    side: Side
    amount: Decimal | None
    bps: int | None


class Front(NamedTuple):
    """All orders of a queue up to `upto` fire at `point`, but for those of an earlier front."""

    upto: int
    point: Point
    watermark: Decimal
    """Their best price up to that point, the point included."""


class Moved(NamedTuple):
    """How the rows of `orders.peaks` change."""

    gone: list[int]
    put: list[Step]


BEATS: Final[Mapping[Side, Callable[[Decimal, Decimal], bool]]] = {Side.SELL: gt, Side.BUY: lt}
"""Of each side: whether a price is a strictly better watermark than another."""


def better(side: Side, price: Decimal, other: Decimal) -> bool:
    """Tell whether a price is a strictly better watermark than another."""
    return BEATS[side](price, other)


class Conflated:
    """The summary of a run of ticks that says when any trailing order of a side fires: Fact 3."""

    def __init__(self, side: Side, points: Sequence[Point]) -> None:
        self._side = side
        self._worst: list[Point] = []
        """Records of the worst price among the points that fire."""
        self._far: list[tuple[Point, Decimal]] = []
        """Records of the distance from the best price so far, which is stored beside each."""
        self._far_by_rate: list[tuple[Point, Decimal]] = []
        """The same, as a share of the best price."""
        self._best: list[Point] = []
        """Records of the best price among all points."""
        beats = BEATS[side]
        worst = best = farthest = rate = None
        for point in points:
            price = point.price
            if best is None or beats(price, best):
                best = price
                self._best.append(point)
            if not point.fires:
                continue
            if worst is None or beats(worst, price):
                worst = price
                self._worst.append(point)
            distance = _distance(side, best, price)
            if farthest is None or distance > farthest:
                farthest = distance
                self._far.append((point, best))
            if rate is None or _is_greater((distance, best), rate):
                rate = distance, best
                self._far_by_rate.append((point, best))

    def first(self, trail: Trail, watermark: Decimal) -> Point | None:
        """Return the point that fires an order with this trail, whose watermark before the run is given."""
        _, amount, bps = trail
        side, worst = self._side, self._worst
        far = self._far if bps is None else self._far_by_rate

        def by_step(point: Point) -> bool:
            return trail_reached(side, point.price, watermark, amount, bps)

        def by_run(record: tuple[Point, Decimal]) -> bool:
            return trail_reached(side, record[0].price, record[1], amount, bps)

        place = bisect_left(worst, True, key=by_step)  # noqa: FBT003 - False sorts before True
        found = [worst[place]] if place < len(worst) else []
        place = bisect_left(far, True, key=by_run)  # noqa: FBT003 - the same
        found += [far[place][0]] if place < len(far) else []
        return min(found, default=None)

    def watermark(self, before: Decimal, sequence: int) -> Decimal:
        """Return the watermark at a point of the run, of an order whose watermark before the run is given."""
        place = bisect_left(self._best, sequence + 1, key=lambda point: point.sequence)
        best = self._best[place - 1].price if place else before
        return best if better(self._side, best, before) else before


def _is_greater(rate: tuple[Decimal, Decimal], other: tuple[Decimal, Decimal]) -> bool:
    """Compare two fractions with denominators above zero. Most have the same one, and need no product."""
    (above, below), (others_above, others_below) = rate, other
    if below is others_below:
        return above > others_above
    return multiply(above, others_below) > multiply(others_above, below)


def _distance(side: Side, best: Decimal, price: Decimal) -> Decimal:
    return subtract(best, price) if side is Side.SELL else subtract(price, best)


class SidePath:
    """The path of one side of an asset: its steps before the path, and the ticks.

    Steps beyond the mark are quotes from which orders rest and whose tick has not come. When the path passes such a
    quote without its tick, the quote moves all watermarks, at its sequence, and fires nothing.
    """

    def __init__(self, side: Side, steps: Sequence[Step], mark: Tick | None, points: Sequence[Point]) -> None:
        """Take the steps in ascending order, and at least one point."""
        self._side = side
        at = -1 if mark is None else mark.sequence
        self._old = [step for step in steps if step.upto <= at]
        self._mark = [] if mark is None else [Step(at, mark.price, at)]
        self._quotes = [step for step in steps if at < step.upto <= points[-1].sequence]
        ticks = {point.sequence for point in points}
        missed = [Point(step.upto, step.price, fires=False) for step in self._quotes if step.upto not in ticks]
        self._points = sorted([*points, *missed]) if missed else points
        self._run = Conflated(side, self._points)
        self._runs: dict[int, tuple[Decimal, Conflated]] = {}

    def fronts(self, trail: Trail, oldest: int) -> Iterator[Front]:
        """Find what fires of a queue none of whose orders rests from before `oldest`; the oldest come first."""
        for step in (*self._old, *self._mark, *self._quotes):
            if step.upto < oldest:
                continue
            price, run = (step.price, self._run) if step not in self._quotes else self._run_after(step.upto)
            point = run.first(trail, price)
            if point is None:
                return
            yield Front(step.upto, point, run.watermark(price, point.sequence))

    def _run_after(self, sequence: int) -> tuple[Decimal, Conflated]:
        """Return the price of a point of the path, and the run of the points after it."""
        if sequence not in self._runs:
            place = bisect_left(self._points, sequence, key=lambda point: point.sequence)
            run = Conflated(self._side, self._points[place + 1 :])
            self._runs[sequence] = self._points[place].price, run
        return self._runs[sequence]

    def moved(self) -> Moved:
        """Return how the steps change when the last point becomes the mark. Steps that keep their price are left out.

        From the youngest to the oldest, each step gets the best price since, and goes if that is no better than what
        the steps after it have.
        """
        stack = _Stack(self._side, self._points[-1])
        quotes = {step.upto for step in self._quotes}
        for point in reversed(self._points):
            stack.see(point.price, point.sequence)
            if point.sequence in quotes:
                stack.step(point.sequence, is_row=True)
        for step in self._mark:
            stack.see(step.price, step.set_by)
            stack.step(step.upto, is_row=False)
        for step in reversed(self._old):
            if better(self._side, step.price, stack.price):
                break  # neither this one nor any older one changes
            stack.see(step.price, step.set_by)
            stack.step(step.upto, is_row=True)
        return Moved(stack.gone, stack.put)


class _Stack:
    """Builds steps backwards from the new mark."""

    def __init__(self, side: Side, mark: Point) -> None:
        self._side = side
        self._top = mark.price
        self.price, self._set_by = mark.price, mark.sequence
        self.gone: list[int] = []
        self.put: list[Step] = []

    def see(self, price: Decimal, set_by: int) -> None:
        """Go back to an earlier price. Of equal prices the earlier one has set the watermark."""
        if not better(self._side, self.price, price):
            self.price, self._set_by = price, set_by

    def step(self, upto: int, *, is_row: bool) -> None:
        """End a step here, if its price is better than that of the step after it."""
        if better(self._side, self.price, self._top):
            self.put.append(Step(upto, self.price, self._set_by))
            self._top = self.price
        elif is_row:
            self.gone.append(upto)
