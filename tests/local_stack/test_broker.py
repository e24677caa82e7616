"""The embedded broker does for aiokafka what the services need of Kafka."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from local_stack import broker
from local_stack.errors import StackError
from local_stack.ports import free_ports
from local_stack.probes import tcp_ready
from tests.local_stack.support import ENVIRONMENT, Supervised, eventually, is_gone

pytestmark = pytest.mark.asyncio

TOPICS = {"requests": 12, "replies": 3}


async def start(supervised: Supervised, topics: Mapping[str, int]) -> str:
    """Run a broker; return its address."""
    [port] = free_ports(1)
    await supervised.supervisor.start(broker.process_spec(port, topics))
    return f"127.0.0.1:{port}"


async def consumer(address: str) -> Any:
    """Join the group as its only member, for both topics."""
    member = AIOKafkaConsumer(
        *TOPICS,
        bootstrap_servers=address,
        group_id="group",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=20_000,
        heartbeat_interval_ms=500,
        fetch_max_wait_ms=10,
    )
    await member.start()
    return member


async def read(member: Any, count: int) -> list[tuple[str, bytes, bytes]]:
    """Read `count` records: topic, key and value."""
    found: list[tuple[str, bytes, bytes]] = []
    while len(found) < count:
        batches = await member.getmany(timeout_ms=1_000)
        found += [(record.topic, record.key, record.value) for batch in batches.values() for record in batch]
    return found


async def test_producer_group_and_commit(supervised: Supervised) -> None:
    """Idempotent producer, topics with their partitions, one group over several topics, and offsets that are kept."""
    address = await start(supervised, TOPICS)
    producer = AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True, acks="all")
    await producer.start()
    sent = [(topic, f"key-{n}".encode(), f"{topic}-{n}".encode()) for topic in TOPICS for n in range(50)]
    for topic, key, value in sent:
        await producer.send(topic, key=key, value=value, headers=[("ce_id", b"\xff")])
    await producer.flush()

    first = await consumer(address)
    assert first.assignment() == {TopicPartition(topic, n) for topic, count in TOPICS.items() for n in range(count)}
    assert sorted(await read(first, len(sent))) == sorted(sent)
    await first.commit()
    await first.stop()

    await producer.send_and_wait("requests", key=b"late", value=b"the only one unread")
    second = await consumer(address)
    assert await read(second, 1) == [("requests", b"late", b"the only one unread")]
    await second.stop()
    await producer.stop()


async def test_batches_of_our_own_and_their_times(supervised: Supervised) -> None:
    """A batch that the caller fills goes to the partition that the caller names, with its headers and times."""
    address = await start(supervised, TOPICS)
    producer = AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True, acks="all", max_batch_size=524_288)
    await producer.start()
    batch = producer.create_batch()
    full = None
    for n in range(3):
        full = batch.append(key=b"key", value=bytes(200_000), timestamp=1_700_000_000_000 + n, headers=[("h", b"v")])
    acknowledged = await producer.send_batch(batch, "replies", partition=2)
    assert (full, (await acknowledged).partition) == (None, 2)
    member = await consumer(address)
    records = [record for batch in (await member.getmany(timeout_ms=60_000)).values() for record in batch]
    assert [(record.partition, record.offset, record.timestamp, record.headers) for record in records] == [
        (2, 0, 1_700_000_000_000, (("h", b"v"),)),
        (2, 1, 1_700_000_000_001, (("h", b"v"),)),
    ]
    await member.stop()
    await producer.stop()


async def test_it_stops_when_asked(supervised: Supervised) -> None:
    """SIGTERM ends it, well before the supervisor would kill it."""
    await start(supervised, {})
    pid = supervised.pid("broker")
    os.kill(pid, signal.SIGTERM)
    assert await supervised.supervisor.lost() == "broker"
    assert is_gone(pid)
    assert supervised.said == ["broker ended with exit code 0"]


async def test_it_ends_with_its_parent() -> None:
    """A broker without a supervisor ends when the process that started it has died."""
    program = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); p.wait()"
    [port] = free_ports(1)
    command = [sys.executable, "-m", "local_stack.broker", "--port", str(port)]
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *command), env=ENVIRONMENT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    await eventually(tcp_ready(port))
    parent.kill()
    await parent.wait()
    await eventually(lambda: is_gone(pid))


async def test_a_refused_topic_is_one_clear_line(supervised: Supervised) -> None:
    """A topic without partitions is not given librdkafka's own default."""
    with pytest.raises(StackError, match=r"^broker did not start: .*'none=0' is not NAME=PARTITIONS"):
        await start(supervised, {"none": 0})
