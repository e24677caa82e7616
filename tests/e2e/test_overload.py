"""Far more requests come at once than can be processed: they wait for admission, and admitted orders don't wait."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.system import eventually, running
from tests.e2e.wire import Message, message
from tests.support.infrastructure import Infrastructure

pytestmark = pytest.mark.asyncio

REQUESTS = 20_000
ENDED = "SELECT count(*) FROM orders.orders WHERE status IN ('COMPLETED', 'FAILED', 'CANCELLED')"
ENDS = "SELECT DISTINCT status || coalesce(' ' || reason_code, '') FROM orders.orders"
REPEATS = """
    SELECT count(*) FROM orders.history, jsonb_array_elements(entries::jsonb) AS entry
    WHERE entry->>'kind' = 'asked' AND (entry->'detail'->>'attempt')::int > 1"""
INSIDE = """
    WITH one AS (SELECT extract(epoch FROM max(at) - min(at))::float8 AS took FROM orders.history GROUP BY order_id)
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY took) AS median_s, max(took) AS longest_s FROM one"""


def _request(user_id: str) -> Message:
    order_id = str(uuid.uuid4())
    body = {
        "order_id": order_id,
        "user_id": user_id,
        "asset_id": "ACME",
        "order_type": "MARKET_BUY",
        "quantity": "1",
        "requested_at": datetime.now(UTC).isoformat(),
    }
    return message("orders.requests", order_id, "OrderRequested", body)


async def test_a_flood_of_requests_waits_for_admission(infrastructure: Infrastructure, tmp_path: Path) -> None:
    """Hardly any question is asked twice, no order times out, and an order that is admitted ends quickly.

    On a machine that can't process all of them within a minute, the rest end as EXPIRED.
    """
    async with running(infrastructure, tmp_path, replicas={}) as system:
        users = await system.endow([f"flood-{number}" for number in range(50)], {"USD": "100000000"})
        await system.producer.send(*(_request(users[number % 50]) for number in range(REQUESTS)))

        async def all_have_ended() -> bool:
            [[ended]] = await system.owner_rows(ENDED)
            return bool(ended == REQUESTS)

        await eventually(all_have_ended, "every order has ended", within_s=150, poll_s=0.5)
        ends = {end for (end,) in await system.owner_rows(ENDS)}
        assert "COMPLETED" in ends <= {"COMPLETED", "CANCELLED EXPIRED"}
        [[repeats]] = await system.owner_rows(REPEATS)
        [[median_s, longest_s]] = await system.owner_rows(INSIDE)
        assert repeats <= REQUESTS / 100
        assert median_s < 4.0, "two seconds for a question is when it is asked again"
        assert longest_s < 15.0
        assert [] == await system.audit()
