"""Price sources: a walk or a script moves a price by itself, in the one instance that has its lease."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import AssetPriceChanged, Trading
from contracts.decimals import Price
from participants.assets.price_store import Source, confirm_prices, set_price, set_source, set_trading
from participants.assets.simulator import Terms, Walk, read_script, walk
from tests.participants.assets.prices import WALK, Instance, newest

LEASE_S = 60.0


async def test_a_walk_makes_its_path_and_another_instance_goes_on(engine: AsyncEngine) -> None:
    """What is published has rising numbers and ends where the pure walk ends, whoever makes the steps."""
    await set_source(engine, "BTC", Source.WALK, WALK)
    one, two = Instance(engine), Instance(engine)
    await one.confirm()
    await two.confirm()
    assert [["BTC"], []] == [list(each.feed.newest) for each in (one, two)]
    seen: list[AssetPriceChanged] = []
    for _ in range(3):
        await one.move(0.2)
        seen += one.published()
    await give_up(one)
    await two.confirm()
    await two.move(0.2)
    seen += two.published()
    last = await newest(engine)
    assert walk(WALK, Price("100"), 0, last.position)[-1] == last.price == seen[-1].price
    assert 40 == last.position
    assert list(range(2, last.sequence + 1)) == [event.sequence for event in seen]


async def test_a_slow_walk_is_looked_at_when_its_next_step_is_due(engine: AsyncEngine) -> None:
    """Two steps a second need no fifty looks; a walk of as many steps does."""
    for per_second, least_s, most_s in ((2.0, 0.15, 1.0), (1000.0, 0.0, 0.1)):
        await set_source(engine, "BTC", Source.WALK, structs.replace(WALK, per_second=per_second))
        one = Instance(engine)
        await one.confirm()
        assert await one.publication.move_once()
        rests_s = one.publication._rest_s(list(one.feed.newest.values()))  # noqa: SLF001 - what it sleeps, without sleeping
        assert least_s <= rests_s <= most_s
        await give_up(one)


async def give_up(instance: Instance) -> None:
    """End an instance in an orderly way."""
    stopping = asyncio.Event()
    stopping.set()
    await instance.feed.run(stopping)


async def test_who_has_lost_the_lease_moves_nothing(engine: AsyncEngine) -> None:
    """An instance that was frozen, while another one took its prices over, changes nothing when it wakes."""
    await set_source(engine, "BTC", Source.WALK, WALK)
    frozen, other = Instance(engine), Instance(engine)
    await frozen.confirm()
    async with engine.begin() as tx:
        await tx.exec_driver_sql("UPDATE assets.prices SET leased_until = clock_timestamp() - interval '1 second'")
    await other.confirm()
    await frozen.move(0.2)
    assert [] == frozen.published()
    await frozen.confirm()
    assert {} == frozen.feed.newest
    await other.move(0.2)
    assert other.published()


async def test_a_walk_stands_still_in_a_halt_and_goes_on_after_it(engine: AsyncEngine) -> None:
    """In a halt nothing moves; the steps that would have been made are not made up for."""
    await set_source(engine, "BTC", Source.WALK, WALK)
    instance = Instance(engine)
    await instance.confirm()
    await set_trading(engine, "BTC", Trading.HALTED)
    await instance.move(0.2)  # it does not know of the halt yet
    await instance.confirm()
    await instance.move(5.0)
    assert [] == instance.published()
    await set_trading(engine, "BTC", Trading.OPEN)
    await instance.confirm()
    await instance.move(0.2)
    assert 10 == (await newest(engine)).position
    assert instance.published()


async def test_a_pause_is_made_up_for_by_a_second_of_steps_at_most(engine: AsyncEngine) -> None:
    """A process that was stopped for an hour does not publish an hour's steps at once."""
    await set_source(engine, "BTC", Source.WALK, WALK)
    instance = Instance(engine)
    await instance.confirm()
    await instance.move(3_600.0)
    assert 50 == (await newest(engine)).position


async def test_a_script_is_played_as_written_and_ends_fixed(engine: AsyncEngine) -> None:
    """Each price is published in its turn, none is conflated away, and the last one stays, confirmed."""
    await set_source(engine, "BTC", Source.SCRIPT, read_script(["110 @100", "105 @100", "99 @200"]))
    instance = Instance(engine)
    await instance.confirm()
    await instance.move(50.0)
    assert [] == instance.published()
    await instance.move(60.0)
    assert [(2, "110"), (3, "105")] == [(one.sequence, str(one.price)) for one in instance.published()]
    await instance.move(200.0)
    assert [(4, "99")] == [(one.sequence, str(one.price)) for one in instance.published()]
    assert (Source.FIXED, None) == (await newest(engine))[7:9]
    await instance.move(500.0)
    assert [] == instance.published()


async def test_setting_a_price_ends_what_moved_it(engine: AsyncEngine) -> None:
    """An operator's price stays, also against a step that is on its way."""
    await set_source(engine, "BTC", Source.WALK, WALK)
    instance = Instance(engine)
    await instance.confirm()
    await set_price(engine, "BTC", Price("105"))
    await instance.move(0.5)
    assert [] == instance.published()
    last = await newest(engine)
    assert (Decimal(105), Source.FIXED, None) == (last.price, last.source, last.terms)


@pytest.mark.parametrize("terms", [WALK, read_script(["100.001"])])
async def test_terms_are_checked_before_they_are_stored(engine: AsyncEngine, terms: Terms) -> None:
    """A walk that begins outside of its range, or a script off the tick, changes nothing."""
    await set_price(engine, "BTC", Price("200"))
    source = Source.WALK if isinstance(terms, Walk) else Source.SCRIPT
    with pytest.raises(ValueError, match=r"begins at 200|not a multiple"):
        await set_source(engine, "BTC", source, terms)
    assert Source.FIXED is (await newest(engine)).source


async def test_confirming_returns_the_leases_of_the_instance(engine: AsyncEngine) -> None:
    """One instance has a price until its lease ends; the other confirms it all the same."""
    seen: Sequence[Any] = [await confirm_prices(engine, name, LEASE_S) for name in ("one", "two", "one")]
    assert [[True], [False], [True]] == [[mine for mine, _ in rows] for rows in seen]
    times = [newest.confirmed_at for rows in seen for _, newest in rows]
    assert times == sorted(times)
    assert 3 == len(set(times))
