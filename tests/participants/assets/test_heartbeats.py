"""Heartbeats: the newest message of each price is repeated while its source stands by it."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import Trading
from contracts.decimals import Price
from participants.assets.price_store import Source, set_price, set_source, set_trading
from participants.assets.rules import Asset
from participants.assets.store import put_asset
from tests.participants.assets.prices import WALK, Instance, newest, sent


async def test_the_heartbeat_repeats_the_newest_message(engine: AsyncEngine) -> None:
    """Once in each interval: the old sequence, price, state and time, and a new confirmation."""
    await set_trading(engine, "BTC", Trading.HALTED)
    price, halt = await sent(engine, 2)
    assert 1 == price.sequence
    instance = Instance(engine)
    await instance.confirm()
    await instance.repeat()
    (first,) = instance.published()
    await instance.repeat()
    (second,) = instance.published()
    assert (halt.sequence, halt.price, halt.as_of, halt.trading) == (
        first.sequence,
        first.price,
        first.as_of,
        first.trading,
    )
    assert first.confirmed_at is not None
    assert second.confirmed_at is not None
    assert halt.confirmed_at is not None
    assert halt.confirmed_at < first.confirmed_at < second.confirmed_at
    assert 2 == instance.counted("price_heartbeats")


async def test_heartbeats_have_ids_of_their_own(engine: AsyncEngine) -> None:
    """A consumer that drops repeated ids still learns that the price was confirmed."""
    instance = Instance(engine)
    await instance.confirm()
    await instance.repeat()
    await instance.repeat()
    ids = [one.id for one in instance.publisher.published]
    assert 2 == len(set(ids))
    assert all(one.startswith("BTC:price:1:") for one in ids)


async def test_heartbeats_are_spread(engine: AsyncEngine) -> None:
    """Many assets do not all beat in the same round."""
    for number in range(40):
        await put_asset(engine, Asset(f"A{number}", Decimal("0.01")))
        await set_price(engine, f"A{number}", Price("100"))
    instance = Instance(engine)
    await instance.confirm()
    rounds: list[int] = []
    await instance.repeat_round()
    instance.published()
    for _ in range(20):
        await instance.repeat_round()
        rounds.append(len(instance.published()))
    assert 41 == sum(rounds)
    assert max(rounds) <= 10


async def test_a_dead_source_is_silent(engine: AsyncEngine) -> None:
    """A dead source publishes neither its price nor a heartbeat, and an outside one that stopped no heartbeat."""
    await sent(engine, 1)
    await put_asset(engine, Asset("OLD", Decimal("0.01")))
    await set_price(engine, "OLD", Price("10"), Source.DEAD)
    await set_trading(engine, "OLD", Trading.HALTED)
    await set_source(engine, "BTC", Source.EXTERNAL)
    async with engine.begin() as tx:
        await tx.exec_driver_sql(
            "UPDATE assets.prices SET confirmed_at = confirmed_at - interval '11 seconds' WHERE asset_id = 'BTC'"
        )
    instance = Instance(engine)
    await instance.confirm()
    await instance.repeat()
    await instance.repeat()
    assert [] == instance.published()
    async with engine.connect() as connection:
        waiting = (await connection.exec_driver_sql("SELECT count(*) FROM assets.outbox")).scalar_one()
    assert 0 == waiting


async def test_an_outside_price_beats_while_it_is_confirmed(engine: AsyncEngine) -> None:
    """The heartbeat of an outside price has the time when its feed last stood by it."""
    await set_source(engine, "BTC", Source.EXTERNAL)
    instance = Instance(engine)
    await instance.confirm()
    await instance.repeat()
    (beat,) = instance.published()
    assert (await newest(engine)).confirmed_at == beat.confirmed_at


async def test_what_is_not_published_is_counted_and_repeated(engine: AsyncEngine) -> None:
    """A price that a broken broker lost comes with the next heartbeat."""
    await set_source(engine, "BTC", Source.WALK, WALK)
    instance = Instance(engine)
    await instance.confirm()
    instance.publisher.works = False
    await instance.move(0.1)
    assert instance.counted("price_unsent") > 0
    assert 0 == instance.counted("price_changes")
    instance.publisher.works = True
    await set_trading(engine, "BTC", Trading.HALTED)
    await instance.confirm()
    await instance.repeat()
    (beat,) = instance.published()
    last = await newest(engine)
    assert (last.sequence, last.price) == (beat.sequence, beat.price)
