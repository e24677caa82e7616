"""The asset service on its database: versions of rules, prices and their source, staleness, and slow assets."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from contracts.assets import AssetApproved, AssetPriceChanged, AssetRefusal, AssetRefused, CheckAsset
from contracts.codec import Message, decode
from contracts.decimals import Price, Quantity
from contracts.envelope import UnreadableMessage
from contracts.vocabulary import OrderType
from participants.assets.feed import Feed
from participants.assets.price_store import Source, confirm_prices, set_price
from participants.assets.rules import Asset
from participants.assets.service import AssetHandler
from participants.assets.store import listings, put_asset
from participants.assets.tables import SCHEMA
from saga_kit.messaging.outbox import Outbox, Relay
from saga_kit.runtime.transactions import begin
from tests.participants.support import TRACEPARENT, ServiceUnderTest, order
from tests.saga_kit.support import FakePublisher, until
from tests.support.infrastructure import Database

BTC = Asset("BTC", Decimal("0.01"))


async def nothing_to_catch_up() -> bool:
    """Stand for a price source without a backlog."""
    return False


@pytest.fixture
def service(assets_engine: AsyncEngine) -> ServiceUnderTest:
    """Give an instance of the asset service."""
    return ServiceUnderTest(assets_engine, AssetHandler(timedelta(seconds=10), nothing_to_catch_up), SCHEMA)


def check(asset_id: str = "BTC", quantity: str = "0.01", name: object = 1) -> CheckAsset:
    """Make a check of an order."""
    order_id = order(name)
    return CheckAsset(f"{order_id}:check", order_id, asset_id, OrderType.MARKET_BUY, Quantity.parse(quantity))


async def listed(
    service: ServiceUnderTest, asset: Asset = BTC, price: str = "50000", source: Source = Source.FIXED
) -> None:
    """Store an asset and its price."""
    await put_asset(service.engine, asset)
    await set_price(service.engine, asset.asset_id, Price.parse(price), source)


def codes(replies: list[Any]) -> list[str]:
    """Return the replies' reason codes, "" for an approval."""
    return [reply.reason_code.value if isinstance(reply, AssetRefused) else "" for reply in replies]


async def test_a_batch_is_answered_in_its_order(service: ServiceUnderTest) -> None:
    """Each check is judged by the rules of its own asset; a repeated check gets a reply with the same id."""
    await listed(service)
    await listed(service, Asset("HALT", Decimal("0.01"), trading=False))
    replies = await service.handle(check(), check("NONE"), check("HALT"), check(quantity="0.0001"), check())
    assert ["", "ASSET_NOT_FOUND", "ASSET_NOT_TRADABLE", "QUANTITY_OUT_OF_RANGE", ""] == codes(replies)
    first, *_, last = service.publisher.published
    assert (f"{order(1)}:check:AssetApproved", str(order(1))) == (first.id, first.key)
    assert first.id == last.id
    assert TRACEPARENT == dict(first.headers)["traceparent"].decode()


async def test_rules_have_versions_that_stay_readable(service: ServiceUnderTest) -> None:
    """Changed rules are a new version, equal rules are not; the reply states the version that judged."""
    await listed(service)
    assert 1 == await put_asset(service.engine, BTC)
    assert 2 == await put_asset(service.engine, replace(BTC, fee_bps=20))
    assert 3 == await put_asset(service.engine, BTC)
    (reply,) = await service.handle(check())
    assert isinstance(reply, AssetApproved)
    assert (3, 10) == (reply.rules_version, reply.fee_bps)
    rows = await service.rows("SELECT rules_version, fee_bps FROM assets.assets ORDER BY 1")
    assert [(1, 10), (2, 20), (3, 10)] == rows


async def test_two_changes_of_rules_at_once_make_two_versions(assets_engine: AsyncEngine) -> None:
    """Two changes of rules at the same moment get two consecutive versions."""
    changes = (put_asset(assets_engine, replace(BTC, fee_bps=fee_bps)) for fee_bps in range(5))
    assert [1, 2, 3, 4, 5] == sorted(await asyncio.gather(*changes))


async def test_every_rule_comes_back_as_it_was_put(assets_engine: AsyncEngine) -> None:
    """The database stores each rule without loss or rounding."""
    asset = Asset(
        "X",
        Decimal("0.0001"),
        step=Decimal("0.0000000001"),
        min_quantity=Decimal("0.000000000000000001"),
        max_quantity=Decimal("12345678901234567.000000000000000001"),
        min_notional=Decimal("0.5"),
        max_notional=Decimal("99999999.25"),
        fee_bps=7,
        cash_asset_id="EUR",
        cash_scale=4,
        trading=False,
        available_quantity=Decimal("0.25"),
        answer_delay_s=1.5,
    )
    await put_asset(assets_engine, asset)
    async with begin(assets_engine) as tx:
        assert replace(asset, rules_version=1) == (await listings(tx, ["X"]))["X"].asset


