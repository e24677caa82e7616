"""An archived order is an order: for the API nothing is different, whatever is asked of it."""

from __future__ import annotations

from typing import Any

from operations.access.database import connected
from operations.retention import archive
from saga_kit.runtime.transactions import begin
from tests.order_api.support import Api, Orchestrator

HISTORY = """
    INSERT INTO orders.history VALUES ($1::text::uuid, 1, now(), 0, 1, ARRAY['>PENDING'],
        '[{"kind": "status", "name": "PENDING", "status": "PENDING", "version": 1, "detail": {"a": ["0.10"]}}]')"""
ORDER = {"asset_id": "BTC", "order_type": "MARKET_BUY", "quantity": "0.01", "client_order_id": "mine"}

QUOTED = '{"quote": {"cash_asset_id": "USD"}}'


async def _answers(api: Api, order_id: str) -> list[tuple[int, str | None, Any]]:
    """Ask everything that can be asked about an order which has ended."""
    reads = (
        *(f"/orders/{order_id}", f"/orders/{order_id}/status", f"/orders/{order_id}/history"),
        *("/orders/by-client-id/mine", "/orders", "/orders?open=false", "/orders?open=true", "/orders?limit=1"),
        *("/orders?status=COMPLETED&asset_id=BTC", "/orders?created_to=2020-01-01T00:00:00Z"),
    )
    answers = [await api.get(path) for path in reads]
    answers += [await api.submit(ORDER, key="again"), await api.cancel(order_id)]
    return [(one.status_code, one.headers.get("etag"), _lasting(one.json())) for one in answers]


def _lasting(body: Any) -> Any:
    """Leave out what tells the requests of a problem apart."""
    return {name: value for name, value in body.items() if name not in {"trace_id", "request_id"}}


async def test_nothing_that_is_asked_tells_that_an_order_is_archived(api: Api, orchestrator: Orchestrator) -> None:
    """Reads, lists, a repeated submission and a late cancel are answered exactly as before."""
    order_id = (await api.submit(ORDER, key="again")).json()["order_id"]
    ended: dict[str, Any] = {"phase": "COMPLETED", "version": 4, "client_order_id": "mine", "parked_reason": None}
    await orchestrator.shows(
        order_id, filled_quantity="0.01", average_price="50000.10", fee="0.5", progress=QUOTED, **ended
    )
    await orchestrator.run(HISTORY, order_id)
    before = await _answers(api, order_id)

    async with connected(orchestrator.url) as engine, begin(engine) as tx:
        assert 1 == await archive.move(tx, ("(0,0)", "(1000,0)"), -60.0, 10)

    assert before == await _answers(api, order_id)
    assert [] == await orchestrator.run("SELECT order_id FROM orders.orders")
    assert ("USD", "USD") == (before[0][2]["cash_asset_id"], before[0][2]["fee_asset_id"])
    assert {200, 202, 409} == {status for status, _, _ in before}
