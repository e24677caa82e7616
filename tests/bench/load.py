"""Submits orders by Kafka and times each until it has ended: a fixed number open, at a fixed rate, or all at once.

An order that ends otherwise than it should is an error. Latency at a rate counts from the moment when an order was due,
so a stall of the system also counts for the orders that were due meanwhile.
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
from typing import Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from uuid_utils.compat import uuid7

from contracts.amends import AmendState
from contracts.codec import outgoing
from contracts.decimals import Price, Quantity
from contracts.envelope import Outgoing
from contracts.orders import OrderCancelRequested, OrderRequested
from contracts.topics import ORDERS_EVENTS
from contracts.vocabulary import OrderStatus, OrderType
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.settings import KafkaSettings

DEADLINE_S = 300.0
"""How long orders may take to end after the last was submitted."""
WAVE = 100
TICK_S = 0.005
"""At a rate, orders that are due in the same tick, or while others are being sent, go out together: the client library
sends one batch for a partition at a time, and sending each order by itself would cost more than the system's own work.
The time that an order waits for this counts as its latency."""
ACCOUNTS = 1000
Users = Callable[[int], str]
"""Returns the user of an order, given the order's number."""


class LoadError(Exception):
    """An order of the load did not complete, or not in time."""


def ordinary(number: int) -> str:
    """Let `ACCOUNTS` users order one after the other."""
    return f"bench-{number % ACCOUNTS}"


class SeenAmend(msgspec.Struct):
    """The fields of an order's last amend that the load needs."""

    amend_id: str
    state: AmendState
    reason: str | None = None


class Whose(msgspec.Struct):
    """The fields of an order that its cancel, or its next amend, needs."""

    user_id: str
    amend: SeenAmend | None = None


class Seen(msgspec.Struct):
    """The fields of an event that the load needs."""

    order_id: uuid.UUID
    status: OrderStatus
    order: Whose | None = None
    reason_code: str | None = None


@dataclass(frozen=True)
class Course:
    """What the orders of a load are, and how each must end."""

    order_type: OrderType = OrderType.MARKET_BUY
    limit_price: Price | None = None
    ends: OrderStatus = OrderStatus.COMPLETED
    cancels: bool = False
    """Whether each is cancelled as soon as it is CONFIRMED, which says that it rests."""


MARKET: Final = Course()


@dataclass(frozen=True)
class Result:
    """The figures of one load."""

    orders: int
    orders_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Recovery:
    """The figures of waiting orders: seconds until the first event, until all had ended, and the rate in between."""

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
    """List random, independent arrival times of orders, from 0 on."""
    chance, at, moments = random.Random(seed), 0.0, []  # noqa: S311 - a load, no secret
    while (at := at + chance.expovariate(per_s)) < seconds:
        moments.append(at)
    return moments


@dataclass
class _Book:
    """The open orders with their start times, and the durations and statuses of the ended ones."""

    free: asyncio.Semaphore
    """Free places, where their number is bounded."""
    open: dict[uuid.UUID, float] = field(default_factory=dict)
    took_s: list[float] = field(default_factory=list)
    ended: Counter[OrderStatus] = field(default_factory=Counter)
    first_event_at: float | None = None
    last_ended_at: float = 0.0

    def end(self, event: Seen, now: float) -> None:
        """Take note that an order has ended, if it is one of these."""
        if (since := self.open.pop(event.order_id, None)) is not None:
            self.took_s.append(now - since)
            self.ended[event.status] += 1
            self.free.release()
            self.last_ended_at = now


class Load:
    """Buys a small amount for one of its users after the other."""

    def __init__(
        self, bootstrap_servers: str, prefix: str = "", users: Users = ordinary, course: Course = MARKET
    ) -> None:
        self._servers, self._prefix, self._users, self._course = bootstrap_servers, prefix, users, course

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
        """Submit orders at a rate, however many are open; raises as `run` does."""
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
        """Submit orders while no orchestrator runs, then call `start` and time them; raises as `run` does."""
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
        """Follow the events while orders are submitted, and then until all have ended."""
        settings = KafkaSettings(kafka_bootstrap_servers=self._servers, kafka_topic_prefix=self._prefix)
        publisher = Publisher(settings, client_id="bench")
        events = self._prefix + ORDERS_EVENTS.name
        consumer = AIOKafkaConsumer(events, bootstrap_servers=self._servers, group_id=None, fetch_max_wait_ms=5)
        await consumer.start()
        try:
            await consumer.seek_to_end()
            book = _Book(asyncio.Semaphore(in_flight))
            async with asyncio.TaskGroup() as group:
                following = group.create_task(self._follow(consumer, book, orders, publisher))
                yield book, publisher
                await _ended(following, book, orders)
        finally:
            await consumer.stop()
            await publisher.stop()
        if book.ended.total() != book.ended[self._course.ends]:
            raise LoadError(f"not every order of the load was {self._course.ends}: {_counted(book)}")

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
        user_id, course = self._users(number), self._course
        request = OrderRequested(
            uuid7(),
            user_id,
            "ACME",
            course.order_type,
            Quantity(1),
            requested_at=now,
            limit_price=course.limit_price,
        )
        return _said(request, now)

    async def _follow(self, consumer: AIOKafkaConsumer, book: _Book, orders: int, publisher: Publisher) -> None:
        read = msgspec.json.Decoder(Seen).decode
        while len(book.took_s) < orders:
            batches: dict[TopicPartition, Sequence[object]] = await consumer.getmany(timeout_ms=100)
            now = time.monotonic()
            if batches and book.first_event_at is None:
                book.first_event_at = now
            cancels: list[Outgoing] = []
            for record in (record for records in batches.values() for record in records):
                event = read(record.value)  # type: ignore[attr-defined]  # aiokafka has no types
                if event.status.terminal:
                    book.end(event, now)
                elif self._course.cancels and event.status is OrderStatus.CONFIRMED and event.order_id in book.open:
                    cancels.append(_cancel(event))
            if cancels and not await publisher.publish(cancels):
                raise LoadError("the broker did not take the cancels")


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


def _cancel(event: Seen) -> Outgoing:
    assert event.order is not None  # the system's events show the order; only peers' do not
    now, user_id = datetime.now(UTC), event.order.user_id
    return _said(OrderCancelRequested(event.order_id, user_id, user_id, now), now)


def _said(message: OrderRequested | OrderCancelRequested, now: datetime) -> Outgoing:
    return outgoing(message, message_id=str(uuid.uuid4()), source="/bench", time=now)
