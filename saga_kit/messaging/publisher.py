"""Publishes to Kafka, in whole batches per partition. The result is either "all stored" or "unknown"."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError

from contracts.envelope import Outgoing
from saga_kit.messaging.murmur2 import murmur2, partition_of
from saga_kit.runtime.backoff import Backoff
from saga_kit.runtime.crash_points import CrashPoint, reached
from saga_kit.runtime.errors import OversizeMessage, describe
from saga_kit.runtime.settings import METADATA_MAX_AGE_MS, KafkaSettings
from saga_kit.runtime.tracing import begin_sending

BATCH_BYTES_MAX: Final = 512 * 1024
MESSAGE_BYTES_MAX: Final = 512 * 1024
"""Half of what a broker takes by default, headers included, so that nothing is committed that the broker refuses."""
PUBLISH_TIMEOUT_S: Final = 4.0
"""Shorter than the outbox's grace, so that the relay does not send what the process itself is still sending."""
REQUEST_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 5.0
"""Every caller has had its result, so nobody waits for what a closed producer still sends."""
HANG_UP_TIMEOUT_S: Final = 1.0
HASHES_MAX: Final = 16_384
"""Size of the cache of key hashes: an order's events follow each other, and a hash costs more than a lookup."""
HASHED_KEY_MAX: Final = 128
"""Bytes of the longest key in that cache; our own have half as many, and a dead letter's may have a million."""
log = structlog.get_logger(__name__)


class _MissingTopicError(Exception):
    """A topic does not exist, and asking for it by name would create it."""


MESSAGE_FAULTS: Final = (MessageSizeTooLargeError, TopicAuthorizationFailedError, _MissingTopicError)
"""Errors that neither time nor a new producer cures."""


