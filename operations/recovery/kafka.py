"""Tells Kafka again what it may have lost: the newest version of each order, and what became of each service's hold.

The messages go into the outboxes of the services, in pages, and each page is noted. The ids are those that they had.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from contracts.codec import outgoing
from contracts.orders import OrderStatusChanged
from contracts.vocabulary import OrderStatus
from operations.access.database import rows
from order_saga.core.saga import snapshot
from order_saga.worker import store
from order_saga.worker.process import SOURCE
from order_saga.worker.tables import SCHEMA
from participants.balance.hold_handler import message_of
from participants.balance.hold_store import ServiceHolds
from participants.balance.service_holds import event_of
from participants.balance.tables import SCHEMA as LEDGER
from saga_kit.messaging.outbox import AT_ONCE_S, Outbox, OutboxMessage
from saga_kit.runtime.transactions import begin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.repair.runs import Run
    from saga_kit.runtime.transactions import Transaction

PAGE: Final = 200
_HAS_LEDGER: Final = "SELECT to_regclass('balances.service_holds') IS NOT NULL AS there"
_ORDERS: Final = """
    SELECT order_id FROM (
        SELECT order_id FROM orders.orders WHERE updated_at >= $1 AND version > 0
        UNION ALL SELECT order_id FROM orders.archive WHERE updated_at >= $1) AS one
    WHERE order_id > $2 ORDER BY order_id LIMIT $3"""
_COUNT_ORDERS: Final = """
    SELECT (SELECT count(*) FROM orders.orders WHERE updated_at >= $1 AND version > 0)
        + (SELECT count(*) FROM orders.archive WHERE updated_at >= $1) AS orders"""
_MOVES: Final = """
    SELECT DISTINCT ON (order_id) order_id, moves[cardinality(moves)] FROM orders.history
    WHERE order_id = ANY($1::uuid[]) AND cardinality(moves) > 0 ORDER BY order_id, seq DESC"""
_HOLDS: Final = """
    SELECT hold_id FROM balances.holds WHERE hold_id LIKE 'hold:%' AND updated_at >= $1 AND hold_id > $2
    ORDER BY hold_id LIMIT $3"""
_COUNT_HOLDS: Final = "SELECT count(*) AS holds FROM balances.holds WHERE hold_id LIKE 'hold:%' AND updated_at >= $1"


class Told(NamedTuple):
    """How many orders and holds are told again."""

    orders: int
    holds: int


async def count(engine: AsyncEngine, since: datetime) -> Told:
    """Count what has changed since then."""
    [orders] = await rows(engine, _COUNT_ORDERS, since)
    [ledger] = await rows(engine, _HAS_LEDGER)
    [holds] = await rows(engine, _COUNT_HOLDS, since) if ledger["there"] else [{"holds": 0}]
    return Told(int(orders["orders"]), int(holds["holds"]))


async def tell_again(engine: AsyncEngine, since: datetime, run: Run) -> AsyncIterator[Told]:
    """Tell everything again that has changed since then; say after each page how much it is so far."""
    told, last = Told(0, 0), UUID(int=0)
    while found := [row["order_id"] for row in await rows(engine, _ORDERS, since, last, PAGE)]:
        async with begin(engine) as tx:
            await _tell_orders(tx, found)
            await _note(tx, run, "orders", found)
        told, last = told._replace(orders=told.orders + len(found)), found[-1]
        yield told
    [ledger] = await rows(engine, _HAS_LEDGER)
    hold_id = ""
    while ledger["there"] and (those := [row["hold_id"] for row in await rows(engine, _HOLDS, since, hold_id, PAGE)]):
        async with begin(engine) as tx:
            await _tell_holds(tx, those)
            await _note(tx, run, "holds", those)
        told, hold_id = told._replace(holds=told.holds + len(those)), those[-1]
        yield told


async def _note(tx: Transaction, run: Run, what: str, items: Sequence[object]) -> None:
    await store.note_repair(tx, run.run_id, "recover kafka", f"{what} {items[0]}", run.by, f"{len(items)} told again")


async def _tell_orders(tx: Transaction, order_ids: Sequence[UUID]) -> None:
    """Write the newest version of orders into the orchestrator's outbox."""
    known = await store.look_up(tx, order_ids)
    moves = {row[0]: row[1] for row in await tx.fetch(_MOVES, list(order_ids))}
    messages = []
    for saga in known:
        before = str(moves.get(saga.order_id, ">")).partition(">")[0]
        event = OrderStatusChanged(
            order_id=saga.order_id,
            version=saga.version,
            status=snapshot(saga).status,
            previous_status=OrderStatus(before) if before else None,
            reason_code=saga.reason_code,
            occurred_at=saga.updated_at,
            order=snapshot(saga),
        )
        event_id = f"{saga.order_id}:v{saga.version}"
        sent = outgoing(event, message_id=event_id, source=SOURCE, time=saga.updated_at, traceparent=saga.traceparent)
        messages.append(OutboxMessage(event_id, sent, AT_ONCE_S))
    Outbox(SCHEMA).write(tx, messages)


async def _tell_holds(tx: Transaction, hold_ids: Sequence[str]) -> None:
    """Write what became of services' holds into the balance service's outbox."""
    known = await ServiceHolds().lock(tx, hold_ids)
    events: list[Any] = [event for hold in known.values() if (event := event_of(hold)) is not None]
    at = datetime.now(UTC)
    Outbox(LEDGER).write(
        tx, [OutboxMessage(one.ref, one.outgoing, AT_ONCE_S) for one in (message_of(e, at) for e in events)]
    )
