"""The Kafka code of the lean and the naive loop: consume and publish whole batches, end on SIGTERM. No framework."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.partitioner import murmur2

from contracts.envelope import format_time
from contracts.topics import ORDERS_EVENTS
from saga_kit.runtime.settings import KafkaSettings

PARTITIONS = ORDERS_EVENTS.partitions
"""All topics have this number, so an order has the same partition in each topic that is keyed by the order."""
RECORDS_MAX = 500
IDLE_MS = 100
"""How long a poll waits when there are no records; it returns as soon as some come."""
COMMIT_OFFSETS_S = 1.0
BATCH_BYTES_MAX = 512 * 1024


class Message(NamedTuple):
    """A record to send; `topic` without the prefix. `id` and `type` go into its headers."""

    topic: str
    partition: int
    key: str
    id: str
    type: str
    value: bytes


@lru_cache(maxsize=65_536)
def partition_of(key: str) -> int:
    """Choose a partition as Kafka's own clients do; the result is cached, since messages of one key come together."""
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS


def consumer(settings: KafkaSettings, group: str, *topics: str) -> AIOKafkaConsumer:
    """Make a consumer of these topics that commits no offset by itself."""
    prefix = settings.kafka_topic_prefix
    return AIOKafkaConsumer(
        *(prefix + topic for topic in topics),
        **settings.kafka_client_options(),
        group_id=prefix + group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
    )


def producer(settings: KafkaSettings) -> AIOKafkaProducer:
    """Make an idempotent producer with the system's settings."""
    return AIOKafkaProducer(
        **settings.kafka_client_options(),
        acks="all",
        enable_idempotence=True,
        compression_type=None,
        max_batch_size=BATCH_BYTES_MAX,
        linger_ms=0,
    )


async def batches(source: AIOKafkaConsumer) -> AsyncIterator[Sequence[Any]]:
    """Yield batches of records, an empty one when none came for `IDLE_MS`.

    When the caller asks for the next batch, the last one counts as handled, and from time to time its offsets are
    committed. After a crash records may come again, so handling must be idempotent.
    """
    committed_at = time.monotonic()
    while True:
        found = await source.getmany(timeout_ms=IDLE_MS, max_records=RECORDS_MAX)
        yield [record for records in found.values() for record in records]
        if time.monotonic() - committed_at > COMMIT_OFFSETS_S:
            await source.commit()
            committed_at = time.monotonic()


def type_of(record: Any) -> str:
    """Read a record's CloudEvents type."""
    kind: bytes = dict(record.headers)["ce_type"]
    return kind.decode()


async def publish(to: AIOKafkaProducer, prefix: str, source: str, messages: Iterable[Message]) -> None:
    """Send the messages of each partition as one batch, and wait until the broker has acknowledged all."""
    groups: dict[tuple[str, int], list[Message]] = defaultdict(list)
    for message in messages:
        groups[message.topic, message.partition].append(message)
    time = format_time(datetime.now(UTC)).encode()
    acks = [
        await to.send_batch(batch, prefix + topic, partition=partition)
        for (topic, partition), group in groups.items()
        for batch in _filled(to, group, source.encode(), time)
    ]
    await asyncio.gather(*acks)


def _filled(to: AIOKafkaProducer, group: Iterable[Message], source: bytes, time: bytes) -> Iterator[Any]:
    batch = to.create_batch()
    for _, _, key, message_id, kind, value in group:
        record = {"timestamp": None, "key": key.encode(), "value": value}
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", message_id.encode()),
            ("ce_type", kind.encode()),
            ("ce_source", source),
            ("ce_time", time),
            ("content-type", b"application/json"),
        ]
        if batch.append(**record, headers=headers) is None:  # None means that the batch is full
            yield batch
            batch = to.create_batch()
            batch.append(**record, headers=headers)
    batch.close()
    yield batch


def say_ready() -> None:
    """Report that this process works, by creating the file that `READY_FILE` names."""
    if path := os.environ.get("READY_FILE"):
        Path(path).touch()


def run_until_told(work: Coroutine[Any, Any, None]) -> None:
    """Run until SIGTERM."""

    async def run() -> None:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with suppress(asyncio.CancelledError):
            await task

    uvloop.run(run())
