"""Moves orders that ended long ago out of the way, while the system runs: off the hot tables, into `orders.archive`.

An archived id is looked up by every batch and never acted on again, so only what is older than the replay horizon may
go. A table is walked page by page, in the order in which it lies on the disk: no index is kept for this, and each
transaction is small. Whatever somebody works on at that moment is left for the next run. It works for the database's
owner alone: no service may delete.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from order_saga.core.phases import TERMINAL
from order_saga.worker.tables import archive, fills, history

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    Move = Callable[[AsyncConnection, tuple[str, str]], Awaitable[int]]
    """Moves what may go of these pages; returns how many rows, a full batch when there may be more."""

PAGES: Final = 128
"""Of a table, in one transaction: a megabyte."""

_COLUMNS: Final = ", ".join(
    column.name for column in archive.columns if column.name not in {"history", "fills", "archived_at"}
)
_OLD: Final = f"""
    FROM orders.orders
    WHERE phase IN ({", ".join(f"'{phase}'" for phase in sorted(TERMINAL))}) AND parked_reason IS NULL
        AND updated_at < clock_timestamp() - make_interval(secs => $1)"""
_CHOOSE: Final = f"""
    SELECT order_id {_OLD} AND ctid >= $2::text::tid AND ctid < $3::text::tid
    ORDER BY order_id LIMIT $4 FOR UPDATE SKIP LOCKED"""


def _as_json(name: str, order_by: str) -> str:
    """Say how rows of a table become one document of their order."""
    return f"""
        SELECT order_id, jsonb_agg(to_jsonb({name}) - 'order_id' ORDER BY {order_by}) AS {name}
        FROM {name} GROUP BY order_id"""  # noqa: S608 - our own names


# A statement of its own, after the rows are locked: it sees whatever was written about them before.
_MOVE: Final = f"""
    WITH gone AS (DELETE FROM orders.orders WHERE order_id = ANY($1::uuid[]) RETURNING {_COLUMNS}),
        {history.name} AS (DELETE FROM {history.fullname} WHERE order_id = ANY($1::uuid[]) RETURNING *),
        {fills.name} AS (DELETE FROM {fills.fullname} WHERE order_id = ANY($1::uuid[]) RETURNING *)
    INSERT INTO orders.archive ({_COLUMNS}, history, fills)
    SELECT {_COLUMNS}, coalesce(told.history, '[]'), coalesce(filled.fills, '[]') FROM gone
    LEFT JOIN ({_as_json("history", "seq")}) AS told USING (order_id)
    LEFT JOIN ({_as_json("fills", "fill_id")}) AS filled USING (order_id)"""  # noqa: S608 - the same
_COUNT: Final = f"SELECT count(*) {_OLD}"
_SIZE: Final = "SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::int"


class Walked(NamedTuple):
    """How far a walk is: rows moved in this step, and the share of the table that it has seen."""

    moved: int
    share: float


async def move(tx: AsyncConnection, pages: tuple[str, str], older_than_s: float, most: int) -> int:
    """Archive orders of these pages that ended so long ago, with their history and fills; return how many."""
    chosen = list((await tx.exec_driver_sql(_CHOOSE, (older_than_s, *pages, most))).scalars())
    if chosen:
        await tx.exec_driver_sql(_MOVE, (chosen,))
    return len(chosen)


async def count(tx: AsyncConnection, older_than_s: float) -> int:
    """Count the orders that could be archived."""
    return int((await tx.exec_driver_sql(_COUNT, (older_than_s,))).scalar_one())


async def walk(engine: AsyncEngine, table: str, move: Move, *, most: int) -> AsyncGenerator[Walked, None]:
    """Go once through a table, a transaction for each step; `most` is a full batch of `move`.

    After each step it rests as long as that took, so that it takes no more than half of one connection's time.
    """
    async with engine.connect() as connection:
        size = int((await connection.exec_driver_sql(_SIZE, (table,))).scalar_one())
    for first in range(0, size, PAGES):
        moved = most
        while moved == most:
            begun = time.monotonic()
            async with engine.begin() as tx:
                moved = await move(tx, (f"({first},0)", f"({first + PAGES},0)"))
            yield Walked(moved, min(1.0, (first + PAGES) / size))
            await asyncio.sleep(time.monotonic() - begun)
