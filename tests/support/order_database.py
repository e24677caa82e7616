"""Orders in a real database, moved message by message by the orchestrator's own handler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.vocabulary import Side
from operations.access.database import connected, rows
from order_saga.core.saga import Incoming, TimerDue
from order_saga.worker import store
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.metrics import SagaMetrics
from order_saga.worker.process import SagaHandler
from order_saga.worker.tables import SCHEMA
from saga_kit.messaging.batch import Received
from saga_kit.messaging.outbox import Outbox
from saga_kit.runtime.lookback import EVER_S
from saga_kit.runtime.transactions import begin
from tests.order_saga.core.sample import requested
from tests.order_saga.core.test_fold import of
from tests.support.infrastructure import Database

YESTERDAY = "UPDATE orders.orders SET updated_at = updated_at - interval '1 day'"
CLAIM = """
    INSERT INTO api.claims (order_id, user_id, intent, request, next_publish_at, created_at)
    VALUES ($1, 'alice', '{}', '', now(), now() - interval '1 hour')"""
"""An accepted request that no orchestrator has seen."""


class OrderDatabase:
    """A database with orders in it. Nothing is published, and nothing falls due unless `scan` looks."""

    def __init__(self, database: Database, engine: AsyncEngine) -> None:
        self.url = database.url
        self.engine = engine
        # A scale so large that nothing falls due by itself during a test, however slow the machine is.
        self.metrics = SagaMetrics()
        self._orders = SagaHandler(time_scale=100.0, metrics=self.metrics, breaker=CircuitBreaker())

    async def tell(self, *messages: Incoming) -> list[str]:
        """Handle messages as one batch; return the ids of the commands that the batch would publish."""
        async with begin(self.engine) as tx:
            effects = await self._orders.handle(tx, [Received(message) for message in messages])
            Outbox(SCHEMA).write(tx, effects.outbox)
        if effects.after_commit is not None:
            effects.after_commit()
        return [message.id for message in effects.messages]

    async def begin(self, number: int, side: Side = Side.BUY, *further: Incoming, **changes: Any) -> UUID:
        """Begin the order with this number, and handle further messages for it; `changes` are fields of its request."""
        order_id = UUID(int=number)
        request = of(requested(side, **changes), order_id)
        [now] = [row["now"] for row in await self.rows("SELECT clock_timestamp() AS now")]
        await self.tell(structs.replace(request, sent_at=now), *(of(message, order_id) for message in further))
        return order_id

    async def scan(self) -> list[str]:
        """Look for what is due, as the orchestrator's scanner does; return the ids of the commands that follow."""
        async with begin(self.engine) as tx:
            due = await store.due(tx, 500, EVER_S)
        return sorted(await self.tell(*map(TimerDue, due)))

    async def rows(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        """Run a query as the database's owner."""
        return await rows(self.engine, statement, *arguments)

    async def execute(self, statement: str, *arguments: object) -> None:
        """Run a statement as the database's owner."""
        async with self.engine.begin() as tx:
            await tx.exec_driver_sql(statement, arguments)

    async def history(self, order_id: UUID, kind: str) -> list[dict[str, Any]]:
        """Read the lines of one kind of an order's history."""
        statement = "SELECT * FROM audit.history WHERE order_id = $1 AND kind = $2 ORDER BY seq"
        return await self.rows(statement, order_id, kind)


@asynccontextmanager
async def order_database(database: Database) -> AsyncIterator[OrderDatabase]:
    """Connect to a database as its owner."""
    async with connected(database.url) as engine:
        yield OrderDatabase(database, engine)
