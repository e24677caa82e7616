"""Reads the base tables at the end of a run, as the database's owner, with SQL of its own. It judges nothing."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any, NamedTuple

import asyncpg

Row = dict[str, Any]


class Books(NamedTuple):
    """All rows that the checker reads; ids are text."""

    orders: dict[str, Row]
    stubs: set[str]
    """Orders whose cancel came without a request."""
    history: dict[str, list[Row]]
    """Per order, in order of `seq`; `entries` decoded."""
    holds: dict[str, list[Row]]
    fills: dict[str, list[Row]]
    accounts: list[Row]
    journal: list[Row]
    claims: dict[str, Row]
    dead_letters: list[Row]
    unsent: dict[str, int]
    """Rows in each outbox."""


async def read(owner_url: str) -> Books:
    """Read everything in one snapshot."""
    connection = await asyncpg.connect(owner_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = {name: [dict(row) for row in await connection.fetch(sql)] for name, sql in _SQL.items()}
    finally:
        await connection.close()
    for row in rows["history"]:
        row["entries"] = json.loads(row["entries"])
    return Books(
        orders={row["order_id"]: row for row in rows["orders"] if row["phase"] != "NEW"},
        stubs={row["order_id"] for row in rows["orders"] if row["phase"] == "NEW"},
        history=_by_order(rows["history"]),
        holds=_by_order(rows["holds"]),
        fills=_by_order(rows["fills"]),
        accounts=rows["accounts"],
        journal=rows["journal"],
        claims={row["order_id"]: row for row in rows["claims"]},
        dead_letters=rows["dead_letters"],
        unsent={row["outbox"]: row["rows"] for row in rows["unsent"]},
    )


async def unfinished(owner_url: str, promised: list[str]) -> dict[str, int]:
    """Count what is unfinished: open orders, accepted requests without an order, messages to be published."""
    connection = await asyncpg.connect(owner_url, timeout=5)
    try:
        return dict(await connection.fetchrow(_UNFINISHED, promised))
    finally:
        await connection.close()


def _by_order(rows: list[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["order_id"]].append(row)
    return dict(grouped)


_SQL = {
    "orders": "SELECT o.*, o.order_id::text AS order_id FROM orders.orders o",
    "history": """SELECT h.*, h.order_id::text AS order_id, h.entries::text AS entries FROM orders.history h
                  ORDER BY h.order_id, h.seq""",
    "holds": "SELECT h.*, h.saga_id AS order_id FROM balances.holds h",
    "fills": "SELECT f.*, f.order_id::text AS order_id FROM orders.fills f",
    "accounts": "SELECT user_id, asset_id, available, held FROM balances.accounts",
    "journal": "SELECT entry_id, account, asset_id, order_id::text AS order_id, amount FROM balances.journal_lines",
    "claims": "SELECT order_id::text AS order_id, user_id, idempotency_key, client_order_id FROM api.claims",
    "dead_letters": """
        SELECT * FROM (
            SELECT topic, partition, record_offset, value, reason FROM orders.dead_letters
            UNION ALL SELECT topic, partition, record_offset, value, reason FROM balances.dead_letters
            UNION ALL SELECT topic, partition, record_offset, value, reason FROM assets.dead_letters
            UNION ALL SELECT topic, partition, record_offset, value, reason FROM webhooks.dead_letters) AS found""",
    "unsent": """
        SELECT 'orders' AS outbox, count(*) AS rows FROM orders.outbox
        UNION ALL SELECT 'balances', count(*) FROM balances.outbox
        UNION ALL SELECT 'assets', count(*) FROM assets.outbox
        UNION ALL SELECT 'webhooks', count(*) FROM webhooks.outbox""",
}
_UNFINISHED = """
    SELECT
        (SELECT count(*) FROM orders.orders
         WHERE phase NOT IN ('NEW', 'COMPLETED', 'CANCELLED', 'FAILED')) AS orders,
        (SELECT count(*) FROM unnest($1::text[]) AS promised (order_id)
         WHERE NOT EXISTS (SELECT FROM orders.orders o WHERE o.order_id = promised.order_id::uuid AND o.phase <> 'NEW')
        ) AS promises,
        (SELECT count(*) FROM api.claims c
         WHERE NOT EXISTS (SELECT FROM orders.orders o WHERE o.order_id = c.order_id AND o.phase <> 'NEW')) AS claims,
        (SELECT count(*) FROM orders.outbox) + (SELECT count(*) FROM balances.outbox)
            + (SELECT count(*) FROM assets.outbox) AS unsent"""
