"""What a balance service of version 0.2.0 writes to the journal is stored as this version's entries."""

from __future__ import annotations

from typing import Final

import asyncpg
import pytest

from tests.support.journal import insert_lines

# As `participants/balance/store.py` of 0.2.0 has it.
ADD_LINES: Final = """
INSERT INTO balances.journal (entry_id, account, asset_id, order_id, amount)
SELECT entry_id, account, asset_id, order_id::uuid, amount::numeric
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    AS line (entry_id, account, asset_id, order_id, amount)
"""
ENTRIES: Final = "SELECT entry_id, order_id, accounts, asset_ids, amounts FROM balances.journal ORDER BY entry_id"
ORDER: Final = "0190a0a0-0000-7000-8000-000000000001"
SETTLED: Final = f"{ORDER}:settle"
LINES: Final = (
    (SETTLED, "alice", "USD", ORDER, "-50.05"),
    (SETTLED, "@market", "USD", ORDER, "50"),
    (SETTLED, "@fees", "USD", ORDER, "0.05"),
    (SETTLED, "alice", "BTC", ORDER, "0.001"),
    (SETTLED, "@market", "BTC", ORDER, "-0.001"),
    ("deposit:1", "bob", "USD", None, "7"),
    ("deposit:1", "@external", "USD", None, "-7"),
)


async def _add(connection: asyncpg.Connection, *lines: tuple[str | None, ...]) -> None:
    await connection.execute(ADD_LINES, *map(list, zip(*lines, strict=True)))


async def test_lines_of_one_statement_become_entries(owner: asyncpg.Connection) -> None:
    """Each entry is one row, as if this version had written it, and none of its lines is left anywhere else."""
    await _add(owner, *LINES)
    theirs = await owner.fetch(ENTRIES)
    assert [SETTLED, "deposit:1"] == [row["entry_id"] for row in theirs]
    assert 0 == await owner.fetchval("SELECT count(*) FROM balances.new_lines")

    await owner.execute("TRUNCATE balances.journal")
    await insert_lines(
        owner, [(entry, order, account, asset, amount) for entry, account, asset, order, amount in LINES]
    )

    assert theirs == await owner.fetch(ENTRIES)


async def test_an_entry_is_written_once_by_whichever_version(owner: asyncpg.Connection) -> None:
    """The second one is refused whole, and its lines are not left behind."""
    await _add(owner, *LINES)
    with pytest.raises(asyncpg.UniqueViolationError, match="journal_pkey"):
        await _add(owner, ("deposit:2", "bob", "USD", None, "1"), ("deposit:2", "@external", "USD", None, "-1"), *LINES)
    assert 2 == await owner.fetchval("SELECT count(*) FROM balances.journal")
    assert 0 == await owner.fetchval("SELECT count(*) FROM balances.new_lines")


async def test_lines_that_are_no_entry_are_refused(owner: asyncpg.Connection) -> None:
    """Whatever does not sum to zero per asset, and what is no line at all."""
    with pytest.raises(asyncpg.CheckViolationError, match="journal_entry"):
        await _add(owner, *LINES[1:])
    with pytest.raises(asyncpg.NotNullViolationError):
        await owner.execute("INSERT INTO balances.journal (entry_id) VALUES ('deposit:3')")
    assert 0 == await owner.fetchval("SELECT count(*) FROM balances.journal")
