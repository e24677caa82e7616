"""Waiting for an order: until it ends, until it changes, until the time is over; by events, never by asking a table."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
import pytest_asyncio

from contracts import codec
from contracts.envelope import Outgoing
from contracts.orders import Order, OrderStatusChanged
from contracts.topics import ORDERS_EVENTS
from contracts.vocabulary import OrderStatus
from order_api.orders.store import Found, Store
from order_api.orders.waiting import Waiters
from order_api.settings import ApiSettings
from saga_kit.messaging.publisher import Publisher
from tests.order_api.support import Api, Orchestrator, running, token, until

SOON_S = 15.0
"""Before any wait of these tests is over: so it was an event that woke."""


class Events:
    """Publishes an order's events, as the orchestrator does after its commit."""

    def __init__(self, publisher: Publisher, orchestrator: Orchestrator, api: Api) -> None:
        self._publisher = publisher
        self._orchestrator = orchestrator
        self._api = api

    async def commit(self, order_id: str, phase: str, version: int, **columns: Any) -> None:
        """Commit a version of an order and publish it."""
        await self._orchestrator.shows(order_id, phase=phase, version=version, **columns)
        await self.publish([order_id])

    async def publish(self, order_ids: Sequence[str]) -> None:
        """Publish the versions that these orders have."""
        rows = await self._orchestrator.run(
            "SELECT * FROM api.orders WHERE order_id = ANY($1::uuid[])", [UUID(order_id) for order_id in order_ids]
        )
        messages = []
        for row in rows:
            status = OrderStatus(row["status"])
            order = Order(**{name: row[name] for name in Order.__struct_fields__} | _NUMBERS)
            event = OrderStatusChanged(row["order_id"], row["version"], status, None, None, datetime.now(UTC), order)
            message_id = f"{row['order_id']}:v{row['version']}"
            messages.append(codec.outgoing(event, message_id=message_id, source="test", time=datetime.now(UTC)))
        assert await self._publisher.publish(messages)


_NUMBERS: dict[str, Any] = dict.fromkeys(("quantity", "price", "filled_quantity", "average_price", "fee"), None)


@pytest_asyncio.fixture
async def events(api: Api, orchestrator: Orchestrator) -> AsyncIterator[Events]:
    """Publish events to the API that is under test, which follows them already."""
    follower = api.app.state.follower
    await until(lambda: follower.following)
    yield Events(api.wire.publisher, orchestrator, api)


def _prefer(seconds: object, **headers: str) -> dict[str, str]:
    return {"Prefer": f"wait={seconds}", **headers}


async def _waits(api: Api, count: int = 1) -> None:
    await until(lambda: api.app.state.waiters.waiting == count, 60)


@pytest.mark.parametrize(
    ("phase", "columns"),
    [
        ("COMPLETED", {}),
        ("FAILED", {"reason_code": "INSUFFICIENT_BALANCE", "reason": "5.00 USD"}),
        ("CANCELLED", {"reason_code": "USER_REQUESTED"}),
    ],
)
async def test_a_submission_that_waits_gets_the_order_as_it_ended(
    api: Api, events: Events, phase: str, columns: dict[str, Any]
) -> None:
    """201 with the terminal order, whichever end it was; the resource exists."""
    waiting = asyncio.create_task(api.submit(headers=_prefer(20)))
    await _waits(api)
    order_id = api.wire.asked[0].key
    await events.commit(order_id, "VALIDATING", 1)
    await events.commit(order_id, phase, 2, **columns)

    answer = await asyncio.wait_for(waiting, SOON_S)

    assert 201 == answer.status_code
    assert "wait=20" == answer.headers["preference-applied"]
    assert f"/orders/{order_id}" == answer.headers["location"]
    assert '"2"' == answer.headers["etag"]
    body = answer.json()
    assert (phase, 2, columns.get("reason_code")) == (body["status"], body["version"], body["reason_code"])


def test_streams_take_places_of_requests_that_wait() -> None:
    """Together they leave connections for requests that do neither."""
    streams = [1]
    waiters = Waiters(waiting_max=2, beside=lambda: len(streams))
    with waiters.waiter(b"x", for_end=True):
        assert waiters.full("alice")
        streams.clear()
        assert [False] == [waiters.full("alice")]


