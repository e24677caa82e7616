"""Ids that nobody was given, and tokens of others: they show nothing of others, and what is broken opens no stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from order_api.live.marks import mark_of
from tests.order_api.live.socket_client import socket
from tests.order_api.live.support import Events, followed, new_order, no_streams, streaming
from tests.order_api.support import Api, Orchestrator, token

BOTH = "orders:read orders:write"


@pytest_asyncio.fixture
async def events(api: Api, orchestrator: Orchestrator) -> AsyncIterator[Events]:
    """Publish events to the API that is under test, which follows them already."""
    await followed(api)
    yield Events(api.wire.publisher, orchestrator)


@pytest.mark.parametrize(
    "line",
    [
        b"last-event-id: t-1",
        b"last-event-id: -1",
        b"last-event-id: t" + b"9" * 18,
        b"last-event-id: t" + b"9" * 8_000,
        b"last-event-id: t1e9",
        b"last-event-id: t1 ; drop table",
        b"last-event-id: \xff\xfe",
        "last-event-id: t１２３".encode(),  # noqa: RUF001 - digits, but not ours
        b"last-event-id: t1\x002",
        b"last-event-id: \x00",
        b"last-event-id: t1\r\nlast-event-id: t2",
        b"last-event-id: t1,t2",
    ],
)
@pytest.mark.parametrize("path", ["/events", "/orders/{}/events"])
async def test_a_broken_id_is_refused(api: Api, events: Events, path: str, line: bytes) -> None:
    """Huge, negative, no ASCII, NUL, several: an answer that says so, and the next request is served."""
    order_id = new_order()
    await events.commit(order_id, "VALIDATING", 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = (
        f"GET {path.format(order_id)} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token()}\r\n"
    )
    writer.write(head.encode() + line + b"\r\n\r\n")
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert answer.startswith((b"HTTP/1.1 422 ", b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")), answer
    writer.close()
    assert 0 == len(api.app.state.streams)
    assert 200 == (await api.get(f"/orders/{order_id}")).status_code


async def test_an_id_of_somebody_else_shows_ones_own_orders(api: Api, events: Events) -> None:
    """It is a time, and nothing more; so is one that was made up."""
    mine, theirs = new_order(), new_order()
    async with streaming(api, user="bob") as stream:
        await stream.until("snapshot-end")
        bobs = stream.last_id
    await events.commit(theirs, "COMPLETED", 3, user="bob")
    await events.commit(mine, "COMPLETED", 3)
    for forged in (bobs, "t0", f"t{mark_of(datetime.now(UTC) - timedelta(days=900))}"):
        async with streaming(api, last_id=forged) as stream:
            await stream.until("snapshot-end")
            assert {mine: 3} == stream.versions
    async with socket(api) as client:
        await client.subscribe("orders", since=bobs)
        assert {mine: 3} == client.versions()
    await no_streams(api)


async def test_a_token_of_somebody_else_renews_nothing(api: Api, events: Events) -> None:
    """Nor does one that allows less, or is forged: the connection stays its user's, and ends when it would have."""
    mine, theirs = new_order(), new_order()
    async with socket(api, scope=BOTH, claims={"exp": int(time.time()) + 60}) as client:
        first = (await client.until("authenticated"))["data"]
        await client.subscribe("orders")
        for other in (token("bob", BOTH), token("alice", "orders:read"), token("alice", BOTH) + "xxxx"):
            client.got.clear()
            await client.says("auth", token=other)
            await client.until("error", code="invalid-token")
        client.got.clear()
        await events.tell(theirs, "VALIDATING", 1, user="bob")
        await events.tell(mine, "VALIDATING", 1)
        await client.until("order", "orders", order_id=mine)
        assert {mine: 1} == client.versions()
        await client.says("subscribe", channel=f"order:{theirs}")
        await client.until("error", f"order:{theirs}", code="order-not-found")
        assert "alice" == first["user_id"]
        assert [] == [one for one in client.got if one["type"] == "authenticated"]
