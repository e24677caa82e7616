"""Orders that are changed while they rest, in real processes: amended up and down, refused, held and released."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from contracts.decimals import Price
from local_stack.sample_data import SampleAsset
from operations.access.database import connected
from operations.demo.samples import sample_stores
from participants.assets.price_store import set_price
from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import Wanted
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader

pytestmark = pytest.mark.asyncio(loop_scope="package")

ASSET = SampleAsset("AMENDED-E2E", Decimal("100.00"))
WAIT = {"Prefer": "wait=20"}


def _order(order_type: str, quantity: str, **terms: object) -> Wanted:
    return Wanted("amender", order_type, ASSET.asset_id, quantity, terms=terms)


class Client:
    """The user whose orders are changed."""

    def __init__(self, system: System, trader: Trader) -> None:
        self._system = system
        self._trader = trader

    async def rests(self, wanted: Wanted) -> str:
        """Submit an order by Kafka, and wait until it rests."""
        [order_id] = await self._trader.produce(wanted)

        async def rests() -> bool:
            return bool("CONFIRMED" == (await self.order(order_id)).get("status"))

        await eventually(rests, "it rests")
        return order_id

    async def order(self, order_id: str) -> Any:
        """Read an order."""
        return (await self._trader.call("amender", "GET", f"/orders/{order_id}")).json()

    async def amend(self, order_id: str, **changes: str) -> httpx2.Response:
        """Amend an order, and wait for what becomes of it."""
        return await self._trader.call("amender", "PATCH", f"/orders/{order_id}", json=changes, headers=WAIT)

    async def wish(self, order_id: str, wish: str) -> httpx2.Response:
        """Hold or release an order, and wait for what becomes of it."""
        return await self._trader.call("amender", "PUT", f"/orders/{order_id}/{wish}", headers=WAIT)

    async def has(self, available: str, held: str) -> None:
        """Wait until the user's cash is this."""

        async def is_so() -> bool:
            rows = await self._system.rows(
                "SELECT available, held FROM audit.accounts WHERE user_id = 'amender' AND asset_id = 'USD'"
            )
            return [(Decimal(available), Decimal(held))] == [tuple(row) for row in rows]

        await eventually(is_so, f"{available} are available and {held} held")


async def test_resting_orders_are_changed_to_the_cent(system: System, trader: Trader) -> None:
    """More is held before new terms count and less after; a refused amend changes nothing; a release looks anew."""
    await system.endow(["amender"], {"USD": "1000.00", ASSET.asset_id: "10"})
    async with sample_stores(system.stack.logins["balance"], system.stack.logins["assets"]) as stores:
        await stores.put_asset(ASSET, answer_after_s=0)
    client = Client(system, trader)
    buy = await client.rests(_order("LIMIT_BUY", "5", limit_price="90"))
    await client.has("549.55", "450.45")

    await _amend_up_down_and_too_far(client, buy)
    await _hold_and_release(system, client, buy)
    await _amend_into_a_fill(client)
    await _release_into_a_trigger(system, trader, client)
    await _operators_work(system, trader, client)

    assert "COMPLETED" == (await client.order(buy))["status"]
    await assert_all_is_well(system, trader)


async def _amend_up_down_and_too_far(client: Client, buy: str) -> None:
    raised = await client.amend(buy, limit_price="95")
    assert (200, "95", 2, "475.48") == _terms(raised)
    await client.has("524.52", "475.48")

    refused = await client.amend(buy, quantity="50")
    assert (409, "INSUFFICIENT_BALANCE") == (refused.status_code, refused.json()["amend_refusal"]), refused.text
    await client.has("524.52", "475.48")

    lowered = await client.amend(buy, limit_price="80")
    assert (200, "80", 3) == _terms(lowered)[:3]
    await client.has("599.60", "400.40")

    unfit = await client.amend(buy, trigger_price="70")
    assert (409, "NOT_AMENDABLE") == (unfit.status_code, unfit.json()["amend_refusal"])


