"""Prices, assets and accounts: what is shown is what the services' tables have, and how long it may be kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from contracts import codec
from contracts.assets import AssetPriceChanged, Trading
from contracts.decimals import Price
from contracts.topics import ASSETS_PRICES
from order_api.description import api_document
from order_api.settings import ApiSettings
from participants.assets.sessions import Calendar, Hours, SpecialDay, write_calendar
from tests.order_api.live.support import streaming
from tests.order_api.support import Api, Orchestrator, running, until

PATHS = ("/prices", "/prices/BTC", "/assets", "/assets/BTC", "/accounts")
AT = datetime(2026, 3, 2, 12, tzinfo=UTC)
PRICE = """
    INSERT INTO assets.prices (asset_id, sequence, price, as_of, source)
    VALUES ($1, $2, $3::text::numeric, $4, 'fixed')"""
RULES = """
    INSERT INTO assets.assets (asset_id, rules_version, tick, step, min_quantity, max_quantity, min_notional,
        max_notional, fee_bps, cash_asset_id, cash_scale, trading)
    VALUES ($1, $2, 0.01, 0.00000001, 0.001, NULL, 10, 10000, $3, 'USD', 2, true)"""
ACCOUNT = "INSERT INTO balances.accounts VALUES ($1, $2, $3::text::numeric, $4::text::numeric)"


@pytest_asyncio.fixture
async def market(orchestrator: Orchestrator) -> Orchestrator:
    """Fill the tables of the services: a price, two versions of rules, accounts of two users."""
    await orchestrator.run(PRICE, "BTC", 7, "50000.00", AT)
    for version, fee in ((1, 10), (2, 20)):
        await orchestrator.run(RULES, "BTC", version, fee)
    await orchestrator.run(RULES, "NEW", 1, 10)
    for row in (("alice", "USD", "9499.50", "500.5"), ("alice", "BTC", "1", "0"), ("bob", "USD", "7", "0")):
        await orchestrator.run(ACCOUNT, *row)
    return orchestrator


@pytest_asyncio.fixture
async def api(settings: ApiSettings, market: Orchestrator) -> AsyncIterator[Api]:  # noqa: ARG001 - it was there before
    """Run an API over a market that was there before it."""
    async with running(settings) as one:
        yield one


def changed(asset_id: str, sequence: int, price: str, **more: Any) -> AssetPriceChanged:
    """Make an event."""
    return AssetPriceChanged(asset_id, sequence, Price.parse(price), AT + timedelta(seconds=sequence), **more)


async def publish(api: Api, *events: AssetPriceChanged) -> None:
    """Publish prices as the asset service does."""
    messages = [codec.outgoing(one, message_id=f"{one.asset_id}:{one.sequence}", source="t", time=AT) for one in events]
    assert {ASSETS_PRICES.name} == {one.topic for one in messages}
    assert await api.wire.publisher.publish(messages)


async def following(api: Api) -> None:
    """Wait until the API follows prices."""

    async def followed() -> bool:
        return await api.metric("asset_prices_followed") == 1

    await until(followed)


async def price_of(api: Api, asset_id: str) -> Any:
    """Read an asset's price."""
    return (await api.get(f"/prices/{asset_id}")).json()


async def test_the_first_answer_of_a_process_has_every_price(api: Api) -> None:
    """It is read from the database: there is no time at which a process knows none."""
    answer = await api.get("/prices")
    shown = {"asset_id": "BTC", "sequence": 7, "price": "50000", "as_of": "2026-03-02T12:00:00Z"}
    assert [shown | {"trading": "OPEN", "reopens_at": None}] == answer.json()["prices"]
    one = await api.get("/prices/BTC")
    assert [answer.json()["prices"][0], "max-age=1", '"7"'] == [
        one.json(), one.headers["cache-control"], one.headers["etag"],
    ]  # fmt: skip


