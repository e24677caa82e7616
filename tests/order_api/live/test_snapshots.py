"""Snapshots: when very many come back at once, few statements run, and ordinary requests keep their connections."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from contracts.orders import Order
from order_api.live.marks import mark_of
from order_api.live.snapshots import AT_ONCE, OVERLAP, USERS_MAX, Snapshots
from order_api.live.store import PAGE, Asked, Shown
from order_api.orders.description.examples import accepted_order

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Database:
    """Answers when it is told to, and counts what it is asked at a time."""

    def __init__(self, orders: Sequence[Order] = ()) -> None:
        self.orders = [*orders]
        self.asked: list[Sequence[Asked]] = []
        self.running = self.most = 0
        self.may_answer = asyncio.Event()

    async def show(self, asked: Sequence[Asked]) -> list[Shown]:
        """Show the same to each."""
        self.asked.append(asked)
        self.running += 1
        self.most = max(self.most, self.running)
        await self.may_answer.wait()
        await asyncio.sleep(0)
        self.running -= 1
        return [Shown(self.orders, NOW, whole=True) for _ in asked]


async def test_two_statements_run_at_a_time_each_for_a_few_users() -> None:
    """A thousand clients come back after a deploy: everybody is served, and the pool has room for others."""
    database = Database()
    snapshots = Snapshots(database)
    coming = [asyncio.create_task(snapshots.of_user(f"user-{number}")) for number in range(1_000)]
    await asyncio.sleep(0)
    database.may_answer.set()
    assert {(mark_of(NOW), False)} == {(one.mark, one.gap) for one in await asyncio.gather(*coming)}
    assert (AT_ONCE, USERS_MAX) == (database.most, max(len(asked) for asked in database.asked))
    assert 1_000 == len({one.user_id for asked in database.asked for one in asked})


async def test_a_user_with_thousands_of_orders_holds_up_nobody() -> None:
    """They are written down a few at a time: whatever else is ready has its turn in between."""
    database, turns = Database([accepted_order()] * 2_000), 0
    database.may_answer.set()
    coming = asyncio.create_task(Snapshots(database).of_user("alice"))
    while not coming.done():
        turns += 1
        await asyncio.sleep(0)
    assert 2_000 == len((await coming).orders)
    assert turns >= 2_000 / PAGE


async def test_more_is_read_than_since_the_mark() -> None:
    """A transaction is as old as its first statement, and is seen when it commits."""
    database = Database()
    database.may_answer.set()
    await Snapshots(database).of_user("alice", mark_of(NOW))
    assert [[Asked("alice", NOW - OVERLAP)]] == database.asked


async def test_a_mark_ahead_of_the_database_is_a_gap() -> None:
    """It was given by another database, or by this one before it was restored."""
    database = Database()
    database.may_answer.set()
    snapshots = Snapshots(database)
    assert [False, True] == [(await snapshots.of_user("alice", mark_of(NOW) + later)).gap for later in (0, 1)]
