"""Shared by the tests of mass cancels: many open orders at once, and what was cancelled."""

from __future__ import annotations

from typing import Any

import httpx2

from tests.order_api.support import Api, Orchestrator

_ROWS = """
    INSERT INTO orders.orders (order_id, user_id, asset_id, order_type, quantity, slippage_bps, phase, status, version,
        cancel_requested, filled_quantity, fee, progress, parked_reason, history_seq, created_at, updated_at)
    SELECT gen_random_uuid(), $2, 'BTC', 'MARKET_BUY', 0.01, 100, 'VALIDATING', 'PENDING', 1,
        false, 0, 0, '{}', 'test', 0, now() - make_interval(secs => n % 97), now()
    FROM generate_series(1, $1::int) AS n"""


async def open_orders(orchestrator: Orchestrator, number: int, user_id: str = "alice") -> None:
    """Make open orders, many of which share a time."""
    await orchestrator.run(_ROWS, number, user_id)


async def cancel_all(api: Api, body: dict[str, Any] | None = None, *, key: str = "", **more: Any) -> httpx2.Response:
    """POST a cancel of all orders."""
    headers = {"Idempotency-Key": key} if key else {}
    return await api.call("POST", "/orders/cancel-all", json=body or {}, headers=headers, **more)


async def set_timer(api: Api, timeout_s: int, **more: Any) -> dict[str, Any]:
    """Set a cancel timer; return it as it is answered."""
    answer = await api.call("PUT", "/orders/cancel-all-after", json={"timeout_s": timeout_s}, **more)
    assert 200 == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def read_timer(api: Api, **more: Any) -> dict[str, Any]:
    """Read a cancel timer."""
    found: dict[str, Any] = (await api.get("/orders/cancel-all-after", **more)).json()
    return found


async def cancelled(orchestrator: Orchestrator) -> set[str]:
    """List the orders that have a cancel."""
    return {str(row["order_id"]) for row in await orchestrator.run("SELECT order_id FROM api.cancels")}


async def mass_cancels(orchestrator: Orchestrator) -> list[Any]:
    """List what was asked for, oldest first."""
    return await orchestrator.run("SELECT * FROM api.mass_cancels ORDER BY created_at, mass_cancel_id")
