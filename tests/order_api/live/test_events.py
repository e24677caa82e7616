"""`GET /events`: what is there, then what comes; what is missed is shown or said; nobody sees another's orders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import pytest_asyncio

from operations.retention.erase import erase
from order_api.live import store as store_module
from order_api.live.mailbox import ORDERS_MAX, OrderEvent
from order_api.live.marks import mark_of
from order_api.live.streams import BYE_S
from order_api.settings import ApiSettings
from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url
from tests.order_api.live.support import (
    SOON_S,
    STOPS_WITHIN_S,
    Events,
    expires,
    followed,
    new_order,
    no_streams,
    streaming,
)
from tests.order_api.support import Api, Orchestrator, running, token, until
from tests.support.infrastructure import Database


@pytest_asyncio.fixture
async def events(api: Api, orchestrator: Orchestrator) -> AsyncIterator[Events]:
    """Publish events to the API that is under test, which follows them already."""
    await followed(api)
    yield Events(api.wire.publisher, orchestrator)


async def test_open_orders_come_first_and_then_each_change_as_it_is_committed(api: Api, events: Events) -> None:
    """The snapshot has what is open and not what has ended; live events are the bytes of the message on Kafka."""
    opened, ended = new_order(), new_order()
    await events.commit(opened, "VALIDATING", 1)
    await events.commit(ended, "COMPLETED", 4)
    async with streaming(api) as stream:
        assert "text/event-stream; charset=utf-8" == stream.answer.headers["content-type"]
        assert ["no", "no-store"] == [stream.answer.headers[name] for name in ("x-accel-buffering", "cache-control")]
        await stream.until("snapshot-end")
        assert {opened: 1} == stream.versions
        assert 2_000 <= (stream.got[0].retry or 0) < 10_000
        await events.tell(opened, "COMPLETED", 2)
        order = await stream.until("order", order_id=opened, version=2)
        assert ["COMPLETED", "alice"] == [json.loads(order.data)["status"], json.loads(order.data)["order"]["user_id"]]
        assert order.id.startswith("t")


async def test_nobody_sees_another_users_orders(api: Api, events: Events) -> None:
    """Neither in the snapshot nor live, nor when everybody looks again; nor by any parameter."""
    theirs, own = new_order(), new_order()
    await events.commit(theirs, "VALIDATING", 1, user="bob")
    async with streaming(api) as stream, streaming(api, user="bob") as bobs:
        await stream.until("snapshot-end")
        await events.tell(theirs, "SETTLING", 2, user="bob")
        api.app.state.follower._listener.missed()  # noqa: SLF001 - as after an outage of the broker
        await events.tell(own, "VALIDATING", 1)
        await stream.until("order", order_id=own)
        await bobs.until("order", order_id=theirs, version=2)
        assert {own} == stream.versions.keys()
        assert {theirs} == bobs.versions.keys()
    for path, code in (("/events?user_id=bob", "other-user"), ("/events?all=true", "insufficient-scope")):
        async with asyncio.timeout(15):  # a stream would not end
            answer = await api.get(path)
        assert (403, code) == (answer.status_code, answer.json()["code"])


async def test_a_service_follows_a_user_and_an_operator_follows_all(api: Api, events: Events) -> None:
    """By their scopes; an operator's stream begins with nothing, and who comes back to it is told of a gap."""
    order_id = new_order()
    await events.commit(order_id, "VALIDATING", 1, user="bob")
    desk, operator = {"scope": "orders:read orders:act-for-users"}, {"scope": "orders:operate"}
    async with (
        streaming(api, "/events?user_id=bob", user="desk", **desk) as for_user,
        streaming(api, "/events?all=true", user="op", **operator) as for_all,
        streaming(api, "/events?all=true", user="op", last_id="t1772461800000000", **operator) as again,
    ):
        for stream in (for_user, for_all, again):
            await stream.until("snapshot-end")
        assert [{order_id: 1}, {}] == [for_user.versions, for_all.versions]
        assert [{"since": "2026-03-02T14:30:00Z", "list": None}] == again.of("gap")
        await events.tell(order_id, "SETTLING", 2, user="bob")
        for stream in (for_user, for_all, again):
            await stream.until("order", order_id=order_id, version=2)


