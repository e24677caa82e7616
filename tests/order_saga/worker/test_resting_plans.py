"""However many orders rest, what looks for a few of them reads a few rows: by an index, and never all of them."""
# ruff: noqa: SLF001 - the statements of the store are what is looked at

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest_asyncio

from order_saga.worker import resting_store, store
from tests.support.order_database import OrderDatabase
from tests.support.plans import nodes_of

MANY: Final = 100_000
FILL: Final = (
    f"""
    INSERT INTO orders.orders (order_id, user_id, asset_id, order_type, quantity, terms, phase, status, version,
        cancel_requested, filled_quantity, fee, progress, history_seq, created_at, updated_at)
    SELECT lpad(to_hex(number), 32, '0')::uuid, 'user' || number % 1000, 'BTC', 'LIMIT_SELL', 1,
        '{{"limit_price":"51000"}}', 'WORKING', 'CONFIRMED', 2, false, 0, 0, '{{}}', 5, now(), now()
    FROM generate_series(1, {MANY}) AS number""",
    f"""
    INSERT INTO orders.resting (order_id, asset_id, side, revision, live, queued, told, up_price, from_sequence,
        entered_at, expires_at)
    SELECT lpad(to_hex(number), 32, '0')::uuid, 'BTC', 'SELL', 1, true, false, false, 51000 + number, 7, now(),
        now() + number * interval '1 minute'
    FROM generate_series(1, {MANY}) AS number""",
    "ANALYZE orders.orders, orders.resting",
)
OPEN: Final = """
    SELECT * FROM api.orders WHERE user_id = 'user7' AND status IN ('PENDING', 'CONFIRMED', 'PROCESSING')
    ORDER BY created_at DESC, order_id DESC LIMIT 50"""
NAMED: Final = ([UUID(int=1), UUID(int=2)],)
NOW: Final = datetime(2026, 3, 2, tzinfo=UTC)
LOOKS: Final = {
    "fired": (resting_store._FIRED, (500,), "resting_fired"),
    "expired": (resting_store._EXPIRED, (500,), "resting_expiry"),
    "orders to be locked": (store._TAKE, (*NAMED, [], [], False), "resting_pkey"),
    "their news": (resting_store._LOOK, (["BTC"], NOW, *NAMED), "resting_pkey resting_fired"),
    "open orders of a user and an asset": (
        resting_store._OPEN,
        (["user7"], ["BTC"]),
        "orders_waiting orders_open_by_user",
    ),
    "a list of open orders": (OPEN, (), "orders_open_by_user"),
}


@pytest_asyncio.fixture
async def full(db: OrderDatabase) -> OrderDatabase:
    """Lay a hundred thousand orders to rest."""
    for statement in FILL:
        await db.execute(statement)
    return db


async def test_what_looks_for_a_few_resting_orders_reads_a_few_rows(full: OrderDatabase) -> None:
    """With a custom plan as with the generic one that a prepared statement gets in the end."""
    for mode in ("force_custom_plan", "force_generic_plan"):
        for name, (statement, arguments, index) in LOOKS.items():
            nodes = await _plan(full, mode, statement, arguments)
            assert {*index.split()} & {node.get("Index Name") for node in nodes}, (mode, name)
            read = max(node["Actual Rows"] * node["Actual Loops"] for node in nodes)
            assert read <= MANY / 100, (mode, name)
            big = [n for n in nodes if n["Node Type"] == "Seq Scan" and n["Relation Name"] in {"orders", "resting"}]
            assert [] == big, (mode, name)


async def _plan(db: OrderDatabase, mode: str, statement: str, arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Run a statement and return the nodes of its plan."""
    async with db.engine.connect() as connection:
        await connection.exec_driver_sql(f"SET plan_cache_mode = {mode}")
        told = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT json) {statement}", arguments)
        return nodes_of(told.scalar_one())
