"""Orders in a real database, told message by message through the orchestrator's own handler; commands typed at it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from contracts.vocabulary import Side
from operations.cli import app
from operations.cli.reach import Trouble, connected, rows
from order_saga.core.saga import Incoming, TimerDue
from order_saga.worker import store
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.metrics import SagaMetrics
from order_saga.worker.process import SagaHandler
from order_saga.worker.tables import SCHEMA
from saga_kit.messaging.batch import Received
from saga_kit.messaging.outbox import Outbox
from saga_kit.runtime.lookback import EVER_S
from tests.e2e.system import Output
from tests.order_saga.core.sample import requested
from tests.order_saga.core.test_fold import of
from tests.support.infrastructure import Database

YESTERDAY = "UPDATE orders.orders SET updated_at = updated_at - interval '1 day'"


CLAIM = """
    INSERT INTO api.claims (order_id, user_id, intent, request, next_publish_at, created_at)
    VALUES ($1, 'alice', '{}', '', now(), now() - interval '1 hour')"""
"""An accepted request that no orchestrator has seen."""


class Desk:
    """A database with orders in it. Nothing is published, and nothing falls due unless `scan` looks."""

    def __init__(self, database: Database, engine: AsyncEngine) -> None:
        self.url = database.url
        self.engine = engine
        # However slow the machine is, nothing falls due by itself while a test types its commands.
        self._orders = SagaHandler(time_scale=100.0, metrics=SagaMetrics(), breaker=CircuitBreaker())

    async def tell(self, *messages: Incoming) -> list[str]:
        """Handle messages as one batch; return the ids of the commands that it would publish."""
        async with self.engine.begin() as tx:
            effects = await self._orders.handle(tx, [Received(message) for message in messages])
            await Outbox(SCHEMA).write(tx, effects.outbox)
        if effects.after_commit is not None:
            effects.after_commit()
        return [message.id for message in effects.messages]

    async def begin(self, number: int, side: Side = Side.BUY, *said: Incoming) -> UUID:
        """Begin the order with this number, and say more to it."""
        order_id = UUID(int=number)
        request = of(requested(side), order_id)
        [now] = [row["now"] for row in await self.rows("SELECT clock_timestamp() AS now")]
        await self.tell(structs.replace(request, sent_at=now), *(of(message, order_id) for message in said))
        return order_id

    async def scan(self) -> list[str]:
        """Look for what is due, as the orchestrator's scanner does; return the ids of the commands that follow."""
        async with self.engine.begin() as tx:
            due = await store.due(tx, 500, EVER_S)
        return sorted(await self.tell(*map(TimerDue, due)))

    async def rows(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        """Ask the database as its owner."""
        return await rows(self.engine, statement, *arguments)

    async def execute(self, statement: str, *arguments: object) -> None:
        """Change something behind everybody's back."""
        async with self.engine.begin() as tx:
            await tx.exec_driver_sql(statement, arguments)

    async def history(self, order_id: UUID, kind: str) -> list[dict[str, Any]]:
        """Read the lines of one kind of an order's history."""
        statement = "SELECT * FROM audit.history WHERE order_id = $1 AND kind = $2 ORDER BY seq"
        return await self.rows(statement, order_id, kind)

    async def cli(self, *words: str, **environment: str) -> Output:
        """Type a command at this database."""
        return await asyncio.to_thread(_typed, words, {"DATABASE_URL": self.url, "COLUMNS": "300", **environment})


def _typed(words: tuple[str, ...], environment: dict[str, str]) -> Output:
    result = CliRunner().invoke(app, list(words), env=environment)
    if isinstance(result.exception, Trouble):  # `main` makes one line and a status of it
        return Output(result.exception.status, result.stdout, f"{result.stderr}order-saga: {result.exception}\n")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Output(result.exit_code, result.stdout, result.stderr)


@asynccontextmanager
async def desk_of(database: Database) -> AsyncIterator[Desk]:
    """Sit down at a database."""
    async with connected(database.url) as engine:
        yield Desk(database, engine)


def lines(output: Output) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in output.out.splitlines()]
