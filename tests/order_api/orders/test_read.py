"""Reading orders: through the views, by whoever may, exactly as they stand."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from tests.order_api.support import NOT_CONDITIONAL, Api, Orchestrator


async def test_an_order_is_shown_as_the_view_has_it(api: Api, orchestrator: Orchestrator) -> None:
    """Decimals are canonical strings, unknown is null, the ETag is the version; what has ended may be kept."""
    order_id = str(uuid4())
    await orchestrator.shows(
        order_id, phase="COMPLETED", version=4, quantity="0.010000000000000000", price="50000", client_order_id="c",
        filled_quantity="0.01", average_price="49999.9900", fee="0.000000000000000001", slippage_bps=0,
        progress='{"quote": {"cash_asset_id": "USD"}}',
    )  # fmt: skip
    answer = await api.get(f"/orders/{order_id}")
    assert (200, '"4"', "private, max-age=60") == (
        answer.status_code,
        answer.headers["etag"],
        answer.headers["cache-control"],
    )
    order = answer.json()
    assert order.pop("created_at").endswith("Z")
    assert order.pop("updated_at").endswith("Z")
    assert {
        "order_id": order_id, "client_order_id": "c", "user_id": "alice", "asset_id": "BTC", "slippage_bps": 0,
        "order_type": "MARKET_BUY", "status": "COMPLETED", "quantity": "0.01", "price": "50000",
        "filled_quantity": "0.01", "average_price": "49999.99", "fee": "0.000000000000000001", "reason_code": None,
        "reason": None, "cancel_requested": False, "version": 4, "cash_asset_id": "USD", "fee_asset_id": "USD",
        **NOT_CONDITIONAL,
    } == order  # fmt: skip


async def test_a_pending_order_names_no_currency(api: Api, orchestrator: Orchestrator) -> None:
    """The quote comes between two versions: the order with version 1 as its ETag looks the same before and after."""
    order_id = str(uuid4())
    await orchestrator.shows(order_id, phase="VALIDATING")
    before = (await api.get(f"/orders/{order_id}")).json()
    await orchestrator.run(
        "UPDATE orders.orders SET phase = 'RESERVING', progress = $2 WHERE order_id = $1::text::uuid",
        *(order_id, '{"quote": {"cash_asset_id": "USD"}}'),
    )
    answer = await api.get(f"/orders/{order_id}")
    assert ('"1"', None, None) == (answer.headers["etag"], before["cash_asset_id"], before["fee_asset_id"])
    assert {**before, "updated_at": ""} == {**answer.json(), "updated_at": ""}


async def test_an_invalid_order_from_kafka_can_be_read(api: Api, orchestrator: Orchestrator) -> None:
    """An order of which little could be read is shown with nulls and its reason."""
    order_id = str(uuid4())
    unknown: dict[str, Any] = {"asset_id": None, "order_type": None, "quantity": None, "slippage_bps": None}
    await orchestrator.shows(order_id, phase="FAILED", reason_code="INVALID_ORDER", reason="quantity: no", **unknown)
    order = (await api.get(f"/orders/{order_id}")).json()
    assert ("INVALID_ORDER", "quantity: no") == (order["reason_code"], order["reason"])
    assert unknown == {name: order[name] for name in unknown}


async def test_the_status_is_the_fields_that_change(api: Api, orchestrator: Orchestrator) -> None:
    """`/status` says of the order what can change, and the same as the order itself."""
    order_id = str(uuid4())
    quoted = {"progress": '{"quote": {"cash_asset_id": "USD"}}'}
    await orchestrator.shows(
        order_id, phase="FAILED", reason_code="SLIPPAGE_EXCEEDED", reason="no", version=2, **quoted
    )
    order = (await api.get(f"/orders/{order_id}")).json()
    answer = await api.get(f"/orders/{order_id}/status")
    names = {
        "order_id", "status", "reason_code", "reason", "cancel_requested", "filled_quantity", "average_price", "fee",
        "version", "updated_at", "cash_asset_id", "fee_asset_id", "trigger_price", "triggered", "watermark", "revision",
        "held_asset_id", "held_amount", "on_hold", "release_refused", "amend",
    }  # fmt: skip
    assert ({name: order[name] for name in names}, '"2"') == (answer.json(), answer.headers["etag"])


async def test_the_history_comes_in_order_and_in_pages(api: Api, orchestrator: Orchestrator) -> None:
    """Every entry comes once, oldest first, 200 a page, and `has_more` is right."""
    order_id = str(uuid4())
    await orchestrator.shows(order_id)
    entries: list[dict[str, Any]] = [
        {"kind": "status", "name": "PENDING", "status": "PENDING", "version": 1, "detail": {"a": [1]}},
        *({"kind": "ignored", "name": f"n{n}", "detail": {"why": "LATE"}} for n in range(399)),
    ]
    await orchestrator.run(
        "INSERT INTO orders.history VALUES ($1::text::uuid, 1, now(), 0, 1, ARRAY['>PENDING'], $2::jsonb)",
        order_id,
        json.dumps(entries),
    )
    pages = []
    after = 0
    for more in (True, False):
        page = (await api.get(f"/orders/{order_id}/history", params={"after": after})).json()
        assert (order_id, more) == (page["order_id"], page["has_more"])
        pages += page["history"]
        after = page["history"][-1]["seq"]
    assert list(range(1, 401)) == [entry["seq"] for entry in pages]
    first = pages[0]
    assert first.pop("at").endswith("Z")
    assert {"seq": 1, **entries[0]} == first
    assert (None, None, "n0") == (pages[1]["status"], pages[1]["version"], pages[1]["name"])
    for after_text in ("x", "-1", "1.5", "", "9" * 10):
        answer = await api.get(f"/orders/{order_id}/history", params={"after": after_text})
        assert (422, "after") == (answer.status_code, answer.json()["errors"][0]["field"])


async def test_other_users_orders_do_not_exist(api: Api, orchestrator: Orchestrator) -> None:
    """An order of somebody else is the same 404 as none, wherever it is asked for; operators see every order."""
    known, unknown = (await api.submit()).json()["order_id"], str(uuid4())
    stored = str(uuid4())
    await orchestrator.shows(stored)
    for suffix in ("", "/status", "/history"):
        missing = (await api.get(f"/orders/{unknown}{suffix}")).json()
        for order_id in (known, stored):
            path = f"/orders/{order_id}{suffix}"
            answer = await api.get(path, user="bob")
            assert 404 == answer.status_code
            assert {**missing, "instance": path} == answer.json()
            assert 200 == (await api.get(path, user="ops", scope="orders:operate")).status_code
            assert 200 == (await api.get(path, scope="orders:read")).status_code
            assert 403 == (await api.get(path, scope="orders:write")).status_code


async def test_a_stub_is_no_order(api: Api, orchestrator: Orchestrator) -> None:
    """The row of a cancel that came before its request is seen by nobody."""
    order_id = str(uuid4())
    await orchestrator.shows(order_id, phase="NEW", version=0)
    assert 404 == (await api.get(f"/orders/{order_id}")).status_code


async def test_an_order_id_has_one_text(api: Api) -> None:
    """Only the canonical text of a UUID is an order's address; anything else is a 404."""
    order_id = (await api.submit()).json()["order_id"]
    for text in (order_id.upper(), order_id.replace("-", ""), f"{{{order_id}}}", "1", "%00", "%ff%fe", "x" * 500):
        assert 404 == (await api.get(f"/orders/{text}")).status_code, text
