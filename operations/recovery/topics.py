"""Reads topics from a time on to their present end, in bounded memory, without a group and without a commit."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from contracts.codec import decode
from contracts.envelope import UnreadableMessage, read_envelope
from operations.access.errors import Trouble
from operations.access.words import full_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from contracts.codec import Message
    from contracts.envelope import Envelope
    from saga_kit.messaging.batch import Record
    from saga_kit.runtime.settings import KafkaSettings

RECORDS_MAX: Final = 1_000
POLL_MS: Final = 500
QUIET_S: Final = 30.0
"""A topic whose next record does not come for so long, although there is one, can't be read to its end."""


class Read(NamedTuple):
    """A record that can be read."""

    message: Message
    envelope: Envelope
    record: Record


class Span(NamedTuple):
    """What is read of a partition: from `start` to before `end`. `cut`: records of before `start` may be gone."""

    start: int
    end: int
    cut: bool


@asynccontextmanager
async def connected(settings: KafkaSettings) -> AsyncIterator[Any]:
    """Connect a consumer that belongs to no group."""
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        **settings.kafka_client_options(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def partitions(consumer: Any, topics: Sequence[str]) -> list[Any]:
    """List the partitions of topics. Raises `Trouble` for one that is missing."""
    from aiokafka import TopicPartition

    cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - asked by name, a topic would be created
    found = []
    for topic in topics:
        numbers = cluster.partitions_for_topic(topic)
        if not numbers:
            raise Trouble(f"there is no topic {topic}, or this login may not see it ('order-saga topics' creates it)")
        found += [TopicPartition(topic, number) for number in sorted(numbers)]
    return found


async def spans(consumer: Any, topics: Sequence[str], since: datetime | None) -> dict[Any, Span]:
    """Find where each partition of the topics stood at a time (None: its beginning), and where it ends."""
    every = await partitions(consumer, topics)
    begins, ends = await consumer.beginning_offsets(every), await consumer.end_offsets(every)
    since_ms = 0 if since is None else int(since.timestamp() * 1000)
    found = await consumer.offsets_for_times(dict.fromkeys(every, since_ms))
    starts = {tp: ends[tp] if found[tp] is None else found[tp].offset for tp in every}
    return {tp: Span(starts[tp], ends[tp], cut=0 < begins[tp] == starts[tp]) for tp in every}


async def read(consumer: Any, found: Mapping[Any, Span]) -> AsyncIterator[list[Any]]:
    """Give the records of these spans, in order within each partition. Raises `Trouble` when some do not come."""
    left = {tp: span for tp, span in found.items() if span.start < span.end}
    if not left:
        return
    consumer.assign(list(left))
    for tp, span in left.items():
        consumer.seek(tp, span.start)
    moved_at = time.monotonic()
    while left:
        batches = await consumer.getmany(*left, timeout_ms=POLL_MS, max_records=RECORDS_MAX)
        for tp, records in batches.items():
            yield [record for record in records if record.offset < left[tp].end]
        done = [tp for tp, span in left.items() if await consumer.position(tp) >= span.end]
        for tp in done:
            del left[tp]
        if batches or done:
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at > QUIET_S:
            tp = next(iter(left))
            raise Trouble(f"{tp.topic}/{tp.partition} can't be read to its end: an open transaction may hold it up")


def readable(records: Sequence[Any]) -> tuple[list[Read], int]:
    """Decode records; what no service could read either is only counted."""
    found = []
    for record in records:
        try:
            envelope = read_envelope(record.headers)
            found.append(Read(decode(envelope.type, record.value), envelope, record))
        except UnreadableMessage:
            continue
    return found, len(records) - len(found)


async def oldest(consumer: Any, found: Mapping[Any, Span]) -> str:
    """Say from when on topics are whole whose older records are gone."""
    cut = [tp for tp, span in found.items() if span.cut and span.start < span.end]
    lines: dict[str, datetime] = {}
    for tp in cut:
        consumer.assign([tp])
        consumer.seek(tp, found[tp].start)
        first = await consumer.getone(tp)
        at = datetime.fromtimestamp(first.timestamp / 1000, UTC)
        lines[tp.topic] = max(at, lines.get(tp.topic, at))
    lines |= {tp.topic: datetime.now(UTC) for tp, span in found.items() if span.cut and span.start == span.end}
    return ", ".join(f"{topic} from {full_time(at)} on" for topic, at in sorted(lines.items()))
