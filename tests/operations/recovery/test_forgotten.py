"""What a restored database is given back beside its orders."""

from __future__ import annotations

from decimal import Decimal

from contracts.decimals import Price
from operations.recovery.forgotten import newest, number_on
from participants.assets.price_store import newest_prices, set_price
from participants.assets.rules import Asset
from participants.assets.store import put_asset
from tests.support.order_database import OrderDatabase


async def test_prices_are_numbered_behind_those_that_were_told(db: OrderDatabase) -> None:
    """Once: a price that has a higher number already keeps it, and an asset that is not here is none."""
    await put_asset(db.engine, Asset("BTC", Decimal("0.01")))
    await set_price(db.engine, "BTC", Price("100"))
    assert 1 == await number_on(db.engine, {"BTC": 40, "ETH": 7})
    assert [41] == [one.sequence for one in await newest_prices(db.engine)]
    assert 0 == await number_on(db.engine, {"BTC": 40})
    assert [41] == [one.sequence for one in await newest_prices(db.engine)]


async def test_the_newest_time_is_one_that_orders_and_ledger_know(db: OrderDatabase) -> None:
    """What was restored alone, and is older, says from when on everything must be read."""
    assert await newest(db.engine) is None
    await db.begin(1)
    of_orders = await newest(db.engine)
    assert of_orders is not None
    await db.execute(
        "INSERT INTO balances.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state, updated_at)"
        " VALUES ('x', 'x', 'alice', 'USD', 1, 0, 0, 'HELD', now() - interval '3 hours')"
    )
    of_ledger = await newest(db.engine)
    assert of_ledger is not None
    assert of_ledger < of_orders
