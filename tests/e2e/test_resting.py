"""Orders that wait for a price, in real processes: from the request over the feed's tick to the settled order."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

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

WAVE = SampleAsset("WAVE-E2E", Decimal("100.00"))
RESTING = """
    SELECT count(*) FROM audit.orders WHERE order_id = ANY($1::uuid[]) AND phase = 'WORKING'"""
ENDED = """
    SELECT order_id::text, status, average_price FROM audit.orders WHERE order_id = ANY($1::uuid[])
    AND status IN ('COMPLETED', 'CANCELLED', 'FAILED')"""


def _order(order_type: str, **terms: object) -> Wanted:
    return Wanted("waiter", order_type, WAVE.asset_id, "1", terms=terms)


async def test_resting_orders_fire_at_the_tick_that_reaches_them(system: System, trader: Trader) -> None:
    """Each order fills at the price of the first tick that fires it, gaps included, and the money adds up.

    The path is 100, 110, 104, 92. A trail of 5 fires at 104, below the peak that no order was told of.
    """
    await system.endow(["waiter"], {"USD": "100000.00", WAVE.asset_id: "10"})
    async with sample_stores(system.stack.logins["balance"], system.stack.logins["assets"]) as stores:
        await stores.put_asset(WAVE, answer_after_s=0)
    orders = [
        (_order("LIMIT_SELL", limit_price="108"), Decimal(110)),
        (_order("TRAILING_STOP_SELL", trail_amount="5"), Decimal(104)),
        (_order("TRAILING_STOP_SELL", trail_bps=1_500), Decimal(92)),
        (_order("STOP_LOSS_SELL", trigger_price="95"), Decimal(92)),
        (_order("LIMIT_BUY", limit_price="93"), Decimal(92)),
        (_order("BRACKET_SELL", limit_price="109", trigger_price="95"), Decimal(110)),
        (_order("BRACKET_SELL", limit_price="112", trigger_price="93"), Decimal(92)),
    ]
    ids = await trader.produce(*(wanted for wanted, _ in orders))
    await eventually(_counts(system, ids, len(ids)), "all orders rest")
    async with connected(system.stack.logins["assets"]) as engine:
        for number, price in enumerate(("110", "104", "92"), 1):
            await set_price(engine, WAVE.asset_id, Price(price))
            ended = {1: 2, 2: 3, 3: 7}[number]
            await eventually(_have_ended(system, ids, ended), f"{ended} orders have ended at {price}")
    rows = {row[0]: (row[1], row[2]) for row in await system.rows(ENDED, ids)}
    assert {wanted.order_id: ("COMPLETED", price) for wanted, price in orders} == rows
    await assert_all_is_well(system, trader)


def _counts(system: System, ids: list[str], number: int) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def rest() -> bool:
        return bool(number == (await system.rows(RESTING, ids))[0]["count"])

    return rest


def _have_ended(system: System, ids: list[str], number: int) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def ended() -> bool:
        return number == len(await system.rows(ENDED, ids))

    return ended
