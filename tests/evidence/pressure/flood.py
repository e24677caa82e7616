"""A flood of unreadable messages on every topic while orders go on: measures orders and checks every dead letter."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.producer import message_accumulator
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from confluent_kafka import Producer

from tests.evidence.chaos import books, checker
from tests.evidence.chaos.arena import PARTITIONS, Arena
from tests.evidence.chaos.record import Placed, Record, Unreadable
from tests.evidence.chaos.run import quiet
from tests.evidence.chaos.witness import Witness
from tests.evidence.pressure.outage import Plan, stage
from tests.support.servers import Server

TOPICS: Final = {
    "orders.requests": "orders",
    "balance.replies": "orders",
    "assets.replies": "orders",
    "balance.commands": "balances",
    "assets.commands": "assets",
}
"""The topics that a service consumes, and the schema of its dead letters."""
KINDS: Final = ("no headers", "broken JSON", "unknown type", "another's type", "oversized")
OVERSIZED_EACH: Final = 10
OVERSIZED_BYTES: Final = 700_000
SLOWER_MAX: Final = 5.0
SLOWER_BUT_S: Final = 2.0
STORED_WITHIN_S: Final = 120.0


@dataclass
class Flooded:
    """The figures and the faults found."""

    figures: dict[str, int | float | str]
    found: list[str]


async def flood(postgres: Server, kafka: Server, folder: Path, plan: Plan, *, each: int, unparsable: int) -> Flooded:
    """Send each topic `each` unreadable messages and `unparsable` ones that the client library can't parse; judge."""
    async with stage(postgres, kafka, folder, plan) as (one, _, load, witness, _watch):
        record = load.record
        loading = asyncio.create_task(load.run(plan.rate))
        began = time.monotonic()
        await asyncio.sleep(plan.before_s)
        flooded = time.monotonic()
        sent = await asyncio.to_thread(_send, one, each)
        record.unreadable += sent
        broken = [await _send_unparsable(one, topic, unparsable) for topic in TOPICS] if unparsable else []
        in_s = time.monotonic() - flooded
        stored_s = await _all_stored(one, len(sent) + sum(map(len, broken)), flooded)
        over = time.monotonic()
        await asyncio.sleep(2)
        await load.stop()
        await loading
        findings = await quiet(one, record, witness, time.monotonic())
        final = await books.read(one.owner_url)
        places = {place for some in broken for place in some}
        lost = [
            dead_letter
            for dead_letter in final.dead_letters
            if (dead_letter["topic"], dead_letter["partition"], dead_letter["record_offset"]) in places
        ]
        readable = final._replace(
            dead_letters=[dead_letter for dead_letter in final.dead_letters if dead_letter not in lost]
        )
        before = _took(record, witness, began, flooded)
        during = _took(record, witness, flooded, over)
        figures: dict[str, int | float | str] = {
            "orders": len(record.placed),
            "orders a second, offered": plan.rate,
            "unreadable messages": len(sent),
            "their kinds": ", ".join(KINDS),
            "that the client library can't parse": len(places),
            "sent in, s": round(in_s, 1),
            "all kept as dead letters after, s": round(stored_s, 1),
            "dead letters": len(final.dead_letters),
            "latency before, p50, s": _share(before, 0.5),
            "latency before, p99, s": _share(before, 0.99),
            "latency during, p50, s": _share(during, 0.5),
            "latency during, p99, s": _share(during, 0.99),
            "ends": ", ".join(f"{end} {number}" for end, number in Counter(checker.ends(final)).most_common()),
        }
        found = [str(finding) for finding in (*findings, *checker.judge(record, witness.wire, readable))]
        found += [] if len(lost) == len(places) else [f"{len(lost)} dead letters of {len(places)} that can't be parsed"]
        return Flooded(figures, found + _slower(figures))


def _slower(figures: dict[str, int | float | str]) -> list[str]:
    found = []
    for q in ("p50", "p99"):
        before, during = float(figures[f"latency before, {q}, s"]), float(figures[f"latency during, {q}, s"])
        if during > max(before * SLOWER_MAX, SLOWER_BUT_S):
            found.append(f"orders took {during} s ({q}) during the flood, {before} s before")
    return found


