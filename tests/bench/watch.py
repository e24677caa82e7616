"""Waits for single orders: publishes messages, and says when an order's events of a status were read back."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.amends import AmendState
from contracts.envelope import Outgoing
from contracts.topics import ORDERS_EVENTS
from contracts.vocabulary import OrderStatus
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.settings import KafkaSettings
from tests.bench.load import LoadError, Seen

PATIENCE_S = 60.0


class Watch:
    """The events of a system's orders, each noted at the moment when it was read. All times are `time.time()`."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._awaited: dict[tuple[uuid.UUID, OrderStatus], asyncio.Future[float]] = {}
        self._amends: dict[tuple[uuid.UUID, str], asyncio.Future[float]] = {}

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish messages; raises `LoadError` when the broker does not take them."""
        if not await self._publisher.publish(messages):
            raise LoadError("the broker did not take the load")

    def expect(self, order_id: uuid.UUID, status: OrderStatus) -> asyncio.Future[float]:
        """Return the moment when an order's event of this status is read; to be called before what causes it.

        It raises `LoadError` when the order ends otherwise, `TimeoutError` after `PATIENCE_S`.
        """
        moment: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._awaited[order_id, status] = moment
        return moment

    def expect_amend(self, order_id: uuid.UUID, amend_id: str) -> asyncio.Future[float]:
        """Return the moment when the event is read that an amend is applied. It raises `LoadError` if it is refused."""
        moment: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._amends[order_id, amend_id] = moment
        return moment

    def see(self, event: Seen, now: float) -> None:
        """Take note of an event."""
        amend = None if event.order is None else event.order.amend
        if amend is not None and amend.state is not AmendState.PENDING:
            moment = self._amends.pop((event.order_id, amend.amend_id), None)
            if moment is not None and amend.state is AmendState.APPLIED:
                moment.set_result(now)
            elif moment is not None:
                moment.set_exception(LoadError(f"an amend was refused: {amend.reason}"))
        if (moment := self._awaited.pop((event.order_id, event.status), None)) is not None and not moment.done():
            moment.set_result(now)
        if event.status.terminal:
            for key in [key for key in self._awaited if key[0] == event.order_id]:
                error = LoadError(f"an order that was to be {key[1]} ended as {event.status}: {event.reason_code}")
                self._awaited.pop(key).set_exception(error)


@asynccontextmanager
async def watching(bootstrap_servers: str, prefix: str) -> AsyncIterator[Watch]:
    """Read the events of a system from now on."""
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap_servers, kafka_topic_prefix=prefix)
    publisher = Publisher(settings, client_id="bench")
    events = prefix + ORDERS_EVENTS.name
    consumer = AIOKafkaConsumer(events, bootstrap_servers=bootstrap_servers, group_id=None, fetch_max_wait_ms=5)
    await consumer.start()
    watch = Watch(publisher)
    reading: asyncio.Task[None] | None = None
    try:
        await consumer.seek_to_end()
        reading = asyncio.create_task(_read(consumer, watch))
        yield watch
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await consumer.stop()
        await publisher.stop()


async def _read(consumer: AIOKafkaConsumer, watch: Watch) -> None:
    read = msgspec.json.Decoder(Seen).decode
    while True:
        batches: dict[TopicPartition, Sequence[Any]] = await consumer.getmany(timeout_ms=100)
        now = time.time()
        for record in (record for records in batches.values() for record in records):
            watch.see(read(record.value), now)
