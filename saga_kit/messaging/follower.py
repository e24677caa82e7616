"""Follows a topic from its end, and tells a listener what it hears. It decides nothing and commits no offset.

Each process follows all partitions, without a consumer group: each listener hears everything. At a start, and after the
broker was away, records may have been missed, and while somebody's open transaction hides records, too, once a second:
then the listener is told so, and must look for itself.

A partition whose leader is away holds up no other. When it is back, it is gone on with where it was left; where it was
never begun with, records of it may have been missed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, Self

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from saga_kit.messaging.fetch_limits import FETCHED_BYTES_MAX, bound_fetches, taking
from saga_kit.messaging.fetch_wait import FetchWait
from saga_kit.messaging.open_transactions import OpenTransactions, stable_ends
from saga_kit.messaging.stopping import stop_consumer
from saga_kit.runtime.backoff import keep_doing, unless_stopping
from saga_kit.runtime.settings import METADATA_MAX_AGE_MS, KitSettings

POLL_MS: Final = 500
RECORDS_MAX: Final = 1_000
CALL_TIMEOUT_S: Final = 10.0
PLACED_WITHIN_S: Final = 5.0
"""After so long, what has a leader is followed without what has none."""
IDLE_S: Final = 15.0
"""After so long without a record, the broker is asked for its end offsets: a consumer can hang unnoticed."""

HIDDEN_S: Final = 1.0
"""While somebody's open transaction hides records, the listener is told so often that it may have missed some."""


class LostPosition(OSError):  # noqa: N818 - it names an event
    """Records may have been missed: the consumer hangs, or has other partitions than before."""


class Listener(Protocol):
    """Whoever wants to know."""

    async def hear(self, records: Sequence[Any]) -> None:
        """Take records as they come, in the order of their partition; a `LostRecord` stands for one that is lost.

        After an error the follower begins anew at the end, as after an outage of the broker.
        """

    def missed(self) -> None:
        """Learn that records may have been missed."""


