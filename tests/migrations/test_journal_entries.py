"""The journal keeps what it had when its lines become entries, and when they become lines again."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

import migrations
from operations.access.database import connected as connected_engine
from operations.deployment.hand_over import close
from tests.migrations.support import connected, rights, views
from tests.operations.audit.rows import JOURNAL

LINES, ENTRIES = "0008", "0009"
COLUMNS: Final = "entry_id, account, asset_id, order_id, amount, created_at"
LINE: Final = """
    INSERT INTO balances.journal (entry_id, order_id, account, asset_id, amount, created_at)
    VALUES ($1, $2, $3, $4, $5::text::numeric, $6::text::timestamptz)"""
ODD: Final = (
    ("deposit:odd", None, "NULL", "a,b", "0.000000000000000001"),
    ("deposit:odd", None, 'x"\\{}', "a,b", "-0.000000000000000001"),
    ("deposit:odd", None, "Zed", "ZZZ", "999999999999999999.999999999999999999"),
    ("deposit:odd", None, "alice", "ZZZ", "-999999999999999999.999999999999999999"),
)
"""Names that need quotes; and capitals, which PostgreSQL's own image sorts in the English way, and not as bytes."""


async def _with_lines(url: str) -> list[tuple[Any, ...]]:
    """Bring a database to the revision with lines, and give it some; return all of them."""
    await asyncio.to_thread(migrations.upgrade, url, LINES)
    async with connected(url) as connection:
        at = "2026-01-02T03:04:05.678901Z"
        await connection.executemany(LINE, [(*line, at) for line in (*JOURNAL, *ODD)])
        return await _rows(connection, f"SELECT {COLUMNS} FROM balances.journal")


async def _rows(connection: asyncpg.Connection, query: str) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in await connection.fetch(query)), key=repr)


async def test_lines_become_entries_and_lines_again(empty_url: str) -> None:
    """Every line to the last digit and with its time, in the views as in the table; an entry is one row, in order."""
    lines = await _with_lines(empty_url)
    async with connected(empty_url) as connection:
        shown = await _rows(connection, "SELECT * FROM audit.journal")

        await asyncio.to_thread(migrations.upgrade, empty_url, ENTRIES)

        assert len({line[0] for line in lines}) == await connection.fetchval("SELECT count(*) FROM balances.journal")
        assert lines == await _rows(connection, f"SELECT {COLUMNS} FROM balances.journal_lines")
        assert shown == await _rows(connection, "SELECT * FROM audit.journal")
        odd = await connection.fetchrow("SELECT * FROM balances.journal WHERE entry_id = 'deposit:odd'")
        assert ["ZZZ", "ZZZ", "a,b", "a,b"] == odd["asset_ids"]
        assert ["Zed", "alice", "NULL", 'x"\\{}'] == odd["accounts"]

        await asyncio.to_thread(migrations.downgrade, empty_url, LINES)

        assert lines == await _rows(connection, f"SELECT {COLUMNS} FROM balances.journal")
        assert shown == await _rows(connection, "SELECT * FROM audit.journal")


_TYPES: Final = """
    SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = 'audit.journal'::regclass AND attnum > 0 ORDER BY attnum"""


async def test_the_auditors_view_has_the_same_columns(empty_url: str) -> None:
    """Names, order and types: who reads it need not know how the journal is stored."""
    await asyncio.to_thread(migrations.upgrade, empty_url, LINES)
    async with connected(empty_url) as connection:
        before = [tuple(row) for row in await connection.fetch(_TYPES)]
        await asyncio.to_thread(migrations.upgrade, empty_url, ENTRIES)
        assert before == [tuple(row) for row in await connection.fetch(_TYPES)]


async def test_whoever_could_read_or_write_the_journal_can(empty_url: str) -> None:
    """Rights that somebody else was given are kept, and a reader may read the lines; and so on the way back."""
    await asyncio.to_thread(migrations.upgrade, empty_url, LINES)
    group = f"reporting_{secrets.token_hex(4)}"
    async with connected(empty_url) as connection:
        await connection.execute(f"CREATE ROLE {group}")
        try:
            await connection.execute(f"GRANT SELECT ON balances.journal TO {group}, PUBLIC")
            before, shown = await rights(empty_url), await views(empty_url)

            await asyncio.to_thread(migrations.upgrade, empty_url, ENTRIES)

            after = await rights(empty_url)
            assert _granted(before["balances.journal"]) == _granted(after["balances.journal"])
            readers = {f"{group}=r", "=r", "saga_balances=r"}
            assert readers == {one for one in _granted(after["balances.journal_lines"]) if not one.startswith("owner")}
            assert before["audit.journal"] == after["audit.journal"]

            await asyncio.to_thread(migrations.downgrade, empty_url, LINES)

            back = await rights(empty_url)
            assert _granted(before["balances.journal"]) == _granted(back["balances.journal"])
            assert (before.keys(), shown) == (back.keys(), await views(empty_url))
        finally:
            await connection.execute(f"DROP OWNED BY {group}")
            await connection.execute(f"DROP ROLE {group}")


def _granted(rights_text: str | None) -> set[str]:
    assert rights_text is not None
    return {one.partition("/")[0] for one in rights_text.strip("{}").split(",")}


async def test_a_ledger_that_was_handed_over_stays_closed(empty_url: str) -> None:
    """No entry can be added after the migration, up or down; what is there is kept."""
    lines = await _with_lines(empty_url)
    async with connected_engine(empty_url) as engine:
        await close(engine, "wallet")

    for revision, go in ((ENTRIES, migrations.upgrade), (LINES, migrations.downgrade)):
        await asyncio.to_thread(go, empty_url, revision)

        async with connected(empty_url) as connection:
            assert len(lines) == await connection.fetchval("SELECT count(*) FROM audit.journal")
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError, match="was handed over to wallet"):
                await connection.execute("INSERT INTO balances.journal DEFAULT VALUES")


async def test_an_entry_that_does_not_sum_to_zero_stops_the_upgrade(empty_url: str) -> None:
    """The journal that is wrong is left as it was, for somebody to look at it: `audit` names the entry."""
    await _with_lines(empty_url)
    async with connected(empty_url) as connection:
        await connection.execute("UPDATE balances.journal SET amount = amount + 1 WHERE amount = 1000")
        lines = await _rows(connection, f"SELECT {COLUMNS} FROM balances.journal")

        with pytest.raises(DBAPIError, match="journal_entry"):
            await asyncio.to_thread(migrations.upgrade, empty_url)

        assert LINES == await asyncio.to_thread(migrations.current, empty_url)
        assert lines == await _rows(connection, f"SELECT {COLUMNS} FROM balances.journal")