def _send(one: Arena, each: int) -> list[Unreadable]:
    """Send all kinds of unreadable messages to all partitions of all topics; return where each was stored."""
    producer = Producer(
        {
            "bootstrap.servers": one.stack.kafka_bootstrap_servers,
            "linger.ms": 5,
            "message.max.bytes": 1_000_000,
            "queue.buffering.max.kbytes": 200_000,
            "log_level": 0,
        }
    )
    sent: list[Unreadable] = []

    def noted(value: bytes) -> Any:
        def delivered(error: Any, stored: Any) -> None:
            assert error is None, error
            sent.append(Unreadable(stored.topic(), stored.partition(), stored.offset(), value))

        return delivered

    for number in range(each):
        for topic in TOPICS:
            value, headers = _unreadable(number)
            while True:
                try:
                    producer.produce(
                        one.prefix + topic,
                        value=value,
                        headers=list(headers),
                        key=f"k{number}",
                        on_delivery=noted(value),
                    )
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.poll(0)
    producer.flush(60)
    return sent


def _unreadable(number: int) -> tuple[bytes, list[tuple[str, bytes]]]:
    kind = KINDS[number % len(KINDS)]
    if kind == "oversized" and number >= OVERSIZED_EACH * len(KINDS):
        kind = "broken JSON"
    mark = f'"{number}-{os.urandom(6).hex()}"'
    headers = [("ce_specversion", b"1.0"), ("ce_id", mark.encode()), ("ce_source", b"flood")]
    if kind == "no headers":
        return mark.encode(), []
    if kind == "unknown type":
        return mark.encode(), [*headers, ("ce_type", b"NobodyKnowsThis")]
    if kind == "another's type":
        return f'{{"asset_id": {mark}}}'.encode(), [*headers, ("ce_type", b"AssetPriceChanged")]
    if kind == "oversized":
        return f'{{"large": {mark}, "x": "{"x" * OVERSIZED_BYTES}"'.encode(), [*headers, ("ce_type", b"OrderRequested")]
    return f'{{"order_id": {mark}'.encode(), [*headers, ("ce_type", b"OrderRequested")]


class _BadName(str):
    """A header's name whose bytes are not UTF-8."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        """Return them."""
        return b"\xff\xfe"


async def _send_unparsable(one: Arena, topic: str, number: int) -> list[tuple[str, int, int]]:
    """Send records with a header name that is not UTF-8, each in a batch of its own; return where they were stored."""
    native = message_accumulator.DefaultRecordBatchBuilder
    message_accumulator.DefaultRecordBatchBuilder = _DefaultRecordBatchBuilderPy
    producer = AIOKafkaProducer(bootstrap_servers=one.stack.kafka_bootstrap_servers)
    await producer.start()
    places = []
    try:
        for count in range(number):
            batch = producer.create_batch()
            batch.append(timestamp=None, key=b"bad", value=b"bad", headers=[(_BadName("x"), b"1")])
            stored = await (await producer.send_batch(batch, one.prefix + topic, partition=count % PARTITIONS))
            places.append((stored.topic, stored.partition, stored.offset))
    finally:
        await producer.stop()
        message_accumulator.DefaultRecordBatchBuilder = native
    return places


async def _all_stored(one: Arena, number: int, since: float) -> float:
    """Wait until there are so many dead letters, at most `STORED_WITHIN_S`; return how long it took."""
    connection = await asyncpg.connect(one.owner_url)
    try:
        while time.monotonic() - since < STORED_WITHIN_S:
            if await connection.fetchval(_DEAD_LETTERS) >= number:
                break
            await asyncio.sleep(0.2)
    finally:
        await connection.close()
    return time.monotonic() - since


def _took(record: Record, witness: Witness, begin: float, end: float) -> list[float]:
    def counts(placed: Placed) -> bool:
        return begin <= placed.at_s < end and placed.order_id in witness.ended_at

    return sorted(witness.ended_at[placed.order_id or ""] - placed.at_s for placed in record.placed if counts(placed))


def _share(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3) if ordered else 0.0


_DEAD_LETTERS = """
    SELECT (SELECT count(*) FROM orders.dead_letters) + (SELECT count(*) FROM balances.dead_letters)
         + (SELECT count(*) FROM assets.dead_letters)"""
