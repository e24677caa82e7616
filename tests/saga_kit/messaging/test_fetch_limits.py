"""Fetched data is bounded in memory, and an unreadable batch affects only its own records."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cramjam
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.producer import message_accumulator
from aiokafka.record import default_records

from saga_kit.messaging import fetch_limits
from saga_kit.messaging.fetch_limits import HEADERS_MAX, RECORD_BYTES_MAX, UNPACKED_BYTES_MAX, UnpackedTooLarge
from tests.saga_kit.messaging.consumer_setup import HEADERS, ConsumerSetup

MEMORY_BYTES = 512 * 1024 * 1024
"""The memory limit of a service in the compose file."""
CODECS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gzip": (gzip.compress, fetch_limits.gzip_decode),
    "snappy": (lambda data: bytes(cramjam.snappy.compress_raw(data)), fetch_limits.snappy_decode),
    "snappy blocks": (default_records.snappy_encode, fetch_limits.snappy_decode),
    "lz4": (default_records.lz4_encode, fetch_limits.lz4_decode),
    "zstd": (default_records.zstd_encode, fetch_limits.zstd_decode),
}


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_returns_the_packed_data_up_to_its_limit(codec: str) -> None:
    """Up to the limit every byte is returned; one byte more is refused."""
    pack, unpack = CODECS[codec]
    for data in (b"x", os.urandom(100_000), b" " * UNPACKED_BYTES_MAX):
        assert data == unpack(pack(data))
    with pytest.raises(UnpackedTooLarge):
        unpack(pack(b" " * (UNPACKED_BYTES_MAX + 1)))


@pytest.mark.parametrize("codec", CODECS)
def test_broken_bytes_are_an_error_and_no_hang(codec: str) -> None:
    """Truncated or damaged data raises an expected error or stays below the limit, and never hangs."""
    pack, unpack = CODECS[codec]
    packed = pack(os.urandom(50_000))
    for broken in (packed[: len(packed) // 2], packed[:20] + b"\xff\xff\xff\xfc" + packed[24:]):
        with suppress(ValueError, EOFError, OSError, zlib.error, cramjam.DecompressionError):
            assert len(unpack(broken)) <= UNPACKED_BYTES_MAX, "not every codec has a checksum"


SPY = """
import asyncio, sys, resource
from aiokafka import AIOKafkaConsumer
from saga_kit.messaging.poller import Poller

async def main(address, topic, expected):
    poller = Poller()
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    seen = 0
    while seen < expected:
        records = await poller.poll(consumer)
        poller.handled(records)
        for record in records:
            print(record.offset, getattr(record, "reason", "good"), flush=True)
        seen += len(records)
    await consumer.stop()

resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[4]),) * 2)
asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2], int(sys.argv[3])), 120))
"""


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
async def test_a_decompression_bomb_kills_no_process_of_512_mb(setup: ConsumerSetup, codec: str) -> None:
    """300 MB of spaces and a record of a million headers become lost records; the records around them are read."""
    topic = f"{setup.prefix}out"
    async with AIOKafkaProducer(
        bootstrap_servers=setup.address, compression_type=codec, max_request_size=400 << 20
    ) as producer:
        for value, headers in (
            (b"good", []),
            (b" " * (300 << 20), []),
            (b"good", []),
            (b"many headers", [("", b"")] * 1_000_000),
            (b" " * (2 * RECORD_BYTES_MAX), []),
            (b"good", []),
        ):
            await producer.send_and_wait(topic, value, partition=0, headers=headers)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SPY, setup.address, topic, "6", str(MEMORY_BYTES)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    told = [line.split(" ", 1) for line in out.decode().splitlines()]
    assert (0, ["0", "1", "2", "3", "4", "5"]) == (process.returncode, [offset for offset, _ in told]), err.decode()
    assert ["good"] * 3 == [told[number][1] for number in (0, 2, 5)]
    assert f"more than {UNPACKED_BYTES_MAX} bytes unpacked" in told[1][1]
    assert f"1000000 headers, at most {HEADERS_MAX}" in told[3][1]
    assert f"its value has {2 * RECORD_BYTES_MAX} bytes, SHA-256 " in told[4][1]


async def _send_packed(setup: ConsumerSetup, alter: Callable[[bytes], bytes], *values: list[Any]) -> None:
    """Send one gzip batch to a partition; `alter` gets its unpacked records and returns the bytes to send."""
    native, encode = message_accumulator.DefaultRecordBatchBuilder, default_records.gzip_encode
    message_accumulator.DefaultRecordBatchBuilder = default_records._DefaultRecordBatchBuilderPy  # noqa: SLF001
    default_records.gzip_encode = alter
    try:
        async with AIOKafkaProducer(bootstrap_servers=setup.address, compression_type="gzip") as producer:
            batch = producer.create_batch()
            for value in values:
                batch.append(timestamp=None, key=b"k" * 200, value=json.dumps(value).encode(), headers=HEADERS)
            await (await producer.send_batch(batch, f"{setup.prefix}t", partition=0))
    finally:
        message_accumulator.DefaultRecordBatchBuilder, default_records.gzip_encode = native, encode


def _with_trailing_byte(data: bytes) -> bytes:
    return gzip.compress(data) + b"x"


def _with_wrong_length(data: bytes) -> bytes:
    """Reduce the length in the last of three records of equal length by one byte."""
    start = len(data) // 3 * 2
    return gzip.compress(data[:start] + bytes([data[start] - 2]) + data[start + 1 :])


@pytest.mark.parametrize(
    ("alter", "read"),
    [(_with_trailing_byte, set()), (_with_wrong_length, {("p", 1), ("q", 2)})],
    ids=["trailing byte", "wrong length"],
)
async def test_a_batch_that_only_the_broker_can_read_costs_its_own_records_alone(
    setup: ConsumerSetup, alter: Callable[[bytes], bytes], read: set[tuple[str, int]]
) -> None:
    """Records before an unreadable one and after its batch are handled; the others become dead letters."""
    one = next(f"a{n}" for n in range(99) if setup.publisher.partition(f"a{n}".encode(), 4) == 0)
    await setup.send((one, 1))
    await _send_packed(setup, alter, ["p", 1], ["q", 2], ["r", 3])
    await setup.send((one, 2))
    lost = {1, 2, 3} if not read else {3}
    async with setup.consuming() as consumer:
        await setup.done_is({(one, 1), (one, 2)} | read)
        assert consumer.trouble() is None
    found = await setup.schema.rows("SELECT partition, record_offset, reason FROM {s}.dead_letters")
    assert {(0, offset) for offset in lost} == {(row[0], row[1]) for row in found}
    assert all("can't be parsed" in row[2] for row in found)
    assert 5 == await setup.committed()