@pytest.mark.parametrize(
    "changes",
    [
        {"step": Decimal("1e-8"), "tick": Decimal("1e-7")},
        {"tick": Decimal(0)},
        {"step": Decimal(-1)},
        {"min_quantity": Decimal(2), "max_quantity": Decimal(1)},
        {"min_notional": Decimal(2), "max_notional": Decimal(1)},
        {"fee_bps": 10_001},
        {"cash_scale": 19},
        {"tick": Decimal("1e-19")},
    ],
)
async def test_rules_that_can_not_be_stored_are_refused(assets_engine: AsyncEngine, changes: dict[str, Any]) -> None:
    """Step, tick and fee rate beyond 18 places together, an empty range, or a 19th place is refused."""
    with pytest.raises((IntegrityError, ValueError)):
        await put_asset(assets_engine, replace(BTC, **changes))
    async with begin(assets_engine) as tx:
        assert {} == await listings(tx, ["BTC"])


async def test_18_places_of_step_tick_and_fee_rate_are_allowed(assets_engine: AsyncEngine) -> None:
    """The limit of 18 places is inclusive: 8 of step, 6 of tick and 4 of the fee rate."""
    assert 1 == await put_asset(assets_engine, replace(BTC, tick=Decimal("0.000001")))


async def test_a_price_change_raises_the_sequence_and_is_published(service: ServiceUnderTest) -> None:
    """Each price change gets the next sequence and one event; an equal price gets neither, and its time stays."""
    await put_asset(service.engine, BTC)
    prices = ("50000", "50000.00", "50000.01", "50000.01", "49999.99")
    assert [1, 1, 2, 2, 3] == [await set_price(service.engine, "BTC", Price.parse(price)) for price in prices]
    publisher = FakePublisher()
    relay = Relay(service.engine, SCHEMA, Outbox(SCHEMA), publisher)
    async with asyncio.timeout(60):
        while len(publisher.published) < 3:
            await relay.relay_once()
    assert ["assets.prices"] * 3 == [event.topic for event in publisher.published]
    events: list[Message] = [decode("AssetPriceChanged", event.value) for event in publisher.published]
    changes = {(one.sequence, one.price, one.as_of) for one in events if isinstance(one, AssetPriceChanged)}
    assert {(1, Decimal(50000)), (2, Decimal("50000.01")), (3, Decimal("49999.99"))} == {one[:2] for one in changes}
    (reply,) = await service.handle(check())
    assert isinstance(reply, AssetApproved)
    assert (reply.sequence, reply.price, reply.as_of) in changes


@pytest.mark.parametrize(("asset_id", "price"), [("NONE", "1"), ("BTC", "50000.001")])
async def test_a_price_needs_an_asset_and_lies_on_its_tick(
    assets_engine: AsyncEngine, asset_id: str, price: str
) -> None:
    """A price off the tick is refused, because it would break the sums of orders that fill at it."""
    await put_asset(assets_engine, BTC)
    with pytest.raises(ValueError, match=r"no asset NONE|not a multiple of 0\.01"):
        await set_price(assets_engine, asset_id, Price.parse(price))


async def test_a_dead_source_is_stale_from_the_start_and_for_ever(service: ServiceUnderTest) -> None:
    """Prices of a dead source stay stale although all prices are confirmed; a price of a live source ends that."""
    await listed(service, source=Source.DEAD)
    await listed(service, Asset("ETH", Decimal("0.01")), "2500")
    await confirm_prices(service.engine)
    assert ["STALE_PRICE", ""] == codes(await service.handle(check(), check("ETH")))
    assert 1 == await set_price(service.engine, "BTC", Price("50000"))
    assert [""] == codes(await service.handle(check()))
    await set_price(service.engine, "BTC", Price("50000"), Source.DEAD)
    assert ["STALE_PRICE"] == codes(await service.handle(check()))


async def test_an_asset_without_a_price_is_stale(service: ServiceUnderTest) -> None:
    """An asset with rules but without a price is refused as stale."""
    await put_asset(service.engine, BTC)
    assert ["STALE_PRICE"] == codes(await service.handle(check()))