async def test_a_wait_that_is_over_gets_the_order_as_it_is(api: Api, events: Events) -> None:
    """202 after the time: accepted, not ended; the wait was honoured."""
    waiting = asyncio.create_task(api.submit(headers=_prefer(1)))
    await _waits(api)
    await events.commit(api.wire.asked[0].key, "VALIDATING", 1)

    answer = await waiting

    assert (202, "PENDING", 1) == (answer.status_code, answer.json()["status"], answer.json()["version"])
    assert "wait=1" == answer.headers["preference-applied"]


async def test_no_wait_is_longer_than_thirty_seconds(api: Api, events: Events) -> None:
    """A longer wish is cut, and the answer says so."""
    waiting = asyncio.create_task(api.submit(headers=_prefer(86400)))
    await _waits(api)
    await events.commit(api.wire.asked[0].key, "COMPLETED", 4)

    assert "wait=30" == (await waiting).headers["preference-applied"]


@pytest.mark.parametrize("preference", ["wait=0", "wait=-1", "wait=soon", "respond-async", "", "wait=1e3"])
async def test_a_preference_that_says_nothing_is_no_error(api: Api, preference: str) -> None:
    """A wish that can't be understood is left out (RFC 7240), and not said to be honoured."""
    answer = await api.submit(headers={"Prefer": preference})

    assert 202 == answer.status_code
    assert "preference-applied" not in answer.headers


async def test_a_replayed_submission_waits_too(api: Api, events: Events) -> None:
    """The same keys again, with the wish to wait: the same order, when it has ended."""
    first = (await api.submit(key="k")).json()["order_id"]
    waiting = asyncio.create_task(api.submit(key="k", headers=_prefer(20)))
    await _waits(api)
    await events.commit(first, "COMPLETED", 4)

    answer = await asyncio.wait_for(waiting, SOON_S)

    assert (201, first) == (answer.status_code, answer.json()["order_id"])
    assert "true" == answer.headers["idempotency-replayed"]


async def test_a_status_can_be_waited_for_version_by_version(api: Api, events: Events) -> None:
    """With the version that the client knows, the next one is the answer; and so on, to the end."""
    order_id = (await api.submit()).json()["order_id"]
    known = '"0"'
    for version, phase in enumerate(("VALIDATING", "SETTLING", "COMPLETED"), start=1):
        waiting = asyncio.create_task(
            api.get(f"/orders/{order_id}/status", headers=_prefer(20, **{"If-None-Match": known}))
        )
        await _waits(api)
        await events.commit(order_id, phase, version)
        answer = await asyncio.wait_for(waiting, SOON_S)
        assert (200, version) == (answer.status_code, answer.json()["version"])
        known = answer.headers["etag"]
    again = await api.get(f"/orders/{order_id}/status", headers=_prefer(20, **{"If-None-Match": known}))
    assert (304, b"") == (again.status_code, again.content)  # at once: nothing follows an end


async def test_without_a_known_version_the_end_is_waited_for(api: Api, events: Events) -> None:
    """What happens in between wakes nobody."""
    order_id = (await api.submit()).json()["order_id"]
    waiting = asyncio.create_task(api.get(f"/orders/{order_id}", headers=_prefer(20)))
    await _waits(api)
    await events.commit(order_id, "VALIDATING", 1)
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await events.commit(order_id, "FAILED", 2)

    answer = await asyncio.wait_for(waiting, SOON_S)

    assert ("FAILED", "wait=20") == (answer.json()["status"], answer.headers["preference-applied"])


async def test_a_known_version_is_304(api: Api, orchestrator: Orchestrator) -> None:
    """If-None-Match without a wish to wait is answered at once; another version, a list, a star and nonsense too."""
    order_id = (await api.submit()).json()["order_id"]
    await orchestrator.shows(order_id, version=3)
    for path in (f"/orders/{order_id}", f"/orders/{order_id}/status"):
        for known, status in (('"3"', 304), ('W/"3"', 304), ('"1", "3"', 304), ("*", 304), ('"2"', 200), ("3", 200)):
            answer = await api.get(path, headers={"If-None-Match": known})
            assert (known, status) == (known, answer.status_code)
            assert '"3"' == answer.headers["etag"]


