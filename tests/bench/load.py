"""Asks for orders on Kafka with a bounded number in flight, and times each until the event that it was completed."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.codec import outgoing
from contracts.decimals import Quantity
from contracts.envelope import Outgoing
from contracts.orders import OrderRequested
from contracts.topics import ORDERS_EVENTS, ORDERS_REQUESTS
from contracts.vocabulary import OrderStatus, OrderType
from saga_kit.publisher import Publisher
from saga_kit.settings import KafkaSettings

DEADLINE_S = 300.0
WAVE = 100


class Ended(msgspec.Struct):
    """The two fields of an event that the clock needs."""

    order_id: uuid.UUID
    status: OrderStatus


@dataclass(frozen=True)
class Result:
    """What one loop carried."""

    orders: int
    orders_per_s: float
    p50_ms: float
    p99_ms: float


def summary(took_s: list[float], elapsed_s: float) -> Result:
    """Sum up the orders of a round by how long each took and how long it was until the last had ended."""
    took_s = sorted(took_s)
    median, slow = took_s[len(took_s) // 2], took_s[int(len(took_s) * 0.99)]
    return Result(len(took_s), len(took_s) / elapsed_s, median * 1e3, slow * 1e3)


class Load:
    """Buys for bob and alice in turn, a small amount each."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._servers = bootstrap_servers

    async def run(
        self, orders: int, in_flight: int, requests: str = ORDERS_REQUESTS.name, events: str = ORDERS_EVENTS.name
    ) -> Result:
        """Run one round to its end; topics with their prefix.

        Raises `TimeoutError` when orders are missing then, `RuntimeError` when some were not completed.
        """
        settings = KafkaSettings(kafka_bootstrap_servers=self._servers, kafka_topic_prefix="")
        publisher = Publisher(settings, client_id="bench")
        consumer = AIOKafkaConsumer(events, bootstrap_servers=self._servers, group_id=None, fetch_max_wait_ms=5)
        await consumer.start()
        await consumer.seek_to_end()
        asked: dict[uuid.UUID, float] = {}
        took: list[float] = []
        ended: Counter[OrderStatus] = Counter()
        free = asyncio.Semaphore(in_flight)
        began = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
                group.create_task(self._ask(publisher, requests, orders, min(WAVE, -(-in_flight // 10)), asked, free))
                group.create_task(self._follow(consumer, orders, asked, took, ended, free))
            elapsed_s = time.monotonic() - began
        finally:
            await consumer.stop()
            await publisher.stop()
        if ended.total() != ended[OrderStatus.COMPLETED]:
            raise RuntimeError(f"orders of the load ended as {dict(ended)}")
        return summary(took, elapsed_s)

    async def _ask(
        self,
        publisher: Publisher,
        topic: str,
        orders: int,
        together: int,
        asked: dict[uuid.UUID, float],
        free: asyncio.Semaphore,
    ) -> None:
        for start in range(0, orders, together):
            wave = min(together, orders - start)
            for _ in range(wave):
                await free.acquire()
            messages = [_request(topic, start + number) for number in range(wave)]
            now = time.monotonic()
            asked.update((uuid.UUID(message.key), now) for message in messages)
            if not await publisher.publish(messages):
                raise RuntimeError("the broker did not take the load")

    async def _follow(
        self,
        consumer: AIOKafkaConsumer,
        orders: int,
        asked: dict[uuid.UUID, float],
        took: list[float],
        ended: Counter[OrderStatus],
        free: asyncio.Semaphore,
    ) -> None:
        read = msgspec.json.Decoder(Ended).decode
        while len(took) < orders:
            batches: dict[TopicPartition, Sequence[object]] = await consumer.getmany(timeout_ms=100)
            now = time.monotonic()
            for record in (record for records in batches.values() for record in records):
                event = read(record.value)  # type: ignore[attr-defined]  # aiokafka has no types
                if event.status.terminal and (since := asked.pop(event.order_id, None)) is not None:
                    took.append(now - since)
                    ended[event.status] += 1
                    free.release()


def _request(topic: str, number: int) -> Outgoing:
    user, now = ("alice", "bob")[number % 2], datetime.now(UTC)
    request = OrderRequested(uuid.uuid4(), user, "ACME", OrderType.MARKET_BUY, Quantity(1), requested_at=now)
    message = outgoing(request, message_id=str(uuid.uuid4()), source="/bench", time=now)
    return msgspec.structs.replace(message, topic=topic)