async def test_the_feed_confirms_live_prices_until_it_is_stopped(service: ServiceUnderTest, database: Database) -> None:
    """Prices are stale while the feed stands still; then it confirms them, survives database errors, and can stop."""
    await listed(service)
    owner = await asyncpg.connect(database.url)
    await owner.execute("UPDATE assets.prices SET confirmed_at = clock_timestamp() - interval '11 seconds'")
    assert ["STALE_PRICE"] == codes(await service.handle(check()))
    await owner.execute("REVOKE UPDATE ON assets.prices FROM saga_assets")
    stopping = asyncio.Event()
    with capture_logs() as lines:
        feed = asyncio.create_task(Feed(service.engine, 0.01).run(stopping))
        await until(lambda: lines)
    assert ["STALE_PRICE"] == codes(await service.handle(check()))
    await owner.execute("GRANT UPDATE ON assets.prices TO saga_assets")
    await owner.close()
    async with asyncio.timeout(60):
        while codes(await service.handle(check())) != [""]:
            await asyncio.sleep(0.01)
    stopping.set()
    await asyncio.wait_for(feed, 60)


async def test_after_an_outage_the_source_comes_first(assets_engine: AsyncEngine) -> None:
    """After an outage prices are confirmed before orders are judged; a dead source, or one in time, changes nothing."""
    passed_s = 0.0
    feed = Feed(assets_engine, 1.0, lambda: passed_s)
    service = ServiceUnderTest(assets_engine, AssetHandler(timedelta(seconds=10), feed.catch_up), SCHEMA)
    await listed(service)
    await listed(service, replace(BTC, asset_id="OLD"), source=Source.DEAD)
    assert ["", "STALE_PRICE"] == codes(await service.handle(check(), check("OLD", name=2)))
    grown_old = (
        "UPDATE assets.prices SET confirmed_at = clock_timestamp() - interval '11 seconds' WHERE source <> 'dead'"
    )
    async with assets_engine.begin() as tx:
        await tx.exec_driver_sql(grown_old)
    assert ["STALE_PRICE"] == codes(await service.handle(check(name=3)))
    passed_s = 20.0
    assert ["", "STALE_PRICE"] == codes(await service.handle(check(name=4), check("OLD", name=5)))


async def test_a_source_that_can_not_confirm_holds_up_no_judgement_for_long(
    assets_engine: AsyncEngine, database: Database
) -> None:
    """Its batch is tried again for ten seconds, then prices count with their age; a source that works confirms them."""
    feed = Feed(assets_engine, 1.0, partial(next, iter(range(0, 1000, 2))))
    service = ServiceUnderTest(assets_engine, AssetHandler(timedelta(seconds=10), feed.catch_up), SCHEMA)
    await listed(service)
    owner = await asyncpg.connect(database.url)
    await owner.execute("UPDATE assets.prices SET confirmed_at = clock_timestamp() - interval '11 seconds'")
    await owner.execute("REVOKE UPDATE ON assets.prices FROM saga_assets")
    with capture_logs() as lines:
        assert ["STALE_PRICE"] == codes(await service.handle(check()))
    assert 2 <= len([one for one in lines if one["event"] == "batch failed, will try again"]) <= 5
    await owner.execute("GRANT UPDATE ON assets.prices TO saga_assets")
    await owner.close()
    assert [""] == codes(await service.handle(check(name=2)))


async def test_confirming_never_waits_for_another(assets_engine: AsyncEngine) -> None:
    """Confirming skips a price that another transaction is changing, and confirms the others."""
    for asset_id in ("BTC", "ETH"):
        await put_asset(assets_engine, replace(BTC, asset_id=asset_id))
        await set_price(assets_engine, asset_id, Price("100"))
    async with assets_engine.begin() as tx:
        await tx.exec_driver_sql("SELECT FROM assets.prices WHERE asset_id = 'BTC' FOR UPDATE")
        assert 1 == len(await confirm_prices(assets_engine))  # a wait for the lock would end with an error
    assert 2 == len(await confirm_prices(assets_engine))


async def test_a_slow_asset_is_answered_late_by_the_relay_alone(service: ServiceUnderTest) -> None:
    """A slow asset's reply is stored with its due time, and only the relay publishes it; other replies do not wait."""
    await listed(service, replace(BTC, asset_id="SLOW", answer_delay_s=30))
    await listed(service)
    (reply,) = await service.handle(check("SLOW"), check())
    assert isinstance(reply, AssetApproved)
    assert "BTC" == reply.asset_id
    (waiting,) = await service.rows(
        "SELECT refs, available_at - created_at > interval '29 seconds' FROM assets.outbox WHERE $1 = ANY (refs)"
        " AND due_at > clock_timestamp() + interval '20 seconds'",
        f"{order(1)}:check",
    )
    assert ([f"{order(1)}:check"], True) == waiting


async def test_what_is_no_check_is_unreadable(service: ServiceUnderTest) -> None:
    """The asset service reads no message but its check, not even its own replies."""
    with pytest.raises(UnreadableMessage, match="not a command for the asset service"):
        await service.handle(AssetRefused("c", order(1), "BTC", AssetRefusal.STALE_PRICE, "r"))
