"""Prices and halts set from outside: one sequence for price and state, and many changes at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import Trading
from contracts.decimals import Price
from participants.assets.price_store import (
    Newest,
    PriceChange,
    Source,
    set_price,
    set_prices,
    set_source,
    set_trading,
)
from participants.assets.rules import Asset
from participants.assets.store import put_asset
from tests.participants.assets.prices import newest, sent, set_from_outside


async def test_halt_and_open_are_on_the_prices_sequence(engine: AsyncEngine) -> None:
    """Each change of price or state is the next number, with both in one message; a repeated change is none."""
    reopens_at = datetime(2026, 12, 1, 8, tzinfo=UTC)
    await set_trading(engine, "BTC", Trading.HALTED, reason="fat finger")
    await set_trading(engine, "BTC", Trading.HALTED, reason="fat finger, again")
    await set_trading(engine, "BTC", Trading.CLOSED, reopens_at=reopens_at)
    await set_trading(engine, "BTC", Trading.OPEN, price=Price("101.5"))
    await set_price(engine, "BTC", Price("102"))
    seen = [(one.sequence, str(one.price), one.trading, one.reopens_at) for one in await sent(engine, 5)]
    assert [
        (1, "100", Trading.OPEN, None),
        (2, "100", Trading.HALTED, None),
        (3, "100", Trading.CLOSED, reopens_at),
        (4, "101.5", Trading.OPEN, None),
        (5, "102", Trading.OPEN, None),
    ] == seen


async def test_a_halt_keeps_the_time_of_the_price_and_confirms_it(engine: AsyncEngine) -> None:
    """`as_of` is the price's, so a halt says besides how fresh it is; an opening price has a time of its own."""
    await set_trading(engine, "BTC", Trading.HALTED)
    await set_trading(engine, "BTC", Trading.OPEN)
    price, halt, opening = await sent(engine, 3)
    assert price.as_of == halt.as_of == opening.as_of
    assert halt.confirmed_at is not None
    assert opening.confirmed_at is not None
    assert price.as_of < halt.confirmed_at < opening.confirmed_at
    assert price.confirmed_at is None


async def test_a_price_stands_still_while_its_asset_does_not_trade(engine: AsyncEngine) -> None:
    """Another price in a halt is refused, since it would move trailing stops; the same price, or an opening, is not."""
    await set_trading(engine, "BTC", Trading.HALTED)
    with pytest.raises(ValueError, match="BTC is HALTED, so its price stands still"):
        await set_price(engine, "BTC", Price("101"))
    assert 2 == await set_price(engine, "BTC", Price("100"))
    assert 3 == await set_price(engine, "BTC", Price("101"), trading=Trading.OPEN)


@pytest.mark.parametrize(("asset_id", "words"), [("NONE", "no asset NONE"), ("NEW", "NEW has no price yet")])
async def test_only_an_asset_with_a_price_has_a_state(engine: AsyncEngine, asset_id: str, words: str) -> None:
    """The state is published with a price, so there must be one."""
    await put_asset(engine, Asset("NEW", Decimal("0.01")))
    with pytest.raises(ValueError, match=words):
        await set_trading(engine, asset_id, Trading.HALTED)


async def test_prices_in_bulk_have_a_number_each(engine: AsyncEngine) -> None:
    """Each price is a message with a number of its own; a price that is set again is confirmed and no message."""
    await set_source(engine, "BTC", Source.EXTERNAL)
    assert [(2, "110"), (3, "99"), (4, "105")] == await set_from_outside(engine, "110", "99", "105")
    before = (await newest(engine)).confirmed_at
    assert [] == await set_from_outside(engine, "105")
    after = await newest(engine)
    assert before is not None
    assert after.confirmed_at is not None
    assert before < after.confirmed_at
    assert [(5, "104")] == await set_from_outside(engine, "104")


async def test_only_an_external_price_is_set_from_outside(engine: AsyncEngine) -> None:
    """A feed that goes on after an operator has set a fixed price changes nothing, and neither does one in a halt."""
    assert [] == await set_from_outside(engine, "110")
    await set_source(engine, "BTC", Source.EXTERNAL)
    await set_trading(engine, "BTC", Trading.HALTED)
    assert [] == await set_from_outside(engine, "110")
    assert [] == await set_from_outside(engine, "100", "110")
    assert (Decimal(100), 2) == (await newest(engine))[2:0:-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (PriceChange("BTC", [Price("100"), Price("100.001")]), r"BTC: 100\.001 is not a multiple of 0\.01"),
        (PriceChange("NONE", [Price("1")]), "no asset NONE"),
    ],
)
async def test_a_price_from_outside_must_be_on_the_tick(engine: AsyncEngine, change: PriceChange, words: str) -> None:
    """Nothing of a wrong list is set."""
    await set_source(engine, "BTC", Source.EXTERNAL)
    with pytest.raises(ValueError, match=words):
        await set_prices(engine, [PriceChange("BTC", [Price("105")]), change])
    assert Decimal(100) == (await newest(engine)).price


async def test_many_at_once_lose_no_number(engine: AsyncEngine) -> None:
    """Changes of several assets at the same time, in any order, wait for each other and use each number once."""
    await put_asset(engine, Asset("ETH", Decimal("0.01")))
    await set_price(engine, "ETH", Price("100"), Source.EXTERNAL)
    await set_source(engine, "BTC", Source.EXTERNAL)

    async def change(number: int) -> list[Newest]:
        both = [PriceChange(asset_id, [Price(101 + number)]) for asset_id in ("BTC", "ETH")]
        return await set_prices(engine, both if number % 2 else both[::-1])

    made = [one for some in await asyncio.gather(*map(change, range(10))) for one in some]
    for asset_id in ("BTC", "ETH"):
        assert list(range(2, 12)) == sorted(one.sequence for one in made if one.asset_id == asset_id)
