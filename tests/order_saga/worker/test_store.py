"""Two members of the orchestrator at the same orders: the clock, and who gets a client order id."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

import pytest
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncEngine

from order_saga.core.saga import Phase, Saga
from order_saga.worker import store
from saga_kit.messaging.batch import Received
from saga_kit.runtime.errors import Contention
from saga_kit.runtime.transactions import Transaction, begin
from tests.operations.retention.archiving import orchestrator, request_named
from tests.order_saga.core.sample import cancel
from tests.order_saga.core.test_fold import of
from tests.participants.support import somebody_waits
from tests.support.order_database import OrderDatabase

A, B = UUID(int=1), UUID(int=2)
Begins = Callable[[Transaction, UUID], Awaitable[None]]


async def _cancel(tx: Transaction, order_id: UUID) -> None:
    await orchestrator().handle(tx, [Received(of(cancel(), order_id))])


async def test_the_clock_is_read_after_the_last_lock(db: OrderDatabase) -> None:
    """A batch that waited for an order's lock judges deadlines by the time when it got it, not when it asked."""
    order_id = await db.begin(1)
    async with asyncio.TaskGroup() as group, begin(db.engine) as first:
        await store.take(first, [order_id])
        waits = group.create_task(_taken_at(db.engine, order_id))
        await somebody_waits(db.engine)
        released: datetime = await first.fetchval("SELECT clock_timestamp()")
    assert waits.result() > released


async def _taken_at(engine: AsyncEngine, order_id: UUID) -> datetime:
    async with begin(engine) as tx:
        return (await store.take(tx, [order_id])).now


async def test_of_two_members_that_store_one_client_order_id_the_second_runs_again(db: OrderDatabase) -> None:
    """The second writes nothing, and its next try ends its order as the duplicate that it is."""
    async with asyncio.TaskGroup() as group, begin(db.engine) as first:
        await request_named(first, A)
        await first.flush()
        second = group.create_task(_store(db, B))
        await somebody_waits(db.engine)
    assert isinstance(second.result(), Contention)
    assert [A] == [row["order_id"] for row in await db.rows("SELECT order_id FROM orders.orders")]
    assert await _store(db, B) is None
    rows = await db.rows("SELECT order_id, reason_code FROM orders.orders ORDER BY 1")
    assert [(A, None), (B, "DUPLICATE_CLIENT_ORDER_ID")] == [tuple(row.values()) for row in rows]


@pytest.mark.parametrize("begun_by", [request_named, _cancel])
async def test_of_two_members_that_begin_one_order_the_second_runs_again(db: OrderDatabase, begun_by: Begins) -> None:
    """It finds no row to lock, and then an order that is there already: a lost race, and no fault of its message."""
    async with asyncio.TaskGroup() as group, begin(db.engine) as first:
        await begun_by(first, A)
        await first.flush()
        second = group.create_task(_store(db, A))
        await somebody_waits(db.engine)
    assert isinstance(second.result(), Contention)
    assert await _store(db, A) is None
    [known] = await db.rows("SELECT history_seq FROM orders.orders")
    [told] = await db.rows("SELECT sum(jsonb_array_length(entries::jsonb)) AS lines FROM orders.history")
    assert known["history_seq"] == told["lines"]


async def test_a_stub_that_takes_a_name_which_another_order_holds_is_contention(db: OrderDatabase) -> None:
    """An order that a cancel began takes its client id by an update: it is too late in the same way as an insert."""
    async with begin(db.engine) as tx:
        [now] = [row[0] for row in await tx.fetch("SELECT clock_timestamp()")]
    stub = Saga(A, "alice", Phase.NEW, now, now, client_order_id="mine")
    holder = structs.replace(stub, order_id=B)
    async with begin(db.engine) as tx:
        store._create(tx, [holder, structs.replace(stub, client_order_id=None)])  # noqa: SLF001 - the statement counts
    columns = (store._ID, *store._ASKED_FOR, *store._MOVING)  # noqa: SLF001
    with pytest.raises(Contention, match="another member stored, or archived, the same client order id"):
        async with begin(db.engine) as tx:
            store._change(tx, store._UPDATE_ALL, columns, [stub])  # noqa: SLF001


async def _store(db: OrderDatabase, order_id: UUID) -> Contention | None:
    try:
        async with begin(db.engine) as tx:
            await request_named(tx, order_id)
    except Contention as late:
        return late
    return None