def _terms(answer: httpx2.Response) -> tuple[Any, ...]:
    order = answer.json()
    assert "amend" in order, answer.text
    return answer.status_code, order["limit_price"], order["revision"], order["held_amount"]


async def _hold_and_release(system: System, client: Client, buy: str) -> None:
    held = await client.wish(buy, "hold")
    assert (200, True) == (held.status_code, held.json()["on_hold"])
    await _tick(system, "79")
    order = await client.order(buy)
    assert (True, "CONFIRMED") == (order["on_hold"], order["status"])
    released = await client.wish(buy, "release")
    assert (200, False) == (released.status_code, released.json()["on_hold"]), released.text
    await eventually(_shows(client, buy, status="COMPLETED"), "it fills at the mark")
    assert "79" == (await client.order(buy))["average_price"]
    await client.has("604.60", "0")  # 5 at 79, and a fee of 0.40


async def _amend_into_a_fill(client: Client) -> None:
    sell = await client.rests(_order("LIMIT_SELL", "1", limit_price="120"))
    filled = await client.amend(sell, limit_price="70")
    assert (200, "APPLIED") == (filled.status_code, filled.json()["amend"]["state"]), filled.text
    await eventually(_shows(client, sell, status="COMPLETED"), "it fills")
    assert "79" == (await client.order(sell))["average_price"]
    late = await client.amend(sell, limit_price="60")
    assert (409, "TOO_LATE") == (late.status_code, late.json()["amend_refusal"])


async def _release_into_a_trigger(system: System, trader: Trader, client: Client) -> None:
    stop = await client.rests(_order("STOP_LOSS_SELL", "2", trigger_price="60"))
    assert 200 == (await client.wish(stop, "hold")).status_code
    await _tick(system, "55")
    refused = await client.wish(stop, "release")
    assert (409, "release-refused") == (refused.status_code, refused.json()["code"]), refused.text
    order = await client.order(stop)
    assert (True, "WOULD_TRIGGER_IMMEDIATELY") == (order["on_hold"], order["release_refused"])
    amended = await client.amend(stop, trigger_price="50")
    assert 200 == amended.status_code, amended.text
    again = await client.wish(stop, "release")
    assert (200, False) == (again.status_code, again.json().get("on_hold")), again.text
    assert 202 == await trader.cancel(stop)
    await eventually(_shows(client, stop, status="CANCELLED"), "it is cancelled")


async def _operators_work(system: System, trader: Trader, client: Client) -> None:
    sell = await client.rests(_order("LIMIT_SELL", "1", limit_price="120"))
    assert 0 == (await system.cli("hold", sell, "--reason", "wrong price", "--by", "ann")).code
    await eventually(_shows(client, sell, on_hold=True), "it is on hold")
    refused = await client.wish(sell, "release")
    assert (409, "held-by-operator") == (refused.status_code, refused.json()["code"]), refused.text

    assert 0 == (await system.cli("amend", sell, "--limit-price", "130", "--by", "ann")).code
    await eventually(_shows(client, sell, limit_price="130", revision=2, on_hold=True), "it is amended on hold")

    assert 0 == (await system.cli("release", "--asset", ASSET.asset_id, "--by", "ann", "--yes")).code
    await eventually(_shows(client, sell, on_hold=False), "it rests again")
    assert 202 == await trader.cancel(sell)
    await eventually(_shows(client, sell, status="CANCELLED"), "it is cancelled")


def _shows(client: Client, order_id: str, **fields: object) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def shows() -> bool:
        order = await client.order(order_id)
        return fields == {name: order[name] for name in fields}

    return shows


async def _tick(system: System, price: str) -> None:
    """Let the price move, and wait until the orders know."""
    async with connected(system.stack.logins["assets"]) as engine:
        await set_price(engine, ASSET.asset_id, Price(price))

    async def is_known() -> bool:
        rows = await system.rows("SELECT price FROM audit.marks WHERE asset_id = $1", ASSET.asset_id)
        return [Decimal(price)] == [row["price"] for row in rows]

    await eventually(is_known, f"the orders know the price {price}")
