"""The statements of the outbox and its relay, of each schema."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from saga_kit.messaging.outbox import Outbox, Relay
from tests.evidence.simulation.database import Result, Row, Statement, Transaction
from tests.evidence.simulation.statements.values import is_due


def outbox_statements(schema: str) -> dict[str, Statement]:
    """Map the text of every statement of a schema's outbox to what it does."""
    table = f"{schema}.outbox"
    outbox: Any = Outbox(schema)
    relay: Any = Relay(cast("Any", None), schema, outbox, cast("Any", None))

    async def insert(tx: Transaction, due_s: float, available_s: float, refs: list[str], payload: bytes) -> Result:
        outbox_id, now = tx.database.next_serial(table), tx.database.now()
        row = {
            "due_at": now + timedelta(seconds=due_s),
            "available_at": now + timedelta(seconds=available_s),
            "refs": refs,
            "payload": payload,
        }
        await tx.insert(table, outbox_id, row)
        return Result([(outbox_id,)], written=1)

    async def delete(tx: Transaction, ids: list[int]) -> Result:
        deleted = 0
        for outbox_id in (one for one in ids if tx.get(table, one) is not None and tx.is_free(table, one)):
            if await tx.lock(table, outbox_id) is not None:
                tx.put(table, outbox_id, None)
                deleted += 1
        return Result(written=deleted)

    async def claim(tx: Transaction, lease_s: float, most: int, back_s: float) -> Result:
        now = tx.database.now()
        waiting = sorted(
            (row["available_at"], key) for key, row in tx.rows(table) if is_due(row["available_at"], now, back_s)
        )
        free = [outbox_id for _, outbox_id in waiting if tx.is_free(table, outbox_id)][:most]
        return Result([await _lease(tx, table, outbox_id, lease_s) for outbox_id in free])

    async def release(tx: Transaction, wait_s: float, ids: list[int]) -> Result:
        released = 0
        for outbox_id in ids:
            if tx.get(table, outbox_id) is not None and await tx.lock(table, outbox_id) is not None:
                await _lease(tx, table, outbox_id, wait_s)
                released += 1
        return Result(written=released)

    return {
        outbox._insert_sql: insert,
        outbox._delete_sql: delete,
        relay._claim_sql: claim,
        relay._release_sql: release,
    }


async def _lease(tx: Transaction, table: str, outbox_id: int, seconds: float) -> tuple[int, bytes]:
    row = cast("Row", await tx.lock(table, outbox_id))
    tx.put(table, outbox_id, {**row, "available_at": tx.database.now() + timedelta(seconds=seconds)})
    return outbox_id, row["payload"]
