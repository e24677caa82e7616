"""The consumer commits an offset only after its batch is committed, whatever a partition holds and whatever fails."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaConnectionError, UnsupportedCodecError
from aiokafka.producer import message_accumulator
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from faststream import AckPolicy
from faststream.kafka.message import KafkaMessage
from faststream.kafka.security import parse_security

from contracts.envelope import Envelope, write_headers
from saga_kit.messaging.batch import BatchProcess, Intake
from saga_kit.messaging.consumer import Consumer, Lag, _lags, _security
from saga_kit.messaging.murmur2 import murmur2, partition_of
from saga_kit.messaging.publisher import Publisher, RawMessage
from saga_kit.runtime.errors import CannotStart, Stalled
from saga_kit.runtime.telemetry import KitMetrics
from tests.saga_kit.support import FakePublisher, Schema, Worker, kit_settings, process, until
from tests.support.infrastructure import Infrastructure

ENVELOPE = Envelope("1", "Item", "/test", datetime(2026, 1, 1, tzinfo=UTC))
HEADERS: list[tuple[str, bytes | None]] = [*write_headers(ENVELOPE)]


@dataclass
class ConsumerSetup:
    """Two topics, a worker, and all that a consumer needs."""

    schema: Schema
    address: str
    prefix: str
    publisher: Publisher
    worker: Worker
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[Exception] = field(default_factory=list)
    metrics: KitMetrics = field(default_factory=KitMetrics)

    async def send(self, *items: tuple[str, int], topic: str = "t", **changes: Any) -> None:
        """Publish items as JSON."""
        raw = [
            RawMessage(self.prefix + topic, order.encode(), json.dumps([order, value]).encode(), HEADERS)
            for order, value in items
        ]
        assert await self.publisher.publish_raw([one._replace(**changes) for one in raw])

    @asynccontextmanager
    async def consuming(
        self, batch: BatchProcess[Any] | None = None, stalled_s: float = 60
    ) -> AsyncIterator[Consumer[Any]]:
        """Run a member of the group."""
        batch = batch or process(self.schema, self.worker, FakePublisher(), stopping=self.stopping)
        consumer = Consumer(
            kit_settings(self.schema.url, self.address, self.prefix),
            group="g",
            handler=self.worker,
            process=batch,
            publisher=self.publisher,
            metrics=self.metrics,
            fail=self.failures.append,
            stalled_s=stalled_s,
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def done(self) -> set[tuple[str, int]]:
        """Read the committed rows."""
        return {(key, value) for key, value in await self.schema.rows("SELECT key, value FROM {s}.done")}

    async def done_is(self, expected: set[tuple[str, int]]) -> None:
        """Wait until exactly these rows are committed."""
        async with asyncio.timeout(30):
            while await self.done() != expected:
                await asyncio.sleep(0.02)

    async def committed(self) -> int:
        """Return the sum of the group's committed offsets."""
        reader = AIOKafkaConsumer(bootstrap_servers=self.address, group_id=f"{self.prefix}g", enable_auto_commit=False)
        await reader.start()
        try:
            return sum(
                [await reader.committed(TopicPartition(self.prefix + t, p)) or 0 for t in ("t", "u") for p in range(4)]
            )
        finally:
            await reader.stop()


@pytest_asyncio.fixture
async def setup(schema: Schema, infrastructure: Infrastructure, topic_prefix: str) -> AsyncIterator[ConsumerSetup]:
    """Give this test two topics and a worker."""
    await infrastructure.create_topics({f"{topic_prefix}{name}": 4 for name in ("t", "u", "out")})
    address = infrastructure.kafka_bootstrap_servers
    publisher = Publisher(kit_settings(schema.url, address, topic_prefix), timeout_s=15)
    yield ConsumerSetup(schema, address, topic_prefix, publisher, Worker(schema.name, topics=("t", "u")))
    await publisher.stop()


