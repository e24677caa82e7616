"""Move orders and holds that ended long ago out of the tables that every batch reads, while the system runs.

Orders go to `orders.archive`, with their history and fills; holds to `balances.holds_archive`, by the kit's own
statements. Every batch looks up the ids that are archived and never acts on them again, so only what is older than the
replay horizon may go. A table is read page by page, in the order in which it lies on the disk: no index is needed, and
each transaction is small. Rows that another transaction has locked are left for the next run. Only the database's owner
can do it: no service may delete.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple

from operations.access.errors import WrongRequest
from order_saga.core.phases import TERMINAL
from order_saga.worker.tables import archive as archive_table
from order_saga.worker.tables import fills, history
from participants.balance.tables import SCHEMA
from saga_kit.messaging.topic_settings import REPLAY_HORIZON_S
from saga_kit.participant.holds import Holds
from saga_kit.runtime.database import PATIENTLY
from saga_kit.runtime.transactions import begin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from saga_kit.runtime.transactions import Transaction

    Move = Callable[[Transaction, tuple[str, str]], Awaitable[int]]
    """Moves what may go of some pages; returns how many rows, a full batch when there may be more."""

DAY_S: Final = 86_400
PAGES: Final = 128
"""Pages of a table that one transaction reads: a megabyte."""

_COLUMNS: Final = ", ".join(
    column.name for column in archive_table.columns if column.name not in {"history", "fills", "archived_at"}
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
    row = f"to_jsonb({name}) - 'order_id'"
    if name == history.name:  # what is text there is a document here
        row += " || jsonb_build_object('entries', entries::jsonb)"
    return f"SELECT order_id, jsonb_agg({row} ORDER BY {order_by}) AS {name} FROM {name} GROUP BY order_id"  # noqa: S608 - our own names


# A statement of its own, after the rows are locked: so its snapshot has everything that was written about them before.
_MOVE: Final = f"""
    WITH gone AS (DELETE FROM orders.orders WHERE order_id = ANY($1::uuid[]) RETURNING {_COLUMNS}),
        {history.name} AS (DELETE FROM {history.fullname} WHERE order_id = ANY($1::uuid[]) RETURNING *),
        {fills.name} AS (DELETE FROM {fills.fullname} WHERE order_id = ANY($1::uuid[]) RETURNING *)
    INSERT INTO orders.archive ({_COLUMNS}, history, fills)
    SELECT {_COLUMNS.replace("progress", "progress::jsonb")}, coalesce(past.history, '[]'),
        coalesce(filled.fills, '[]') FROM gone
    LEFT JOIN ({_as_json("history", "seq")}) AS past USING (order_id)
    LEFT JOIN ({_as_json("fills", "fill_id")}) AS filled USING (order_id)"""  # noqa: S608 - the same
_COUNT: Final = f"SELECT count(*) {_OLD}"
_SIZE: Final = "SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::int"


_FRESH_STATISTICS: Final = "ANALYZE orders.archive, balances.holds_archive"
"""The planner's plans for the archives were made while these were small."""


class Part(NamedTuple):
    """One table that is archived: how to count what is old, and how to move what is old from some of its pages."""

    name: str
    table: str
    count_old: Callable[[Transaction], Awaitable[int]]
    move: Move


class ArchiveProgress(NamedTuple):
    """How far a run has come: how many rows of each part it has moved, and the share of the table that it has read."""

    rows: dict[str, int]
    table: str
    share: float


def check_horizon(older_than_days: float) -> None:
    """Expect a time that is not shorter than the replay horizon. Raises `WrongRequest`."""
    if not older_than_days * DAY_S >= REPLAY_HORIZON_S:  # which no NaN is
        horizon = f"--older-than must be at least {REPLAY_HORIZON_S / DAY_S:g} days, the replay horizon"
        raise WrongRequest(f"{horizon}: a message that is younger may still come")


async def count_old(engine: AsyncEngine, older_than_s: float) -> dict[str, int]:
    """Count the orders and holds that `archive` would move, by the parts' names."""
    async with begin(engine) as tx:
        await tx.execute(PATIENTLY)
        return {part.name: await part.count_old(tx) for part in parts(older_than_s, 1)}


async def archive(engine: AsyncEngine, older_than_s: float, batch: int) -> AsyncGenerator[ArchiveProgress, None]:
    """Move everything that ended so long ago, at most `batch` rows in a transaction.

    What is moved stays moved, so this may be stopped at any moment and started again: the next run moves the rest.
    Raises `WrongRequest` for a time that is shorter than the replay horizon.
    """
    check_horizon(older_than_s / DAY_S)
    chosen = parts(older_than_s, batch)
    rows = {part.name: 0 for part in chosen}
    for part in chosen:
        async with aclosing(walk(engine, part.table, part.move, most=batch)) as steps:
            async for step in steps:
                rows[part.name] += step.moved
                yield ArchiveProgress(dict(rows), part.table, step.share)
    async with begin(engine) as tx:
        await tx.execute(PATIENTLY)
        await tx.execute(_FRESH_STATISTICS)


def parts(older_than_s: float, most: int) -> tuple[Part, ...]:
    """Give what is archived, in this order."""
    holds = Holds(SCHEMA)
    return (
        Part(
            "orders",
            "orders.orders",
            lambda tx: count(tx, older_than_s),
            lambda tx, pages: move(tx, pages, older_than_s, most),
        ),
        Part(
            "holds",
            f"{SCHEMA}.holds",
            lambda tx: holds.count_old(tx, older_than_s),
            lambda tx, pages: holds.archive(tx, pages, older_than_s, most),
        ),
    )


class ArchiveStep(NamedTuple):
    """One transaction of `walk`: how many rows it moved, and the share of the table that has been read."""

    moved: int
    share: float


async def move(tx: Transaction, pages: tuple[str, str], older_than_s: float, most: int) -> int:
    """Archive orders of these pages that ended so long ago, with their history and fills; return how many."""
    chosen = [row[0] for row in await tx.fetch(_CHOOSE, older_than_s, *pages, most)]
    if chosen:
        await tx.execute(_MOVE, chosen)
    return len(chosen)


async def count(tx: Transaction, older_than_s: float) -> int:
    """Count the orders that could be archived."""
    return int(await tx.fetchval(_COUNT, older_than_s))


async def walk(engine: AsyncEngine, table: str, move: Move, *, most: int) -> AsyncGenerator[ArchiveStep, None]:
    """Go once through a table, a transaction for each step; `most` is a full batch of `move`.

    After each step it rests as long as that took, so that it takes no more than half of one connection's time.
    """
    async with engine.connect() as connection:
        size = int((await connection.exec_driver_sql(_SIZE, (table,))).scalar_one())
    for first in range(0, size, PAGES):
        moved = most
        while moved == most:
            begun = time.monotonic()
            async with begin(engine) as tx:
                moved = await move(tx, (f"({first},0)", f"({first + PAGES},0)"))
            yield ArchiveStep(moved, min(1.0, (first + PAGES) / size))
            await asyncio.sleep(time.monotonic() - begun)
