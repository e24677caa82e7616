"""`/ws`: the streams of SSE in channels of one connection, with the same promises and the same limits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from websockets.exceptions import InvalidStatus

from contracts import codec
from contracts.assets import AssetPriceChanged
from contracts.decimals import Price
from order_api.settings import ApiSettings
from tests.order_api.live.socket_client import socket
from tests.order_api.live.support import STOPS_WITHIN_S, Events, expires, followed, new_order, no_streams, streaming
from tests.order_api.support import Api, Orchestrator, running, token, until

AT = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest_asyncio.fixture
async def events(api: Api, orchestrator: Orchestrator) -> AsyncIterator[Events]:
    """Publish events to the API that is under test, which follows them already."""
    await followed(api)
    yield Events(api.wire.publisher, orchestrator)


async def test_a_channel_has_what_the_stream_has(api: Api, events: Events) -> None:
    """First what there is, then what comes, each event with the id and the data that SSE has."""
    opened = new_order()
    await events.commit(opened, "VALIDATING", 1)
    async with socket(api) as client, streaming(api) as stream:
        assert "order-saga.v1" == client.connection.subprotocol
        assert "alice" == (await client.until("authenticated"))["data"]["user_id"]
        await client.subscribe("orders")
        await stream.until("snapshot-end")
        assert {opened: 1} == client.versions()
        quote = json.dumps({"quote": {"cash_asset_id": "USD"}})
        await events.tell(opened, "COMPLETED", 2, progress=quote)
        told = await client.until("order", "orders", version=2)
        same = await stream.until("order", version=2)
        assert told["data"] == json.loads(same.data)
        assert told["id"].startswith("t")
        assert {"assets": ["BTC", "USD"]} == (await client.until("account", "orders"))["data"]
    await no_streams(api)


async def test_one_connection_has_several_channels(api: Api, events: Events) -> None:
    """All orders, one order to its end, the price of an asset; each is ended by itself."""
    order_id, other = new_order(), new_order()
    await events.commit(order_id, "VALIDATING", 1)
    async with socket(api, path="/v1/ws") as client:
        for channel in ("orders", f"order:{order_id}", "prices:BTC"):
            await client.subscribe(channel)
        assert 1 == len(api.app.state.streams)
        price = AssetPriceChanged("BTC", 3, Price.parse("5"), AT)
        message = codec.outgoing(price, message_id="BTC:3", source="t", time=AT)
        await until(lambda: api.metric("asset_prices_followed"))
        assert await api.wire.publisher.publish([message])
        assert "5" == (await client.until("price", "prices:BTC"))["data"]["price"]
        await events.tell(order_id, "COMPLETED", 2)
        assert "2" == (await client.until("order", f"order:{order_id}", version=2))["id"]
        await client.until("ended", f"order:{order_id}")
        await client.says("unsubscribe", channel="orders")
        await client.until("unsubscribed", "orders")
        await events.tell(other, "VALIDATING", 1)
        client.got.clear()
        await client.subscribe("orders")
        assert 1 == client.versions()[other]
        assert 0 == client.versions(f"order:{order_id}").get(other, 0)


async def test_who_comes_back_is_shown_what_was_missed(api: Api, events: Events) -> None:
    """With the id that came last: in the channel of orders, and in that of one order version by version."""
    order_id = new_order()
    await events.commit(order_id, "VALIDATING", 1)
    async with socket(api) as client:
        await client.subscribe("orders")
        last = (await client.until("snapshot-end", "orders"))["id"]
    for version, phase in ((2, "QUEUED"), (3, "SETTLING"), (4, "COMPLETED")):
        await events.commit(order_id, phase, version)
    async with socket(api) as client:
        await client.subscribe("orders", since=last)
        assert {order_id: 4} == client.versions()
        await client.says("subscribe", channel=f"order:{order_id}", since="1")
        await client.until("ended", f"order:{order_id}")
        assert [2, 3] == [one["data"]["version"] for one in client.got if one["type"] == "version"]


async def test_who_has_the_last_version_of_an_order_is_told_that_it_has_ended(api: Api, events: Events) -> None:
    """The connection broke after it, before that was said: the channel would be silent for an hour."""
    order_id = new_order()
    await events.commit(order_id, "COMPLETED", 4)
    async with socket(api) as client:
        for since in ("4", "9"):
            await client.says("subscribe", channel=f"order:{order_id}", since=since)
            await client.until("ended", f"order:{order_id}")
            client.got.clear()


@pytest.mark.usefixtures("events")
async def test_a_channel_may_be_left_before_it_has_begun(api: Api) -> None:
    """Both in one breath, a hundred times: each is answered, and the connection goes on."""
    async with socket(api) as client:
        for number in range(50):
            await client.says("subscribe", channel=f"prices:A{number}")
            await client.says("unsubscribe", channel=f"prices:A{number}")
        await client.says("ping")
        await client.until("pong")
        assert [50] * 2 == [sum(one["type"] == kind for one in client.got) for kind in ("subscribed", "unsubscribed")]


async def test_nobody_sees_another_users_orders(api: Api, events: Events) -> None:
    """An order of somebody else is not found, and a service that acts for users follows them."""
    theirs = new_order()
    await events.commit(theirs, "VALIDATING", 1, user="bob")
    async with socket(api) as client, socket(api, "desk", scope="orders:read orders:act-for-users") as desk:
        await client.says("subscribe", channel=f"order:{theirs}")
        await client.until("error", f"order:{theirs}", code="order-not-found")
        await client.says("subscribe", channel="orders", user_id="bob")
        await client.until("error", "orders", code="other-user")
        await client.subscribe("orders")
        await desk.subscribe("orders", user_id="bob")
        await events.tell(theirs, "SETTLING", 2, user="bob")
        await desk.until("order", "orders", version=2)
        assert {} == client.versions()


@pytest.mark.parametrize("path", ["/ws", "/v1/ws", "/ws/"])
async def test_a_plain_request_is_told_to_upgrade(api: Api, path: str) -> None:
    """With the header that says to what (RFC 9110, 15.5.22): also when a proxy has dropped the client's own."""
    answer = await api.client.get(path)
    assert (426, "websocket", "upgrade") == (
        answer.status_code, answer.headers["upgrade"], answer.headers["connection"].lower(),
    )  # fmt: skip
    assert ("upgrade-required", "application/problem+json") == (answer.json()["code"], answer.headers["content-type"])
    assert (426, b"") == ((head := await api.client.head(path)).status_code, head.content)
    other = await api.client.post(path)
    assert (405, "GET, HEAD") == (other.status_code, other.headers["allow"])
    async with socket(api, path=path) as client:
        await client.until("authenticated")