async def test_records_of_all_topics_are_handled_and_then_committed(setup: ConsumerSetup) -> None:
    """One subscriber takes all topics in batches, and the committed offsets count every record."""
    await setup.send(*((f"a{n}", n) for n in range(40)))
    await setup.send(*((f"b{n}", n) for n in range(40)), topic="u")
    expected = {(f"{name}{n}", n) for name in "ab" for n in range(40)}
    async with setup.consuming():
        await setup.done_is(expected)
    assert await setup.committed() == 80
    assert len(setup.worker.handled) < 20


async def test_a_finished_batch_is_freed_without_the_cycle_collector(setup: ConsumerSetup) -> None:
    """The records of a finished batch are freed without the cycle collector, which runs seldom."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        async with setup.consuming():
            for number in range(60):
                await setup.send(("o", number))
                await setup.done_is({("o", one) for one in range(number + 1)})
            gc.collect()
        assert [] == [found for found in gc.garbage if isinstance(found, ConsumerRecord | KafkaMessage)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def test_unreadable_bytes_become_one_dead_letter_each(setup: ConsumerSetup) -> None:
    """Invalid headers, a null value, no headers or broken JSON: each such record alone becomes a dead letter."""
    await setup.send(("a", 1))
    odd = [*HEADERS, ("x", b"\xff\xfe"), ("y", None)]
    await setup.send(("b", 2), headers=odd)
    await setup.send(("c", 3), headers=[("reply_to", b"out"), *HEADERS])
    await setup.send(("d", 4), value=None)
    await setup.send(("e", 5), headers=[])
    await setup.send(("f", 6), headers=[("ce_id", b"\xff")])
    await setup.send(("g", 7), value=b"\xff{")
    await setup.send(("h", 8), key=None)
    async with setup.consuming():
        await setup.done_is({("a", 1), ("b", 2), ("c", 3), ("h", 8)})
    found = await setup.schema.rows("SELECT key, value, reason FROM {s}.dead_letters ORDER BY key")
    assert [row[0] for row in found] == [b"d", b"e", b"f", b"g"]
    assert await setup.committed() == 8
    assert setup.failures == []


async def test_a_record_from_before_the_replay_horizon_becomes_a_dead_letter(
    setup: ConsumerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record older than the replay horizon becomes a dead letter: the rows that detect a repeat may be gone."""
    await setup.send(("old", 1))
    monkeypatch.setattr("saga_kit.messaging.consumer.REPLAY_HORIZON_S", -3600)  # as if the record were older
    async with setup.consuming(), asyncio.timeout(30):
        while not (found := await setup.schema.rows("SELECT key, reason FROM {s}.dead_letters")):
            await asyncio.sleep(0.02)
        monkeypatch.undo()
        await setup.send(("young", 2))
        await setup.done_is({("young", 2)})
    assert [(b"old", True)] == [(key, "replay horizon" in reason) for key, reason in found]


async def test_a_batch_that_waits_is_not_acknowledged_by_a_stop(setup: ConsumerSetup) -> None:
    """A member that is stopped during an outage commits nothing; the next member gets every record."""
    await setup.send(*((f"a{n}", n) for n in range(10)))
    setup.worker.fault = lambda _: OSError("down")
    async with setup.consuming():
        await until(lambda: setup.worker.handled)
        setup.stopping.set()
    assert await setup.committed() == 0
    assert await setup.done() == set()
    setup.worker.fault = lambda _: None
    setup.stopping.clear()
    async with setup.consuming():
        await setup.done_is({(f"a{n}", n) for n in range(10)})
    assert await setup.committed() == 10


