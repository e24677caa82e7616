"""The floor: the least that a durable loop over Kafka and PostgreSQL can do, in a process of its own."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Producer

from contracts.envelope import Envelope, Outgoing, write_headers
from contracts.vocabulary import OrderStatus
from local_stack.stack import LocalStack
from saga_kit.publisher import Publisher
from saga_kit.settings import KafkaSettings

REQUESTS, EVENTS = "floor.requests", "floor.events"
STORE = """
    INSERT INTO bench.orders SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[])
    ON CONFLICT DO NOTHING"""


class Asked(msgspec.Struct):
    """What the floor reads of a request."""

    order_id: uuid.UUID
    user_id: str
    asset_id: str
    quantity: str


@asynccontextmanager
async def running_floor(stack: LocalStack) -> AsyncIterator[tuple[str, str]]:
    """Run the floor beside the system, on its broker and its database; give the topics that it reads and writes."""
    connection = await asyncpg.connect(stack.database_url)
    await connection.execute("CREATE SCHEMA bench")
    await connection.execute(
        "CREATE TABLE bench.orders (order_id uuid PRIMARY KEY, user_id text, asset_id text, quantity text)"
    )
    await connection.close()
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap_servers})
    for topic in (REQUESTS, EVENTS):
        await asyncio.to_thread(producer.list_topics, topic, 10)  # the embedded broker makes a topic that is asked for
    arguments = (stack.kafka_bootstrap_servers, stack.database_url)
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench.floor", *arguments)
    try:
        yield REQUESTS, EVENTS
    finally:
        process.terminate()
        await process.wait()


async def main(bootstrap_servers: str, database_url: str) -> None:
    """Consume a batch, store it in one transaction, publish an event for each, commit; until ended."""
    publisher = Publisher(KafkaSettings(kafka_bootstrap_servers=bootstrap_servers), client_id="floor")
    consumer = AIOKafkaConsumer(
        REQUESTS,
        bootstrap_servers=bootstrap_servers,
        group_id="floor",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
    )
    await consumer.start()
    connection = await asyncpg.connect(database_url)
    read = msgspec.json.Decoder(Asked).decode
    while True:
        batches: dict[Any, list[Any]] = await consumer.getmany(timeout_ms=5, max_records=500)
        asked = [read(record.value) for records in batches.values() for record in records]
        if not asked:
            await asyncio.sleep(0.005)
            continue
        columns = zip(*((one.order_id, one.user_id, one.asset_id, one.quantity) for one in asked), strict=True)
        async with connection.transaction():
            await connection.execute(STORE, *map(list, columns))
        await publisher.publish([_event(one.order_id) for one in asked])
        await consumer.commit()


def _event(order_id: uuid.UUID) -> Outgoing:
    envelope = Envelope(f"{order_id}:v1", "Stored", "/floor", datetime.now(UTC))
    body = msgspec.json.encode({"order_id": order_id, "status": OrderStatus.COMPLETED})
    return Outgoing(EVENTS, str(order_id), envelope.id, body, write_headers(envelope))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
