"""Readiness, lag and stalls of a consumer: what it reports while it can't read, and when it ends its process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError, UnsupportedCodecError

from saga_kit.messaging.batch import Intake
from saga_kit.messaging.consumer import Lag, _lags
from saga_kit.messaging.murmur2 import murmur2, partition_of
from saga_kit.runtime.errors import Stalled
from tests.saga_kit.messaging.consumer_setup import PARTITIONS, ConsumerSetup
from tests.saga_kit.support import until

STALLED_S = 4.0
"""A stall limit that no process exceeds which only stands still for a moment."""


async def test_a_partition_that_cannot_be_read_does_not_hold_up_the_others(
    setup: ConsumerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing codec or a broken checksum stops only its own partition, and no record of it is skipped.

    Readiness and a metric report it while it lasts.
    """
    monkeypatch.setattr("saga_kit.messaging.consumer.WATCH_S", 0.05)
    everything = {(f"a{n}", n) for n in range(100)}
    await setup.send(("first", 0))
    async with setup.consuming() as consumer:
        await setup.done_is({("first", 0)})
        client: Any = consumer._subscriber.consumer  # noqa: SLF001 - to make one partition fail
        read, bad, failed = client.getmany, TopicPartition(f"{setup.prefix}t", 2), asyncio.Event()

        async def failing(*partitions: TopicPartition, **options: Any) -> Any:
            if not partitions or bad in partitions:
                failed.set()
                raise UnsupportedCodecError("no lz4 here")
            return await read(*partitions, **options)

        client.getmany = failing
        await failed.wait()
        await setup.send(*sorted(everything))
        behind = {(f"a{n}", n) for n in range(100) if setup.publisher.partition(f"a{n}".encode(), 4) == 2}
        assert 0 < len(behind) < 100
        await setup.done_is({("first", 0)} | everything - behind)
        await until(lambda: f"such as {bad.topic}/2: UnsupportedCodecError" in (consumer.trouble() or ""))
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        await until(lambda: setup.metrics.registry.get_sample_value("consumer_blocked_partitions") == 1)
        client.getmany = read
        await setup.done_is({("first", 0)} | everything)
        assert consumer.trouble() is None
        await until(lambda: setup.metrics.registry.get_sample_value("consumer_blocked_partitions") == 0)
        setup.stopping.set()
        await watching
    assert await setup.schema.rows("SELECT * FROM {s}.dead_letters") == []
    assert await setup.committed() == 101


