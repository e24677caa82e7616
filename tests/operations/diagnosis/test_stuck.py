"""What does not move, as values: the cause, the reason and the advice for each, and groups by cause."""

from __future__ import annotations

import re
from uuid import UUID

from contracts.vocabulary import OrderType, Side
from operations.diagnosis.locks import held_rows
from operations.diagnosis.stuck import Group, Item, count, find, silent_feeds
from operations.diagnosis.why import cause, why
from operations.repair import pauses
from operations.repair.runs import Run
from order_saga.core.saga import Participant
from tests.order_saga.core.sample import park
from tests.order_saga.worker.test_market import FIRE, MARK, rests
from tests.support.order_database import CLAIM, YESTERDAY, OrderDatabase


async def found(db: OrderDatabase) -> list[Item]:
    """Find everything that has not moved for an hour."""
    return [item async for item in find(db.engine, 3600, await pauses.current(db.engine))]


async def test_each_item_has_a_cause_a_reason_and_an_advice(db: OrderDatabase) -> None:
    """Orders and claims, the oldest first; what moves is not among them."""
    parked = await db.begin(1, Side.BUY, park("a lie"))
    await db.execute(YESTERDAY)
    await db.execute(CLAIM, UUID(int=2))
    await db.begin(3)
    first, second = await found(db)
    assert ("order", parked, "parked: a lie") == (first.row["kind"], first.row["order_id"], first.cause)
    assert first.row["why"].startswith("parked: a lie; 'order-saga resume ")
    assert "order-saga resume" in first.advice
    assert ("claim", "accepted, not seen by the orchestrator") == (second.row["kind"], second.cause)


async def test_groups_count_what_has_one_cause(db: OrderDatabase) -> None:
    """With the oldest, which came first."""
    for number in (1, 2, 3):
        await db.begin(number)
        await db.execute(YESTERDAY)
    groups: dict[str, Group] = {}
    for item in await found(db):
        count(groups, item)
    [(name, group)] = groups.items()
    assert ("waiting for assets", 3, 0, str(UUID(int=1))) == (name, group.orders, group.overdue, group.oldest_id)


async def test_a_pause_explains_what_it_holds_back(db: OrderDatabase) -> None:
    """At once, however young the order is."""
    await pauses.begin(db.engine, Participant.ASSETS, Run("r", "ann"), "new disks")
    await db.begin(1)
    [item] = await found(db)
    assert ("held back: assets is paused", "order-saga unpause assets") == (item.cause, item.advice)


async def test_a_phase_of_a_newer_version_is_explained_too(db: OrderDatabase) -> None:
    """Such an order may need any of those who are paused."""
    await pauses.begin(db.engine, Participant.ASSETS, Run("r", "ann"), "new disks")
    await db.begin(1)
    [item] = await found(db)
    newer, paused = {**item.row, "phase": "NEWER"}, await pauses.current(db.engine)
    assert item.cause == cause(newer, paused).name
    assert item.row["why"] == why(newer, paused)


async def test_an_order_that_rests_is_stuck_only_once_a_tick_has_fired_it(db: OrderDatabase) -> None:
    """However long it rests, and unless the fire is young."""
    order_id = await rests(db, OrderType.LIMIT_BUY)
    await db.execute(YESTERDAY)
    assert [] == await found(db)
    await db.execute(FIRE, order_id, "49000")
    assert [] == await found(db)
    await db.execute("UPDATE orders.resting SET fired_at = fired_at - interval '2 hours'")
    [item] = await found(db)
    assert ("fire", order_id, "fired, not carried out") == (item.row["kind"], item.row["order_id"], item.cause)
    assert "a tick fired it at" in item.row["why"]


async def test_a_pause_holds_no_resting_order_back(db: OrderDatabase) -> None:
    """It needs nobody until a tick fires it."""
    await rests(db, OrderType.LIMIT_BUY)
    await pauses.begin(db.engine, Participant.BALANCE, Run("r", "ann"), "new disks")
    assert [] == await found(db)
    assert 0 == await pauses.wake(db.engine)


async def test_a_silent_feed_is_named_while_orders_rest_on_its_asset(db: OrderDatabase) -> None:
    """Never a price, a fresh one, one that nobody confirms any more; and nothing where no order rests."""
    assert [] == await silent_feeds(db.engine)
    await rests(db, OrderType.LIMIT_BUY)
    [never] = await silent_feeds(db.engine)
    assert "BTC: orders rest, and no price of it has ever been judged" in never
    await db.execute(MARK, 8, "50000", 0.0)
    assert [] == await silent_feeds(db.engine)
    await db.execute("UPDATE orders.marks SET confirmed_at = confirmed_at - interval '5 minutes'")
    [late] = await silent_feeds(db.engine)
    # Five minutes, and what the test has taken since then.
    assert re.search(r"BTC: orders rest, and the price of sequence 8 was confirmed 3\d\d s ago", late)
    await db.execute("UPDATE orders.resting SET live = false")
    assert [] == await silent_feeds(db.engine)


async def test_a_lock_of_somebody_else_is_a_line(db: OrderDatabase) -> None:
    """With the session's pid; without any lock there is no line."""
    await db.begin(1)
    assert [] == (await held_rows(db.engine)).lines
    async with db.engine.connect() as connection:
        await connection.exec_driver_sql("SELECT FROM orders.orders FOR UPDATE")
        [pid] = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalars()
        [line] = (await held_rows(db.engine)).lines
    assert f"pid {pid}) holds locks on orders.orders" in line
