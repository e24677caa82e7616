"""Migrations since the last release only add, but for exceptions that are named: that release works on beside them.

The proof is `tests/e2e/test_two_versions.py`, with its processes. This finds at once what would break it, and makes a
migration that takes something away (contract) name what it takes and why nobody misses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import PurePath
from typing import Final

import asyncpg

import migrations
from tests.migrations.support import connected
from tests.support.project import ROOT, git
from tests.support.released import commit_of, newest_release

WIDER: Final = "it allows more words than before"
SAME_TO_IT: Final = "0.2.0 reads it cast to text, and what it writes as jsonb is stored as text"
LINES: Final = "triggers make entries of the lines that 0.2.0 inserts (0028); it reads none"
EXCEPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "0.2.0": {
        "column orders.orders.progress": SAME_TO_IT,
        "column orders.history.entries": SAME_TO_IT,
        "column balances.journal.account": LINES,
        "column balances.journal.asset_id": LINES,
        "column balances.journal.amount": LINES,
        "column balances.journal.accounts": LINES,
        "column balances.journal.asset_ids": LINES,
        "column balances.journal.amounts": LINES,
        "constraint balances.journal_pkey": LINES,
        "constraint balances.journal_entry": LINES,
        "constraint orders.orders_phase_shows_status": WIDER,
        "constraint orders.orders_order_type": WIDER,
        "constraint orders.orders_reason_code": WIDER,
        "constraint orders.orders_always_wakeable": WIDER,
        "constraint orders.history_legal_moves": WIDER,
        "constraint api.requests_action": WIDER,
        "constraint assets.prices_source": WIDER,
        "constraint assets.assets_max_deviation": "of a column that 0.2.0 leaves null",
        "constraint assets.prices_terms": "of a column that 0.2.0 leaves null, and must be null for its sources",
        "constraint assets.prices_trading": "of a column that has a default",
        "constraint balances.holds_revision": "of columns that 0.2.0 leaves at their defaults",
    },
}
"""By release: what may differ for its tables, and why it does not mind."""

_COLUMNS: Final = """
    SELECT format('%s.%s.%s', class.relnamespace::regnamespace, class.relname, attname) AS name,
        format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END AS definition,
        attnotnull AND NOT atthasdef AND attidentity = '' AND class.relkind = 'r' AS must_be_given
    FROM pg_attribute JOIN pg_class AS class ON class.oid = attrelid
    WHERE attnum > 0 AND NOT attisdropped AND class.relkind IN ('r', 'v')
        AND class.relnamespace::regnamespace::text = ANY($1)"""
_CONSTRAINTS: Final = """
    SELECT format('%s.%s', connamespace::regnamespace, conname) AS name, conrelid::regclass::text AS relation,
        pg_get_constraintdef(oid) AS definition
    FROM pg_constraint WHERE contype <> 'n' AND connamespace::regnamespace::text = ANY($1)"""
_UNIQUE: Final = """
    SELECT format('%s', indexrelid::regclass) AS name, indrelid::regclass::text AS relation,
        pg_get_indexdef(indexrelid) AS definition
    FROM pg_index JOIN pg_class AS class ON class.oid = indrelid
    WHERE indisunique AND class.relnamespace::regnamespace::text = ANY($1)"""
SCHEMAS: Final = ["orders", "api", "balances", "assets", "audit"]

Catalog = dict[str, dict[str, asyncpg.Record]]


async def test_migrations_since_the_last_release_only_add(empty_url: str) -> None:
    """No table, column or view of it is gone or has another type, none must be given, and no rule of a table is new."""
    version = newest_release((ROOT / "CHANGELOG.md").read_text())
    await asyncio.to_thread(migrations.upgrade, empty_url, await asyncio.to_thread(_revision_of, version))
    before = await _catalog(empty_url)
    await asyncio.to_thread(migrations.upgrade, empty_url)
    after = await _catalog(empty_url)

    found, excepted = set(_differences(before, after)), EXCEPTIONS.get(version, {}).keys()

    assert set() == found - excepted, f"a process of {version} may mind"
    assert set() == excepted - found, "these are no exceptions any more"


def _revision_of(version: str) -> str:
    """Return the newest revision that a release has."""
    names = git("ls-tree", "--name-only", commit_of(version), "migrations/versions/").splitlines()
    return max(PurePath(name).name.partition("_")[0] for name in names)


async def _catalog(url: str) -> Catalog:
    async with connected(url) as connection:
        kinds = {"column": _COLUMNS, "constraint": _CONSTRAINTS, "unique index": _UNIQUE}
        return {
            kind: {row["name"]: row for row in await connection.fetch(query, SCHEMAS)} for kind, query in kinds.items()
        }


def _differences(before: Catalog, after: Catalog) -> list[str]:
    """List what a process that knows the catalog of before may mind in the one of after."""
    columns, now = before["column"], after["column"]
    relations = {name.rpartition(".")[0] for name in columns}
    found = [f"column {name}" for name, row in columns.items() if _changed(row, now.get(name))]
    found += [
        f"column {name}"
        for name, row in now.items()
        if name not in columns and row["must_be_given"] and name.rpartition(".")[0] in relations
    ]
    for kind in ("constraint", "unique index"):
        known = before[kind]
        found += [
            f"{kind} {name}"
            for name, row in after[kind].items()
            if row["relation"] in relations and _changed(row, known.get(name)) and f"constraint {name}" not in found
        ]
    return found


def _changed(row: asyncpg.Record, other: asyncpg.Record | None) -> bool:
    return other is None or row["definition"] != other["definition"]
