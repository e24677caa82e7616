"""Which ticks count: late, repeated, stale, in a halt, missing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from contracts.assets import Trading
from order_saga.triggers.feed import Admitted, Point, Tick, admit, judge_age

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
AGE_MAX = timedelta(seconds=30)
MICROSECOND = timedelta(microseconds=1)


def _tick(sequence: int, price: int = 100, *, live: bool = True, trading: Trading = Trading.OPEN) -> Tick:
    return Tick(sequence, Decimal(price), NOW, NOW, NOW, trading, live)


def _ignored(admitted: Admitted) -> dict[str, int]:
    return {why: number for why, number in admitted.ignored.items() if number}


@pytest.mark.parametrize(
    ("appended", "confirmed", "live"),
    [
        (timedelta(), timedelta(), True),
        (AGE_MAX, timedelta(), True),
        (AGE_MAX + MICROSECOND, timedelta(), False),
        (timedelta(), AGE_MAX, True),
        (timedelta(), AGE_MAX + MICROSECOND, False),
        (AGE_MAX + MICROSECOND, -timedelta(hours=1), False),
    ],
)
def test_a_tick_is_live_for_thirty_seconds(appended: timedelta, confirmed: timedelta, live: bool) -> None:  # noqa: FBT001
    """The older of the broker's time and the source's confirmation counts, to the microsecond."""
    tick = Tick(1, Decimal(1), NOW, NOW - confirmed, NOW - appended, Trading.OPEN)
    assert live == judge_age(tick, NOW, AGE_MAX).live
    assert not judge_age(tick._replace(trading=Trading.HALTED), NOW, AGE_MAX).live
    assert not judge_age(tick._replace(trading=Trading.CLOSED), NOW, AGE_MAX).live


def test_a_late_tick_does_nothing_and_is_counted() -> None:
    """A smaller sequence than one that came before it is late, in the same batch or in a later one."""
    one = admit(_tick(5), [_tick(4), _tick(8, 101), _tick(7, 90)])
    assert [Point(8, Decimal(101), fires=True)] == one.path
    assert {"late": 2} == _ignored(one)
    assert _tick(8, 101) == one.mark


def test_a_repetition_renews_the_confirmation_only() -> None:
    """The mark's price, as-of and trading state stay; a repetition of a live mark is a duplicate."""
    later = NOW + timedelta(seconds=9)
    again = _tick(5, 77)._replace(confirmed_at=later, appended_at=later)
    one = admit(_tick(5), [again])
    assert [] == one.path
    assert {"duplicate": 1} == _ignored(one)
    assert _tick(5)._replace(confirmed_at=later, appended_at=later) == one.mark


def test_a_live_repetition_of_a_tick_that_came_too_late_is_judged() -> None:
    """It fires at the mark's own sequence and price, once."""
    one = admit(_tick(5, live=False), [_tick(5), _tick(5)])
    assert [Point(5, Decimal(100), fires=True)] == one.path
    assert {"duplicate": 1} == _ignored(one)
    assert one.mark is not None
    assert one.mark.live


def test_of_a_tick_and_its_repetition_in_one_batch_one_live_one_is_enough() -> None:
    """A stale tick whose heartbeat is fresh fires, as if the two came apart; not when a newer tick is between them."""
    assert [Point(5, Decimal(100), fires=True)] == admit(None, [_tick(5, live=False), _tick(5)]).path
    apart = admit(None, [_tick(5, live=False), _tick(6), _tick(5)])
    assert [Point(5, Decimal(100), fires=False), Point(6, Decimal(100), fires=True)] == apart.path
    assert {"late": 1, "stale": 1} == _ignored(apart)


def test_a_missing_tick_is_counted_and_not_waited_for() -> None:
    """A jump within reason is a gap; a feed that numbers by microseconds has none."""
    one = admit(_tick(5), [_tick(6), _tick(8), _tick(9), _tick(1_009), _tick(5_000_000)])
    assert [6, 8, 9, 1_009, 5_000_000] == [point.sequence for point in one.path]
    assert one.gaps == 2
    assert not admit(None, [_tick(7)]).gaps