async def test_prices_follow_the_topic_and_an_older_one_changes_nothing(api: Api) -> None:
    """By their sequence alone; a change of the trading state is one, and a new asset appears."""
    await following(api)
    before = (await api.get("/prices")).headers["etag"]
    closed = {"trading": Trading.CLOSED, "reopens_at": AT + timedelta(days=1)}
    await publish(api, changed("BTC", 9, "51000", **closed), changed("BTC", 8, "1"), changed("ETH", 1, "2000"))

    async def told() -> bool:
        return (await api.get("/prices/ETH")).status_code == 200

    await until(told)
    newest = await price_of(api, "BTC")
    assert [9, "51000", "CLOSED", "2026-03-03T12:00:00Z"] == [
        newest[name] for name in ("sequence", "price", "trading", "reopens_at")
    ]
    listed = await api.get("/prices")
    assert ["BTC", "ETH"] == [one["asset_id"] for one in listed.json()["prices"]]
    assert before != listed.headers["etag"]


async def test_prices_that_were_missed_are_read_from_the_database(api: Api, market: Orchestrator) -> None:
    """So they are when the follower says that it may have missed some, or when a record can't be read."""
    await following(api)
    await api.get("/prices")
    prices = api.app.state.prices
    for sequence, miss in ((8, prices.missed), (9, None)):
        await market.run("UPDATE assets.prices SET sequence = $1 WHERE asset_id = 'BTC'", sequence)
        if miss is None:
            await prices.hear([type("Record", (), {"value": b"{"})()])
        else:
            miss()

        async def read(wanted: int = sequence) -> bool:
            return bool((await price_of(api, "BTC"))["sequence"] == wanted)

        await until(read)


async def test_processes_agree_on_the_tag_of_the_same_prices(api: Api, settings: ApiSettings) -> None:
    """A client that is passed from one process to the other is told 304 by both."""
    etag = (await api.get("/prices")).headers["etag"]
    async with running(settings) as other:
        answer = await other.get("/prices", headers={"If-None-Match": etag})
        assert [304, b""] == [answer.status_code, answer.content]


async def test_the_newest_rules_of_every_asset_are_shown(api: Api, market: Orchestrator) -> None:
    """Also of one without a price; with its sessions as people write them."""
    assets = {one["asset_id"]: one for one in (await api.get("/assets")).json()["assets"]}
    assert {"BTC": [2, 20, "OPEN", "0.01", None], "NEW": [1, 10, None, "0.01", None]} == {
        name: [one[field] for field in ("rules_version", "fee_bps", "trading", "tick", "sessions")]
        for name, one in assets.items()
    }
    days = (Hours(540, 720), Hours(780, 1050)), (), (), (), (Hours(1320, 120),), (), ()
    calendar = Calendar("Europe/Berlin", days, (SpecialDay(date(2026, 12, 25), name="Christmas"),))
    await market.run("INSERT INTO assets.sessions VALUES ('BTC', $1, now())", write_calendar(calendar))
    sessions = (await api.get("/assets/BTC")).json()["sessions"]
    assert ["09:00-12:00", "13:00-17:30"] == sessions["week"][0]
    assert ["22:00-02:00"] == sessions["week"][4]
    assert [{"day": "2026-12-25", "hours": [], "name": "Christmas"}] == sessions["special"]


async def test_accounts_are_the_ledgers_and_ones_own(api: Api, market: Orchestrator) -> None:
    """Read each time; another user's need a scope, as lists do."""
    answer = await api.get("/accounts")
    accounts = [
        {"asset_id": "BTC", "available": "1", "held": "0"},
        {"asset_id": "USD", "available": "9499.5", "held": "500.5"},
    ]
    assert {"user_id": "alice", "accounts": accounts} == answer.json()
    assert "no-store" == answer.headers["cache-control"]
    await market.run("UPDATE balances.accounts SET held = 0 WHERE user_id = 'alice'")
    again = await api.get("/accounts", headers={"If-None-Match": answer.headers["etag"]})
    assert [200, "0"] == [again.status_code, again.json()["accounts"][1]["held"]]
    refused = await api.get("/accounts?user_id=bob")
    assert [403, "other-user"] == [refused.status_code, refused.json()["code"]]
    for scope in ("orders:read orders:act-for-users", "orders:operate"):
        assert "bob" == (await api.get("/accounts?user_id=bob", scope=scope)).json()["user_id"]
    assert [] == (await api.get("/accounts", user="carol")).json()["accounts"]


