"""The scanner on PostgreSQL: which orders it wakes when a participant answers again, and how rarely it probes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from order_saga.core.saga import Step
from order_saga.worker import store, timers
from order_saga.worker.circuit_breaker import OPENS_AFTER, CircuitBreaker
from order_saga.worker.timers import PROBE_EVERY_S, PROBES, ROUND_MAX, run_timers
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.lookback import EVER_S
from tests.support.infrastructure import Database

SOON = timedelta(seconds=290)
"""A time that no scan of these tests lasts: what is due by then is due soon."""


class WokenOrders:
    """A stand-in for the batch process: records the orders that the scanner woke, and which of them may probe."""

    def __init__(self, owner: asyncpg.Connection) -> None:
        self.woken: list[UUID] = []
        self.probes: list[UUID] = []
        self._owner = owner

    async def run(self, messages: Sequence[Any]) -> None:
        """Record the orders and let them wait again."""
        ids = [message.message.order_id for message in messages]
        self.woken += ids
        self.probes += [message.message.order_id for message in messages if message.message.probe]
        await self._owner.execute("UPDATE orders.orders SET due_at = now() + $2 WHERE order_id = ANY($1)", ids, SOON)


@pytest_asyncio.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Connect as the owner."""
    connection = await asyncpg.connect(database.url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    """Connect as the orchestrator does."""
    one = create_async_engine(parse_database_url(database.url_of("orchestrator")))
    yield one
    await one.dispose()


async def _waiting(owner: asyncpg.Connection, number: int, due_in_s: float) -> None:
    """Store `number` orders that wait for their refunds."""
    await owner.execute(
        """
        INSERT INTO orders.orders (order_id, user_id, phase, status, version, cancel_requested, filled_quantity, fee,
            progress, due_at, history_seq, created_at, updated_at)
        SELECT gen_random_uuid(), 'alice', 'REFUNDING', 'PENDING', 1, false, 0, 0, '{}',
            now() + make_interval(secs => $2), 1, now(), now()
        FROM generate_series(1, $1)""",
        number,
        due_in_s,
    )


async def _scan(engine: AsyncEngine, worker: WokenOrders, breaker: CircuitBreaker, *, woken: int) -> float:
    """Scan until `woken` orders were woken, and 0.2 s longer; return how long it took, in seconds."""
    stopping, began = asyncio.Event(), time.monotonic()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(run_timers(engine, worker, breaker, stopping, interval_s=0.01))  # type: ignore[arg-type]  # a stand-in
        while len(worker.woken) < woken:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        stopping.set()
    return time.monotonic() - began


def _open() -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(OPENS_AFTER):
        breaker.asked_again(Step.REFUND)
    return breaker


async def test_all_waiting_orders_are_woken_once_page_by_page(
    owner: asyncpg.Connection, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waiting order is woken exactly once, however many there are: one that is due soon is left alone."""
    monkeypatch.setattr(timers, "WAKE_MAX", 70)
    monkeypatch.setattr(store, "_WAKE", store._WAKE.replace("interval '5 s'", "interval '300 s'"))  # noqa: SLF001 - see SOON
    await _waiting(owner, 1000, due_in_s=600)
    breaker, worker = _open(), WokenOrders(owner)
    breaker.answered(Step.REFUND)
    await _scan(engine, worker, breaker, woken=1000)
    assert (1000, 1000) == (len(worker.woken), len(set(worker.woken)))


async def test_a_silent_participant_gets_a_few_probes_a_second_however_many_wait(
    owner: asyncpg.Connection, engine: AsyncEngine
) -> None:
    """While a participant is silent, one round a second asks it; other due orders are postponed."""
    await _waiting(owner, ROUND_MAX * 3, due_in_s=-1)
    worker = WokenOrders(owner)
    took_s = await _scan(engine, worker, _open(), woken=ROUND_MAX * 3)
    assert PROBES <= len(worker.probes) <= PROBES * (1 + took_s / PROBE_EVERY_S)


async def test_a_scan_reads_what_is_due_and_not_what_waits(owner: asyncpg.Connection) -> None:
    """A scan reads no row that is not due: it runs four times a second, while a hundred thousand orders may wait."""
    await _waiting(owner, 5000, due_in_s=60)
    await owner.execute("ANALYZE orders.orders")
    plan = json.loads(await owner.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {store._DUE}", ROUND_MAX, EVER_S))  # noqa: SLF001
    assert plan[0]["Plan"]["Shared Hit Blocks"] < 50