async def test_who_comes_back_is_shown_what_has_ended_meanwhile(api: Api, events: Events) -> None:
    """By the id that it had last, and at any process: all of it is read from the database."""
    before, meanwhile, opened = new_order(), new_order(), new_order()
    await events.commit(meanwhile, "VALIDATING", 1)
    async with streaming(api) as stream:
        await stream.until("snapshot-end")
        last_id = stream.last_id
    await events.commit(before, "COMPLETED", 3)
    await events.commit(meanwhile, "COMPLETED", 2)
    await events.commit(opened, "VALIDATING", 1)
    await _changed_at(events, before, datetime.now(UTC) - timedelta(hours=1))
    async with streaming(api, last_id=last_id) as stream:
        await stream.until("snapshot-end")
        assert {meanwhile: 2, opened: 1} == stream.versions
        assert [] == stream.of("gap")


async def test_more_than_can_be_shown_is_said_as_a_gap(
    api: Api, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest are shown, and the gap says since when and where to look; the same for too many open orders."""
    monkeypatch.setattr(store_module, "ORDERS_MAX", 2)
    ended = [new_order() for _ in range(3)]
    for order_id in ended:
        await events.commit(order_id, "COMPLETED", 3)
    mark = mark_of(datetime.now(UTC) - timedelta(minutes=1))
    async with streaming(api, last_id=f"t{mark}") as stream:
        await stream.until("snapshot-end")
        assert set(ended[1:]) == stream.versions.keys()
        [gap] = stream.of("gap")
        assert (await api.get(gap["list"])).json()["orders"]
        assert "gap" == next(one.event for one in stream.got if one.event in {"gap", "order"}), "it comes first"
    for order_id in ended:
        await events.commit(order_id, "VALIDATING", 4)
    async with streaming(api) as stream:
        await stream.until("snapshot-end")
        assert ([{"since": None, "list": "/orders"}], 2) == (stream.of("gap"), len(stream.versions))
    assert 2 == await api.metric("stream_gaps_total")


async def test_many_orders_are_read_page_by_page(api: Api, events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is left out between two pages."""
    monkeypatch.setattr(store_module, "PAGE", 2)
    orders = [new_order() for _ in range(5)]
    for order_id in orders:
        await events.commit(order_id, "VALIDATING", 1)
    async with streaming(api) as stream:
        await stream.until("snapshot-end")
        assert dict.fromkeys(orders, 1) == stream.versions


@pytest.mark.usefixtures("events")
async def test_a_reader_that_was_too_slow_for_its_mailbox_is_told_of_the_gap(api: Api) -> None:
    """Before what is left of it, with the time from which on it may lack something."""
    async with streaming(api) as stream:
        last = (await stream.until("snapshot-end")).id
        [one] = api.app.state.streams._streams  # noqa: SLF001 - no client is this slow in a test
        for number in range(ORDERS_MAX + 1):
            one.mailbox.put(OrderEvent(b"%d" % number, 1, b'{"order_id": "x", "version": 1}', 0))
        await stream.until("order")
        assert ["gap", "order"] == [got.event for got in stream.got if got.event in {"gap", "order"}]
        [gap] = stream.of("gap")
        assert mark_of(datetime.fromisoformat(gap["since"])) == int((last or "").removeprefix("t"))


async def test_a_user_with_very_many_orders_is_told_that_some_were_not_looked_at(
    api: Api, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that have ended are looked for among the newest only."""
    monkeypatch.setattr(store_module, "SCANNED_MAX", 2)
    orders = [new_order() for _ in range(3)]
    for order_id in orders:
        await events.commit(order_id, "COMPLETED", 3)
    async with streaming(api, last_id=f"t{mark_of(datetime.now(UTC))}") as stream:
        await stream.until("snapshot-end")
        assert (set(orders[1:]), 1) == (set(stream.versions), len(stream.of("gap")))


async def test_an_id_of_the_future_is_a_gap_and_its_list_shows_all(api: Api, events: Events) -> None:
    """As after the database was restored from a backup: what came before such an id, nobody knows."""
    ended = new_order()
    await events.commit(ended, "COMPLETED", 3)
    for mark in (mark_of(datetime.now(UTC) + timedelta(hours=1)), 10**17 - 1):
        async with streaming(api, last_id=f"t{mark}") as stream:
            await stream.until("snapshot-end")
            [gap] = stream.of("gap")
            assert gap["since"] is None
            assert [ended] == [one["order_id"] for one in (await api.get(gap["list"])).json()["orders"]]


@pytest.mark.parametrize(
    "query",
    [
        "all=maybe",
        "all=true&user_id=bob",
        "prices=%20",
        "prices=" + "A," * 51,
        "user_id=%00",
        "limit=3",
        "all=true&all=true",
    ],
)
async def test_a_parameter_that_breaks_its_rule_is_refused(api: Api, query: str) -> None:
    """422, and no stream is opened."""
    answer = await api.get(f"/events?{query}", scope="orders:operate")
    assert (422, 0) == (answer.status_code, len(api.app.state.streams))


async def test_missed_events_are_read_again(api: Api, events: Events) -> None:
    """After the broker was away: an order changed, no event came, and the stream shows it all the same."""
    order_id = new_order()
    await events.commit(order_id, "VALIDATING", 1)
    async with streaming(api) as stream:
        await stream.until("snapshot-end")
        await events.commit(order_id, "COMPLETED", 2)
        api.app.state.follower._listener.missed()  # noqa: SLF001 - as after an outage
        await stream.until("order", order_id=order_id, version=2)


async def test_a_database_that_is_away_ends_a_stream_that_must_read(
    api: Api, events: Events, orchestrator: Orchestrator
) -> None:
    """It says so, and the client comes back with its last id; meanwhile a new stream is a 503."""
    order_id = new_order()
    await events.commit(order_id, "VALIDATING", 1)
    async with streaming(api) as stream:
        await stream.until("snapshot-end")
        last_id = stream.last_id
        async with orchestrator.locking("orders.orders"):
            api.app.state.follower._listener.missed()  # noqa: SLF001 - as after an outage
            await stream.until("bye", why="unavailable")
            assert 503 == (await api.get("/events")).status_code
            await asyncio.wait_for(stream.ended.wait(), SOON_S)
        assert last_id == stream.last_id
    await events.commit(order_id, "COMPLETED", 2)
    async with streaming(api, last_id=last_id) as stream:
        await stream.until("order", order_id=order_id, version=2)


async def test_money_that_moved_is_hinted_at(api: Api, events: Events) -> None:
    """With the event of an order that has a quote: which balances are worth a look."""
    order_id = new_order()
    quote = json.dumps({"quote": {"cash_asset_id": "USD"}})
    async with streaming(api) as stream:
        await stream.until("snapshot-end")
        await events.tell(order_id, "VALIDATING", 1)
        await stream.until("order", version=1)
        assert [] == stream.of("account")
        await events.tell(order_id, "COMPLETED", 2, progress=quote)
        assert {"assets": ["BTC", "USD"]} == json.loads((await stream.until("account")).data)


@pytest.mark.usefixtures("events")
async def test_a_stream_ends_with_its_token(api: Api) -> None:
    """It says why, and when to come back."""
    soon = int(datetime.now(UTC).timestamp()) + 60
    async with streaming(api, claims={"exp": soon}) as stream:
        await stream.until("snapshot-end")
        expires(api)
        bye = await stream.until("bye", why="expired")
        await asyncio.wait_for(stream.ended.wait(), SOON_S)
        assert 2_000 <= (bye.retry or 0) < 10_000
    await no_streams(api)
    assert 1 == await api.metric('stream_ended_total{why="expired"}')


@pytest.mark.usefixtures("events")
async def test_streams_say_goodbye_when_the_process_ends(api: Api) -> None:
    """At once, and the process ends at once, too; a client that does not read holds it up for a moment only."""
    async with streaming(api) as stream:
        await stream.until("snapshot-end")
        await asyncio.wait_for(api.stop(), STOPS_WITHIN_S)
        assert [{"why": "shutdown"}] == stream.of("bye")
        await asyncio.wait_for(stream.ended.wait(), SOON_S)


@pytest.mark.usefixtures("events")
async def test_a_client_that_is_gone_leaves_nothing_behind(api: Api) -> None:
    """Its stream is closed at once, not with the next heartbeat; nobody is followed any more."""
    async with streaming(api) as stream:
        await stream.until("snapshot-end")
        assert 1 == await api.metric('http_server_streams{kind="sse"}')
        assert 0 == await api.metric("http_server_in_flight_requests")
    await no_streams(api)
    assert not api.app.state.streams._feed.followed  # noqa: SLF001 - who follows is nobody's business otherwise
    assert 0 == await api.metric('http_server_streams{kind="sse"}')
    assert 1 == await api.metric('stream_ended_total{why="gone"}')


async def test_a_stream_is_no_request_that_is_measured_or_limited_in_time(
    settings: ApiSettings,
    orchestrator: Orchestrator,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It outlives the longest request, is not in the histogram, and has a line in the access log at each end."""
    monkeypatch.setattr("order_api.http.limits.REQUEST_S", 0.5)
    async with running(settings) as api:
        await followed(api)
        events, order_id = Events(api.wire.publisher, orchestrator), new_order()
        async with streaming(api) as stream:
            await stream.until("snapshot-end")
            await _passes(1.0)
            await events.tell(order_id, "VALIDATING", 1)
            await stream.until("order", order_id=order_id)
        await no_streams(api)
        metrics = (await api.client.get("/metrics")).text
        assert 'route="/events"' not in metrics
    lines = [line for line in capfd.readouterr().err.splitlines() if "/events" in line]
    assert [True, True] == ["stream began" in lines[0], "stream ended" in lines[-1]]
    assert 2 == len(lines)


async def _passes(seconds: float) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    await until(lambda: clock() - began > seconds)


async def test_a_user_has_so_many_streams_at_a_process(settings: ApiSettings) -> None:
    """The next one is refused with the problem that says so; a process has a bound, too."""
    limits = {"api_streams_per_user_max": 1, "api_streams_max": 2}
    async with running(settings.model_copy(update=limits)) as api:
        async with streaming(api), streaming(api, user="bob"):
            answer = await api.get("/events")
            assert (503, "overloaded") == (answer.status_code, answer.json()["code"])
        await no_streams(api)
        async with streaming(api):
            answer = await api.get("/events")
            assert (429, "too-many-streams") == (answer.status_code, answer.json()["code"])
            assert answer.headers["retry-after"]


async def test_a_head_request_opens_no_stream(api: Api) -> None:
    """It has the headers, and ends."""
    answer = await api.call("HEAD", "/events")
    assert (200, "text/event-stream; charset=utf-8") == (answer.status_code, answer.headers["content-type"])


async def test_a_client_that_does_not_read_is_cut_and_blocks_nobody(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """Its stream takes no more memory than a mailbox; others hear of everything meanwhile; then its connection ends."""
    async with running(settings) as api:
        api.app.state.connections._answer_s = 5.0  # noqa: SLF001 - as long as one who reads may be held up
        await followed(api)
        events = Events(api.wire.publisher, orchestrator)
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port, limit=2**10)
        writer.write(f"GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token()}\r\n\r\n".encode())
        await until(lambda: len(api.app.state.streams) == 1)
        order_id, long = new_order(), "x" * 400_000
        async with streaming(api) as other:
            await other.until("snapshot-end")
            for version in range(1, 40):
                await events.tell(order_id, "VALIDATING", version, reason=long)
                await other.until("order", order_id=order_id, version=version)
                if len(api.app.state.streams) == 1:
                    break
            await until(lambda: len(api.app.state.streams) == 1, within_s=60)
        assert 1 == await api.metric('http_server_connections_cut_total{why="answer not read"}')
        assert not reader.at_eof()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_browser_of_another_origin_may_send_its_last_id(settings: ApiSettings) -> None:
    """The preflight allows the header."""
    async with running(settings.model_copy(update={"api_cors_origins": "https://trade.example"})) as api:
        asks = {
            "Origin": "https://trade.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization,last-event-id",
        }
        answer = await api.client.options("/events", headers=asks)
        assert (200, "https://trade.example") == (answer.status_code, answer.headers["access-control-allow-origin"])


async def test_prices_come_with_the_orders_that_a_stream_follows(api: Api, events: Events) -> None:
    """Of the assets that were asked for and no others, the newest alone, four times a second at most."""
    feed = api.app.state.streams._feed  # noqa: SLF001 - prices are heard of by whoever knows the market
    async with streaming(api, "/events?prices=BTC,ETH") as stream:
        await stream.until("snapshot-end")
        for price in range(5):
            feed.hear_prices({"BTC": b'{"asset_id":"BTC","price":"%d"}' % price, "DOGE": b"{}"})
        await stream.until("price", asset_id="BTC", price="4")
        order_id = new_order()
        await events.tell(order_id, "VALIDATING", 1)
        await stream.until("order", order_id=order_id)
        assert [{"asset_id": "BTC", "price": "4"}] == stream.of("price")


async def test_a_reader_that_is_stuck_does_not_hold_up_the_end_of_the_process(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """Its goodbye can't be sent, so its connection is cut, long before the process would be killed."""
    async with running(settings) as api:
        await followed(api)
        events, order_id = Events(api.wire.publisher, orchestrator), new_order()
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port, limit=2**10)
        writer.write(f"GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token()}\r\n\r\n".encode())
        await reader.readuntil(b"snapshot-end")
        connections = api.app.state.connections
        for version in range(1, 40):
            await events.tell(order_id, "VALIDATING", version, reason="x" * 400_000)
            if any(one.transport.get_write_buffer_size() for one in connections._open):  # noqa: SLF001 - it is stuck
                break
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(api.stop(), STOPS_WITHIN_S)
        assert BYE_S <= asyncio.get_running_loop().time() - began
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_what_was_erased_is_shown_no_more(api: Api, events: Events, database: Database) -> None:
    """A stream has no memory of its own: it shows what the database has now."""
    order_id = new_order()
    await events.commit(order_id, "COMPLETED", 4, client_order_id="a-name-of-mine")
    engine = create_engine(parse_database_url(database.url), application_name="test", pool_size=1)
    assert [] == (await erase(engine, "alice")).in_the_way
    await engine.dispose()
    async with streaming(api, last_id=f"t{mark_of(datetime.now(UTC))}") as stream:
        await stream.until("snapshot-end")
        assert [None] == [one["order"]["client_order_id"] for one in stream.of("order")]


@pytest.mark.usefixtures("events")
async def test_an_idle_stream_has_one_task(api: Api) -> None:
    """Its request's own: no timer, no reader, no watcher."""
    head = f"GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token()}\r\n\r\n".encode()
    streams, writers = api.app.state.streams, []
    async with streaming(api, user="bob") as other:
        await other.until("snapshot-end")
        before = len(asyncio.all_tasks())
        for number in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writers.append(writer)
            writer.write(head)
            await asyncio.wait_for(reader.readuntil(b"snapshot-end"), SOON_S)
            assert number + 2 == len(streams)
        await until(lambda: len(asyncio.all_tasks()) <= before + len(writers))
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    await no_streams(api)


async def _changed_at(events: Events, order_id: str, at: datetime) -> None:
    await events._orchestrator.run(  # noqa: SLF001 - a time of the past
        "UPDATE orders.orders SET updated_at = $2 WHERE order_id = $1", UUID(order_id), at
    )


GIVE_UP = """
    WITH told AS (UPDATE webhooks.changes SET version = version + 1)
    INSERT INTO webhooks.endpoints
        (endpoint_id, user_id, kind, target, event_types, secrets, state, disabled_reason, disabled_at)
    VALUES ($1, $2, $3, $4, '{}', '[]', 'DISABLED', 'it answered 410: it is gone', statement_timestamp())"""


async def test_an_endpoint_that_is_given_up_is_told_in_its_users_streams(
    api: Api, events: Events, orchestrator: Orchestrator
) -> None:
    """Live and once; to who comes later, at the beginning; to nobody else, and without what lets somebody in there."""
    first, second, order_id = UUID(int=1), UUID(int=2), new_order()
    async with streaming(api) as stream, streaming(api, user="bob") as bobs:
        for one in (stream, bobs):
            await one.until("snapshot-end")
        await orchestrator.run(GIVE_UP, first, "alice", "webhook", "https://hooks.example/T01?key=secret")
        told = await stream.until("webhook.disabled", type="webhook.disabled")
        assert {
            "endpoint_id": str(first),
            "url": "https://hooks.example",
            "reason": "it answered 410: it is gone",
        } == json.loads(told.data)["data"]
        assert stream.last_id == told.id, "it is no place to come back to"
        await orchestrator.run(GIVE_UP, second, "alice", "email", "secret@example.com")
        await stream.until(
            "webhook.disabled",
            data={"endpoint_id": str(second), "url": "email", "reason": "it answered 410: it is gone"},
        )
        api.app.state.follower._listener.missed()  # noqa: SLF001 - as after an outage of the broker
        await events.tell(order_id, "VALIDATING", 1)
        await stream.until("order", order_id=order_id)
        assert 2 == len(stream.of("webhook.disabled")), "each once"
        assert [] == bobs.of("webhook.disabled")
    async with streaming(api, last_id=stream.last_id) as again:
        await again.until("snapshot-end")
        assert 2 == len(again.of("webhook.disabled"))
        assert "secret" not in str(again.of("webhook.disabled"))
    await orchestrator.run("UPDATE webhooks.endpoints SET state = 'ACTIVE', disabled_reason = NULL, disabled_at = NULL")
    async with streaming(api) as later:
        await later.until("snapshot-end")
        assert [] == later.of("webhook.disabled")