async def test_nothing_changed_until_the_time_was_over(api: Api, events: Events) -> None:
    """304 when the version that the client knows is still the newest."""
    order_id = (await api.submit()).json()["order_id"]
    await events.commit(order_id, "VALIDATING", 1)

    answer = await api.get(f"/orders/{order_id}/status", headers=_prefer(1, **{"If-None-Match": '"1"'}))

    assert (304, '"1"', "wait=1") == (
        answer.status_code,
        answer.headers["etag"],
        answer.headers["preference-applied"],
    )


async def test_an_order_of_another_user_can_t_be_waited_for(api: Api) -> None:
    """404 at once: no time tells that it exists."""
    order_id = (await api.submit()).json()["order_id"]
    async with asyncio.timeout(SOON_S):
        answer = await api.get(f"/orders/{order_id}/status", user="bob", headers=_prefer(20))
    assert 404 == answer.status_code


async def test_a_thousand_wait_for_nothing_and_are_all_woken(
    settings: ApiSettings, orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing happens 1,000 waiters ask the database nothing; then each is told of its own order."""
    for name in ("request_headers.WAIT_MAX_S", "limits.REQUEST_S"):
        monkeypatch.setattr(f"order_api.http.{name}", 300)  # a busy machine needs long for so many
    looks: list[UUID] = []
    find = Store.find

    async def counted(self: Store, order_ids: Sequence[UUID]) -> list[Found]:
        looks.extend(order_ids)
        return await find(self, order_ids)

    monkeypatch.setattr(Store, "find", counted)
    order_ids = [str(uuid4()) for _ in range(1000)]
    sweeps_as_usual = settings.model_copy(update={"api_sweep_interval_s": 1.0})  # these cost something while all wait
    async with running(sweeps_as_usual) as api:
        await until(lambda: api.app.state.follower.following)
        await _insert(orchestrator, order_ids)
        waiting = [asyncio.create_task(_wait_for(api, order_id)) for order_id in order_ids]
        await _waits(api, 1000)
        await until(lambda: len(looks) >= 1000, 60)
        await asyncio.sleep(0.5)
        looks.clear()
        assert (1000, 1) == (
            await api.metric("http_server_waiting_requests"),
            await api.metric("order_events_followed"),
        )
        idle_cpu_s, seconds = await _cpu_of(asyncio.sleep(3.0))
        assert [] == looks
        assert idle_cpu_s < 0.1 * seconds  # the test's own 1,000 clients included

        await orchestrator.run(
            "UPDATE orders.orders SET phase = 'COMPLETED', status = 'COMPLETED', version = 4"
            " WHERE order_id = ANY($1::uuid[])",
            order_ids,
        )
        began = time.monotonic()
        await Events(api.wire.publisher, orchestrator, api).publish(order_ids)
        answers = await asyncio.wait_for(asyncio.gather(*waiting), 60)

    print(  # noqa: T201 - a figure for who runs it with -s
        f"1,000 waiters: {idle_cpu_s / seconds:.1%} of a core idle, all woken in {time.monotonic() - began:.2f} s"
    )
    assert {(200, "COMPLETED")} == {(status, body["status"]) for status, body in answers}
    assert order_ids == [body["order_id"] for _, body in answers]
    assert len(looks) <= 1100  # one look each, whatever comes twice


async def _wait_for(api: Api, order_id: str) -> tuple[int, Any]:
    """Wait for an order's end by a connection of one's own; a client library's pool is no part of this."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = (
        f"GET /orders/{order_id}/status HTTP/1.1",
        "Host: test",
        f"Authorization: Bearer {token(scope='orders:read orders:act-for-users')}",
        "Prefer: wait=300",
        "Connection: close",
    )
    writer.write("\r\n".join((*head, "", "")).encode())
    answer, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(answer.split(b" ", 2)[1]), json.loads(body)


