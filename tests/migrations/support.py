"""Reads a database's catalog, so that two databases can be compared by what PostgreSQL itself says of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

SCHEMAS: Final = ("api", "assets", "balances", "orders", "webhooks")
"""The services' schemas; `audit` has views only."""

CATALOG: Final = {
    "columns": """
        SELECT attrelid::regclass::text, attname,
            format_type(atttypid, atttypmod), attnotnull,
            attidentity::text, attgenerated::text, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace::regnamespace::text = ANY ($1) AND relkind = 'r' AND attnum > 0 AND NOT attisdropped""",
    "constraints": """
        SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace::regnamespace::text = ANY ($1)""",
    "indexes": """
        SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisprimary, indisvalid
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace::regnamespace::text = ANY ($1)""",
    "storage": """
        SELECT oid::regclass::text, relkind::text, relpersistence::text,
            (SELECT array_agg(option ORDER BY option) FROM unnest(reloptions) AS option)
        FROM pg_class WHERE relnamespace::regnamespace::text = ANY ($1) AND relkind <> 'v'""",
    "functions, triggers and rules": """
        SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace::regnamespace::text = ANY ($1)
        UNION ALL SELECT tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE relnamespace::regnamespace::text = ANY ($1) AND NOT tgisinternal
        UNION ALL SELECT rulename FROM pg_rules WHERE schemaname = ANY ($1)""",
}
"""What there is to compare, each as a query over schemas. Triggers of foreign keys are in those constraints."""

VIEWS: Final = """
    SELECT c.oid::regclass::text, array_agg(attname::text ORDER BY attnum), pg_get_viewdef(c.oid)
    FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0
    WHERE relkind = 'v' AND relnamespace::regnamespace::text = ANY ($1) GROUP BY c.oid"""

RIGHTS: Final = """
    SELECT relnamespace::regnamespace::text || '.' || relname, relacl::text FROM pg_class
    WHERE relnamespace::regnamespace::text = ANY ($1 || ARRAY['audit']) AND relkind IN ('r', 'v')
    UNION ALL SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'"""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect for a moment."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def catalog(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Describe everything in the services' schemas but the views."""
    async with connected(url) as connection:
        return {
            what: sorted((tuple(row) for row in await connection.fetch(query, SCHEMAS)), key=repr)
            for what, query in CATALOG.items()
        }


async def views(url: str) -> dict[str, tuple[list[str], str]]:
    """Describe every view: its columns and its query."""
    async with connected(url) as connection:
        return {row[0]: (row[1], row[2]) for row in await connection.fetch(VIEWS, (*SCHEMAS, "audit"))}


async def rights(url: str) -> dict[str, str | None]:
    """Describe who was granted what on tables, views and schemas."""
    async with connected(url) as connection:
        return dict(await connection.fetch(RIGHTS, SCHEMAS))
