"""Each peer completes every order of a load, which is checked; a peer that dies ends the run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import asyncpg
import psutil
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer

from contracts.codec import decode
from contracts.orders import OrderStatusChanged
from contracts.topics import ORDERS_EVENTS
from contracts.vocabulary import OrderStatus
from tests.bench.peers import (
    Contender,
    PeerError,
    Place,
    check_rows,
    running_dbos,
    running_lean,
    running_naive,
    topics_of,
)
from tests.local_stack.support import eventually
from tests.support.infrastructure import Database, Infrastructure

ORDERS, IN_FLIGHT = 20, 10
STATUSES = [OrderStatus.PENDING, OrderStatus.CONFIRMED, OrderStatus.PROCESSING, OrderStatus.COMPLETED]


class Running(Protocol):
    """One of `running_lean`, `running_naive`, `running_dbos`."""

    def __call__(self, place: Place) -> AbstractAsyncContextManager[Contender]: ...  # noqa: D102


@pytest_asyncio.fixture
async def place(
    infrastructure: Infrastructure, database: Database, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[Place]:
    """Make the topics for peers."""
    await infrastructure.create_topics(topics_of(topic_prefix, "lean", "naive"))
    yield Place(infrastructure.kafka_bootstrap_servers, database.url, topic_prefix, tmp_path)


@pytest.mark.parametrize(("name", "running"), [("lean", running_lean), ("naive", running_naive)])
async def test_every_version_of_every_order_is_told(place: Place, name: str, running: Running) -> None:
    """A load ends when all its orders have ended, each with the events from PENDING to COMPLETED and its fill."""
    async with running(place) as peer:
        result = await peer.run(ORDERS, IN_FLIGHT)
    assert result.orders == ORDERS
    told = await _told(place, f"{place.prefix}{name}.{ORDERS_EVENTS.name}")
    assert len(told) == ORDERS
    for versions in told.values():
        assert [1, 2, 3, 4] == [event.version for event in versions]
        assert STATUSES == [event.status for event in versions]
        assert versions[-1].order.filled_quantity == versions[-1].order.quantity
        assert versions[-1].order.average_price == 20


async def test_dbos_completes_every_order(place: Place) -> None:
    """One process runs several rounds, and its database is dropped afterwards."""
    async with running_dbos(place) as peer:
        for _ in range(2):
            assert (await peer.run(ORDERS, IN_FLIGHT)).orders == ORDERS
        [[pid]] = peer.pids.values()
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(("running", "rows"), [(running_lean, "lean.orders"), (running_dbos, "orders")])
async def test_a_peer_that_dies_ends_the_run(place: Place, running: Running, rows: str) -> None:
    """The run ends at once when a peer dies, instead of waiting for its orders."""
    async with running(place) as peer:
        await peer.run(1, 1)
        carrying = asyncio.create_task(peer.run(100_000, IN_FLIGHT))
        await eventually(lambda: _has_more_than_one(peer.database_url, rows))
        os.kill(peer.pids[peer.name][0], signal.SIGKILL)
        with pytest.raises(PeerError, match=f"{peer.name} died"):
            await asyncio.wait_for(carrying, 30)


async def test_an_order_that_is_not_completed_is_a_fault(place: Place) -> None:
    """An order whose row is not completed is an error, even if its events say so."""
    await check_rows("it", place.database_url, "SELECT 'COMPLETED', 2", {"COMPLETED": 2})
    with pytest.raises(
        PeerError, match=r"asked for \{'COMPLETED': 2\}; in its table are \{'PENDING': 1, 'COMPLETED': 1\}"
    ):
        await check_rows("it", place.database_url, "VALUES ('PENDING', 1), ('COMPLETED', 1)", {"COMPLETED": 2})


async def _has_more_than_one(database_url: str, rows: str) -> bool:
    connection = await asyncpg.connect(database_url)
    try:
        return bool(await connection.fetchval(f"SELECT count(*) > 1 FROM {rows}"))
    finally:
        await connection.close()


async def _told(place: Place, topic: str) -> dict[object, list[OrderStatusChanged]]:
    """Read all events of a topic, by order."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=place.kafka_bootstrap_servers,
        group_id=None,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=20,
    )
    told: dict[object, list[OrderStatusChanged]] = defaultdict(list)
    async with asyncio.timeout(30), consumer:
        while sum(map(len, told.values())) < 4 * ORDERS:
            record = await consumer.getone()
            event = decode(dict(record.headers)["ce_type"].decode(), record.value)
            assert isinstance(event, OrderStatusChanged)
            told[event.order_id].append(event)
    return told