async def test_nothing_is_acknowledged_after_a_batch_was_given_up(setup: ConsumerSetup) -> None:
    """A batch that comes after a given-up batch, before the stop, must not commit offsets beyond the given-up one."""
    await setup.send(("a", 1))
    setup.worker.fault = lambda call: OSError("down") if call == 1 else None
    async with setup.consuming():
        await until(lambda: setup.worker.handled)
        setup.stopping.set()
        await setup.send(*((f"b{n}", n) for n in range(40)))
        await asyncio.sleep(1)  # enough time to handle them, if they were taken
    assert await setup.committed() == 0
    setup.stopping.clear()
    async with setup.consuming():
        await setup.done_is({("a", 1), *((f"b{n}", n) for n in range(40))})


async def test_a_stop_waits_for_the_running_batch(setup: ConsumerSetup) -> None:
    """A member that is stopped in a transaction finishes, publishes and commits that batch first."""
    await setup.send(("a", 1))
    entered, leave = asyncio.Event(), asyncio.Event()
    handle = setup.worker.handle

    async def slow(tx: Any, messages: Any) -> Any:
        entered.set()
        await leave.wait()
        return await handle(tx, messages)

    setup.worker.handle = slow  # type: ignore[method-assign]  # the test's own pause
    async with setup.consuming() as consumer:
        await entered.wait()
        stop = asyncio.create_task(consumer.stop())
        await asyncio.sleep(0.2)
        assert not stop.done()
        leave.set()
        await stop
    assert await setup.done() == {("a", 1)}
    assert await setup.committed() == 1


async def test_an_error_of_the_kit_itself_ends_the_process_and_acknowledges_nothing(setup: ConsumerSetup) -> None:
    """FastStream swallows a handler's exception; the kit ends the process instead and commits no later offset."""
    await setup.send(("a", 1))

    class Broken(BatchProcess[Any]):
        async def run(self, *_: Any) -> None:
            raise RuntimeError("a bug of the kit")

    broken = Broken.__new__(Broken)
    async with setup.consuming(broken):
        await until(lambda: setup.failures)
        await setup.send(("b", 2), topic="u")
        await asyncio.sleep(0.5)
    assert [str(error) for error in setup.failures] == ["a bug of the kit"]
    assert await setup.committed() == 0