async def _insert(orchestrator: Orchestrator, order_ids: Sequence[str]) -> None:
    await orchestrator.run(
        "INSERT INTO orders.orders (order_id, user_id, asset_id, order_type, quantity, phase, status, version,"
        " cancel_requested, filled_quantity, fee, progress, parked_reason, history_seq, created_at, updated_at)"
        " SELECT id, 'alice', 'BTC', 'MARKET_BUY', 1, 'VALIDATING', 'PENDING', 1, false, 0, 0, '{}', 'test', 0,"
        " now(), now() FROM unnest($1::uuid[]) AS id",
        order_ids,
    )


async def _cpu_of(work: Any) -> tuple[float, float]:
    process = psutil.Process()
    before, began = process.cpu_times(), time.monotonic()
    await work
    after = process.cpu_times()
    return after.user + after.system - before.user - before.system, time.monotonic() - began


async def test_a_crowd_too_large_is_answered_without_waiting(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is bounded: one too many gets what there is at once, and is not told that it waited."""
    monkeypatch.setattr(api.app.state.waiters, "_waiting_max", 1)
    first = asyncio.create_task(api.submit(headers=_prefer(30)))
    await _waits(api)

    second = await asyncio.wait_for(api.submit(headers=_prefer(20)), SOON_S)

    assert 202 == second.status_code
    assert "preference-applied" not in second.headers
    api.app.state.waiters.close()
    await first


async def test_who_hangs_up_waits_no_longer(api: Api) -> None:
    """A client that goes away no longer counts as waiting."""
    waiting = asyncio.create_task(api.submit(headers=_prefer(30)))
    await _waits(api)
    waiting.cancel()
    await asyncio.wait([waiting])

    async with asyncio.timeout(SOON_S):
        await _waits(api, 0)


async def test_a_process_that_ends_answers_who_waits(settings: ApiSettings) -> None:
    """Nobody is cut off: who waits gets what there is, well before the wait is over."""
    async with running(settings) as api:
        waiting = asyncio.create_task(api.submit(headers=_prefer(30)))
        await _waits(api)
        began = time.monotonic()
        await api.stop()
        answer = await waiting

    assert (202, "PENDING") == (answer.status_code, answer.json()["status"])
    assert time.monotonic() - began < SOON_S


@pytest.mark.usefixtures("events")
async def test_an_event_that_can_t_be_read_wakes_whom_it_names(api: Api, orchestrator: Orchestrator) -> None:
    """A body that is not ours to read costs a look, not the wait."""
    order_id = (await api.submit()).json()["order_id"]
    waiting = asyncio.create_task(api.get(f"/orders/{order_id}", headers=_prefer(20)))
    await _waits(api)
    await orchestrator.shows(order_id, phase="COMPLETED", version=4)
    assert await api.wire.publisher.publish([Outgoing(ORDERS_EVENTS.name, order_id, "x", b"?", [])])

    assert "COMPLETED" == (await asyncio.wait_for(waiting, SOON_S)).json()["status"]


async def test_one_user_does_not_take_all_the_waiting(settings: ApiSettings) -> None:
    """A user's waits are bounded: one more is answered without waiting. Others, and trusted services, still wait."""
    async with running(settings.model_copy(update={"api_waits_per_user_max": 2})) as api:
        mine = (await api.submit()).json()["order_id"]
        bobs = (await api.submit(user="bob")).json()["order_id"]
        wish = {"prefer": "wait=20"}
        waiting = [asyncio.create_task(api.get(f"/orders/{mine}", headers=wish)) for _ in range(2)]
        await until(lambda: api.app.state.waiters.waiting == 2)
        answer = await asyncio.wait_for(api.get(f"/orders/{mine}", headers=wish), 10)
        assert (200, False) == (answer.status_code, "preference-applied" in answer.headers)
        assert 202 == (await asyncio.wait_for(api.submit(headers=wish), 10)).status_code
        waiting.append(asyncio.create_task(api.get(f"/orders/{bobs}", headers=wish, user="bob")))
        service = {"user": "service", "scope": "orders:read orders:act-for-users", "headers": wish}
        waiting += [asyncio.create_task(api.get(f"/orders/{mine}", **service)) for _ in range(3)]
        await until(lambda: api.app.state.waiters.waiting == 6)
        api.app.state.waiters.close()
        assert {200} == {one.status_code for one in await asyncio.gather(*waiting)}
        assert not api.app.state.waiters._users  # noqa: SLF001 - nobody is kept in memory
