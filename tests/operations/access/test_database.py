"""Queries of one operation, on a real server."""

from __future__ import annotations

from operations.access.database import connected, rows, stream
from tests.support.infrastructure import Database

AHEAD_MAX = 100


async def test_few_rows_are_read_ahead(database: Database) -> None:
    """A check of thousands of orders takes its time over each: its session must not seem idle for that long."""
    async with connected(database.url) as engine:
        async with engine.begin() as tx:
            await tx.exec_driver_sql("CREATE SEQUENCE public.sent")
        ahead = []
        async for row in stream(engine, "SELECT nextval('public.sent') AS number FROM generate_series(1, 3000)"):
            if row["number"] % 250 == 0:
                [sequence] = await rows(engine, "SELECT last_value FROM public.sent")
                ahead.append(sequence["last_value"] - row["number"])
    assert (12, True) == (len(ahead), max(ahead) <= AHEAD_MAX), ahead
