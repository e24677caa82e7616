"""Follows a topic from its end, and notifies the requests that wait. It decides nothing and commits no offset.

Each process follows all partitions, without a consumer group: every process has its own waiters. An event is published
after the commit that it is about, so a request that it wakes finds the change in the database. At a start, and after
the broker was away, events may have been missed: then all waiters are notified. So they are once a second while
somebody's open transaction hides events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer

from contracts.topics import ORDERS_EVENTS
from contracts.vocabulary import OrderStatus
from saga_kit.messaging.fetch_limits import FETCHED_BYTES_MAX, LostRecord, bound_fetches, taking
from saga_kit.messaging.fetch_wait import FetchWait
from saga_kit.messaging.open_transactions import OpenTransactions, stable_ends
from saga_kit.messaging.stopping import stop_consumer
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.settings import METADATA_MAX_AGE_MS, KitSettings

POLL_MS: Final = 500
RECORDS_MAX: Final = 1_000
CALL_TIMEOUT_S: Final = 10.0
IDLE_S: Final = 15.0
"""After so long without an event, the broker is asked for its end offsets: a consumer can hang unnoticed."""

HIDDEN_S: Final = 1.0
"""While somebody's open transaction hides events, all waiters are notified so often."""

log = structlog.get_logger(__name__)


class LostPosition(OSError):  # noqa: N818 - it names an event
    """Events may have been missed: the consumer hangs, or has other partitions than before."""


class _Event(msgspec.Struct):
    version: int
    status: OrderStatus


class Notifies(Protocol):
    """Those who wait, by the key of the records that they wait for."""

    def __contains__(self, key: bytes | None) -> bool: ...
    def notify(self, key: bytes, *args: Any, **told: Any) -> None: ...  # noqa: D102 - a record came
    def notify_all(self) -> None: ...  # noqa: D102 - records may have been missed


class Follower:
    """Follows the events as long as it runs; after a failure it starts anew."""

    def __init__(
        self,
        settings: KitSettings,
        waiters: Notifies,
        *,
        idle_s: float = IDLE_S,
        topic: str = ORDERS_EVENTS.name,
        read: Callable[[Any], dict[str, Any]] | None = None,
    ) -> None:
        """`read` makes of a record what its waiters are told; by default what an event of an order says."""
        self._settings = settings
        self._waiters = waiters
        self._idle_s = idle_s
        self._topic = settings.kafka_topic_prefix + topic
        self._read = read or (lambda record: _relevance(record.value))
        self.following = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until `stopping`."""

        async def follow() -> None:
            await self._follow(stopping)

        await keep_doing("follow events", follow, stopping, every_s=0.0)

    async def _follow(self, stopping: asyncio.Event) -> None:
        bound_fetches()
        consumer = AIOKafkaConsumer(
            self._topic,
            **self._settings.kafka_client_options(),
            client_id=f"{self._settings.kafka_topic_prefix}api-follower",
            group_id=None,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            isolation_level="read_committed",
            fetch_max_wait_ms=self._settings.kafka_fetch_max_wait_ms,
            fetch_max_bytes=FETCHED_BYTES_MAX,
        )
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await consumer.start()
                await _seek_to_end(consumer)
            self.following = True
            self._waiters.notify_all()
            await self._listen(consumer, stopping)
        finally:
            self.following = False
            await stop_consumer(consumer.stop(), consumer, timeout_s=CALL_TIMEOUT_S)

    async def _listen(self, consumer: Any, stopping: asyncio.Event) -> None:
        partitions = consumer.assignment()
        heard_at = woken_at = time.monotonic()
        transactions = OpenTransactions(HIDDEN_S)
        fetch_wait = FetchWait(self._settings.kafka_fetch_max_wait_ms)
        while not stopping.is_set():
            if consumer.assignment() != partitions:
                raise LostPosition(f"{self._topic} has other partitions than before")
            batches = await _take(consumer)
            fetch_wait.polled(consumer, batches)
            transactions.look(stable_ends(consumer))
            if transactions.held() and time.monotonic() - woken_at > HIDDEN_S:
                woken_at = time.monotonic()
                self._waiters.notify_all()
            if batches:
                heard_at = time.monotonic()
                self._notify(batches)
            elif time.monotonic() - heard_at > self._idle_s:
                await self._check(consumer)
                heard_at = time.monotonic()

    def _notify(self, batches: Mapping[Any, Sequence[Any]]) -> None:
        for records in batches.values():
            for record in records:
                if isinstance(record, LostRecord):  # its order is not known for sure
                    self._waiters.notify_all()
                elif record.key in self._waiters:
                    self._waiters.notify(record.key, **self._read(record))

    async def _check(self, consumer: Any) -> None:
        """Raise when the broker has events that do not come, or does not answer."""
        async with asyncio.timeout(CALL_TIMEOUT_S):
            ends = await consumer.end_offsets(list(consumer.assignment()))
            behind = {partition for partition, end in ends.items() if end > await consumer.position(partition)}
        batches = await _take(consumer)
        self._notify(batches)
        if behind and not batches:
            raise LostPosition(f"{len(behind)} partitions of {self._topic} have events that do not come")


async def _take(consumer: Any) -> Mapping[Any, Sequence[Any]]:
    with taking():
        batches: Mapping[Any, Sequence[Any]] = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
    return batches


async def _seek_to_end(consumer: Any) -> None:
    """Move to the ends of all partitions, and wait until they are known."""
    partitions = consumer.assignment()
    await consumer.seek_to_end(*partitions)
    for partition in partitions:
        await consumer.position(partition)


def _relevance(value: bytes | None) -> dict[str, Any]:
    """Return the version of an event; nothing for one that can't be read, so that every waiter looks."""
    try:
        event = _read(value or b"")
    except (msgspec.MsgspecError, ValueError, RecursionError):  # not JSON, not UTF-8, nested too deep
        return {}
    return {"version": event.version, "terminal": event.status.terminal}


_read: Final = msgspec.json.Decoder(_Event).decode
