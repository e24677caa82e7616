"""Stand-ins for a service's pool of transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from saga_kit.runtime.transactions import Begins, Transaction, begin


class OnEngine:
    """Begins transactions on an engine's connections, for tests that have an engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    def begin(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction."""
        return begin(self._engine)


class Recorder:
    """Begins another pool's transactions, and records every statement that they send, BEGIN and COMMIT included.

    What the driver asks once a session, when it meets a type for the first time, is left out.
    """

    def __init__(self, transactions: Begins) -> None:
        self._transactions = transactions
        self.sent: list[tuple[str, tuple[Any, ...]]] = []
        """Statements and their arguments."""

    @property
    def verbs(self) -> list[str]:
        """The first word of each statement."""
        return [sql.split()[0].rstrip(";") for sql, _ in self.sent]

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """Begin a transaction."""
        async with self._transactions.begin() as tx:
            connection: Any = tx._connection  # noqa: SLF001 - the driver's, which tells what it sends
            connection.add_query_logger(self._note)
            yield tx

    def _note(self, query: Any) -> None:
        sql = query.query.strip()
        if "typeinfo_tree" not in sql and "'jit'" not in sql:
            self.sent.append((sql, query.args or ()))
