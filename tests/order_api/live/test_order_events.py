"""`GET /orders/{order_id}/events`: every version of one order, once, to its last one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.order_api.live.support import SOON_S, Events, followed, members, new_order, streaming
from tests.order_api.support import Api, Orchestrator


@pytest_asyncio.fixture
async def events(api: Api, orchestrator: Orchestrator) -> AsyncIterator[Events]:
    """Publish events to the API that is under test, which follows them already."""
    await followed(api)
    yield Events(api.wire.publisher, orchestrator)


def _path(order_id: str) -> str:
    return f"/orders/{order_id}/events"


async def test_an_order_is_followed_to_its_end(api: Api, events: Events) -> None:
    """It begins with the order as it is, ids are versions, and the stream ends after the last one without a goodbye."""
    order_id = new_order()
    await events.commit(order_id, "VALIDATING", 1)
    async with streaming(api, _path(order_id)) as stream:
        await stream.until("snapshot-end")
        await events.tell(order_id, "SETTLING", 2)
        await stream.until("order", version=2)
        await events.tell(order_id, "COMPLETED", 3)
        await asyncio.wait_for(stream.ended.wait(), SOON_S)
        assert [("1", 1), ("2", 2), ("3", 3)] == [
            (one.id, json.loads(one.data)["version"]) for one in stream.got if one.event == "order"
        ]
        assert [] == stream.of("bye")
    assert 1 == await api.metric('stream_ended_total{why="ended"}')


async def test_every_missed_version_comes_from_the_history(api: Api, events: Events) -> None:
    """To a client that was away, and to one that was there when an event did not come."""
    order_id = new_order()
    await events.commit(order_id, "VALIDATING", 1)
    async with streaming(api, _path(order_id)) as stream:
        await stream.until("snapshot-end")
        await events.commit(order_id, "QUEUED", 2)
        await events.commit(order_id, "SETTLING", 3)
        await events.tell(order_id, "COMPLETED", 4)
        await asyncio.wait_for(stream.ended.wait(), SOON_S)
        there = [one.id for one in stream.got if one.event in {"order", "version"}]
    async with streaming(api, _path(order_id), last_id="1") as stream:
        await asyncio.wait_for(stream.ended.wait(), SOON_S)
        away = [one.id for one in stream.got if one.event in {"order", "version"}]
        past = [members(one, "version", "previous_status", "status") for one in stream.of("version")]
    assert [["1", "2", "3", "4"], ["2", "3", "4"]] == [there, away]
    assert [[2, "PENDING", "CONFIRMED"], [3, "CONFIRMED", "PROCESSING"]] == past


async def test_versions_that_the_history_does_not_have_are_a_gap(api: Api, events: Events) -> None:
    """Said before the order as it is."""
    order_id = new_order()
    await events.commit(order_id, "COMPLETED", 4)
    async with streaming(api, _path(order_id), last_id="1") as stream:
        await asyncio.wait_for(stream.ended.wait(), SOON_S)
        assert [{"since": None, "list": f"/orders/{order_id}/history"}] == stream.of("gap")
        assert {order_id: 4} == stream.versions


async def test_who_has_the_last_version_is_told_that_there_is_no_more(api: Api, events: Events) -> None:
    """204, on which a browser does not come back."""
    order_id = new_order()
    await events.commit(order_id, "COMPLETED", 4)
    answer = await api.get(_path(order_id), headers={"Last-Event-ID": "4"})
    assert (204, b"") == (answer.status_code, answer.content)


async def test_an_order_that_was_just_accepted_is_followed_from_its_claim(api: Api, events: Events) -> None:
    """Version 0, before the orchestrator has it; then as it comes. By its user's name for it, too."""
    order_id = (await api.submit({"client_order_id": "mine"})).json()["order_id"]
    async with streaming(api, _path(order_id)) as stream, streaming(api, "/orders/by-client-id/mine/events") as named:
        for one in (stream, named):
            await one.until("order", version=0, status="PENDING")
        await events.tell(order_id, "COMPLETED", 1)
        for one in (stream, named):
            await asyncio.wait_for(one.ended.wait(), SOON_S)
            assert {order_id: 1} == one.versions


async def test_an_id_that_another_user_took_shows_its_claimer_nothing_of_that_order(api: Api, events: Events) -> None:
    """The claim has failed; the other user's order is never seen."""
    order_id = (await api.submit()).json()["order_id"]
    async with streaming(api, _path(order_id)) as stream:
        await stream.until("order", version=0)
        await events.tell(order_id, "SETTLING", 2, user="bob")
        await asyncio.wait_for(stream.ended.wait(), SOON_S)
        assert {"alice"} == {one["order"]["user_id"] for one in stream.of("order")}
        assert "FAILED" == stream.of("order")[-1]["status"]


async def test_another_users_order_does_not_exist(api: Api, events: Events) -> None:
    """404, as for any other call."""
    order_id = new_order()
    await events.commit(order_id, "VALIDATING", 1, user="bob")
    for path in (_path(order_id), _path(new_order()), _path("x"), "/orders/by-client-id/none/events"):
        answer = await api.get(path)
        assert (404, "order-not-found") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("broken", ["x", "-1", "t1", "1.0", "9" * 10])
async def test_a_broken_version_is_refused(api: Api, events: Events, broken: str) -> None:
    """422."""
    order_id = new_order()
    await events.commit(order_id, "VALIDATING", 1)
    answer = await api.get(_path(order_id), headers={"Last-Event-ID": broken})
    assert (422, "Last-Event-ID") == (answer.status_code, answer.json()["errors"][0]["field"])


async def test_missed_events_are_read_again(api: Api, events: Events) -> None:
    """After an outage of the broker, whoever follows an order sees its end all the same."""
    order_id = new_order()
    await events.commit(order_id, "VALIDATING", 1)
    async with streaming(api, _path(order_id)) as stream:
        await stream.until("snapshot-end")
        await events.commit(order_id, "COMPLETED", 2)
        api.app.state.follower._listener.missed()  # noqa: SLF001 - as after an outage
        await asyncio.wait_for(stream.ended.wait(), SOON_S)
        assert {order_id: 2} == stream.versions
