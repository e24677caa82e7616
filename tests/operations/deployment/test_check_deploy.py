"""The check before a deploy as a value: what was looked at, and what could not be handled."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

import migrations
from contracts.decimals import Price
from contracts.vocabulary import OrderType, Side, TimeInForce
from operations.access.errors import Trouble
from operations.deployment.check_deploy import check
from order_saga.core.saga import Triggered
from tests.order_saga.core.sample import approved, reserved
from tests.order_saga.worker.test_market import clock, rests
from tests.support.order_database import OrderDatabase


async def test_a_system_of_this_version_passes(db: OrderDatabase) -> None:
    """Progress is told for each thing, and the report counts them."""
    await db.begin(1)
    seen: list[int] = []
    report = await check(db.url, lambda looked_at: seen.append(sum(looked_at.values())))
    assert report.passes
    assert (migrations.known()[-1], 1) == (report.schema.revision, report.looked_at["orders"])
    assert list(range(1, sum(report.looked_at.values()) + 1)) == seen


async def test_what_can_not_be_handled_is_counted_with_examples(db: OrderDatabase) -> None:
    """At most three of each reason, the most frequent reason first."""
    for number in range(1, 6):
        await db.begin(number, Side.BUY, approved(), reserved())
    await db.execute("UPDATE orders.orders SET progress = '{}'")
    await db.execute("UPDATE orders.orders SET phase = 'VALIDATING', status = 'PENDING' WHERE order_id::text LIKE '%1'")
    report = await check(db.url)
    assert not report.passes
    assert [("orders", 4, 3), ("orders", 1, 1)] == [(p.what, p.count, len(p.examples)) for p in report.problems]
    assert "it waits for nothing in phase SETTLING" == report.problems[0].reason


async def test_of_orders_that_rest_one_of_each_shape_is_tried(db: OrderDatabase) -> None:
    """Three types, one of them with an expiry too, and a triggered one: five orders stand for any number."""
    in_a_week = await clock(db) + timedelta(days=7)
    for number in range(1, 5):
        await rests(db, OrderType.LIMIT_SELL, number)
    await rests(db, OrderType.LIMIT_SELL, 5, time_in_force=TimeInForce.GTD, expires_at=in_a_week)
    for number in range(6, 9):
        await rests(db, OrderType.STOP_LOSS_SELL, number)
    await db.tell(Triggered(UUID(int=8), 9, Price("47000")))
    for number in range(9, 12):
        await rests(db, OrderType.BRACKET_SELL, number)
    report = await check(db.url)
    assert [] == report.problems
    assert 5 == report.looked_at["orders"]


async def test_a_resting_order_that_can_not_be_loaded_is_named(db: OrderDatabase) -> None:
    """A shape of its own, however many others rest."""
    await rests(db, OrderType.LIMIT_SELL, 1)
    unknown = await rests(db, OrderType.LIMIT_SELL, 2)
    await db.execute('UPDATE orders.orders SET terms = \'{"time_in_force": "AON"}\' WHERE order_id = $1', unknown)
    [problem] = (await check(db.url)).problems
    assert ("orders", 1, [str(unknown)]) == (problem.what, problem.count, problem.examples)


async def test_a_database_that_is_not_there_is_trouble() -> None:
    """Named, and without its password."""
    with pytest.raises(Trouble, match=r"the database at 127\.0\.0\.1:1") as failed:
        await check(f"postgresql://a:{'x' * 9}@127.0.0.1:1/c")
    assert "x" * 9 not in str(failed.value)
