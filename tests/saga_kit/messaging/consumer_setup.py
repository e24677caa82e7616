"""What the consumer's tests share: two topics, a worker, and members of its group."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.envelope import Envelope, write_headers
from saga_kit.messaging.batch import BatchProcess
from saga_kit.messaging.consumer import Consumer
from saga_kit.messaging.publisher import Publisher, RawMessage
from saga_kit.runtime.telemetry import KitMetrics
from tests.saga_kit.support import FakePublisher, Schema, Worker, kit_settings, process

PARTITIONS = 4
"""Of each topic."""
ENVELOPE = Envelope("1", "Item", "/test", datetime(2026, 1, 1, tzinfo=UTC))
HEADERS: list[tuple[str, bytes | None]] = [*write_headers(ENVELOPE)]


@dataclass
class ConsumerSetup:
    """Two topics, a worker, and all that a consumer needs."""

    schema: Schema
    address: str
    prefix: str
    publisher: Publisher
    worker: Worker
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[Exception] = field(default_factory=list)
    metrics: KitMetrics = field(default_factory=KitMetrics)

    async def send(self, *items: tuple[str, int], topic: str = "t", **changes: Any) -> None:
        """Publish items as JSON."""
        raw = [
            RawMessage(self.prefix + topic, order.encode(), json.dumps([order, value]).encode(), HEADERS)
            for order, value in items
        ]
        assert await self.publisher.publish_raw([one._replace(**changes) for one in raw])

    @asynccontextmanager
    async def consuming(
        self, batch: BatchProcess[Any] | None = None, stalled_s: float = 60
    ) -> AsyncIterator[Consumer[Any]]:
        """Run a member of the group."""
        batch = batch or process(self.schema, self.worker, FakePublisher(), stopping=self.stopping)
        consumer = Consumer(
            kit_settings(self.schema.url, self.address, self.prefix),
            group="g",
            handler=self.worker,
            process=batch,
            publisher=self.publisher,
            metrics=self.metrics,
            fail=self.failures.append,
            stalled_s=stalled_s,
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    def pause_in_the_next_batch(self) -> tuple[asyncio.Event, asyncio.Event]:
        """Have the worker wait in its transaction; return what tells that it is there, and what lets it go on."""
        entered, leave = asyncio.Event(), asyncio.Event()
        handle = self.worker.handle

        async def slow(tx: Any, messages: Any) -> Any:
            entered.set()
            await leave.wait()
            return await handle(tx, messages)

        self.worker.handle = slow  # type: ignore[method-assign]  # the test's own pause
        return entered, leave

    async def done(self) -> set[tuple[str, int]]:
        """Read the committed rows."""
        return {(key, value) for key, value in await self.schema.rows("SELECT key, value FROM {s}.done")}

    async def done_is(self, expected: set[tuple[str, int]]) -> None:
        """Wait until exactly these rows are committed."""
        async with asyncio.timeout(60):
            while await self.done() != expected:
                await asyncio.sleep(0.02)

    async def committed(self) -> int:
        """Return the sum of the group's committed offsets."""
        reader = AIOKafkaConsumer(bootstrap_servers=self.address, group_id=f"{self.prefix}g", enable_auto_commit=False)
        await reader.start()
        try:
            return sum(
                [await reader.committed(TopicPartition(self.prefix + t, p)) or 0 for t in ("t", "u") for p in range(4)]
            )
        finally:
            await reader.stop()