async def test_readiness_and_lag(setup: ConsumerSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member is ready once it has partitions and polls; its lag counts the records that it has not taken."""
    monkeypatch.setattr("saga_kit.messaging.consumer.WATCH_S", 0.05)
    await setup.send(("a", 1))
    async with setup.consuming() as consumer:
        await setup.done_is({("a", 1)})
        assert consumer.trouble() is None
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        entered, leave = setup.pause_in_the_next_batch()
        await setup.send(("b", 1))
        await entered.wait()
        await setup.send(*((f"c{n}", n) for n in range(50)))
        await until(lambda: setup.metrics.registry.get_sample_value("consumer_lag_messages") == 50)
        leave.set()
        await until(lambda: setup.metrics.registry.get_sample_value("consumer_lag_messages") == 0)
        setup.stopping.set()
        await watching
    assert consumer.trouble() == "no partitions assigned"


@pytest.mark.apache_kafka
async def test_a_member_for_whom_no_partition_is_left_is_ready(setup: ConsumerSetup) -> None:
    """With as many members as partitions, one more is ready all the same: else none of them could ever be replaced."""
    setup.worker.topics = ("t",)
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(setup.consuming()) for _ in range(PARTITIONS + 1)]

        def shared_out() -> bool:
            counts = sorted(len(one._subscriber.consumer.assignment()) for one in members)  # noqa: SLF001 - nobody else knows
            return counts == [0] + [1] * PARTITIONS

        # A member may still be joining while the others share the partitions out.
        await until(lambda: shared_out() and [None] * len(members) == [one.trouble() for one in members])


async def test_a_partition_without_a_leader_hides_no_lag_of_the_others() -> None:
    """The library never returns the position of a partition without a leader; the others still report their lag."""

    class Client:
        """Three partitions, of which the middle one has no leader."""

        def assignment(self) -> list[TopicPartition]:
            return [TopicPartition("t", number) for number in range(3)]

        async def position(self, tp: TopicPartition) -> int:
            if tp.partition == 1:
                await asyncio.Event().wait()
            return 10

        def last_stable_offset(self, _tp: TopicPartition) -> int:
            return 12

        def highwater(self, _tp: TopicPartition) -> int:
            return 15

    first, _, last = Client().assignment()
    assert {first: Lag(10, 5, 2), last: Lag(10, 5, 2)} == await _lags(Client())


async def test_an_open_transaction_of_a_foreign_producer_is_lag_and_named(
    setup: ConsumerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records behind an open transaction are lag, readiness names its partition and offset, and no process ends.

    Other partitions continue. After the abort, the records behind it are handled, and none of the transaction.
    """
    monkeypatch.setattr("saga_kit.messaging.consumer.WATCH_S", 0.05)
    monkeypatch.setattr("saga_kit.messaging.consumer.HELD_S", 0.5)
    held, free = "a", next(f"b{n}" for n in range(99) if _partition(f"b{n}") != _partition("a"))
    await setup.send((held, 1))
    async with _transactional(setup) as producer, setup.consuming(stalled_s=STALLED_S) as consumer:
        await setup.done_is({(held, 1)})
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        await producer.begin_transaction()
        await producer.send_and_wait(f"{setup.prefix}t", b'["never", 1]', partition=_partition(held))
        await setup.send((held, 2), (free, 3))
        await setup.done_is({(held, 1), (free, 3)})
        await until(lambda: setup.metrics.registry.get_sample_value("consumer_lag_messages") == 2)
        await until(lambda: setup.metrics.registry.get_sample_value("consumer_held_partitions") == 1)
        where = f"{setup.prefix}t/{_partition(held)} from offset 1"
        await until(lambda: where in str(consumer.trouble()))
        ended, _ = await asyncio.wait({watching}, timeout=1.5 * STALLED_S)  # longer than the stall limit
        assert not ended
        await producer.abort_transaction()
        await setup.done_is({(held, 1), (held, 2), (free, 3)})
        await until(lambda: consumer.trouble() is None)
        await until(lambda: setup.metrics.registry.get_sample_value("consumer_lag_messages") == 0)
        await until(lambda: setup.metrics.registry.get_sample_value("consumer_held_partitions") == 0)
        assert [] == setup.failures
        setup.stopping.set()
        await watching


async def test_a_consumer_that_hangs_while_the_broker_answers_is_stalled(
    setup: ConsumerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process ends if fetches get no answer while the broker is reachable; an idle consumer does not end."""
    monkeypatch.setattr("saga_kit.messaging.consumer.WATCH_S", 0.05)
    monkeypatch.setattr("saga_kit.messaging.consumer.QUIET_MAX_S", 2.0)
    await setup.send(("a", 1))
    async with setup.consuming(stalled_s=STALLED_S) as consumer:
        await setup.done_is({("a", 1)})
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        ended, _ = await asyncio.wait({watching}, timeout=2.0 + 1.5 * STALLED_S)  # an idle consumer is no stall
        assert not ended
        client: Any = consumer._subscriber.consumer  # noqa: SLF001 - to make it hang
        client.pause(*client.assignment())
        with pytest.raises(Stalled, match="no progress"):
            await asyncio.wait_for(watching, 60)
        asked = []

        async def unreachable(_: Iterable[str]) -> list[str]:
            asked.append(1)
            raise KafkaConnectionError("away")

        monkeypatch.setattr(setup.publisher, "missing_topics", unreachable)
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        await until(lambda: len(asked) > 5)  # it would be a stall, but nobody is reachable
        assert not watching.done()
        setup.stopping.set()
        await watching


async def test_waiting_for_room_stops_no_other_topic_and_is_no_stall(
    setup: ConsumerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an intake has no room, other topics flow and the member is ready; a real hang is still found."""
    monkeypatch.setattr("saga_kit.messaging.consumer.WATCH_S", 0.05)
    room = [0]
    setup.worker.intake = Intake("u", lambda: room[0])
    await setup.send(*((f"u{n}", n) for n in range(50)), topic="u")
    async with setup.consuming(stalled_s=STALLED_S) as consumer:
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        flowing: set[tuple[str, int]] = set()
        for number in range(20):
            await setup.send((f"t{number}", number))
            flowing.add((f"t{number}", number))
            await setup.done_is(flowing)
        ended, _ = await asyncio.wait({watching}, timeout=1.5 * STALLED_S)  # no record is taken: there is no room
        assert not ended
        await until(lambda: setup.metrics.registry.get_sample_value("consumer_lag_messages") == 50)
        assert consumer.trouble() is None
        client: Any = consumer._subscriber.consumer  # noqa: SLF001 - to make it hang
        client.pause(*(tp for tp in client.assignment() if tp.topic == f"{setup.prefix}u"))
        room[0] = 100
        with pytest.raises(Stalled, match="50 records behind"):
            await asyncio.wait_for(watching, 60)
        client.resume(*client.assignment())
        await setup.done_is(flowing | {(f"u{n}", n) for n in range(50)})
    assert await setup.committed() == 70


@asynccontextmanager
async def _transactional(setup: ConsumerSetup) -> AsyncIterator[Any]:
    """Connect a foreign transactional producer; the broker waits 15 minutes for the end of its transaction."""
    options = {"transactional_id": f"{setup.prefix}t", "transaction_timeout_ms": 900_000}
    producer = AIOKafkaProducer(bootstrap_servers=setup.address, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


def _partition(key: str) -> int:
    return partition_of(murmur2(key.encode()), 4)
