"""The migrated database is what the rooms' tables describe, and its constraints are the core's table of phases."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

import order_api.orders.tables
import order_saga.worker.tables
import participants.assets.tables
import participants.balance.tables
import projections.webhooks.tables
from contracts.vocabulary import HoldState, OrderStatus, OrderType, ReasonCode
from order_saga.core.phases import MOVES, PHASES
from order_saga.core.saga import Phase
from tests.migrations.support import CATALOG, SCHEMAS, catalog, connected
from tests.support.infrastructure import Database

ROOMS = (
    order_api.orders.tables,
    order_saga.worker.tables,
    participants.assets.tables,
    participants.balance.tables,
    projections.webhooks.tables,
)
_QUEUES = """
    SELECT oid::regclass::text, reloptions FROM pg_class
    WHERE relname IN ('outbox', 'dead_letters') AND relnamespace::regnamespace::text = ANY ($1)"""

ORDER = """
    INSERT INTO orders.orders (order_id, user_id, phase, status, version, reason_code, order_type, cancel_requested,
        filled_quantity, fee, progress, due_at, history_seq, created_at, updated_at)
    VALUES (gen_random_uuid(), 'alice', $1, $2, $3, $4, $5, false, 0, 0, '{}', now(), 1, now(), now())"""
MOVE = """
    INSERT INTO orders.history (order_id, seq, at, version_from, version_to, moves, entries)
    VALUES (gen_random_uuid(), 1, now(), 0, 1, $1, '[]')"""
HOLD = """
    INSERT INTO balances.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state, reason_code)
    VALUES (gen_random_uuid(), 'x', 'alice', 'USD', 1, $2, $3, $1, 'SOME')"""


async def _accepts(connection: asyncpg.Connection, statement: str, *values: Any) -> bool:
    """Try to insert a row, and roll it back."""
    attempt = connection.transaction()
    await attempt.start()
    try:
        await connection.execute(statement, *values)
    except asyncpg.CheckViolationError:
        return False
    finally:
        await attempt.rollback()
    return True


async def test_the_rooms_tables_describe_the_migrated_catalog(database: Database, empty_url: str) -> None:
    """Columns, types, defaults, constraints, indexes, storage: a database made from the tables has the same."""
    engine = create_async_engine(empty_url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        for room in ROOMS:
            await connection.execute(text(f"CREATE SCHEMA {room.SCHEMA}"))
            await connection.run_sync(room.metadata.create_all)
    await engine.dispose()

    expected, actual = await catalog(empty_url), await catalog(database.url)

    for what in CATALOG:
        assert expected[what] == actual[what], what
    assert set(SCHEMAS) == {room.SCHEMA for room in ROOMS}


async def test_queues_are_vacuumed_by_count(owner: asyncpg.Connection) -> None:
    """Every outbox and every table of dead letters has vacuum settings that do not depend on its size."""
    options = {row[0]: row[1] for row in await owner.fetch(_QUEUES, SCHEMAS)}

    assert 8 == len(options)
    for name, settings in options.items():
        assert {"autovacuum_vacuum_scale_factor=0.0", "autovacuum_analyze_scale_factor=0.0"} <= set(settings), name


def _shown(phase: Phase) -> set[OrderStatus | None]:
    """Return what an order in a phase may show, read from the table of phases by hand."""
    if PHASES[phase].entry:  # left in the decision that reaches it, so never stored
        return set()
    if phase is Phase.REFUNDING:  # what it showed in any phase that leads here
        leads_here = [row for row in PHASES.values() if Phase.REFUNDING in (row.no, row.timeout, row.cancel)]
        return {row.status for row in leads_here}
    return {PHASES[phase].status}


@pytest.mark.parametrize("phase", list(Phase))
async def test_a_phase_shows_its_status_and_no_other(owner: asyncpg.Connection, phase: Phase) -> None:
    """Of every status, and none at all, the database takes exactly those that the table of phases allows."""
    taken: set[OrderStatus | None] = set()
    for status in (None, *OrderStatus):
        reason = ReasonCode.OPERATOR if status in (OrderStatus.CANCELLED, OrderStatus.FAILED) else None
        version = 0 if phase is Phase.NEW else 1
        if await _accepts(owner, ORDER, phase, status, version, reason, OrderType.MARKET_BUY):
            taken.add(status)

    assert _shown(phase) == taken


async def test_a_phase_that_does_not_exist_is_refused(owner: asyncpg.Connection) -> None:
    """Only names that stand in the table are phases."""
    assert not await _accepts(owner, ORDER, "LOST", OrderStatus.PENDING, 1, None, OrderType.MARKET_BUY)


async def test_history_takes_legal_moves_only(owner: asyncpg.Connection) -> None:
    """A version is a legal move of the status, or a change that a cancel makes visible under the same one."""
    statuses: tuple[OrderStatus | None, ...] = (None, *OrderStatus)
    moves = [(before, after) for before in statuses for after in OrderStatus]

    taken = {move for move in moves if await _accepts(owner, MOVE, [f"{move[0] or ''}>{move[1]}"])}

    legal = {(before, after) for before, afters in MOVES.items() for after in afters}
    legal |= {(row.status, row.status) for row in PHASES.values() if row.status is not None and row.cancel is not None}
    assert legal == taken
    assert not await _accepts(owner, MOVE, [])
    assert not await _accepts(owner, MOVE, [">PENDING", "PENDING>FAILED"])


@pytest.mark.parametrize("reason", [*ReasonCode, "BECAUSE"])
async def test_reasons_are_the_closed_vocabulary(owner: asyncpg.Connection, reason: str) -> None:
    """Every reason code is taken, and nothing else."""
    expected = reason in ReasonCode.__members__
    assert expected == await _accepts(owner, ORDER, "FAILED", "FAILED", 2, reason, OrderType.MARKET_BUY)


async def test_order_types_and_hold_states_are_the_closed_vocabularies(owner: asyncpg.Connection) -> None:
    """An order type of the wire is taken, another is not; hold states likewise."""
    for order_type in OrderType:
        assert await _accepts(owner, ORDER, "VALIDATING", "PENDING", 1, None, order_type)
    assert not await _accepts(owner, ORDER, "VALIDATING", "PENDING", 1, None, "MARKET_GIFT")
    for state in HoldState:
        amounts = {HoldState.SETTLED: (1, 0), HoldState.REFUNDED: (0, 1)}.get(state, (0, 0))
        assert await _accepts(owner, HOLD, state, *amounts)
    assert not await _accepts(owner, HOLD, "LENT", 0, 0)
    assert not await _accepts(owner, HOLD, HoldState.SETTLED, 1, 1)


async def test_a_live_order_can_always_be_woken(database: Database) -> None:
    """An order that has not ended and is not parked can't be without a time at which it is due."""
    async with connected(database.url) as connection:
        await connection.execute(ORDER, "VALIDATING", "PENDING", 1, None, OrderType.MARKET_BUY)
        with pytest.raises(asyncpg.CheckViolationError, match="orders_always_wakeable"):
            await connection.execute("UPDATE orders.orders SET due_at = NULL")
        await connection.execute("UPDATE orders.orders SET due_at = NULL, parked_reason = 'poison'")
