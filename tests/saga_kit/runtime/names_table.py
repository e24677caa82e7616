"""A table of names for the tests of transactions, and what they do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from saga_kit.runtime.transactions import Begins, Transaction, begin
from tests.saga_kit.support import Schema

INSERT: Final = "INSERT INTO {s}.names (name, number) SELECT * FROM unnest($1::text[], $2::int[])"
UPDATE: Final = "UPDATE {s}.names SET number = $2 WHERE name = ANY($1::text[])"
DELETE: Final = "DELETE FROM {s}.names WHERE name = $1"


class Failed(Exception):  # noqa: N818 - it is what happened
    """What ends a transaction of these tests."""


async def rows(schema: Schema) -> list[tuple[str, int]]:
    """Read the committed names and numbers."""
    return [tuple(row) for row in await schema.rows("SELECT name, number FROM {s}.names ORDER BY id")]


def insert(tx: Transaction, schema: Schema, names: list[str], numbers: list[int], **more: Any) -> list[Any]:
    """Put an insert off."""
    return tx.write(INSERT.format(s=schema.name), names, numbers, **more)


async def value(source: AsyncEngine | Begins, sql: str) -> Any:
    """Return what a query finds, in a transaction of its own."""
    async with begin(source) as tx:
        return await tx.fetchval(sql)


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.02)


async def equals(found: Awaitable[Any], expected: Any) -> bool:
    """Tell whether what is found is what is expected."""
    return bool(await found == expected)
