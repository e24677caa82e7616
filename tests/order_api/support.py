"""Shared by the API's tests: a running API, tokens, a publisher that fails on demand, the orchestrator's stand-in."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import jwt
import uvicorn
from aiokafka import AIOKafkaConsumer, TopicPartition
from starlette.applications import Starlette

from contracts.envelope import Outgoing
from contracts.orders import OrderCancelRequested, OrderRequested
from contracts.topics import ORDERS_REQUESTS
from order_api.app import create_app
from order_api.process import readiness, server_for
from order_api.settings import ApiSettings
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.database import create_engine
from saga_kit.runtime.health import listen
from saga_kit.runtime.transactions import Transactions
from tests.support.listening import take_no_more

SECRET = "a-secret-of-the-tests-with-40-characters"
TRADER = "orders:read orders:write"
BUY: dict[str, Any] = {"asset_id": "BTC", "order_type": "MARKET_BUY", "quantity": "0.01"}
NEVER_S = 3600.0
LIMIT: dict[str, Any] = {"order_type": "LIMIT_BUY", "limit_price": "48000"}
NOT_CONDITIONAL: dict[str, Any] = {
    **dict.fromkeys(("limit_price", "trigger_price", "trail_amount", "trail_bps", "time_in_force", "expires_at")),
    **dict.fromkeys(("watermark", "revision", "held_asset_id", "held_amount", "release_refused", "amend")),
    "queue_when_closed": False,
    "triggered": False,
    "on_hold": False,
}
"""What an order shows of these that does not rest."""


def token(user: str = "alice", scope: str = TRADER, *, secret: str = SECRET, **claims: Any) -> str:
    """Sign a token; a claim given as None is left out."""
    payload = {"sub": user, "scope": scope, "exp": int(time.time()) + 600, **claims}
    return jwt.encode({name: value for name, value in payload.items() if value is not None}, secret, "HS256")


@dataclass
class Wire:
    """The real publisher, which can be made to fail, and remembers what it was asked to publish."""

    publisher: Publisher
    works: bool = True
    batches: list[list[Outgoing]] = field(default_factory=list)
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, a publish waits."""

    async def publish(self, messages: Sequence[Outgoing]) -> bool:
        """Publish, or say that the outcome is unknown."""
        self.batches.append(list(messages))
        await self.may_go_on.wait()
        return self.works and await self.publisher.publish(messages)

    @property
    def asked(self) -> list[Outgoing]:
        """All messages that it was asked to publish."""
        return [message for batch in self.batches for message in batch]