async def test_an_operator_follows_the_orders_of_all(api: Api, events: Events) -> None:
    """With the scope for it, as by `GET /events?all=true`: nothing is shown first, and later a gap is told."""
    theirs = new_order()
    await events.commit(theirs, "VALIDATING", 1, user="bob")
    async with socket(api) as client, socket(api, "op", scope="orders:operate") as operator:
        await client.says("subscribe", channel="orders", all=True)
        await client.until("error", "orders", code="insufficient-scope")
        for refused in ({"channel": "orders", "user_id": "bob"}, {"channel": "prices:BTC"}):
            await operator.says("subscribe", all=True, **refused)
            await operator.until("error", refused["channel"], code="invalid-request")
        await operator.subscribe("orders", all=True)
        assert {} == operator.versions()
        await events.tell(theirs, "SETTLING", 2, user="bob")
        assert "bob" == (await operator.until("order", "orders", version=2))["data"]["order"]["user_id"]
    async with socket(api, "op", scope="orders:operate") as operator:
        await operator.subscribe("orders", all=True, since="t1772461800000000")
        assert None is (await operator.until("gap", "orders"))["data"]["list"]


async def test_a_browser_shows_its_token_in_the_first_message_and_renews_it(api: Api) -> None:
    """It can send no header. A renewed token must be the same user's; the connection then lasts as long as it."""
    async with socket(api, None) as client:
        await client.says("auth", token=token("alice", "orders:read", exp=int(time.time()) + 60))
        first = (await client.until("authenticated"))["data"]["expires_at"]
        await client.says("auth", token=token("bob", "orders:read"))
        await client.until("error", code="invalid-token")
        later = int(time.time()) + 900
        await client.says("auth", token=token("alice", "orders:read orders:write", exp=later))
        await client.until("authenticated", expires_at=later + 5.0)
        assert first < later
        await client.says("ping")
        await client.until("pong")


async def test_a_connection_ends_with_its_token(api: Api) -> None:
    """It says so, and its code says that a new token is needed."""
    async with socket(api, claims={"exp": int(time.time()) + 60}) as client:
        await client.subscribe("orders")
        expires(api)
        assert 4401 == (await client.end())[0]
        assert "expired" == client.got[-1]["data"]["why"]


async def test_at_the_end_of_the_process_everybody_is_told(settings: ApiSettings) -> None:
    """With a goodbye and the code 1001, well before the process is gone; a connection without a token, too."""
    async with running(settings) as api, socket(api) as client:
        await client.subscribe("orders")
        began = time.monotonic()
        await api.stop()
        assert (1001, "shutdown") == await client.end()
        assert 2_000 <= client.got[-1]["data"]["retry_ms"] < 10_000
        assert time.monotonic() - began < STOPS_WITHIN_S


async def test_streams_of_both_kinds_have_one_limit(settings: ApiSettings) -> None:
    """Of one user, and of all: by the handshake where it has a token, else by the code."""
    few = settings.model_copy(update={"api_streams_per_user_max": 2})
    async with running(few) as api, streaming(api), socket(api) as client:
        await client.until("authenticated")
        with pytest.raises(InvalidStatus) as refused:
            async with socket(api):
                pass
        assert [429, "application/problem+json"] == [
            refused.value.response.status_code, refused.value.response.headers["content-type"],
        ]  # fmt: skip
        async with socket(api, None) as late:
            await late.says("auth", token=token("alice", "orders:read"))
            assert 4429 == (await late.end())[0]
        assert 1.0 == await api.metric('http_server_streams{kind="websocket"}')


async def test_heartbeats_come_without_any_channel(api: Api) -> None:
    """With the channel of orders they say until when it is complete."""
    async with socket(api) as client:
        await client.until("authenticated")
        api.app.state.streams.tick(asyncio.get_running_loop().time() + 20)
        assert None is (await client.until("heartbeat"))["data"]["complete_until"]
