"""The consumer commits an offset only after its batch is committed, whatever a partition holds and whatever fails."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.producer import message_accumulator
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from faststream import AckPolicy
from faststream.kafka.message import KafkaMessage
from faststream.kafka.security import parse_security
from structlog.testing import capture_logs

from saga_kit.messaging.batch import BatchProcess, Intake
from saga_kit.messaging.consumer import Consumer, _security
from saga_kit.runtime.errors import CannotStart
from tests.saga_kit.messaging.consumer_setup import HEADERS, PARTITIONS, ConsumerSetup
from tests.saga_kit.support import FakePublisher, kit_settings, process, until


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
    entered, leave = setup.pause_in_the_next_batch()
    async with setup.consuming() as consumer:
        await entered.wait()
        stop = asyncio.create_task(consumer.stop())
        await asyncio.sleep(0.2)  # enough time to end, if it did not wait
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
        await asyncio.sleep(0.5)  # enough time to take it and to commit its offset
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
        client: Any = consumer._subscriber.consumer  # noqa: SLF001 - to hold its commits up
        await setup.done_is({("a", 1)})
        await until(lambda: consumer._idle.is_set() and not consumer._poller.offsets(client))  # noqa: SLF001 - nobody else tells that its offset is committed
        commit = client.commit

        async def held_up(offsets: Any) -> None:
            commits.append(offsets)
            await answer.wait()
            await commit(offsets)

        client.commit = held_up
        for number in range(5):
            await setup.send((f"b{number}", number))
            await setup.done_is({("a", 1), *((f"b{n}", n) for n in range(number + 1))})
        await until(lambda: commits and consumer._idle.is_set())  # noqa: SLF001 - the last batch may be about to ask
        assert len(commits) == 1
        answer.set()
    assert len(commits) == 2
    assert await setup.committed() == 6


async def test_an_idle_member_waits_instead_of_asking_again_and_again(
    setup: ConsumerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        await asyncio.sleep(2.5)  # the time in which the polls are counted
        assert polls <= 5
        handled, before = asyncio.Event(), polls
        setup.worker.fault = lambda _: handled.set()
        monkeypatch.setattr("saga_kit.messaging.poller.POLL_TIMEOUT_MS", 60_000)
        await until(lambda: polls > before)  # this poll waits for so long, unless a record comes
        await setup.send(("b", 1))
        async with asyncio.timeout(20):
            await handled.wait()


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
async def test_a_batch_that_ends_while_its_member_joins_again_sends_no_offsets_meanwhile(setup: ConsumerSetup) -> None:
    """They would be refused, and the member would forget who it is, and join once more: all stand still for longer."""
    expected = {(f"a{n}", n) for n in range(30)}
    with capture_logs() as lines:
        await _end_a_batch_while_joining(setup, expected)
    assert [] == [line for line in lines if line["event"] == "committing offsets failed"]
    assert setup.failures == []


async def _end_a_batch_while_joining(setup: ConsumerSetup, items: set[tuple[str, int]]) -> None:
    async with setup.consuming() as consumer:
        coordinator, settled = consumer._subscriber.consumer._coordinator, consumer._poller.settled  # noqa: SLF001 - nobody else tells
        async with _slow_member(setup) as slow:
            await slow.start()
            await until(lambda: 0 < len(consumer._subscriber.consumer.assignment()) < 2 * PARTITIONS)  # noqa: SLF001 - the same
            entered, leave = setup.pause_in_the_next_batch()
            await setup.send(*items)
            await entered.wait()
            generation = coordinator.generation
            async with _slow_member(setup) as another:
                starting = asyncio.create_task(another.start())
                await until(lambda: not settled.is_set())
                leave.set()  # the others' join lasts until the slow one has heard of it
                await until(consumer._idle.is_set)  # noqa: SLF001 - the same
                assert not settled.is_set()
                await starting
                await until(settled.is_set)
                assert generation + 1 == coordinator.generation
        await setup.done_is(items)
        await until(lambda: not consumer._poller.offsets(consumer._subscriber.consumer))  # noqa: SLF001 - the same


@asynccontextmanager
async def _slow_member(setup: ConsumerSetup) -> AsyncIterator[AIOKafkaConsumer]:
    """Make a member, yet to be started, that reads nothing, and hears of a rebalance only after seconds."""
    member = AIOKafkaConsumer(
        *(setup.prefix + topic for topic in setup.worker.topics),
        bootstrap_servers=setup.address,
        group_id=f"{setup.prefix}g",
        enable_auto_commit=False,
        heartbeat_interval_ms=6000,  # longer than this process may stand still
        session_timeout_ms=30_000,
    )
    try:
        yield member
    finally:
        await member.stop()


@pytest.mark.apache_kafka
async def test_a_rebalance_in_mid_flight_loses_nothing(setup: ConsumerSetup) -> None:
    """Members join and leave while records flow: every record is handled, and the committed offsets are complete."""
    expected = {(f"a{n}", n % 900) for n in range(900)}

    async def feed() -> None:
        for n in range(0, 900, 30):
            await setup.send(*((f"a{m}", m % 900) for m in range(n, n + 30)))
            await asyncio.sleep(0.1)  # so that records flow during each rebalance

    feeding = asyncio.create_task(feed())
    async with setup.consuming():
        await until(lambda: setup.worker.handled)
        async with setup.consuming() as second:
            await until(lambda: second.trouble() is None)
        async with setup.consuming():
            await feeding
        await setup.done_is(expected)
    assert await setup.committed() == 900
    assert setup.failures == []
