"""Operators are told once of what grows, whichever process looks, and again when it has stayed for long."""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import UUID

from projections.webhooks.alarms import Alarms
from tests.projections.webhooks.world import Webhooks

ORDER: Final = """
    INSERT INTO orders.orders (order_id, user_id, phase, status, version, cancel_requested, filled_quantity, fee,
        progress, due_at, history_seq, created_at, updated_at, parked_reason, overdue_since)
    VALUES ($1, 'alice', 'VALIDATING', 'PENDING', 1, false, 0, 0, '{}', now(), 0, now(), now(), $2,
        CASE WHEN $2::text IS NULL THEN now() END)"""
LETTER: Final = """
    INSERT INTO balances.dead_letters (topic, partition, record_offset, record_timestamp, headers, reason)
    VALUES ('t', 0, $1, 0, '[]', 'unreadable')"""


async def test_what_grows_is_told_once_after_a_pause(webhooks: Webhooks) -> None:
    """By one of two processes that look at the same time; nobody in particular is named."""
    said: list[list[str]] = []
    two = [Alarms(webhooks.transactions, lambda _, text: said.append(text.splitlines())) for _ in range(2)]

    async def told() -> list[str]:
        """Let both look; return what is new, without its time."""
        said.clear()
        await asyncio.gather(*(one.look() for one in two))
        assert len(said) <= 1
        assert all("alice" not in line for lines in said for line in lines)
        return [line.partition(",")[0] for lines in said for line in lines[:-1]]

    async def pass_by(days: float) -> None:
        await webhooks.execute("UPDATE webhooks.alarms SET told_at = told_at - make_interval(secs => $1)", days * 86400)

    assert [] == await told()
    await webhooks.execute(ORDER, UUID(int=1), "a lie")
    await webhooks.execute(ORDER, UUID(int=2), None)
    await webhooks.execute(LETTER, 1)
    assert ["1 dead letters of balances", "1 overdue orders", "1 parked orders"] == await told()
    await webhooks.execute(LETTER, 2)
    assert [] == await told(), "not before the pause is over"
    await pass_by(0.01)
    assert ["2 dead letters of balances"] == await told()
    await webhooks.execute("UPDATE balances.dead_letters SET discarded_at = now() WHERE record_offset = 1")
    assert [] == await told()
    await webhooks.execute(LETTER, 3)
    await pass_by(0.01)
    assert ["2 dead letters of balances"] == await told(), "one is new"
    await webhooks.execute("UPDATE orders.orders SET overdue_since = NULL")
    await pass_by(1)
    assert ["2 dead letters of balances", "1 parked orders"] == await told()