@pytest.mark.parametrize("path", PATHS)
async def test_what_a_client_has_is_not_sent_again(api: Api, path: str) -> None:
    """A 304 has the tag and says again how long it may be kept; another tag, or one of before, gets the body."""
    answer = await api.get(path)
    etag = answer.headers["etag"]
    assert etag.startswith("W/") == (not path.startswith("/prices"))  # the bytes of a price follow from its sequence
    kept = await api.get(path, headers={"If-None-Match": f'"x", {etag}'})
    assert [304, b"", etag, answer.headers["cache-control"]] == [
        kept.status_code, kept.content, kept.headers["etag"], kept.headers["cache-control"],
    ]  # fmt: skip
    assert 200 == (await api.get(path, headers={"If-None-Match": '"x"'})).status_code


def test_what_may_be_kept_is_in_the_document() -> None:
    """Of each call that has a tag: the header that asks by it, the answer to that, and how long it may be kept."""
    found = {}
    for path, methods in api_document()["paths"].items():
        for call in methods.values():
            answers = call["responses"]
            if "ETag" in answers.get("200", {}).get("headers", {}) and "get" in methods and call is methods["get"]:
                assert ["If-None-Match"] == [
                    one["name"] for one in call["parameters"] if one["name"] == "If-None-Match"
                ]
                for status in ("200", "304"):
                    assert {"ETag", "Cache-Control"} <= answers[status]["headers"].keys(), path
                assert "content" not in answers["304"]
                found[path] = "Vary" in answers["200"]["headers"]
    orders = {"/orders/{order_id}", "/orders/by-client-id/{client_order_id}", "/orders/{order_id}/status"}
    market = {"/prices", "/prices/{asset_id}", "/assets", "/assets/{asset_id}", "/accounts"}
    assert dict.fromkeys(orders, True) | dict.fromkeys(market, False) == found


@pytest.mark.parametrize("path", PATHS)
async def test_the_market_is_for_readers(api: Api, path: str) -> None:
    """A token is needed, with a scope that reads; a parameter that is not known is refused."""
    assert 401 == (await api.client.get(path)).status_code
    assert 403 == (await api.get(path, scope="orders:write")).status_code
    misspelt = await api.get(f"{path}?user=bob")
    assert [422, "user"] == [misspelt.status_code, misspelt.json()["errors"][0]["field"]]
    assert 200 == (await api.get(f"/v1{path}")).status_code


async def test_an_unknown_asset_is_a_404(api: Api) -> None:
    """It may be kept by nobody."""
    for path in ("/prices/NEW", "/prices/XYZ", "/assets/XYZ", "/assets/%00"):
        answer = await api.get(path)
        assert [404, "asset-not-found", "no-store"] == [
            answer.status_code, answer.json()["code"], answer.headers["cache-control"],
        ], path  # fmt: skip


async def test_a_stream_has_the_prices_that_it_asks_for(api: Api) -> None:
    """What is known comes first, then each change, at most four times a second; it is what `GET /prices` shows."""
    await following(api)
    await api.get("/prices")
    async with streaming(api, "/events?prices=BTC") as stream:
        await stream.until("snapshot-end")
        assert [7] == [one["sequence"] for one in stream.of("price")]
        await publish(api, changed("BTC", 8, "50001"), changed("ETH", 5, "3"), changed("BTC", 9, "50002"))
        newest = await stream.until("price", sequence=9)
        assert json.loads(newest.data) == await price_of(api, "BTC")
        assert {"BTC"} == {one["asset_id"] for one in stream.of("price")}


async def test_prices_are_shown_while_their_table_can_not_be_read(api: Api, market: Orchestrator) -> None:
    """They are in memory, with their time; a change is still heard."""
    await following(api)
    await api.get("/prices")
    async with market.locking("assets.prices"):
        await publish(api, changed("BTC", 8, "50001"))

        async def heard() -> bool:
            return bool((await price_of(api, "BTC"))["sequence"] == 8)

        await until(heard)