class BadName(str):
    """A header name whose bytes are not UTF-8."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        """Return bytes that are not UTF-8."""
        return b"\xff\xfe"


async def send_unparsable(setup: ConsumerSetup, partition: int, *values: bytes) -> None:
    """Send to a partition a record with a broken header name before each value."""
    native = message_accumulator.DefaultRecordBatchBuilder
    message_accumulator.DefaultRecordBatchBuilder = _DefaultRecordBatchBuilderPy
    producer = AIOKafkaProducer(bootstrap_servers=setup.address)
    await producer.start()
    try:
        batch = producer.create_batch()
        for value in values:
            batch.append(timestamp=None, key=b"bad", value=b"bad", headers=[(BadName("x"), b"1")])
            batch.append(timestamp=None, key=b"k", value=value, headers=HEADERS)
        await (await producer.send_batch(batch, f"{setup.prefix}t", partition=partition))
    finally:
        await producer.stop()
        message_accumulator.DefaultRecordBatchBuilder = native


async def test_a_record_that_the_client_library_cannot_parse_becomes_a_dead_letter(setup: ConsumerSetup) -> None:
    """A record at which aiokafka raises for ever becomes a dead letter, and no other record is lost.

    The records behind it in its producer's batch become dead letters as well. All records of other producers are
    handled.
    """
    expected = {(f"a{n}", n) for n in range(200)}
    await setup.send(*sorted(expected))
    for partition in (1, 3):
        await send_unparsable(setup, partition, b'["x", 1]', b'["y", 2]')
    await setup.send(*((f"b{n}", n) for n in range(200)))
    expected |= {(f"b{n}", n) for n in range(200)}
    async with setup.consuming():
        await setup.done_is(expected)
    found = await setup.schema.rows("SELECT partition, reason FROM {s}.dead_letters ORDER BY partition")
    assert [row[0] for row in found] == [1] * 4 + [3] * 4
    assert all("UnicodeDecodeError" in row[1] for row in found)
    assert await setup.committed() == 408


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


async def test_the_ack_policy_is_checked_at_the_start(setup: ConsumerSetup) -> None:
    """A subscriber that would acknowledge by itself keeps the process from starting."""
    consumer = Consumer(
        kit_settings(setup.schema.url, setup.address, setup.prefix),
        group="g",
        handler=setup.worker,
        process=process(setup.schema, setup.worker, FakePublisher()),
        publisher=setup.publisher,
        metrics=setup.metrics,
        fail=setup.failures.append,
    )
    consumer._subscriber.ack_policy = AckPolicy.ACK  # noqa: SLF001 - no public way could make this mistake
    with pytest.raises(CannotStart, match="MANUAL"):
        await consumer.start()
    await consumer.stop()


async def test_readiness_and_lag(setup: ConsumerSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member is ready once it has partitions and polls; its lag counts the records that it has not taken."""
    monkeypatch.setattr("saga_kit.messaging.consumer.WATCH_S", 0.05)
    await setup.send(("a", 1))
    async with setup.consuming() as consumer:
        await setup.done_is({("a", 1)})
        assert consumer.trouble() is None
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        block = asyncio.Event()
        handle = setup.worker.handle

        async def slow(tx: Any, messages: Any) -> Any:
            await block.wait()
            return await handle(tx, messages)

        setup.worker.handle = slow  # type: ignore[method-assign]  # the test's own pause
        await setup.send(("b", 1))
        await asyncio.sleep(0.3)
        await setup.send(*((f"c{n}", n) for n in range(50)))
        await until(lambda: setup.metrics.registry.get_sample_value("consumer_lag_messages") == 50)
        block.set()
        await until(lambda: setup.metrics.registry.get_sample_value("consumer_lag_messages") == 0)
        setup.stopping.set()
        await watching
    assert consumer.trouble() == "no partitions assigned"


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
    async with _transactional(setup) as producer, setup.consuming(stalled_s=1.0) as consumer:
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
        ended, _ = await asyncio.wait({watching}, timeout=3)  # longer than the stall limit
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
    monkeypatch.setattr("saga_kit.messaging.consumer.QUIET_MAX_S", 0.6)
    await setup.send(("a", 1))
    async with setup.consuming(stalled_s=0.5) as consumer:
        await setup.done_is({("a", 1)})
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        await asyncio.sleep(2)
        assert not watching.done()
        client: Any = consumer._subscriber.consumer  # noqa: SLF001 - to make it hang
        client.pause(*client.assignment())
        with pytest.raises(Stalled, match="no progress"):
            await asyncio.wait_for(watching, 20)
        monkeypatch.setattr(setup.publisher, "missing_topics", _unreachable)
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        await asyncio.sleep(2)
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
    async with setup.consuming(stalled_s=0.5) as consumer:
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        for number in range(20):
            await setup.send((f"t{number}", number))
            await asyncio.sleep(0.1)
        flowing = {(f"t{n}", n) for n in range(20)}
        await setup.done_is(flowing)
        await asyncio.sleep(1.5)  # no record is taken now, because there is no room
        assert not watching.done()
        assert setup.metrics.registry.get_sample_value("consumer_lag_messages") == 50
        assert consumer.trouble() is None
        client: Any = consumer._subscriber.consumer  # noqa: SLF001 - to make it hang
        client.pause(*(tp for tp in client.assignment() if tp.topic == f"{setup.prefix}u"))
        room[0] = 100
        with pytest.raises(Stalled, match="50 records behind"):
            await asyncio.wait_for(watching, 20)
        client.resume(*client.assignment())
        await setup.done_is(flowing | {(f"u{n}", n) for n in range(50)})
    assert await setup.committed() == 70


