"""Shared by the kit's tests: a schema with the kit's tables, messages, and publishers and brokers that can fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.envelope import Outgoing
from local_stack.broker import MockCluster
from saga_kit.messaging.batch import BatchProcess, Effects, Intake, Received, Record
from saga_kit.messaging.dead_letters import DeadLetters, dead_letters_table
from saga_kit.messaging.outbox import Outbox, OutboxMessage, outbox_table
from saga_kit.participant.holds import holds_archive_table, holds_table
from saga_kit.participant.ledger_start import ledger_start_table
from saga_kit.runtime.settings import KitSettings
from saga_kit.runtime.telemetry import KitMetrics
from saga_kit.runtime.transactions import Begins, Transaction, Transactions
from tests.support.listening import Listener


@dataclass(frozen=True)
class Schema:
    """A schema of one test, with the kit's tables."""

    engine: AsyncEngine
    transactions: Transactions
    name: str
    url: str

    async def rows(self, sql: str) -> list[Any]:
        """Query; `{s}` stands for the schema."""
        async with self.engine.connect() as connection:
            return list(await connection.exec_driver_sql(sql.replace("{s}", self.name)))

    async def execute(self, sql: str) -> None:
        """Execute one statement in its own transaction."""
        async with self.engine.begin() as tx:
            await tx.exec_driver_sql(sql.replace("{s}", self.name))

    async def create(self) -> None:
        """Create the tables."""
        metadata = MetaData()
        outbox_table(metadata, self.name)
        dead_letters_table(metadata, self.name)
        holds_table(metadata, self.name)
        holds_archive_table(metadata, self.name)
        ledger_start_table(metadata, self.name)
        async with self.engine.begin() as tx:
            await tx.exec_driver_sql(f"CREATE SCHEMA {self.name}")
            await tx.run_sync(metadata.create_all)
        await self.execute(
            "CREATE TABLE {s}.done (n int GENERATED ALWAYS AS IDENTITY, key text, value int CHECK (value < 1000))"
        )


class FakeRecord(NamedTuple):
    """A raw record."""

    topic: str = "t"
    partition: int = 0
    offset: int = 0
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"k"
    value: bytes | None = b"{}"
    headers: Sequence[tuple[str, bytes | None]] = ()


@dataclass
class FakePublisher:
    """Stores what is published; if `works` is False it answers "unknown" and stores nothing."""

    works: bool = True
    published: list[Outgoing] = field(default_factory=list)
    before: Callable[[], None] = lambda: None

    async def publish(self, messages: Sequence[Outgoing]) -> bool:
        """Publish."""
        self.before()
        await asyncio.sleep(0)
        if self.works:
            self.published += messages
        return self.works


class Item(NamedTuple):
    """A message of the test handler. The handler raises on a negative value, the database on one of 1000 or more."""

    order: str
    value: int


@dataclass
class Worker:
    """A handler that writes one row per message; a CHECK refuses values of 1000 and more."""

    schema: str
    topics: Sequence[str] = ("t",)
    parked: dict[str, str] = field(default_factory=dict)
    handled: list[list[Item]] = field(default_factory=list)
    fault: Callable[[int], Exception | None] = lambda _: None
    """Return what the n-th call of `handle` (from 1) raises before any work."""
    knows_orders: bool = True
    intake: Intake | None = None
    padding: dict[str, int] = field(default_factory=dict)
    """Bytes to add to the messages of an order."""

    def decode(self, envelope: Any, record: Record) -> Item:
        """Read a JSON array."""
        assert envelope.type == "Item"
        return Item(*json.loads(record.value or b""))

    async def handle(self, tx: Transaction, messages: Sequence[Received[Item]]) -> Effects:
        """Write a row per message of an order that is not parked."""
        items = [received.message for received in messages if received.message.order not in self.parked]
        self.handled.append([received.message for received in messages])
        if error := self.fault(len(self.handled)):
            raise error
        if bad := [item for item in items if item.value < 0]:
            raise ValueError(f"bug on {bad[0]}")
        await tx.execute(
            f"INSERT INTO {self.schema}.done (key, value) SELECT * FROM unnest($1::text[], $2::int[])",
            [item.order for item in items],
            [item.value for item in items],
        )
        return Effects(outbox=[self._reply(item) for item in items])

    def _reply(self, item: Item) -> OutboxMessage:
        value = str(item.value) + " " * self.padding.get(item.order, 0)
        return OutboxMessage(f"{item.order}:{item.value}", message(item.order, value))

    async def park(self, tx: Transaction, message: Received[Item], reason: str) -> bool:
        """Park the message's order."""
        await tx.execute("SELECT 1")
        if self.knows_orders:
            self.parked[message.message.order] = reason
        return self.knows_orders


