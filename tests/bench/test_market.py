"""The parts of the market's scenarios: prices that fire nothing, and orders that rest as acceptances leave them."""

from __future__ import annotations

from itertools import pairwise

import asyncpg

from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url
from tests.bench.market import resting
from tests.bench.market.prices import START, TICK, walk
from tests.order_saga.triggers.market import StoredMarket, tick
from tests.support.infrastructure import Database

ASSETS = ["B0", "B1"]
KINDS = """
    SELECT asset_id, count(up_price), count(down_price), count(trail_bps), count(*) FROM orders.resting
    GROUP BY asset_id ORDER BY asset_id"""
WITHOUT_TRAIL = """
    SELECT count(*) FROM orders.resting AS row WHERE trail_bps IS NOT NULL AND NOT EXISTS (
        SELECT FROM orders.trails AS known
        WHERE (known.asset_id, known.side, known.kind, known.trail) = (row.asset_id, row.side, 'bps', row.trail_bps)
            AND known.oldest <= row.from_sequence)"""


def test_prices_walk_within_the_bounds() -> None:
    """Each price is a tick from the one before of its asset, none leaves the bounds, and another walk is the same."""
    prices = walk(ASSETS, 3000)
    assert prices == walk(ASSETS, 3000)
    for asset_id in ASSETS:
        path = [START, *(price for asset, price in prices if asset == asset_id)]
        assert {TICK} >= {abs(after - before) for before, after in pairwise(path)}
        assert resting.LOW <= min(path) <= max(path) <= resting.HIGH


async def test_no_price_within_the_bounds_fires_what_rests(database: Database) -> None:
    """A third waits for more, a third for less, a third trails; the bounds fire none, and a tick beyond them fires."""
    connection = await asyncpg.connect(database.url)
    engine = create_engine(parse_database_url(database.url_of("orchestrator")), application_name="triggers")
    market = StoredMarket(engine)
    try:
        await resting.fill(connection, ASSETS, 600)
        await resting.settle(connection)
        assert [(asset_id, 200, 200, 200, 600) for asset_id in ASSETS] == await market.rows(KINDS)
        assert [(0,)] == await market.rows(WITHOUT_TRAIL)
        for number, price in enumerate((START, resting.LOW, resting.HIGH, resting.LOW), 1):
            await market.judge(*(tick(number, price, asset_id=asset_id) for asset_id in ASSETS))
        assert [] == market.fired
        await market.judge(tick(5, resting.HIGH + TICK * 4, asset_id="B1"))
        assert 1 == len(market.fired)
    finally:
        await engine.dispose()
        await connection.close()
