"""Asks for orders on Kafka and times each until it was completed: so many open, at a rate, or all at once.

Every order must end completed, or the load is no load but a fault. Latency at a rate counts from the moment when an
order was due, so that a system that stalls makes all those wait that should have come meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from uuid_utils.compat import uuid7

from contracts.codec import outgoing
from contracts.decimals import Quantity
from contracts.envelope import Outgoing
from contracts.orders import OrderRequested
from contracts.topics import ORDERS_EVENTS
from contracts.vocabulary import OrderStatus, OrderType
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.settings import KafkaSettings

DEADLINE_S = 300.0
"""How long orders may take to end when no more are asked for."""
WAVE = 100
TICK_S = 0.005
"""Orders that come at a rate go out together when they are due in the same tick, or while others are being sent: the
client library sends one batch for a partition at a time, and a load that sends each order by itself is more work than
the system's. What an order waits for this counts as its latency."""
ACCOUNTS = 1000
Users = Callable[[int], str]
"""Tells who orders, given the order's number."""


class LoadError(Exception):
    """A load was not carried as every load must be."""


def ordinary(number: int) -> str:
    """Let `ACCOUNTS` users order in turn."""
    return f"bench-{number % ACCOUNTS}"


class Ended(msgspec.Struct):
    """The two fields of an event that the clock needs."""

    order_id: uuid.UUID
    status: OrderStatus


@dataclass(frozen=True)
class Result:
    """What one load carried."""

    orders: int
    orders_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Recovery:
    """How orders that had waited went: seconds until the first event of one, until all had ended, the rate between."""

    orders: int
    first_s: float
    all_s: float
    orders_per_s: float