@dataclass
class Api:
    """One API process, as good as: a server of its own on the test's database and broker."""

    app: Starlette
    client: httpx2.AsyncClient
    wire: Wire
    port: int
    server: uvicorn.Server
    stop: Callable[[], Awaitable[None]]
    """Ask it to end, and wait until it has."""

    async def call(
        self, method: str, path: str, *, user: str = "alice", scope: str = TRADER, **more: Any
    ) -> httpx2.Response:
        """Send a request with a user's token."""
        bearer = token(user, scope, **more.pop("claims", {}))
        headers = {"Authorization": f"Bearer {bearer}", **more.pop("headers", {})}
        return await self.client.request(method, path, headers=headers, **more)

    async def submit(self, body: Any = None, *, key: str | None = None, **more: Any) -> httpx2.Response:
        """POST an order (`BUY` with the fields given in `body`)."""
        headers = {**({"Idempotency-Key": key} if key is not None else {}), **more.pop("headers", {})}
        return await self.call("POST", "/orders", json={**BUY, **(body or {})}, headers=headers, **more)

    async def get(self, path: str, **more: Any) -> httpx2.Response:
        """GET."""
        return await self.call("GET", path, **more)

    async def cancel(self, order_id: str, **more: Any) -> httpx2.Response:
        """PUT the cancel of an order."""
        return await self.call("PUT", f"/orders/{order_id}/cancel", **more)

    async def metric(self, sample: str) -> float:
        """Return a metric's value, 0 when it is not there."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample + " ")), 0.0)


@asynccontextmanager
async def running(settings: ApiSettings, *, grace_s: float = NEVER_S) -> AsyncIterator[Api]:
    """Run an API on a free port. Its sweeper looks at a claim after `grace_s`: by default not in this test."""
    engine = create_engine(settings.sqlalchemy_url, application_name="api", pool_size=2)
    size = settings.api_database_pool_size
    transactions = Transactions(settings.sqlalchemy_url, application_name="api", size=size)
    publisher = Publisher(settings, client_id="api-test")
    wire = Wire(publisher)
    wire.may_go_on.set()
    app = create_app(settings, transactions, wire, health=readiness(engine, publisher), grace_s=grace_s)
    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    server = server_for(app, settings.trusted_proxies)
    serving = asyncio.create_task(server.serve(sockets=[sock]))

    async def stop() -> None:
        wire.may_go_on.set()
        for listener in server.servers if server.started else ():
            await take_no_more(listener)
        server.should_exit = True
        await serving

    try:
        await until(lambda: server.started or serving.done())
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield Api(app, client, wire, port, server, stop)
    finally:
        await stop()
        await publisher.stop()
        await transactions.close()
        await engine.dispose()


async def until(condition: Any, within_s: float = 15.0) -> Any:
    """Wait until a condition (a function, or one that returns an awaitable) gives something true; return that."""
    async with asyncio.timeout(within_s):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Orchestrator:
    """Writes what the orchestrator would have written, as the database's owner."""

    url: str
    connection: asyncpg.Connection | None = None

    @asynccontextmanager
    async def decision(self) -> AsyncIterator[Orchestrator]:
        """Write several things in one transaction, as a decision is: nobody sees some of them alone."""
        async with self._connected() as connection, connection.transaction():
            yield replace(self, connection=connection)

    async def shows(self, order_id: str, user_id: str = "alice", phase: str = "VALIDATING", **columns: Any) -> None:
        """Make or replace an order's row."""
        row: dict[str, Any] = {
            "order_id": UUID(order_id), "user_id": user_id, "asset_id": "BTC", "order_type": "MARKET_BUY",
            "quantity": "0.01", "price": None, "slippage_bps": 100, "client_order_id": None, "phase": phase,
            "status": _STATUS.get(phase, phase), "version": 1, "reason_code": None, "reason": None,
            "cancel_requested": False, "filled_quantity": "0", "average_price": None, "fee": "0", "progress": "{}",
            "parked_reason": "test", "history_seq": 0, **columns,
        }  # fmt: skip
        if row["status"] in {"FAILED", "CANCELLED"}:
            row["reason_code"] = row["reason_code"] or "OPERATOR"
        names = ", ".join(row)
        places = ", ".join(f"(${n + 1}::text)::{_TYPES.get(name, 'text')}" for n, name in enumerate(row))
        values = [None if value is None else str(value) for value in row.values()]
        insert = f"INSERT INTO orders.orders ({names}, created_at, updated_at) VALUES ({places}, now(), now())"
        async with self._connected() as connection, connection.transaction():  # nobody sees it gone
            await connection.execute("DELETE FROM orders.orders WHERE order_id = $1", row["order_id"])
            await connection.execute(insert, *values)

    async def says(self, order_id: str, kind: str, name: str, **detail: Any) -> None:
        """Add an entry to an order's history, now."""
        await self.run(
            """
            INSERT INTO orders.history (order_id, seq, at, version_from, version_to, moves, entries)
            SELECT $1, coalesce(max(seq), 0) + 1, clock_timestamp(), 0, 0, '{}', $2
            FROM orders.history WHERE order_id = $1""",
            *(UUID(order_id), json.dumps([{"kind": kind, "name": name, "detail": detail}])),
        )

    async def run(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement."""
        async with self._connected() as connection:
            return list(await connection.fetch(statement, *values))

    @asynccontextmanager
    async def locking(self, table: str) -> AsyncIterator[None]:
        """Let nobody read or write a table as long as the context lasts."""
        async with self.holding(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"):
            yield

    @asynccontextmanager
    async def holding(self, statement: str) -> AsyncIterator[None]:
        """Hold the locks that a statement takes as long as the context lasts."""
        async with self._connected() as connection, connection.transaction():
            await connection.execute(statement)
            yield

    async def until_somebody_waits(self) -> None:
        """Wait until somebody waits for a lock."""
        waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        async with asyncio.timeout(30):
            while not await self.run(waits):
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        if self.connection is not None:
            yield self.connection
            return
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()


_STATUS = {
    "VALIDATING": "PENDING",
    "RESERVING": "PENDING",
    "SETTLING": "PROCESSING",
    "QUEUED": "CONFIRMED",
    "WORKING": "CONFIRMED",
    "REFUNDING": "PENDING",
    "NEW": None,
}
_TYPES = {
    "order_id": "uuid", "quantity": "numeric", "price": "numeric", "slippage_bps": "int", "version": "int",
    "cancel_requested": "bool", "filled_quantity": "numeric", "average_price": "numeric", "fee": "numeric",
    "progress": "jsonb", "history_seq": "int",
}  # fmt: skip


async def records(bootstrap_servers: str, prefix: str) -> list[Any]:
    """Read all that stands in the topic of requests."""
    topic = prefix + ORDERS_REQUESTS.name
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, enable_auto_commit=False, fetch_max_wait_ms=50)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(ORDERS_REQUESTS.partitions)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        found: list[Any] = []
        async with asyncio.timeout(60):
            while len(found) < sum(ends.values()):
                for batch in (await consumer.getmany(timeout_ms=100)).values():
                    found += batch
        return found
    finally:
        await consumer.stop()


MESSAGES = (OrderRequested, OrderCancelRequested)
