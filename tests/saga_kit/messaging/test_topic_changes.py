"""A consumer notices changes of its topics and reads what is new."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewPartitions, NewTopic

from tests.saga_kit.messaging.consumer_setup import HEADERS, ConsumerSetup
from tests.saga_kit.support import until
from tests.support.infrastructure import kafka_admin


async def _records(setup: ConsumerSetup, topic: str, partition: int, *values: tuple[str, int]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=setup.address) as producer:
        for order, value in values:
            body = f'["{order}", {value}]'.encode()
            await producer.send_and_wait(topic, body, key=order.encode(), partition=partition, headers=HEADERS)


def _changes(setup: ConsumerSetup, change: str) -> float:
    return setup.metrics.registry.get_sample_value("topic_changes_total", {"change": change}) or 0


@pytest.mark.apache_kafka
async def test_new_partitions_are_read_within_seconds_from_their_beginning(
    setup: ConsumerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records in a new partition are read from its beginning within seconds, and the change is counted."""
    monkeypatch.setattr("saga_kit.messaging.consumer.WATCH_S", 0.1)
    topic = f"{setup.prefix}t"
    await setup.send(("a", 1))
    async with setup.consuming() as consumer, kafka_admin(setup.address) as admin:
        await setup.done_is({("a", 1)})
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        await admin.create_partitions({topic: NewPartitions(6)})
        await _records(setup, topic, 5, ("b", 1), ("b", 2))
        async with asyncio.timeout(30):  # and not after minutes, as by the library's own look
            await setup.done_is({("a", 1), ("b", 1), ("b", 2)})
        await until(lambda: _changes(setup, "partitions") == 1)
        setup.stopping.set()
        await watching


@pytest.mark.apache_kafka
async def test_a_topic_that_is_gone_shows_and_one_that_is_made_anew_is_read(
    setup: ConsumerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer is not ready while one of its topics is missing; a new topic of the same name is read whole."""
    monkeypatch.setattr("saga_kit.messaging.consumer.WATCH_S", 0.1)
    topic = f"{setup.prefix}u"
    await _records(setup, topic, 0, *((f"a{n}", n) for n in range(5)))
    old = {(f"a{n}", n) for n in range(5)}
    async with setup.consuming() as consumer, kafka_admin(setup.address) as admin:
        await setup.done_is(old)
        watching = asyncio.create_task(consumer.watch(setup.stopping))
        await admin.delete_topics([topic])
        await until(lambda: f"missing (or hidden from this login): {topic}" in (consumer.trouble() or ""))
        await until(lambda: _changes(setup, "missing") == 1)

        async def made() -> bool:
            answer = await admin.create_topics([NewTopic(topic, 4, 1)])
            return bool(answer.topic_errors[0][1] == 0)

        async with asyncio.timeout(60):
            while not await made():
                await asyncio.sleep(0.1)
        await until(lambda: _changes(setup, "back") == 1)
        async with asyncio.timeout(60):
            while True:
                try:
                    await _records(setup, topic, 0, ("b", 1), ("b", 2))
                    break
                except Exception:  # noqa: BLE001 - its leader comes a moment later
                    await asyncio.sleep(0.1)
            while not {("b", 1), ("b", 2)} <= await setup.done():
                await asyncio.sleep(0.05)
        await until(lambda: consumer.trouble() is None)
        setup.stopping.set()
        await watching
