"""The publisher answers "all stored" or "unknown", and never sends a message to the wrong partition."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from contracts.envelope import Outgoing
from saga_kit.messaging.publisher import BATCH_BYTES_MAX, Publisher, RawMessage
from tests.saga_kit.support import FaultyCluster, kit_settings, message, until
from tests.support.infrastructure import Infrastructure

PARTITIONS = 12
SHORT_S = 4.0
"""A time-out of a publisher that a process exceeds seldom, though it stands still for a moment."""
URL = "postgresql://u:p@localhost/d"


class Broker:
    """A cluster with this test's own topics."""

    def __init__(self, address: str, prefix: str) -> None:
        self.address = address
        self.prefix = prefix

    def publisher(self, timeout_s: float = 10.0) -> Publisher:
        """Make a publisher."""
        return Publisher(kit_settings(URL, self.address, self.prefix), timeout_s=timeout_s)

    async def read(self, count: int) -> list[Any]:
        """Read so many records."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.address, auto_offset_reset="earliest")
        await consumer.start()
        try:
            consumer.assign([TopicPartition(f"{self.prefix}out", n) for n in range(PARTITIONS)])
            records: list[Any] = []
            async with asyncio.timeout(60):
                while len(records) < count:
                    for some in (await consumer.getmany(timeout_ms=100)).values():
                        records += some
            return records
        finally:
            await consumer.stop()


@pytest_asyncio.fixture
async def broker(infrastructure: Infrastructure, topic_prefix: str) -> Broker:
    """Give this test a topic in the session's broker."""
    await infrastructure.create_topics({f"{topic_prefix}out": PARTITIONS})
    return Broker(infrastructure.kafka_bootstrap_servers, topic_prefix)


@pytest_asyncio.fixture
async def faulty(cluster: FaultyCluster) -> AsyncIterator[Broker]:
    """Give this test a topic in the cluster that fails on demand."""
    prefix = f"{secrets.token_hex(4)}."
    cluster.create_topic(f"{prefix}out", PARTITIONS)
    yield Broker(cluster.bootstrap_servers, prefix)
    cluster.up()
    cluster.slow(0)


async def test_partitions_are_those_of_the_default_partitioner(broker: Broker) -> None:
    """Each key goes to the partition of aiokafka's (and Java's) default partitioner, and arrives unchanged."""
    publisher = broker.publisher()
    messages = [message(secrets.token_hex(n % 19), str(n)) for n in range(300)]
    messages += [message("é", "x"), message("", "y")]
    assert await publisher.publish(messages) is True
    await publisher.stop()
    records = await broker.read(len(messages))
    assert len(records) == len(messages)
    reference = DefaultPartitioner()
    for record in records:
        assert record.partition == reference(record.key, list(range(PARTITIONS)), [])
    as_sent = {(m.key.encode(), m.value, tuple(m.headers)) for m in messages}
    assert {(record.key, record.value, record.headers) for record in records} == as_sent


async def test_messages_of_one_key_keep_their_order_over_several_batches(broker: Broker) -> None:
    """More messages than a batch holds are split, and the messages of each key stay in order."""
    publisher = broker.publisher()
    messages = [message(f"key{n % 3}", f"{n:05d}" + "x" * 5000) for n in range(400)]
    assert sum(len(m.value) for m in messages) > 3 * BATCH_BYTES_MAX
    assert await publisher.publish(messages) is True
    await publisher.stop()
    by_key: dict[bytes, list[int]] = {}
    for record in await broker.read(len(messages)):
        by_key.setdefault(record.key, []).append(int(record.value[:5]))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert sum(map(len, by_key.values())) == 400


@pytest.mark.apache_kafka
async def test_a_message_larger_than_a_batch_blocks_no_other(broker: Broker) -> None:
    """A message that the broker refuses makes the result False; the others are stored, and the next publish works."""
    publisher = broker.publisher()
    raw = [RawMessage(f"{broker.prefix}out", b"k", b"x" * 3_000_000, [])]
    raw += [RawMessage(f"{broker.prefix}out", b"k%d" % n, b"small", []) for n in range(30)]
    assert await publisher.publish_raw(raw) is False
    assert await publisher.publish([message("after", "1")]) is True
    await publisher.stop()
    records = await broker.read(31)
    assert {record.value for record in records} == {b"small", b"1"}


async def test_a_missing_topic_is_not_made_and_blocks_no_other(broker: Broker) -> None:
    """A message for a missing topic is not sent, all others are, and the topic is not created."""
    publisher = broker.publisher()
    assert await publisher.publish([message("a", "1"), message("a", "2", topic="nowhere")]) is False
    assert await publisher.missing_topics(["out", "nowhere"]) == ["nowhere"]
    await publisher.stop()
    assert [record.value for record in await broker.read(1)] == [b"1"]


