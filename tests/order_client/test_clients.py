"""Both clients over real connections: they do the same steps, each in its own way."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager, suppress
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

import order_client.client
from contracts import codec, examples
from contracts.orders import OrderStatusChanged
from order_client import (
    AsyncClient,
    Client,
    Interrupted,
    NoAnswerError,
    Retry,
    SnapshotEnd,
    UnexpectedAnswerError,
    problems,
)
from order_client.core import Pause
from tests.support.planned_api import CUT, UNTIL_LEFT, PlannedApi, planned_api

AT_ONCE = Retry(first_s=0.0)
LIVE = b"retry: 1\n\nevent: snapshot-end\ndata: {}\n\n"
PAGE = {"orders": [], "has_more": False, "next_cursor": None}


@pytest.fixture
def server() -> Iterator[PlannedApi]:
    """Serve on the loopback interface."""
    with planned_api() as one:
        yield one


Made = Callable[..., Any]


@pytest_asyncio.fixture(params=[Client, AsyncClient])
async def made(request: pytest.FixtureRequest, server: PlannedApi) -> AsyncIterator[Made]:
    """Give what makes a client of the server, of each kind; it is closed afterwards."""
    clients: list[Any] = []

    def make(**more: Any) -> Any:
        clients.append(request.param(more.pop("address", server.address), **{"retry": AT_ONCE, "token": "t", **more}))
        return clients[-1]

    yield make
    for client in clients:
        await _result(client.aclose() if isinstance(client, AsyncClient) else client.close())


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def _items(iteration: Any, number: int | None = None) -> list[Any]:
    """Take so many items of an iteration, or all, and leave it."""
    found: list[Any] = []
    if inspect.isasyncgen(iteration):
        async with aclosing(iteration) as items:
            async for item in items:
                found.append(item)
                if len(found) == number:
                    break
        return found
    with closing(iteration) as items:
        for item in items:
            found.append(item)
            if len(found) == number:
                break
    return found


async def test_a_call_is_a_request_with_its_token(server: PlannedApi, made: Made) -> None:
    """Query, headers, body and answer."""
    server.plan(200, PAGE)
    page = await _result(made().list_orders(status=["FAILED", "PENDING"], open=False))
    [(method, path, headers, _)] = server.asked
    assert ("GET", "/orders?status=FAILED&status=PENDING&open=false", "Bearer t") == (
        method,
        path,
        headers["authorization"],
    )
    assert (False, "order-saga-client") == (page.has_more, headers["user-agent"])


async def test_a_broken_connection_is_tried_again(server: PlannedApi, made: Made) -> None:
    """And what can't be reached at all is an error that says so."""
    server.plan_break()
    server.plan(503)
    server.plan(200, PAGE)
    await _result(made().list_orders())
    assert 3 == len(server.asked)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        client = made(address=f"http://127.0.0.1:{nobody.getsockname()[1]}/")
        with pytest.raises(NoAnswerError) as raised:
            await _result(client.list_orders())
    assert not raised.value.sent


async def test_an_answer_that_does_not_come_in_time_is_none(server: PlannedApi, made: Made) -> None:
    """Whether the request was carried out is not known."""
    server.plan(200, PAGE)
    server.planned.append((200, {"content-length": "5"}, [UNTIL_LEFT]))
    client = made(retry=Retry(times=0))
    await _result(client.list_orders())  # so it is connected: to connect is given up after the same time
    client._timeout_s = 0.05  # noqa: SLF001 - the same
    with pytest.raises(NoAnswerError) as raised:
        await _result(client.list_orders())
    assert raised.value.sent