class TopicFollower:
    """Follows as long as it runs; after a failure it starts anew. `name` is told to the broker, behind the prefix."""

    def __init__(
        self, settings: KitSettings, topic: str, listener: Listener, *, name: str, idle_s: float = IDLE_S
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._name = name
        self._idle_s = idle_s
        self._topic = settings.kafka_topic_prefix + topic
        self.following = False
        self.complete_at = 0.0
        """Seconds since 1970, by this machine: whatever was in the topic then, the listener has been told."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until `stopping`."""

        async def follow() -> None:
            await self._follow(stopping)

        await keep_doing(f"follow {self._topic}", follow, stopping, every_s=0.0)

    async def _follow(self, stopping: asyncio.Event) -> None:
        bound_fetches()
        consumer = AIOKafkaConsumer(
            self._topic,
            **self._settings.kafka_client_options(),
            client_id=f"{self._settings.kafka_topic_prefix}{self._name}",
            group_id=None,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            isolation_level="read_committed",
            fetch_max_wait_ms=self._settings.kafka_fetch_max_wait_ms,
            fetch_max_bytes=FETCHED_BYTES_MAX,
        )
        try:
            await unless_stopping(_start(consumer), stopping)
            if stopping.is_set():
                return
            self.following = True
            self._listener.missed()
            await self._listen(consumer, stopping)
        finally:
            self.following = False
            await stop_consumer(consumer.stop(), consumer, timeout_s=CALL_TIMEOUT_S)

    async def _listen(self, consumer: Any, stopping: asyncio.Event) -> None:
        partitions = consumer.assignment()
        heard_at = woken_at = time.monotonic()
        transactions = OpenTransactions(HIDDEN_S)
        fetch_wait = FetchWait(self._settings.kafka_fetch_max_wait_ms)
        caught_up: dict[Any, float] = {}
        begun = await _placed(consumer)
        async with _Ends(consumer) as ends:
            while not stopping.is_set():
                if consumer.assignment() != partitions:
                    raise LostPosition(f"{self._topic} has other partitions than before")
                batches = await _take(consumer, stopping)
                fetch_wait.polled(consumer, batches)
                if len(begun) < len(partitions) and (now := await _placed(consumer)) != begun:
                    begun = now
                    self._listener.missed()
                caught_up |= await _caught_up(consumer)
                transactions.look(stable_ends(consumer))
                if transactions.held() and time.monotonic() - woken_at > HIDDEN_S:
                    woken_at = time.monotonic()
                    self._listener.missed()
                if batches:
                    heard_at = time.monotonic()
                    await self._hear(batches)
                elif time.monotonic() - heard_at > self._idle_s and (known := ends.answered()) is not None:
                    await self._check(consumer, known, stopping)
                    heard_at = time.monotonic()
                if len(caught_up) == len(partitions):
                    self.complete_at = min(caught_up.values(), default=0.0)

    async def _hear(self, batches: Mapping[Any, Sequence[Any]]) -> None:
        if records := [record for batch in batches.values() for record in batch]:
            await self._listener.hear(records)

    async def _check(self, consumer: Any, ends: Mapping[Any, int], stopping: asyncio.Event) -> None:
        """Raise when the broker has records that do not come, by the ends of partitions."""
        behind = {partition for partition in await _placed(consumer) if await _is_behind(consumer, partition, ends)}
        batches = await _take(consumer, stopping)
        await self._hear(batches)
        if behind and not batches and not stopping.is_set():
            raise LostPosition(f"{len(behind)} partitions of {self._topic} have records that do not come")


class _Ends:
    """Asks where partitions end, while records are taken: a leader that is away answers late, or never."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._asking: asyncio.Task[dict[Any, int]] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def answered(self) -> dict[Any, int] | None:
        """Return the ends once the leaders have answered, of those that did; else None, and ask if nobody does.

        Raises `LostPosition` when no leader has answered, and none was fetched from meanwhile.
        """
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        if not self._asking.done():
            return None
        asked, self._asking = self._asking, None
        return asked.result()

    async def _ask(self) -> dict[Any, int]:
        partitions, began_ms = list(self._consumer.assignment()), time.time() * 1000
        answers = await asyncio.gather(*(self._end_of(partition) for partition in partitions))
        ends = {partition: end for partition, end in zip(partitions, answers, strict=True) if end is not None}
        fetched_ms = max((self._consumer.last_poll_timestamp(partition) or 0 for partition in partitions), default=0)
        if not ends and fetched_ms < began_ms:
            raise LostPosition("no leader of a partition says where it ends")
        return ends

    async def _end_of(self, partition: Any) -> int | None:
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                ends: dict[Any, int] = await self._consumer.end_offsets([partition])
                return ends[partition]
        return None


async def _is_behind(consumer: Any, partition: Any, ends: Mapping[Any, int]) -> bool:
    end = ends.get(partition)
    return end is not None and end > await consumer.position(partition)


async def _take(consumer: Any, stopping: asyncio.Event) -> Mapping[Any, Sequence[Any]]:
    """Return the records that are there, or that come within `POLL_MS`: a quiet topic holds up nobody's end."""

    async def polled() -> Mapping[Any, Sequence[Any]]:
        with taking():
            batches: Mapping[Any, Sequence[Any]] = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
        return batches

    return await unless_stopping(polled(), stopping) or {}


async def _caught_up(consumer: Any) -> dict[Any, float]:
    """Return when each partition was fetched last, of those of which every record is taken.

    A partition whose leader is away is not fetched, so its last fetch stays in the past; one that an open transaction
    holds up has records that are not taken.
    """
    found = {}
    for partition in consumer.assignment():
        end, at = consumer.highwater(partition), consumer.last_poll_timestamp(partition)
        if end is not None and at is not None and await consumer.position(partition) >= end:
            found[partition] = at / 1000
    return found


async def _start(consumer: Any) -> None:
    async with asyncio.timeout(CALL_TIMEOUT_S):
        await consumer.start()
    await _seek_to_end(consumer)


async def _seek_to_end(consumer: Any) -> None:
    """Move to the ends of all partitions, and wait until they are known, or those that have a leader.

    Raises `TimeoutError` when none is.
    """
    partitions = consumer.assignment()
    with suppress(TimeoutError):
        async with asyncio.timeout(PLACED_WITHIN_S):
            await consumer.seek_to_end(*partitions)
            for partition in partitions:
                await consumer.position(partition)
            return
    if not await _placed(consumer):
        raise TimeoutError("no partition says where it ends")


async def _placed(consumer: Any) -> set[Any]:
    """Return the partitions whose position is known at this moment."""
    found = set()
    for partition in consumer.assignment():
        with suppress(TimeoutError):
            async with asyncio.timeout(0):  # no wait: it is known, or it is not
                await consumer.position(partition)
                found.add(partition)
    return found