def message(key: str = "k", value: str = "v", topic: str = "out") -> Outgoing:
    """Make an outgoing message."""
    identity = f"{key}:{value.strip()}"
    return Outgoing(topic, key, identity, value.encode(), [("ce_id", identity.encode())])


def received(*items: Item) -> list[Received[Item]]:
    """Wrap items as if they had come from Kafka."""
    return [Received(item, None, FakeRecord(offset=n)) for n, item in enumerate(items)]


def process(
    schema: Schema,
    worker: Any,
    publisher: Any,
    *,
    outbox: Outbox | None = None,
    stopping: asyncio.Event | None = None,
    transactions: Begins | None = None,
    metrics: KitMetrics | None = None,
) -> BatchProcess[Any]:
    """Compose a batch process."""
    return BatchProcess(
        transactions=transactions or schema.transactions,
        handler=worker,
        outbox=outbox or Outbox(schema.name),
        dead_letters=DeadLetters(schema.name),
        publisher=publisher,
        metrics=metrics or KitMetrics(CollectorRegistry()),
        stopping=stopping or asyncio.Event(),
    )


def kit_settings(database_url: str, bootstrap_servers: str, prefix: str = "", **more: Any) -> KitSettings:
    """Make settings without looking at the environment."""
    return KitSettings(
        database_url=database_url,
        kafka_bootstrap_servers=bootstrap_servers,
        kafka_topic_prefix=prefix,
        kafka_session_timeout_s=6,
        http_port=0,
        **more,
    )


async def until(condition: Callable[[], Any], within_s: float = 60.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


class FaultyCluster(MockCluster):
    """The mock cluster with librdkafka's fault injection."""

    def down(self) -> None:
        """Stop the broker."""
        self._call("broker_set_down", 1)

    def up(self) -> None:
        """Start the broker again."""
        self._call("broker_set_up", 1)

    def slow(self, milliseconds: int) -> None:
        """Delay every answer."""
        self._call("broker_set_rtt", 1, milliseconds)

    def _call(self, name: str, *arguments: int) -> None:
        import ctypes  # noqa: PLC0415 - used only by tests

        function = getattr(self._library, f"rd_kafka_mock_{name}")
        function.argtypes = [ctypes.c_void_p, *(ctypes.c_int32 for _ in arguments)]
        function(self._cluster, *arguments)


class CuttingProxy:
    """A proxy between asyncpg and PostgreSQL; once armed, it passes the next COMMIT and drops the answer."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.armed = False
        self.cuts = 0
        self.refusing = False
        """Whether new connections are closed at once."""
        self._listener = Listener(self._connected)

    async def start(self) -> int:
        """Listen; return the port."""
        await self._listener.start()
        return self._listener.port

    def refuse(self) -> None:
        """Close every connection, and each new one."""
        self.refusing = True
        self._listener.call_off()

    async def stop(self) -> None:
        """Close everything."""
        await self._listener.stop()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            return
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        cut = asyncio.Event()
        try:
            await asyncio.gather(self._up(reader, up_writer, cut), self._down(up_reader, writer, cut))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            up_writer.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if self.armed and b"COMMIT;\0" in data:
                self.armed = False
                self.cuts += 1
                cut.set()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if cut.is_set():
                break  # PostgreSQL has answered, so it has committed
            writer.write(data)
            await writer.drain()
        writer.close()