def summary(took_s: Sequence[float], elapsed_s: float) -> Result:
    """Sum up the orders of a round by how long each took and how long it was until the last had ended."""
    took_s = sorted(took_s)
    median, slow = took_s[len(took_s) // 2], took_s[int(len(took_s) * 0.99)]
    return Result(len(took_s), len(took_s) / elapsed_s, median * 1e3, slow * 1e3)


def arrivals(per_s: float, seconds: float, seed: int = 1) -> list[float]:
    """List the moments at which orders come, by chance and independent of each other, from 0 on."""
    chance, at, moments = random.Random(seed), 0.0, []  # noqa: S311 - a load, no secret
    while (at := at + chance.expovariate(per_s)) < seconds:
        moments.append(at)
    return moments


@dataclass
class _Book:
    """The orders that are open, since when, and how those that have ended did."""

    free: asyncio.Semaphore
    """Free places, where their number is bounded."""
    open: dict[uuid.UUID, float] = field(default_factory=dict)
    took_s: list[float] = field(default_factory=list)
    ended: Counter[OrderStatus] = field(default_factory=Counter)
    first_event_at: float | None = None
    last_ended_at: float = 0.0


class Load:
    """Buys a small amount for each of its users in turn."""

    def __init__(self, bootstrap_servers: str, prefix: str = "", users: Users = ordinary) -> None:
        self._servers, self._prefix, self._users = bootstrap_servers, prefix, users

    async def run(self, orders: int, in_flight: int) -> Result:
        """Keep `in_flight` orders open until so many have ended.

        Raises `LoadError` when some have not ended after `DEADLINE_S`, or were not completed.
        """
        async with self._following(orders, in_flight) as (book, publisher):
            began = time.monotonic()
            together = min(WAVE, -(-in_flight // 10))
            for start in range(0, orders, together):
                wave = range(start, min(start + together, orders))
                for _ in wave:
                    await book.free.acquire()
                await self._ask(publisher, book, wave)
        return summary(book.took_s, book.last_ended_at - began)

    async def paced(self, per_s: float, seconds: float) -> Result:
        """Let orders come at a rate, whatever becomes of them; raises as `run` does."""
        moments = arrivals(per_s, seconds)
        async with self._following(len(moments)) as (book, publisher):
            began, asked = time.monotonic(), 0
            while asked < len(moments):
                await asyncio.sleep(max(TICK_S, began + moments[asked] - time.monotonic()))
                due = bisect_right(moments, time.monotonic() - began)
                await self._ask(publisher, book, range(asked, due), [began + moment for moment in moments[asked:due]])
                asked = due
        return summary(book.took_s, book.last_ended_at - began)

    async def recover(self, orders: int, start: Callable[[], Awaitable[None]]) -> Recovery:
        """Ask for orders while nobody is there, then call `start` and see how they go; raises as `run` does."""
        async with self._following(orders) as (book, publisher):
            for first in range(0, orders, WAVE):
                await self._ask(publisher, book, range(first, min(first + WAVE, orders)))
            began = time.monotonic()
            await start()
        assert book.first_event_at is not None
        busy_s = book.last_ended_at - book.first_event_at
        return Recovery(orders, book.first_event_at - began, book.last_ended_at - began, orders / busy_s)

    @asynccontextmanager
    async def _following(self, orders: int, in_flight: int = 0) -> AsyncIterator[tuple[_Book, Publisher]]:
        """Follow the events while orders are asked for, and then until all have ended."""
        settings = KafkaSettings(kafka_bootstrap_servers=self._servers, kafka_topic_prefix=self._prefix)
        publisher = Publisher(settings, client_id="bench")
        events = self._prefix + ORDERS_EVENTS.name
        consumer = AIOKafkaConsumer(events, bootstrap_servers=self._servers, group_id=None, fetch_max_wait_ms=5)
        await consumer.start()
        try:
            await consumer.seek_to_end()
            book = _Book(asyncio.Semaphore(in_flight))
            async with asyncio.TaskGroup() as group:
                following = group.create_task(_follow(consumer, book, orders))
                yield book, publisher
                await _ended(following, book, orders)
        finally:
            await consumer.stop()
            await publisher.stop()
        if book.ended.total() != book.ended[OrderStatus.COMPLETED]:
            raise LoadError(f"not every order of the load was completed: {_counted(book)}")

    async def _ask(
        self, publisher: Publisher, book: _Book, numbers: Sequence[int], due_at: Sequence[float] | None = None
    ) -> None:
        messages = [self._request(number) for number in numbers]
        due_at = due_at or [time.monotonic()] * len(messages)
        book.open.update((uuid.UUID(message.key), at) for message, at in zip(messages, due_at, strict=True))
        if not await publisher.publish(messages):
            raise LoadError("the broker did not take the load")

    def _request(self, number: int) -> Outgoing:
        now = datetime.now(UTC)
        request = OrderRequested(
            uuid7(), self._users(number), "ACME", OrderType.MARKET_BUY, Quantity(1), requested_at=now
        )
        return outgoing(request, message_id=str(uuid.uuid4()), source="/bench", time=now)


async def _ended(following: asyncio.Task[None], book: _Book, orders: int) -> None:
    try:
        await asyncio.wait_for(following, DEADLINE_S)
    except TimeoutError:
        raise LoadError(
            f"{orders - len(book.took_s)} of {orders} orders had not ended {DEADLINE_S:.0f} s after the last was asked "
            f"for; of the others, {_counted(book) or 'none'}"
        ) from None


def _counted(book: _Book) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(book.ended.items()))


async def _follow(consumer: AIOKafkaConsumer, book: _Book, orders: int) -> None:
    read = msgspec.json.Decoder(Ended).decode
    while len(book.took_s) < orders:
        batches: dict[TopicPartition, Sequence[object]] = await consumer.getmany(timeout_ms=100)
        now = time.monotonic()
        if batches and book.first_event_at is None:
            book.first_event_at = now
        for record in (record for records in batches.values() for record in records):
            event = read(record.value)  # type: ignore[attr-defined]  # aiokafka has no types
            if event.status.terminal and (since := book.open.pop(event.order_id, None)) is not None:
                book.took_s.append(now - since)
                book.ended[event.status] += 1
                book.free.release()
                book.last_ended_at = now