class RawMessage(NamedTuple):
    """Bytes for the wire; `topic` with the prefix."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Publisher:
    """Publishes with an idempotent producer of its own. A producer that failed is replaced by a new one."""

    def __init__(
        self, settings: KafkaSettings, *, client_id: str = "saga", timeout_s: float = PUBLISH_TIMEOUT_S
    ) -> None:
        self._prefix = settings.kafka_topic_prefix
        self._timeout_s = timeout_s
        self._options = {
            **settings.kafka_client_options(),
            "client_id": client_id,
            "metadata_max_age_ms": METADATA_MAX_AGE_MS,
            "acks": "all",
            "enable_idempotence": True,
            "compression_type": None,  # on a loopback or rack network, it costs more than it saves
            "max_batch_size": BATCH_BYTES_MAX,
            "linger_ms": 0,  # the batches are full already
            "request_timeout_ms": int(REQUEST_TIMEOUT_S * 1000),
        }
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._hash = lru_cache(maxsize=HASHES_MAX)(murmur2)

    async def publish(self, messages: Sequence[Outgoing]) -> bool:
        """Publish all messages; True when the broker has stored every one of them.

        False means unknown: some may be stored, so a caller that must be sure publishes all again. A refusal is tried
        again until the time is over, unless a message causes it; some messages may then be stored twice. Raises nothing
        but a cancellation. Messages of one key arrive in order.
        """
        prefix, stored = self._prefix, False
        sending = begin_sending(messages, prefix)
        try:
            stored = await self.publish_raw(
                [RawMessage(prefix + m.topic, m.key.encode(), m.value, m.headers) for m in sending.messages]
            )
        finally:
            sending.end(stored=stored)
        return stored

    async def publish_raw(self, messages: Collection[RawMessage]) -> bool:
        """Publish bytes as they are; otherwise like `publish`."""
        if not messages:
            return True
        producer = None
        errors: list[BaseException] = []
        backoff = Backoff()
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    producer = await self._connected()  # raises at once when no broker listens
                    errors = await self._deliver(producer, messages)
                    if all(isinstance(error, MESSAGE_FAULTS) for error in errors):
                        break
                    # A broker that answers may accept it a moment later. One that was frozen knows no broker, not even
                    # itself, until it has reported to its controller. Or another publish closed this producer.
                    self._discard(producer)
                    await asyncio.sleep(backoff.next_s())
        except Exception as error:  # noqa: BLE001 - whatever it was, the outcome is unknown and the producer may be broken
            errors = errors or [error]  # a refusal tells more than a timeout
            if producer is not None:
                self._discard(producer)
        if errors:
            log.warning("publish failed", messages=len(messages), cause=describe(errors[0]), failures=len(errors))
        return not errors

    async def missing_topics(self, topics: Iterable[str]) -> list[str]:
        """Return those of the topics that the broker does not have, without creating any.

        Raises `KafkaError`, `OSError` or `TimeoutError` when the broker can't be reached.
        """
        async with asyncio.timeout(self._timeout_s):
            producer = await self._connected()
            known = (await producer.client.fetch_all_metadata()).topics()
        return [topic for topic in topics if self._prefix + topic not in known]

    async def stop(self) -> None:
        """Close the producer, waiting for what it is still sending."""
        if self._producer is not None:
            self._discard(self._producer)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_TIMEOUT_S + 2 * HANG_UP_TIMEOUT_S)

    async def _deliver(self, producer: AIOKafkaProducer, messages: Collection[RawMessage]) -> list[BaseException]:
        """Publish once; return whatever failed."""
        try:
            return await self._send(producer, messages)
        except Exception as error:  # noqa: BLE001 - the caller judges it
            return [error]

    async def _send(self, producer: AIOKafkaProducer, messages: Collection[RawMessage]) -> list[BaseException]:
        groups, errors = await self._group(producer, messages)
        acks: list[asyncio.Future[Any]] = []
        try:
            for (topic, partition), group in groups.items():
                for batch in _fill(producer, group):
                    try:
                        acks.append(await producer.send_batch(batch, topic, partition=partition))
                    except KafkaError as error:
                        errors.append(error)  # of this partition; the others go out
            reached(CrashPoint.PUBLISH_BEGUN, messages)
            results = await asyncio.gather(*acks, return_exceptions=True)
        finally:
            for ack in acks:
                if not ack.cancel() and not ack.cancelled():
                    ack.exception()  # retrieved, so that asyncio does not warn
        return [*errors, *(result for result in results if isinstance(result, BaseException))]

    async def _group(
        self, producer: AIOKafkaProducer, messages: Collection[RawMessage]
    ) -> tuple[dict[tuple[str, int], list[RawMessage]], list[BaseException]]:
        partitions = {topic: await _partitions(producer, topic) for topic in {m.topic for m in messages}}
        groups: dict[tuple[str, int], list[RawMessage]] = defaultdict(list)
        for message in messages:
            if count := partitions[message.topic]:
                groups[message.topic, self.partition(message.key, count)].append(message)
        missing = [topic for topic, count in partitions.items() if not count]
        hint = "does not exist, or is hidden from this login"
        return groups, [_MissingTopicError(f"topic {topic} {hint}") for topic in missing]

    def partition(self, key: bytes | None, count: int) -> int:
        """Choose the partition of a key, as Java clients do; None counts as an empty key."""
        key = key or b""
        return partition_of(self._hash(key) if len(key) <= HASHED_KEY_MAX else murmur2(key), count)

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                producer = AIOKafkaProducer(**self._options)
                try:
                    await producer.start()
                except BaseException:
                    self._close_soon(producer)
                    raise
                self._producer = producer
            return self._producer

    def _discard(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            self._producer = None
            self._close_soon(producer)

    def _close_soon(self, producer: AIOKafkaProducer) -> None:
        # Closing flushes, which may take as long as a request: nobody waits for it.
        task = asyncio.create_task(_close(producer))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def check_sizes(messages: Iterable[Outgoing]) -> None:
    """Raise `OversizeMessage` for a message that could never be published; call it before the commit."""
    for message in messages:
        if len(message.value) > MESSAGE_BYTES_MAX:
            raise OversizeMessage(f"message {message.id} has {len(message.value)} bytes, at most {MESSAGE_BYTES_MAX}")


async def _partitions(producer: AIOKafkaProducer, topic: str) -> int:
    """Return the number of partitions, 0 when there is no such topic (asking for it by name would create it)."""
    client = producer.client
    if client.cluster.partitions_for_topic(topic) is None:
        known = await client.fetch_all_metadata()
        if topic not in known.topics():
            return 0
    return len(await producer.partitions_for(topic))


def _fill(producer: AIOKafkaProducer, messages: Iterable[RawMessage]) -> Iterable[Any]:
    batch = producer.create_batch()
    for _, key, value, headers in messages:
        if batch.append(timestamp=None, key=key, value=value, headers=headers) is None:  # None means that it is full
            yield batch
            batch = producer.create_batch()
            batch.append(timestamp=None, key=key, value=value, headers=headers)  # the first one always fits
    batch.close()
    yield batch


async def _close(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await producer.stop()
    except Exception as error:  # noqa: BLE001 - it is of no use any more, however it ended
        log.debug("closing a producer failed", cause=describe(error))
        with suppress(Exception):  # it was still flushing; close its connections
            async with asyncio.timeout(HANG_UP_TIMEOUT_S):
                await producer.client.close()