async def test_a_publish_that_times_out_is_not_sent(faulty: Broker, cluster: FaultyCluster) -> None:
    """A publish without an answer in time is False at its deadline; the publisher works again with the broker."""
    publisher = faulty.publisher(timeout_s=SHORT_S)
    assert await publisher.publish([message("a", "warm")]) is True
    cluster.slow(30_000)
    began = time.monotonic()
    assert await publisher.publish([message("a", "slow")]) is False
    assert time.monotonic() - began < 15, "no wait of 30 s for the answer"
    cluster.slow(0)
    async with asyncio.timeout(60):
        while not await publisher.publish([message("a", "again")]):
            pass
    await publisher.stop()


async def test_while_the_broker_is_down_a_publish_is_false_and_it_works_afterwards(
    faulty: Broker, cluster: FaultyCluster
) -> None:
    """While the broker is down every publish is False within its time; afterwards it works without a restart."""
    publisher = faulty.publisher(timeout_s=SHORT_S)
    assert await publisher.publish([message("a", "1")]) is True
    cluster.down()
    for n in range(3):
        assert await publisher.publish([message("a", f"lost{n}")]) is False
    cluster.up()
    async with asyncio.timeout(60):
        while not await publisher.publish([message("b", "back")]):
            pass
    await publisher.stop()
    assert b"back" in {record.value for record in await faulty.read(2)}


async def test_a_dead_producer_is_replaced(faulty: Broker) -> None:
    """A producer whose sender died is discarded, as an idempotent one's can; the next publish uses a new one."""
    publisher = faulty.publisher()
    assert await publisher.publish([message("a", "1")]) is True
    dead: Any = publisher._producer  # noqa: SLF001 - no public access
    dead._sender.sender_task.cancel()  # noqa: SLF001
    await until(dead._sender.sender_task.done)  # noqa: SLF001
    dead._message_accumulator._exception = RuntimeError("the sender died")  # noqa: SLF001
    assert await publisher.publish([message("a", "2")]) is True
    assert publisher._producer is not dead  # noqa: SLF001
    await publisher.stop()


async def test_a_producer_that_one_publish_discards_fails_no_other_publish(broker: Broker) -> None:
    """A publish that times out and discards the producer does not fail the other publishes that use it."""
    publisher = broker.publisher()
    assert await publisher.publish([message("a", "1")]) is True
    shared: Any = publisher._producer  # noqa: SLF001 - no public access
    send_batch = shared.send_batch

    async def when_thrown_away(*batch: Any, **where: Any) -> Any:
        publisher._discard(shared)  # noqa: SLF001 - as the other publish does
        await until(lambda: shared._closed)  # noqa: SLF001
        return await send_batch(*batch, **where)

    shared.send_batch = when_thrown_away
    assert await publisher.publish([message("a", "2")]) is True
    await publisher.stop()
    assert {b"1", b"2"} == {record.value for record in await broker.read(2)}


async def test_a_broker_that_refuses_for_a_moment_is_asked_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that was frozen briefly answers that it knows no broker; the publisher asks again and succeeds."""
    publisher = broker.publisher()
    nobody = KafkaError("Unable to get cluster metadata over all known brokers")
    asked = AsyncMock(side_effect=[nobody, nobody, set(range(PARTITIONS))])
    monkeypatch.setattr(AIOKafkaProducer, "partitions_for", asked)
    assert await publisher.publish([message("a", "1")]) is True
    await publisher.stop()
    assert [b"1"] == [record.value for record in await broker.read(1)]


async def test_a_broker_that_goes_on_refusing_is_false_in_time(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that continues to refuse is asked at growing intervals until the time is over; the result is False."""
    publisher = broker.publisher(timeout_s=SHORT_S)
    asked = AsyncMock(side_effect=KafkaError("no"))
    monkeypatch.setattr(AIOKafkaProducer, "partitions_for", asked)
    began = time.monotonic()
    assert await publisher.publish([message("a", "1")]) is False
    assert time.monotonic() - began < 5 * SHORT_S
    assert 2 <= asked.await_count <= 9, "pauses from 0.05 s on, of which each is longer"
    await publisher.stop()


async def test_concurrent_publishes_share_a_producer(broker: Broker) -> None:
    """Concurrent callers all get True, and all messages arrive."""
    publisher = broker.publisher()
    batches: list[list[Outgoing]] = [[message(f"k{n}", f"{n}-{m}") for m in range(5)] for n in range(50)]
    assert all(await asyncio.gather(*(publisher.publish(batch) for batch in batches)))
    await publisher.stop()
    assert len(await broker.read(250)) == 250


async def test_publishing_nothing_needs_no_broker() -> None:
    """Publishing no message is True at once; publishing a message without a broker is False at once."""
    publisher = Broker("localhost:1", "").publisher(timeout_s=60)
    assert await publisher.publish([]) is True
    began = time.monotonic()
    assert await publisher.publish([message()]) is False
    assert time.monotonic() - began < 20, "no wait until the time is over"
    await publisher.stop()
