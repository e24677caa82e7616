"""The check before a deploy as a value: what was looked at, and what could not be handled."""

from __future__ import annotations

import pytest

import migrations
from contracts.vocabulary import Side
from operations.access.errors import Trouble
from operations.deployment.check_deploy import check
from tests.order_saga.core.sample import approved, reserved
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


async def test_a_database_that_is_not_there_is_trouble() -> None:
    """Named, and without its password."""
    with pytest.raises(Trouble, match=r"the database at 127\.0\.0\.1:1") as failed:
        await check(f"postgresql://a:{'x' * 9}@127.0.0.1:1/c")
    assert "x" * 9 not in str(failed.value)
