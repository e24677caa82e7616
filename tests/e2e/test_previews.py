"""Previews and mass cancels in a whole system: what was previewed is what becomes of the order, and all ends well."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import CANCELLED, Wanted
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader

pytestmark = pytest.mark.asyncio(loop_scope="package")

USER = "previewer"
WOULD: list[tuple[str, str, str, dict[str, Any]]] = [
    ("MARKET_BUY", "ACME", "1", {}),
    ("MARKET_SELL", "ACME", "1", {}),
    ("MARKET_BUY", "ACME", "1", {"price": "1"}),
    ("MARKET_BUY", "ACME", "0.5", {}),
    ("MARKET_BUY", "HALT", "1", {}),
    ("LIMIT_BUY", "ACME", "1", {"limit_price": "21"}),
    ("LIMIT_BUY", "ACME", "1", {"limit_price": "10", "time_in_force": "IOC"}),
    ("STOP_LOSS_BUY", "ACME", "1", {"trigger_price": "19"}),
]
RESTS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("LIMIT_BUY", "ACME", "1", {"limit_price": "15"}),
    ("STOP_LOSS_BUY", "ACME", "2", {"trigger_price": "25"}),
    ("TRAILING_STOP_SELL", "ACME", "1", {"trail_amount": "5"}),
    ("TRAILING_STOP_BUY", "ACME", "1", {"trail_bps": 1_000}),
]
DEAD = "SELECT count(*) FROM orders.dead_letters WHERE topic LIKE '%assets.replies'"


async def test_what_was_previewed_is_what_happens(system: System, trader: Trader) -> None:
    """Status, reason, hold, fee and trigger of each order are those of its preview, and no answer is a dead letter."""
    await system.endow([USER], {"USD": "1000.00", "ACME": "50", "HALT": "1"})
    [(dead,)] = await system.owner_rows(DEAD)
    for order in WOULD:
        body = Wanted(USER, *order[:3], terms=order[3]).body
        preview = (await trader.call(USER, "POST", "/orders/preview", json=body)).json()
        ended = (await trader.call(USER, "POST", "/orders", json=body, headers={"Prefer": "wait=20"})).json()
        reasons = [refusal["reason_code"] for refusal in preview["refusals"]]
        assert ([] if ended["reason_code"] is None else [ended["reason_code"]]) == reasons, body
        assert {"PROCESSING": "COMPLETED"}.get(preview["status"], preview["status"]) == ended["status"]
        if not reasons:
            assert (preview["fee"], preview["price"]) == (ended["fee"], ended["average_price"])
        trader.accepted[ended["order_id"]] = Wanted(USER, *order[:3], ends=" ".join([ended["status"], *reasons]))
    for order in RESTS:
        wanted = Wanted(USER, *order[:3], terms=order[3], cancel=True, ends=CANCELLED)
        preview = (await trader.call(USER, "POST", "/orders/preview", json=wanted.body)).json()
        order_id = await trader.post(wanted)
        await eventually(_rests(system, order_id), "the order rests")
        shown = (await trader.call(USER, "GET", f"/orders/{order_id}")).json()
        same = ("status", "held_asset_id", "held_amount", "trigger_price", "limit_price")
        assert [preview[name] for name in same] == [shown[name] for name in same]
    assert [(dead,)] == [tuple(row) for row in await system.owner_rows(DEAD)]
    # One call ends all that rests; then a timer has nothing to do, and says so.
    answer = await trader.call(USER, "POST", "/orders/cancel-all", json={"asset_id": "ACME"})
    assert (202, len(RESTS)) == (answer.status_code, answer.json()["orders"])
    await assert_all_is_well(system, trader)


async def test_a_timer_that_nobody_renews(system: System, trader: Trader) -> None:
    """The orders that rest are cancelled when the seconds are over, and their money is free again."""
    await system.endow(["sleeper"], {"USD": "1000.00"})
    wanted = Wanted("sleeper", "LIMIT_BUY", "ACME", "1", terms={"limit_price": "15"}, cancel=True, ends=CANCELLED)
    order_id = await trader.post(wanted)
    await eventually(_rests(system, order_id), "the order rests")
    set_ = await trader.call("sleeper", "PUT", "/orders/cancel-all-after", json={"timeout_s": 1})
    assert 200 == set_.status_code
    assert {order_id: CANCELLED} == await trader.ended([order_id])
    timer = (await trader.call("sleeper", "GET", "/orders/cancel-all-after")).json()
    assert (1, None) == (timer["orders"], timer["fires_at"])
    await assert_all_is_well(system, trader)


def _rests(system: System, order_id: str) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def rests() -> bool:
        statement = "SELECT phase FROM audit.orders WHERE order_id = $1::text::uuid"
        return [("WORKING",)] == [tuple(row) for row in await system.rows(statement, order_id)]

    return rests