async def test_an_answer_without_end_is_refused(
    server: PlannedApi, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded."""
    monkeypatch.setattr(order_client.client, "ANSWER_BYTES_MAX", 10)
    server.plan(200, PAGE)
    with pytest.raises(UnexpectedAnswerError, match="more than 10 bytes"):
        await _result(made().list_orders())


async def test_a_token_is_asked_for_when_it_is_needed(server: PlannedApi, made: Made) -> None:
    """Once, and again when it is refused; not by each call."""
    tokens = iter(["first", "second"])
    client = made(token=lambda: next(tokens))
    problem = {"content-type": "application/problem+json"}
    for status, body, headers in (
        (200, PAGE, {}),
        (401, {"code": "invalid-token"}, problem),
        (200, PAGE, {}),
        (200, PAGE, {}),
    ):
        server.plan(status, body, **headers)
    for _ in range(3):
        await _result(client.list_orders())
    given = [headers["authorization"] for _, _, headers, _ in server.asked]
    assert ["Bearer first"] * 2 + ["Bearer second"] * 2 == given


async def test_a_coroutine_may_get_the_token(server: PlannedApi) -> None:
    """Of the client that is awaited; many calls at once ask for one."""
    asked = 0

    async def get() -> str:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return "later"

    async with AsyncClient(server.address, get) as client:
        for _ in range(5):
            server.plan(200, PAGE)
        await asyncio.gather(*(client.list_orders() for _ in range(5)))
    assert (1, {"Bearer later"}) == (asked, {headers["authorization"] for _, _, headers, _ in server.asked})
    with Client(server.address, get) as blocking, pytest.raises(TypeError, match="coroutine and no text"):  # type: ignore[arg-type]
        blocking.list_orders()


async def test_pages_are_iterated_over(server: PlannedApi, made: Made) -> None:
    """In both ways of iterating."""
    server.plan(200, {**PAGE, "has_more": True, "next_cursor": "c"})
    server.plan(200, PAGE)
    assert [] == await _items(made().orders(asset_id="BTC"))
    assert ["/orders?asset_id=BTC&limit=200", "/orders?asset_id=BTC&limit=200&cursor=c"] == [
        one[1] for one in server.asked
    ]


async def test_a_stream_is_followed_over_broken_connections(server: PlannedApi, made: Made) -> None:
    """However they break; and a client that leaves one closes its connection."""
    event = examples.example("OrderStatusChanged")
    body = b"id: t1\nevent: order\ndata: " + codec.encode(event) + b"\n\n"
    server.plan_stream(body[:30], body[30:] + LIVE, CUT)
    server.plan(503)
    server.plan_stream(body + LIVE)
    server.plan_break()
    server.plan_stream(LIVE + b'event: bye\ndata: {"why": "age"}\n\n', UNTIL_LEFT)
    server.plan_stream(LIVE, UNTIL_LEFT)
    client = made()
    items = await _items(client.events(), 8)
    kinds = [OrderStatusChanged, *[SnapshotEnd, Interrupted] * 3, SnapshotEnd]
    assert kinds == [type(item) for item in items]
    assert [None, *["t1"] * 5] == [headers.get("last-event-id") for _, _, headers, _ in server.asked]
    assert await asyncio.to_thread(server.closed.wait, 10)


@contextmanager
def _channels(*connections: Sequence[str]) -> Iterator[tuple[str, list[Any], threading.Event]]:
    """Serve a WebSocket: to each connection its messages, `CUT` breaks off; give its address, and what it hears.

    The event is set when a client has left one.
    """
    said: list[Any] = []
    left, planned = threading.Event(), iter(connections)

    def serve_one(one: ServerConnection) -> None:
        said.append((one.request.headers["authorization"] if one.request else "", json.loads(one.recv())))
        for message in next(planned):
            if message == CUT:
                one.socket.sendall(b"\x81\x7e\x10")  # a part of a frame
                one.socket.close()
                return
            one.send(message)
        with suppress(ConnectionClosed):
            one.recv()
        left.set()

    with serve(serve_one, "127.0.0.1", 0, subprotocols=[Subprotocol("order-saga.v1")]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}", said, left
        server.shutdown()
        thread.join()


async def test_channels_are_followed_over_broken_connections(made: Made) -> None:
    """Over a real WebSocket: one that is cut within a frame, one that says goodbye; and who leaves closes its own."""
    live, bye = (
        '{"channel":"orders","type":"snapshot-end","id":"t%d","data":{}}',
        '{"type":"bye","data":{"why":"age","retry_ms":1}}',
    )
    with _channels([live % 1, CUT], [live % 2, bye], [live % 3]) as (address, said, left):
        client = made(address=address)
        items = await _items(client.subscribe(["orders"]), 5)
        assert await asyncio.to_thread(left.wait, 10)
    assert [SnapshotEnd, Interrupted, SnapshotEnd, Interrupted, SnapshotEnd] == [type(one.item) for one in items]
    assert [("Bearer t", None), ("Bearer t", "t1"), ("Bearer t", "t2")] == [
        (token, wish.get("since")) for token, wish in said
    ]


async def test_what_answers_no_handshake_is_a_problem(server: PlannedApi, made: Made) -> None:
    """Such as a proxy that drops the upgrade."""
    server.plan(426, {"code": "upgrade-required"}, **{"content-type": "application/problem+json"})
    with pytest.raises(problems.UpgradeRequiredError):
        await _items(made().subscribe(["orders"]))


async def test_an_error_ends_an_iteration(server: PlannedApi, made: Made) -> None:
    """With the API's problem, read whole although a stream was asked for."""
    server.plan(
        403,
        {"code": "insufficient-scope", "detail": "needs orders:read"},
        **{"content-type": "application/problem+json"},
    )
    with pytest.raises(problems.InsufficientScopeError, match="needs orders:read"):
        await _items(made().events())


async def test_no_redirect_is_followed(server: PlannedApi, made: Made) -> None:
    """A token goes to the API alone."""
    server.plan(302, {}, location="http://elsewhere.test/")
    with pytest.raises(UnexpectedAnswerError):
        await _result(made().read_order("x"))
    assert 1 == len(server.asked)


async def test_an_http_client_of_ones_own_is_used_and_left_open(server: PlannedApi) -> None:
    """Whoever made it closes it."""
    server.plan(200, PAGE)
    server.plan(200, PAGE)
    with httpx2.Client(headers={"x-own": "yes"}, verify=ssl.create_default_context()) as http:
        with Client(server.address, "t", http=http) as client:
            client.list_orders()
        assert not http.is_closed
    async with httpx2.AsyncClient(headers={"x-own": "yes"}) as own:
        async with AsyncClient(server.address, "t", http=own) as awaited:
            await awaited.list_orders()
        assert not own.is_closed
    assert ["yes", "yes"] == [headers["x-own"] for _, _, headers, _ in server.asked]


@pytest.mark.parametrize(
    "address", ["", "localhost:8000", "ftp://x.test", "http://", "http://x.test/?a=b", "http://x:y/"]
)
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="is no address"):
        Client(address)
    with pytest.raises(ValueError, match="is no address"):
        AsyncClient(address)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_call_does_no_step_of_a_stream(kind: type[Any]) -> None:
    """What would be a fault of the client is told as one; a pause is a pause."""

    def steps() -> Any:
        yield Pause(0.0)
        yield "nonsense"

    client = kind("http://x.test")
    with pytest.raises(TypeError, match="no step nonsense"):
        await _result(client.run(steps()))
    await _result(client.aclose() if kind is AsyncClient else client.close())