async def test_no_more_than_there_is_room_for_is_taken_at_once(setup: ConsumerSetup) -> None:
    """A batch holds at most the intake's room, and in the end all records come, in order within each partition."""
    setup.worker.intake = Intake("u", lambda: 7)
    await setup.send(*((f"u{n}", n) for n in range(200)), topic="u")
    async with setup.consuming():
        await setup.done_is({(f"u{n}", n) for n in range(200)})
    assert max(map(len, setup.worker.handled)) <= 7
    for partition in range(4):
        mine = [item.value for batch in setup.worker.handled for item in batch
                if setup.publisher.partition(item.order.encode(), 4) == partition]  # fmt: skip
        assert sorted(mine) == mine


async def test_a_batch_does_not_wait_for_the_offsets_of_the_one_before(setup: ConsumerSetup) -> None:
    """Records are handled while an offset commit gets no answer; one more commit then covers all of them."""
    await setup.send(("a", 1))
    answer, commits = asyncio.Event(), []
    async with setup.consuming() as consumer:
        await until(lambda: setup.worker.handled)
        client: Any = consumer._subscriber.consumer  # noqa: SLF001 - to hold its commits up
        commit = client.commit

        async def held_up(offsets: Any) -> None:
            commits.append(offsets)
            await answer.wait()
            await commit(offsets)

        client.commit = held_up
        for number in range(5):
            await setup.send((f"b{number}", number))
            await setup.done_is({("a", 1), *((f"b{n}", n) for n in range(number + 1))})
        await until(lambda: commits)
        assert len(commits) == 1
        answer.set()
    assert len(commits) == 2
    assert await setup.committed() == 6


async def test_an_idle_member_waits_instead_of_asking_again_and_again(setup: ConsumerSetup) -> None:
    """A poll waits for the first record: polls are few while there is none, and a new record is handled at once."""
    async with setup.consuming() as consumer:
        await setup.send(("a", 1))
        await setup.done_is({("a", 1)})
        client: Any = consumer._subscriber.consumer  # noqa: SLF001 - to count its polls
        read, polls = client.getmany, 0

        async def counted(*partitions: TopicPartition, **options: Any) -> Any:
            nonlocal polls
            polls += 1
            return await read(*partitions, **options)

        client.getmany = counted
        await asyncio.sleep(2.5)
        assert polls <= 5
        handled = asyncio.Event()
        setup.worker.fault = lambda _: handled.set()
        await setup.send(("b", 1))
        async with asyncio.timeout(0.5):
            await handled.wait()


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


async def _unreachable(_: Iterable[str]) -> list[str]:
    raise KafkaConnectionError("away")


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_consumer_and_publisher_connect_alike(protocol: str, mechanism: str) -> None:
    """FastStream's consumer gets the same security settings as the publisher's client."""
    settings = kit_settings(
        "postgresql://u:p@h/d",
        "h:1",
        kafka_security_protocol=protocol,
        kafka_sasl_mechanism=mechanism,
        kafka_sasl_username="u",
        kafka_sasl_password="p",
    )
    publishers, consumers = settings.kafka_client_options(), parse_security(_security(settings))
    for options in (publishers, consumers):
        options["ssl_context"] = options.get("ssl_context") is not None
    del publishers["bootstrap_servers"]
    assert publishers == consumers


@pytest.mark.apache_kafka
async def test_a_rebalance_in_mid_flight_loses_nothing(setup: ConsumerSetup) -> None:
    """Members join and leave while records flow: every record is handled, and the committed offsets are complete."""
    expected = {(f"a{n}", n % 900) for n in range(900)}

    async def feed() -> None:
        for n in range(0, 900, 30):
            await setup.send(*((f"a{m}", m % 900) for m in range(n, n + 30)))
            await asyncio.sleep(0.1)

    feeding = asyncio.create_task(feed())
    async with setup.consuming():
        await asyncio.sleep(0.5)
        async with setup.consuming():
            await asyncio.sleep(1)
        async with setup.consuming():
            await feeding
        await setup.done_is(expected)
    assert await setup.committed() == 900
    assert setup.failures == []
