"""However many deliveries there are, what looks for a few of them reads a few rows by an index, never the table."""
# ruff: noqa: SLF001 - the statements of the stores are what is looked at

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest_asyncio

from contracts.webhooks import DeliveryState, EndpointKind
from operations.diagnosis import webhooks as diagnosis
from order_api.live import store as live
from order_api.notifications import store as notifications
from order_api.webhooks import store as api
from projections.webhooks import store
from tests.support.infrastructure import Database
from tests.support.plans import nodes_of

ENDPOINTS: Final = 100
MANY: Final = 1_000_000
DEAD: Final = 50_000
"""Deliveries that wait for an endpoint which is away: the first one."""
ONE: Final = UUID(int=7)
DEAD_ONE: Final = UUID(int=1)
FILL: Final = (
    f"""
    INSERT INTO webhooks.endpoints (endpoint_id, user_id, kind, target, event_types, secrets)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 'user' || n % 50, 'webhook', 'https://x/', '{{}}', '[]'
    FROM generate_series(1, {ENDPOINTS}) AS n""",
    # Of each endpoint nearly all are delivered, one in a thousand failed, and one is due.
    f"""
    INSERT INTO webhooks.deliveries
        (endpoint_id, event_id, order_id, version, event_type, body, state, created_at, next_attempt_at, ended_at)
    SELECT lpad(to_hex(n % {ENDPOINTS} + 1), 32, '0')::uuid, n::text, lpad(to_hex(n), 32, '0')::uuid, 1, 'order.failed',
        '', CASE WHEN n <= {ENDPOINTS} THEN 'PENDING' WHEN n % 100000 < 100 THEN 'FAILED' ELSE 'DELIVERED' END,
        now() - n * interval '1 s', now() - n * interval '1 s',
        CASE WHEN n > {ENDPOINTS} THEN now() - n * interval '1 s' END
    FROM generate_series(1, {MANY - DEAD}) AS n""",
    f"""
    INSERT INTO webhooks.deliveries (endpoint_id, event_id, order_id, version, event_type, body, next_attempt_at)
    SELECT '{DEAD_ONE}', 'dead' || n, gen_random_uuid(), 1, 'order.failed', '', now() + n * interval '1 s'
    FROM generate_series(1, {DEAD}) AS n""",
    "ANALYZE webhooks.endpoints, webhooks.deliveries",
)
NOW: Final = datetime.now(UTC)
LOOKS: Final[dict[str, tuple[str, tuple[Any, ...], str]]] = {
    "endpoints with something due": (store._DUE, (sorted(EndpointKind),), "deliveries_due"),
    "a claim": (store._CLAIM, ([ONE, DEAD_ONE], [32, 1], [0, 0], store.LEASE_S), "deliveries_due"),
    "what waits for too long": (store._GIVE_UP_OLD, (1_000, 7, "why"), "deliveries_due"),
    "what ended long ago": (store._DELETE_ENDED, (100, 11.0), "deliveries_ended_at"),
    "a newer version": (store._SUPERSEDE, ([ONE], [UUID(int=3)], [2]), "deliveries_pending_of_order deliveries_pkey"),
    "a page": (api._DELIVERIES[None], (ONE, None, None, 51), "deliveries_of_endpoint"),
    **{
        f"a page of {state}": (api._DELIVERIES[state], (ONE, NOW, "x", 51), "deliveries_ended_as deliveries_due")
        for state in DeliveryState
        if state is not DeliveryState.DELIVERED
    },
    "a page of what nearly all are": (
        api._DELIVERIES[DeliveryState.DELIVERED],
        (ONE, NOW, "x", 51),
        "deliveries_ended_as deliveries_of_endpoint",
    ),
    "a ping that waits": (api._PING_WAITS, (ONE,), "deliveries_due"),
    "what was told to a user": (notifications._LOG, ("user7", 51, None, None, None), "deliveries_of_endpoint"),
    "what operators ask": (diagnosis._LATE, (60.0,), "deliveries_due"),
    "endpoints given up": (live._SELECT_DISABLED_WITHIN, (60.0,), ""),
}


@pytest_asyncio.fixture
async def full(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Store a million deliveries."""
    owner = await asyncpg.connect(database.url)
    try:
        for statement in FILL:
            await owner.execute(statement, timeout=300)
        yield owner
    finally:
        await owner.close()


async def test_what_looks_for_a_few_deliveries_reads_a_few_rows(full: asyncpg.Connection) -> None:
    """With a custom plan as with the generic one that a prepared statement gets in the end."""
    for mode in ("force_custom_plan", "force_generic_plan"):
        for name, (statement, arguments, index) in LOOKS.items():
            nodes = await _plan(full, mode, statement, arguments)
            if index:
                assert {*index.split()} & {node.get("Index Name") for node in nodes}, (mode, name)
            whole = [one for one in nodes if one["Node Type"] == "Seq Scan" and one["Relation Name"] == "deliveries"]
            assert [] == whole, (mode, name)
            read = max(node["Actual Rows"] * node["Actual Loops"] for node in nodes)
            assert read <= MANY / 500, (mode, name, read)


async def _plan(
    full: asyncpg.Connection, mode: str, statement: str, arguments: tuple[Any, ...]
) -> list[dict[str, Any]]:
    """Run a statement, undo it, and return the nodes of its plan."""
    attempt = full.transaction()
    await attempt.start()
    try:
        await full.execute(f"SET LOCAL plan_cache_mode = {mode}")
        told = await full.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments, timeout=120)
    finally:
        await attempt.rollback()
    return nodes_of(told)
