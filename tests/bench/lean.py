"""The lean loop: the least that a loop over Kafka and PostgreSQL can do and still be correct, in a process of its own.

It has the same conversation, with the same messages, as the system's market buy: check, reserve, settle, four published
versions, and each state is stored before any message of it is sent. Each batch is one transaction:

    guarded moves -> one row that keeps the batch's events, in the place of the last one's -> COMMIT -> publish

A repeated message changes nothing, so offsets are committed at intervals. Questions need no outbox: after a start every
open one is asked again. The outbox is not compressed, since its row lives for a moment. The loop supports only a buy
that succeeds: no refusal, cancel, sell, timer, history, audit, trace or second process. Any error ends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from contracts.topics import ASSETS_REPLIES, BALANCE_REPLIES, ORDERS_REQUESTS
from saga_kit.runtime.settings import KitSettings, load
from tests.bench import bare
from tests.bench.bare import Message
from tests.bench.lean_core import LAST, Move, Saga, question, read, versions
from tests.bench.plain import OrderRequested

SOURCE = "/lean"
TOPICS = (ORDERS_REQUESTS.name, ASSETS_REPLIES.name, BALANCE_REPLIES.name)
PLANNER = {"jit": "off", "enable_seqscan": "off"}
"""PostgreSQL would keep a plan that it made while the table was empty, with a sequential scan. With 40,000 orders the
updates of a batch would then take four times as long."""

TABLES = """
    CREATE SCHEMA IF NOT EXISTS lean;
    CREATE TABLE IF NOT EXISTS lean.orders (
        order_id uuid PRIMARY KEY, user_id text NOT NULL, asset_id text NOT NULL, order_type text NOT NULL,
        quantity text NOT NULL, price text, slippage_bps int NOT NULL, client_order_id text,
        phase text NOT NULL, quote text, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL
    ) WITH (fillfactor = 70);
    CREATE TABLE IF NOT EXISTS lean.outbox (
        outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload bytea STORAGE EXTERNAL NOT NULL)"""
_COLUMNS = "order_id, user_id, asset_id, order_type, quantity, price, slippage_bps, client_order_id"
_CREATE = f"""
    INSERT INTO lean.orders ({_COLUMNS}, phase, created_at, updated_at)
    SELECT {_COLUMNS}, 'VALIDATING', $9, $9
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::text[])
      AS new({_COLUMNS})
    ON CONFLICT DO NOTHING RETURNING order_id"""
_SAGA = f"{', '.join(f'o.{name}' for name in (*_COLUMNS.split(', '), 'phase', 'quote', 'created_at'))}"
_MOVE = f"""
    UPDATE lean.orders AS o SET phase = m.next, quote = coalesce(m.quote, o.quote), updated_at = $5
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS m(order_id, phase, next, quote)
    WHERE o.order_id = m.order_id AND o.phase = m.phase
    RETURNING {_SAGA}"""
_OPEN = f"SELECT {_SAGA} FROM lean.orders AS o WHERE phase <> 'COMPLETED'"
_KEEP = """
    WITH sent AS (DELETE FROM lean.outbox WHERE outbox_id = ANY($2::bigint[]))
    INSERT INTO lean.outbox (payload) VALUES ($1) RETURNING outbox_id"""
_OUTBOX = "SELECT outbox_id, payload FROM lean.outbox ORDER BY outbox_id"
_FORGET = "DELETE FROM lean.outbox WHERE outbox_id = ANY($1::bigint[])"

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Message]).decode


class Lean:
    """The loop, on one connection."""

    def __init__(self, connection: Any, producer: AIOKafkaProducer, prefix: str) -> None:
        self._connection = connection
        self._producer = producer
        self._prefix = prefix
        self._sent: list[int] = []
        """Outbox rows that the broker has."""

    async def recover(self) -> None:
        """Publish again what an earlier process may not have published, and repeat every open question."""
        rows = await self._connection.fetch(_OUTBOX)
        events = [event for _, payload in rows for event in _unpack(payload)]
        await self._publish([*events, *(question(Saga._make(row)) for row in await self._connection.fetch(_OPEN))])
        self._sent = [outbox_id for outbox_id, _ in rows]

    async def run(self, consumer: AIOKafkaConsumer) -> None:
        """Handle batch after batch."""
        async for records in bare.batches(consumer):
            await (self.handle(records) if records else self.sweep())

    async def handle(self, records: Sequence[Any]) -> None:
        """Store the new states of a batch, then publish its messages."""
        batch, at, rows = read(records), datetime.now(UTC), self._sent
        async with self._connection.transaction():
            sagas = [*await self._create(batch.requests, at), *await self._move(batch.moves, at)]
            events = [event for saga in sagas for event in versions(saga, batch.partitions[str(saga.order_id)], at)]
            if events:
                rows = [await self._connection.fetchval(_KEEP, _pack(events), self._sent)]
        await self._publish([*events, *(question(saga) for saga in sagas if saga.phase != LAST)])
        self._sent = rows

    async def _create(self, requests: Sequence[OrderRequested], at: datetime) -> list[Saga]:
        if not requests:
            return []
        rows = {request.order_id: msgspec.structs.astuple(request) for request in requests}
        columns = map(list, zip(*rows.values(), strict=True))
        created = await self._connection.fetch(_CREATE, *columns, at)
        return [Saga._make((*rows[str(order_id)], "VALIDATING", None, at)) for (order_id,) in created]

    async def _move(self, moves: Sequence[Move], at: datetime) -> list[Saga]:
        if not moves:
            return []
        columns = map(list, zip(*moves, strict=True))
        return [Saga._make(row) for row in await self._connection.fetch(_MOVE, *columns, at)]

    async def _publish(self, messages: Iterable[Message]) -> None:
        await bare.publish(self._producer, self._prefix, SOURCE, messages)

    async def sweep(self) -> None:
        """Delete published rows from the outbox while no batch comes that would do so."""
        if self._sent:
            await self._connection.execute(_FORGET, self._sent)
            self._sent = []


async def main(settings: KitSettings) -> None:
    """Make the tables if necessary, publish what is left in the outbox, and work until ended."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value(), server_settings=PLANNER)
    await connection.execute(TABLES)
    async with bare.producer(settings) as producer, bare.consumer(settings, "lean", *TOPICS) as consumer:
        lean = Lean(connection, producer, settings.kafka_topic_prefix)
        await lean.recover()
        bare.say_ready()
        await lean.run(consumer)


if __name__ == "__main__":
    bare.run_until_told(main(load(KitSettings)))
