"""Leases what was accepted and is not shown by the orchestrator yet, one table of the schema `api` at a time.

Such a table has `order_id`, `created_at`, `next_publish_at` and `settled` beside its own columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from saga_kit.runtime.lookback import LookBack
from saga_kit.runtime.transactions import Begins, alone

T = TypeVar("T")
GRACE_S: Final = 5.0
"""The sweeper does not look at what is new for this long: its request is publishing it."""
PAUSE_MAX_S: Final = 300.0
"""The longest pause between two looks at one row: each pause is as long as the row has existed."""
RETRY_S: Final = 2.0
"""The pause before the next look at one that could not be published."""


class Due(msgspec.Struct, Generic[T], frozen=True):
    """What was due in a table, by what the orchestrator shows of it."""

    number: int
    shown: list[tuple[UUID, datetime]]
    """The orders of those that the orchestrator has read, and when they were accepted."""
    missing: list[T]
    """Those that it does not show yet."""


class Unread(Generic[T]):
    """The rows of a table that are published until the orchestrator shows them. Raises what the driver does."""

    def __init__(  # noqa: PLR0913 - what tables differ in
        self,
        source: AsyncEngine | Begins,
        table: str,
        read: Callable[[Sequence[Any]], T],
        columns: Sequence[str],
        *,
        settled: str,
        shown: str,
        also: str = "",
        key: Sequence[str] = ("order_id",),
        grace_s: float,
    ) -> None:
        """Take the table's name and primary key, and conditions on its row `c`.

        `read` makes a value of `columns` and `created_at`. A row that is `settled` is never due again; one that is
        `shown` was read by the orchestrator (a cancel of the order was), which is more. `also` assigns more columns.
        """
        self.table = table
        self._source = source
        self._read = read
        self._grace_s = grace_s
        self._lookback = LookBack()
        self.sweep = _SWEEP.format(
            table=table,
            key=", ".join(key),
            same=" AND ".join(f"c.{name} = due.{name}" for name in key),
            columns="".join(f"c.{name}, " for name in columns),
            settled=settled,
            shown=shown,
            also=also,
        )
        """The statement that leases: how many, the shortest and the longest pause, and how far to look back, in s."""
        self._hand_back = _HAND_BACK.format(table=table)

    async def due(self, limit: int) -> Due[T]:
        """Lease rows that are due. Each is settled, or due again after as long as it has existed: pauses double."""
        with self._lookback.look() as look:
            rows = await self._run(self.sweep, limit, self._grace_s, PAUSE_MAX_S, look.back_s)
            look.saw_all = len(rows) < limit
        shown = [(row["order_id"], row["created_at"]) for row in rows if row["shown"]]
        return Due(len(rows), shown, [self._read(row[:-2]) for row in rows if not row["settled"]])

    async def hand_back(self, order_ids: Sequence[UUID]) -> None:
        """End the lease of what was not published: it is due again soon."""
        await self._run(self._hand_back, order_ids, RETRY_S)

    async def _run(self, statement: str, *values: Any) -> list[Any]:
        async with alone(self._source) as tx:
            return await tx.fetch(statement, *values)


def order_exists(such: str) -> str:
    """Write the condition that the orchestrator shows the order of a row `c`, as `such` says of it."""
    return f"EXISTS (SELECT FROM api.orders o WHERE o.order_id = c.order_id AND {such})"


_SWEEP: Final = """
        WITH due AS (
            SELECT {key} FROM api.{table} WHERE NOT settled AND next_publish_at <= statement_timestamp()
                AND next_publish_at > statement_timestamp() - make_interval(secs => $4)
            ORDER BY next_publish_at LIMIT $1 FOR UPDATE SKIP LOCKED)
        UPDATE api.{table} AS c SET
            settled = {settled}, {also}
            next_publish_at = now()
                + least(greatest(now() - c.created_at, make_interval(secs => $2)), make_interval(secs => $3))
        FROM due WHERE {same}
        RETURNING {columns}c.created_at, c.settled, {shown} AS shown"""
_HAND_BACK: Final = """
        UPDATE api.{table} SET next_publish_at = now() + make_interval(secs => $2)
        WHERE order_id = ANY($1::uuid[]) AND NOT settled"""
