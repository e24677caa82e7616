"""Decides which received ticks of an asset count, by their sequence alone. Pure.

Ticks are judged in the order in which they arrive: one that is older than a tick before it is late and does nothing.
A repetition of the newest tick (a heartbeat) renews when it was confirmed. If it is live and the tick was not, the tick
is judged now.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.assets import Trading

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta
    from decimal import Decimal

LATE: Final = "late"
DUPLICATE: Final = "duplicate"
STALE: Final = "stale"
CLOSED: Final = "closed"
"""Why a tick fires nothing. A stale tick, or one of an asset that is not open, moves watermarks all the same."""
GAP_MAX: Final = 1_000
"""A feed whose sequences jump by more than this does not number its ticks one by one, so nothing is missing."""


class Tick(NamedTuple):
    """One `AssetPriceChanged`. `live`: it may fire orders; known once its age is judged."""

    sequence: int
    price: Decimal
    as_of: datetime
    confirmed_at: datetime
    appended_at: datetime
    trading: Trading
    live: bool = False


class Point(NamedTuple):
    """One tick of a path. Every point moves watermarks; those with `fires` fire orders, too."""

    sequence: int
    price: Decimal
    fires: bool


class Admitted(NamedTuple):
    """What received ticks make of a mark."""

    path: list[Point]
    """The ticks that count; the first one has the mark's own sequence when that tick becomes live only now."""
    mark: Tick | None
    """The mark when all of them are judged."""
    ignored: Counter[str]
    gaps: int


def judge_age(tick: Tick, now: datetime, age_max: timedelta) -> Tick:
    """Tell whether a tick is live at `now`, the database's clock: its asset is open, and it was confirmed lately."""
    return Tick(*tick[:-1], live=tick.trading is Trading.OPEN and now - confirmed(tick) <= age_max)


def confirmed(tick: Tick) -> datetime:
    """Return when a source last stood by a tick. The broker's time counts if the source's clock is ahead of it."""
    return min(tick.appended_at, tick.confirmed_at)


def admit(mark: Tick | None, ticks: Iterable[Tick]) -> Admitted:
    """Sort out the ticks of one asset, which come as they arrived and with their age judged."""
    ticks = list(ticks)
    path: list[Point] = []
    ignored: Counter[str] = Counter()
    gaps = 0
    for tick in ticks:
        if mark is not None and tick.sequence < mark.sequence:
            ignored[LATE] += 1
        elif mark is None or tick.sequence > mark.sequence:
            gaps += mark is not None and 1 < tick.sequence - mark.sequence <= GAP_MAX
            path.append(Point(tick.sequence, tick.price, tick.live))
            mark = tick
        else:
            comes_alive = tick.live and not mark.live
            if comes_alive:
                if path and path[-1].sequence == mark.sequence:
                    path.pop()
                path.append(Point(mark.sequence, mark.price, fires=True))
            ignored[DUPLICATE] += not comes_alive
            mark = _renewed(mark, tick)
    if silent := {point.sequence for point in path if not point.fires}:
        of_sequence = {tick.sequence: tick for tick in ticks}
        for sequence in silent:
            ignored[STALE if of_sequence[sequence].trading is Trading.OPEN else CLOSED] += 1
    return Admitted(path, mark, ignored, gaps)


def _renewed(mark: Tick, repetition: Tick) -> Tick:
    """Give a mark the newest confirmation. Its price and trading state belong to its sequence and stay."""
    return mark._replace(
        confirmed_at=max(mark.confirmed_at, repetition.confirmed_at),
        appended_at=max(mark.appended_at, repetition.appended_at),
        live=mark.live or repetition.live,
    )
