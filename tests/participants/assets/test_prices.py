"""Prices on the database: one sequence for price and state, bulk changes, sources that move, and their lease."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import AssetPriceChanged, Trading
from contracts.codec import decode
from contracts.decimals import Price
from participants.assets.feed import Feed
from participants.assets.price_store import (
    Newest,
    PriceChange,
    Source,
    confirm_prices,
    newest_prices,
    set_price,
    set_prices,
    set_source,
    set_trading,
)
from participants.assets.publication import PriceMetrics, Publication
from participants.assets.rules import Asset
from participants.assets.simulator import Terms, Walk, read_script, walk
from participants.assets.store import put_asset
from participants.assets.tables import SCHEMA
from saga_kit.messaging.outbox import Outbox, Relay
from tests.saga_kit.support import FakePublisher

LEASE_S = 60.0
WALK = Walk(7, 50.0, 3, Price("90"), Price("110"), Price("0.01"))


@pytest.fixture
async def engine(assets_engine: AsyncEngine) -> AsyncEngine:
    """Give a database with the asset BTC at 100."""
    await put_asset(assets_engine, Asset("BTC", Decimal("0.01")))
    await set_price(assets_engine, "BTC", Price("100"))
    return assets_engine


async def newest(engine: AsyncEngine) -> Newest:
    """Read the price of BTC."""
    return next(one for one in await newest_prices(engine) if one.asset_id == "BTC")


async def sent(engine: AsyncEngine, count: int) -> list[AssetPriceChanged]:
    """Publish what is in the outbox; return it by its sequence."""
    publisher = FakePublisher()
    relay = Relay(engine, SCHEMA, Outbox(SCHEMA), publisher)
    async with asyncio.timeout(10):
        while len(publisher.published) < count:
            await relay.relay_once()
    return sorted(events(publisher), key=lambda one: one.sequence)


def events(publisher: FakePublisher) -> list[AssetPriceChanged]:
    """Decode what was published."""
    return [decode("AssetPriceChanged", one.value) for one in publisher.published]  # type: ignore[misc]


@dataclass
class Instance:
    """An instance of the service: its feed and its publication, with a clock of the test's own."""

    engine: AsyncEngine
    heartbeat_s: float = 10.0
    publisher: FakePublisher = field(default_factory=FakePublisher)
    now_s: float = 1_000.0

    def __post_init__(self) -> None:
        """Build the parts."""
        self.feed = Feed(self.engine, 1.0, lambda: self.now_s)
        self.registry = CollectorRegistry()
        self.publication = Publication(
            self.engine,
            self.feed,
            self.publisher,
            PriceMetrics(self.registry),
            heartbeat_s=self.heartbeat_s,
            clock=lambda: self.now_s,
        )

    async def confirm(self) -> None:
        """Confirm prices and take leases, as after a pause."""
        self.now_s += 3
        await self.feed.catch_up()

    async def move(self, seconds: float) -> None:
        """Let the moving prices know that time has passed, and move them."""
        moving = asyncio.create_task(self.publication.move_once())
        await asyncio.sleep(0)
        self.now_s += seconds
        await moving

    async def repeat(self, rounds: int = 20) -> None:
        """Run through one interval of heartbeats, with fresh confirmations."""
        for _ in range(rounds):
            await self.repeat_round(rounds)

    async def repeat_round(self, rounds: int = 20) -> None:
        """Run one round of heartbeats."""
        self.now_s += self.heartbeat_s / rounds
        await self.feed.catch_up()
        await self.publication.repeat_once()

    def counted(self, name: str) -> float:
        """Return a metric's value."""
        return self.registry.get_sample_value(f"{name}_total") or 0.0

    def published(self) -> list[AssetPriceChanged]:
        """Return what was published, and forget it."""
        found = events(self.publisher)
        self.publisher.published.clear()
        return found


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


async def set_from_outside(engine: AsyncEngine, *prices: str) -> list[tuple[int, str]]:
    """Set prices of BTC as a feed does; return what must be published."""
    made = await set_prices(engine, [PriceChange("BTC", [Price(price) for price in prices])])
    return [(one.sequence, str(one.price)) for one in made]


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


async def test_confirming_returns_the_leases_of_the_instance(engine: AsyncEngine) -> None:
    """One instance has a price until its lease ends; the other confirms it all the same."""
    seen: Sequence[Any] = [await confirm_prices(engine, name, LEASE_S) for name in ("one", "two", "one")]
    assert [[True], [False], [True]] == [[mine for mine, _ in rows] for rows in seen]
    times = [newest.confirmed_at for rows in seen for _, newest in rows]
    assert times == sorted(times)
    assert 3 == len(set(times))
