"""Measures one order for `docs/scaling.md`: messages and bytes on the wire, rows and bytes in PostgreSQL.

For the wire it reads the messages of a small load back, with keys and headers, without the overhead of batches and
replicas. For PostgreSQL it divides the size of all tables and indexes of the run by its orders.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.topics import TOPICS
from tests.bench.ground import Ground, System
from tests.bench.scenario import Figures

MESSAGES: Final = "On the wire for one order, messages"
BYTES: Final = "On the wire for one order, bytes"
ROWS: Final = "In PostgreSQL for one order, rows"
DISK: Final = "In PostgreSQL for one order, bytes with indexes"
TABLES: Final = ("orders.orders", "orders.history", "orders.fills", "balances.holds", "balances.journal")

_SIZE: Final = "SELECT pg_total_relation_size($1::text::regclass)"


async def weigh(ground: Ground, system: System, orders: int) -> Figures:
    """Run a small load; measure its messages, and the present size of the database."""
    topics = {system.prefix + topic.name: topic.name for topic in TOPICS}
    before = await _ends(ground.kafka_bootstrap_servers, topics)
    await system.contender.run(orders, max(1, orders // 5))
    after = await _ends(ground.kafka_bootstrap_servers, topics)
    messages: dict[str, float] = {
        name: sum(after[one] - before[one] for one in after if one.topic == topic) / orders
        for topic, name in topics.items()
    }
    sizes = await _bytes(ground.kafka_bootstrap_servers, before, after)
    wire = {name: sizes[topic] / orders for topic, name in topics.items()}
    rows, disk = await _tables(system.contender.database_url)
    return {
        MESSAGES: {name: [count] for name, count in {**messages, "all": sum(messages.values())}.items() if count},
        BYTES: {name: [size] for name, size in {**wire, "all": sum(wire.values())}.items() if size},
        ROWS: {name: [count] for name, count in {**rows, "all": sum(rows.values())}.items()},
        DISK: {name: [size] for name, size in {**disk, "all": sum(disk.values())}.items()},
    }


async def _ends(servers: str, topics: Mapping[str, str]) -> dict[TopicPartition, int]:
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=servers, group_id=None)
    await consumer.start()
    try:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(list(consumer.assignment()))
        return ends
    finally:
        await consumer.stop()


async def _bytes(
    servers: str, before: Mapping[TopicPartition, int], after: Mapping[TopicPartition, int]
) -> Mapping[str, int]:
    """Read what was written between, and add up its bytes by topic."""
    left = {one: end for one, end in after.items() if end > before[one]}
    sizes: dict[str, int] = defaultdict(int)
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, group_id=None, fetch_max_wait_ms=20)
    await consumer.start()
    try:
        consumer.assign(list(left))
        for one in left:
            consumer.seek(one, before[one])
        while left:
            batches: dict[TopicPartition, list[Any]] = await consumer.getmany(timeout_ms=1000)
            for one, records in batches.items():
                sizes[one.topic] += sum(_size(record) for record in records if record.offset < after[one])
                if records and records[-1].offset + 1 >= after[one]:
                    left.pop(one, None)
    finally:
        await consumer.stop()
    return sizes


def _size(record: Any) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


async def _tables(url: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return rows and bytes for an order, by table."""
    connection = await asyncpg.connect(url)
    try:
        orders = await connection.fetchval("SELECT count(*) FROM orders.orders")
        where = {"balances.journal": "WHERE entry_id NOT LIKE 'deposit:%'"}
        rows = {one: await connection.fetchval(f"SELECT count(*) FROM {one} {where.get(one, '')}") for one in TABLES}
        sizes = {one: await connection.fetchval(_SIZE, one) for one in TABLES}
        everything = await connection.fetchval("SELECT count(*) FROM balances.journal")
    finally:
        await connection.close()
    sizes["balances.journal"] *= rows["balances.journal"] / max(1, everything)  # the rest are the load's deposits
    return {one: count / orders for one, count in rows.items()}, {one: size / orders for one, size in sizes.items()}
