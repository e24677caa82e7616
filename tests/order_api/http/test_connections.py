"""The server's connections under attack, over raw sockets: endless, slow, broken, smuggled and too many."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from order_api.http.bodies import DRAINED_BYTES_MAX, read_body_bytes
from order_api.http.connections import write_problem
from order_api.http.problems import Problem
from order_api.settings import ApiSettings
from saga_kit.runtime import connections as connections_module
from saga_kit.runtime.connections import (
    CONNECTION,
    HEAD_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    SELF,
    SPARE_MAX,
    Connections,
    owner_of,
)
from saga_kit.runtime.health import listen
from tests.order_api.support import TRADER, Api, running, token, until

HEAD_S = 0.6
ANSWER_S = 1.0
BODY_S = 0.6
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
BYTES_MAX = 1000
ADDRESSES = [f"127.0.0.{number}" for number in range(11, 16)]
"""Of others: all of 127.0.0.0/8 is this machine."""


@pytest.fixture(autouse=True)
def _no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "LINGER_S", 0.1)


@dataclass
class Server:
    """A server with short limits whose application notes what it is asked and answers with the body's size."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    port: int = 0
    asked: list[Any] = field(default_factory=list)
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    answer: bytes = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        self.asked.append(scope)
        try:
            response = await self._serve(Request(scope, receive))
        except Problem as problem:
            response = problem.response(scope["path"])
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _serve(self, request: Request) -> Response:
        if request.url.path == "/wait":
            await self.may_go_on.wait()
        if request.method != "POST" or request.url.path == "/unread":
            return Response(self.answer or b"well")
        body = await read_body_bytes(request, bytes_max=BYTES_MAX, within_s=BODY_S)
        return Response(f"{len(body)} bytes")

    def cut(self, why: str) -> float:
        """Return how many connections were ended for this reason."""
        return self.registry.get_sample_value("http_server_connections_cut_total", {"why": why}) or 0

    @property
    def connections(self) -> float:
        """How many connections are open."""
        return self.registry.get_sample_value("http_server_connections") or 0

    def belongs_to(self, user_id: str, nth: int = -1) -> bool:
        """Say whose the last request was, or another."""
        return bool(self.asked[nth]["extensions"][CONNECTION][SELF].belongs_to(user_id))

    async def connect(self, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection from an address."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))

    async def say(self, *parts: bytes, within_s: float = 5, address: str = "127.0.0.1") -> bytes:
        """Send bytes; return all that comes back until the server hangs up."""
        reader, writer = await self.connect(address)
        try:
            async with asyncio.timeout(within_s):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.02)
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def serving(at_most: int = 50) -> AsyncIterator[Server]:
    """Run a server."""
    server = Server()
    connections = Connections(at_most, registry=server.registry, head_s=HEAD_S, answer_s=ANSWER_S, answer=write_problem)
    config = uvicorn.Config(
        server,
        http=connections.make,  # type: ignore[arg-type]  # uvicorn calls it, as it would the class
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    sock = listen("127.0.0.1", 0)
    server.port = sock.getsockname()[1]
    running, stopping = uvicorn.Server(config), asyncio.Event()
    with sock:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(running._serve([sock]))  # noqa: SLF001 - `serve` would take the signals
            tasks.create_task(connections.watch(stopping))
            await until(lambda: running.started)
            try:
                yield server
            finally:
                server.may_go_on.set()
                running.should_exit = True
                stopping.set()


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def _problem(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    assert b"server:" not in head.lower()
    return _status(answer), json.loads(body)["code"]


async def test_a_head_that_is_too_large_is_a_431() -> None:
    """16 KiB of line and headers are taken, more is not: at once, in pieces, in one header or in thousands."""
    async with serving() as server:
        fits = b"x: " + b"a" * (HEAD_BYTES_MAX - 200) + b"\r\n"
        assert 200 == _status(await server.say(GET[:-2] + fits + b"Connection: close\r\n\r\n"))
        large = [
            (GET[:-2] + b"x: " + b"a" * HEAD_BYTES_MAX + b"\r\n\r\n",),
            (GET[:-2], *[b"x: " + b"a" * 4000 + b"\r\n"] * 5, b"\r\n"),
            (GET[:-2] + b"x: 1\r\n" * 5000 + b"\r\n",),
            (b"GET /" + b"a" * HEAD_BYTES_MAX + b" HTTP/1.1\r\nHost: a\r\n\r\n",),
            (GET[:-2] + b"x: ", *[b"a" * 4000] * 5),
            (b"GET /", *[b"a" * 4000] * 5),
            (POST[:-2] + b"x: " + b"a" * HEAD_BYTES_MAX + b"\r\n\r\n" + b"b" * 9,),
        ]  # fmt: skip
        for parts in large:
            assert (431, "headers-too-large") == _problem(await server.say(*parts)), parts[0][:40]
        assert 1 == len(server.asked)
        assert len(large) == server.cut("headers-too-large")


async def test_many_small_requests_in_one_piece_are_no_large_head() -> None:
    """Requests that are sent ahead are measured one by one, also when the last is not complete yet."""
    async with serving() as server:
        padded = GET[:-2] + b"x: " + b"a" * 2000 + b"\r\n\r\n"
        answers = await server.say(padded * 10, padded[:500], padded[500:-2] + b"Connection: close\r\n\r\n")
        assert 11 == answers.count(b"HTTP/1.1 200 OK")


async def test_a_line_end_after_a_large_body_is_no_large_head() -> None:
    """What an old client sends after its body is counted with neither request."""
    async with serving() as server:
        reader, writer = await server.connect()
        writer.write(POST.replace(b"100", b"50000") + b"a" * 50_000)
        assert b"413" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        reader, writer = await server.connect()
        writer.write(POST.replace(b"/x", b"/unread").replace(b"100", b"50000") + b"a" * 50_000)
        assert b"well" in await reader.readuntil(b"well")
        writer.write(b"\r\n")
        await asyncio.sleep(0.05)
        writer.write(GET)
        assert (await reader.readuntil(b"well")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_requests_sent_ahead_are_bounded() -> None:
    """Who sends thousands of requests ahead of their answers is cut off, and no thousands are kept."""
    async with serving() as server:
        assert b"" == await server.say(GET.replace(b"/x", b"/wait") + GET * 5000)
        assert 1 == server.cut("overloaded")
        assert 1 == len(server.asked)


async def _dribble(writer: asyncio.StreamWriter, data: bytes, pause_s: float = 0.05) -> None:
    try:
        for byte in data * 100:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(pause_s)
    except ConnectionError:
        pass


async def _seconds_until_cut(server: Server, first: bytes, then: bytes) -> float:
    """Send something, then dribble; return how long the server bears it."""
    reader, writer = await server.connect()
    writer.write(first)
    dribbling = asyncio.create_task(_dribble(writer, then))
    began = time.monotonic()
    try:
        async with asyncio.timeout(HEAD_S * 10):
            await reader.read()
    except ConnectionError:
        pass
    finally:
        dribbling.cancel()
        writer.close()
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"", GET[:-2]),
        (b"GET", b""),
        (GET[:-2], b"x: 1\r\n"),
        (GET[:-2] + b"x", b"x"),
        (GET, GET[:-2]),
        (GET, b"\r\n"),
        (GET * 3 + b"GET /", b"a"),
    ],
    ids=["silence", "line ends", "bytes", "half a word", "headers", "a name", "kept alive", "ends after it", "ahead"],
)
async def test_a_head_that_does_not_end_is_cut_off(first: bytes, then: bytes) -> None:
    """Ten seconds for a head, however many bytes come meanwhile, on a new connection and on one that is kept alive."""
    async with serving() as server:
        assert HEAD_S <= await _seconds_until_cut(server, first, then) < HEAD_S * 5
        assert 1 == server.cut("head too slow")
        await until(lambda: server.connections == 0)


async def test_a_connection_that_waits_for_its_next_request_is_left_alone() -> None:
    """The head's deadline is not the one of an idle connection: that is uvicorn's keep-alive."""
    async with serving() as server:
        reader, writer = await server.connect()
        for _ in range(2):
            writer.write(GET)
            assert b"HTTP/1.1 200" == (await reader.readuntil(b"well"))[:12]
            await asyncio.sleep(HEAD_S * 2)
        writer.close()
        assert 0 == server.cut("head too slow")


async def test_an_answer_under_way_is_not_cut_off_by_what_comes_meanwhile() -> None:
    """While we still work, the client owes nothing: a stray line end or half of a next head does no harm."""
    async with serving() as server:
        for meanwhile in (b"", b"\r\n", GET[:10]):
            server.may_go_on.clear()
            reader, writer = await server.connect()
            writer.write(GET.replace(b"/x", b"/wait"))
            await asyncio.sleep(0.05)
            writer.write(meanwhile)
            await asyncio.sleep(HEAD_S * 2)
            server.may_go_on.set()
            assert (await reader.readuntil(b"well")).startswith(b"HTTP/1.1 200")
            writer.close()


POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"


async def test_a_body_that_does_not_end_is_a_408() -> None:
    """A body has a deadline, however it dribbles in; the answer says so and the connection ends."""
    async with serving() as server:
        chunked = POST.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")
        for parts in ((POST,), (POST, *[b"a"] * 20), (chunked, *[b"1\r\na\r\n"] * 20)):
            began = time.monotonic()
            assert (408, "request-timeout") == _problem(await server.say(*parts))
            assert BODY_S <= time.monotonic() - began < BODY_S * 4


async def test_a_body_that_is_too_large_is_a_413_and_not_kept() -> None:
    """A body over the limit is read to its end, and up to a bound, so that the client hears why."""
    async with serving() as server:
        for size in (BYTES_MAX + 1, 200_000):
            head = POST.replace(b"100", str(size).encode())
            assert (413, "body-too-large") == _problem(await server.say(head + b"a" * size))
        endless = POST.replace(b"100", str(100 * DRAINED_BYTES_MAX).encode())
        assert _status(await server.say(endless, *[b"a" * 100_000] * 12)) in {0, 413}  # cut off before it is heard
        exact = POST.replace(b"100", str(BYTES_MAX).encode()).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert b"1000 bytes" in await server.say(exact + b"a" * BYTES_MAX)


async def test_a_body_that_nobody_reads_does_not_hold_the_connection() -> None:
    """Once the answer is out, the rest of a body has the time of a head."""
    async with serving() as server:
        unread = POST.replace(b"/x", b"/unread")
        assert HEAD_S <= await _seconds_until_cut(server, unread, b"a" * 3) < HEAD_S * 5
        assert 1 == server.cut("body too slow")


async def test_what_belongs_to_no_body_is_bounded_too() -> None:
    """Trailers and chunk extensions are no part of the body that the application counts; they end all the same."""
    async with serving() as server:
        head = POST.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")
        piece = 1_000_000
        for start, more in (
            (b"0\r\n", b"x: " + b"a" * piece + b"\r\n"),
            (b"1;", b"a" * piece),
            (b"0\r\nx: ", b"a" * piece),
        ):
            parts = [more] * (2 * MESSAGE_BYTES_MAX // piece)
            answer = await server.say(head + start, *parts)
            assert answer == b"" or 408 == _status(answer)
        assert 1 <= server.cut("body too large")
        for scope in server.asked:
            assert {b"host", b"transfer-encoding"} == {name for name, _ in scope["headers"]}


async def test_an_answer_that_is_not_read_is_given_up() -> None:
    """A client that asks and does not read is cut off: what it left lying must not stay in memory."""
    async with serving() as server:
        server.answer = b"a" * 20_000_000
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.setblocking(False)  # noqa: FBT003 - as the standard library has it
            await asyncio.get_running_loop().sock_connect(lazy, ("127.0.0.1", server.port))
            await asyncio.get_running_loop().sock_sendall(lazy, GET)
            await until(lambda: server.cut("answer not read"), ANSWER_S * 6)
            await until(lambda: server.connections == 0)


async def test_connections_are_bounded() -> None:
    """What is being answered keeps its place. One more is told that there are too many, and health has places left."""
    async with serving(at_most=3) as server:
        busy = [await server.connect() for _ in range(3)]
        for _, writer in busy:
            writer.write(GET.replace(b"/x", b"/wait"))
        await until(lambda: len(server.asked) == 3)
        for nth in range(3):
            server.belongs_to(f"user-{nth}", nth)
        assert (503, "overloaded") == _problem(await server.say(GET))
        assert (503, "overloaded") == _problem(await server.say())
        for path in (b"/health", b"/health/live", b"/metrics"):
            for _ in range(3):
                assert 200 == _status(await server.say(GET.replace(b"/x", path)))
        server.may_go_on.set()
        for reader, writer in busy:
            assert b"200" in await reader.readuntil(b"well")
            writer.close()
        await until(lambda: server.connections == 0)
        assert 200 == _status(await server.say(GET[:-2] + b"Connection: close\r\n\r\n"))


async def test_the_spare_places_can_not_be_held() -> None:
    """Whoever takes all places for health holds them for a moment: who asks for health gets one."""
    async with serving(at_most=1) as server:
        _, busy = await server.connect()
        busy.write(GET.replace(b"/x", b"/wait"))
        await until(lambda: server.asked)
        server.belongs_to("alice")
        held = [await server.connect() for _ in range(SPARE_MAX * 3)]
        for _ in range(5):
            assert 200 == _status(await server.say(GET.replace(b"/x", b"/health")))
        await until(lambda: server.connections == 1)  # however long they say nothing
        busy.close()
        for _, writer in held:
            writer.close()


async def test_one_address_takes_places_from_itself_alone() -> None:
    """Who opens connections without end is the one who loses them, the oldest idle first; others keep theirs."""
    async with serving(at_most=20) as server:
        mine = [await server.connect(address) for address in ADDRESSES]
        flood = [await server.connect() for _ in range(60)]
        await until(lambda: server.connections == 20)
        for reader, writer in mine:
            writer.write(GET)
            assert b"200" in await reader.readuntil(b"well")
        late = await server.connect(ADDRESSES[0])
        late[1].write(GET)
        assert b"200" in await late[0].readuntil(b"well")
        assert b"" == await flood[0][0].read()  # the oldest
        flood[-1][1].write(GET)
        assert b"200" in await flood[-1][0].readuntil(b"well")
        assert 60 + len(mine) + 1 - 20 == server.cut("too many")
        for _, writer in (*mine, *flood, late):
            writer.close()


async def test_an_address_that_does_not_read_its_answers_holds_no_places() -> None:
    """What is being answered without a user is given up, too, when there is nothing idle to give up."""
    async with serving(at_most=10) as server:
        flood = [await server.connect() for _ in range(10)]
        for _, writer in flood:
            writer.write(GET.replace(b"/x", b"/wait"))
        await until(lambda: len(server.asked) == 10)
        server.may_go_on.set()
        server.may_go_on = asyncio.Event()
        assert 200 == _status(await server.say(GET[:-2] + b"Connection: close\r\n\r\n", address=ADDRESSES[0]))
        for _, writer in flood:
            writer.close()


async def test_a_users_connections_are_the_last_to_go() -> None:
    """Connections without a user go first; then the oldest idle one of the user who has most."""
    async with serving(at_most=6) as server:
        users = []
        for user in ("mallory", "mallory", "mallory", "alice"):
            reader, writer = await server.connect()
            writer.write(GET)
            await reader.readuntil(b"well")
            server.belongs_to(user)
            users.append((reader, writer))
        others = [await server.connect() for _ in range(8)]
        await until(lambda: server.cut("too many") == 6)
        assert b"" == await others[0][0].read()
        for reader, writer in users[1:]:
            writer.write(GET)
            assert b"200" in await reader.readuntil(b"well")
        users[0][1].write(GET)
        await users[0][0].readuntil(b"well")
        for _ in range(2):  # the two places that had nobody's connections
            reader, writer = await server.connect()
            writer.write(GET)
            await reader.readuntil(b"well")
            server.belongs_to("bob")
            others.append((reader, writer))
        others.append(await server.connect())
        assert b"" == await users[1][0].read()  # idle for longer than the other two
        users[3][1].write(GET)
        assert b"200" in await users[3][0].readuntil(b"well")
        for _, writer in (*users, *others):
            writer.close()


def test_an_address_is_what_one_customer_has() -> None:
    """A network of IPv6 counts as one; an IPv4 address is itself, however it is written."""
    assert owner_of("192.0.2.1") == owner_of("::ffff:192.0.2.1") != owner_of("192.0.2.2")
    assert owner_of("2001:db8::1") == owner_of("2001:db8::ffff:1") != owner_of("2001:db8:0:1::1")
    assert owner_of(None) == owner_of("")


async def test_a_user_has_so_many_connections(settings: ApiSettings) -> None:
    """One more ends the oldest idle one; when none is, it is a 429. Others, and trusted services, notice nothing."""
    few = settings.model_copy(update={"api_connections_per_user_max": 2})
    async with running(few) as api:
        order_id = (await api.submit()).json()["order_id"]

        async def ask(user: str, wait_s: int = 0, scope: str = TRADER) -> tuple[asyncio.StreamReader, Any]:
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(
                f"GET /orders/{order_id} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token(user, scope)}\r\n"
                f"Prefer: wait={wait_s}\r\n\r\n".encode()
            )
            return reader, writer

        await api.client.aclose()
        idle = [await ask("alice") for _ in range(2)]
        for reader, _ in idle:
            assert b" 200 " in await reader.readuntil(b"}")
        waiting = [await ask("alice", 20) for _ in range(2)]
        await until(lambda: api.app.state.waiters.waiting == 2)
        assert [b"", b""] == [await reader.read() for reader, _ in idle]
        reader, third = await ask("alice")
        assert b" 429 " in await reader.readuntil(b"\r\n\r\n")
        services = [await ask("service", 0, f"{TRADER} orders:act-for-users") for _ in range(4)]
        services.append(await ask("bob"))
        for reader, _ in services:
            assert b"HTTP/1.1 " in (answer := await reader.readuntil(b"\r\n\r\n"))
            assert b" 429 " not in answer
        for _, writer in (*idle, *waiting, *services):
            writer.close()
        third.close()


async def test_one_address_can_not_take_the_api_from_others(settings: ApiSettings) -> None:
    """Two thousand connections of one address in a second: orders and health of others are served meanwhile."""
    async with running(settings.model_copy(update={"api_connections_max": 200})) as api:
        held = []
        for _ in range(600):
            one = socket.socket()
            one.setblocking(False)  # noqa: FBT003 - as the standard library has it
            one.connect_ex(("127.0.0.1", api.port))
            held.append(one)
            if len(held) % 100 == 0:
                assert 202 == (await api.submit()).status_code
                async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(local_address=ADDRESSES[0])) as other:
                    assert 200 == (await other.get(f"http://127.0.0.1:{api.port}/health/live")).status_code
        assert 300 <= await api.metric('http_server_connections_cut_total{why="too many"}')
        for one in held:
            one.close()


async def test_a_client_that_resets_its_connection_leaves_nothing_behind() -> None:
    """Hanging up at any moment, also rudely, gives the place back."""
    async with serving() as server:
        for said in (b"", GET[:9], GET.replace(b"/x", b"/wait"), POST + b"a"):
            with socket.create_connection(("127.0.0.1", server.port)) as rude:
                rude.sendall(said)
                await asyncio.sleep(0.05)
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: server.connections == 0)


SMUGGLED = {
    "two lengths": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "two lengths in one": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabcd",
    "length, chunk": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks not last": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a made-up coding": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a sign in a length": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd",
    "a negative length": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: -4\r\n\r\nabcd",
    "a length in hex": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nabcd",
    "a huge length": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\nabcd",
    "a bad chunk": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a huge chunk": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "space before a colon": b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n",
    "a folded line": b"GET /x HTTP/1.1\r\nHost: a\r\nx: 1\r\n 2\r\n\r\n",
    "zero in a value": b"GET /x HTTP/1.1\r\nHost: a\r\nx: a\0b\r\n\r\n",
    "return in a value": b"GET /x HTTP/1.1\r\nHost: a\r\nx: a\rb\r\n\r\n",
    "bare line ends": b"GET /x HTTP/1.1\nHost: a\n\n",
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no such version": b"GET /x HTTP/9.9\r\nHost: a\r\n\r\n",
    "version 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no such method": b"BREW /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path of bytes": b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    "noise": bytes(range(128, 256)),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
}


@pytest.mark.parametrize("said", SMUGGLED.values(), ids=SMUGGLED)
async def test_what_two_servers_could_read_differently_is_refused(said: bytes) -> None:
    """What a proxy could understand as another request than we do is a 400, and nothing after it is read."""
    async with serving() as server:
        answer = await server.say(said + GET)
        assert (400, "bad-request") == _problem(answer) if answer else False, answer
        assert [] == [scope for scope in server.asked if scope["method"] == "GET"]


async def test_an_offer_to_upgrade_is_answered_as_plain_http() -> None:
    """A client that offers h2c or websockets besides is answered, its body read, on a connection that goes on.

    (Java's HttpClient makes that offer with its first request.)
    """
    async with serving() as server:
        for upgrade in (b"h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", b"websocket"):
            offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + upgrade + b"\r\n\r\n"
            posted = POST[:-2] + offer + b"a" * 100
            for pieces in (
                (posted,),
                (posted[:60], posted[60:]),
                (posted[:-50], posted[-50:]),
                (posted[:-100], b"a" * 100),
            ):
                said = await server.say(*pieces, GET[:-2] + offer, GET[:-2] + b"Connection: close\r\n\r\n")
                assert (3, 1, 2) == (said.count(b"HTTP/1.1 200"), said.count(b"100 bytes"), said.count(b"well"))
        assert (405, "method-not-allowed") == _problem(await server.say(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"))


async def test_the_api_is_behind_these_connections(api: Api) -> None:
    """The API itself refuses so, counts it, and gives no version away."""
    for said, expected in ((b"nonsense\r\n\r\n", 400), (GET[:-2] + b"x: " + b"a" * 20_000 + b"\r\n\r\n", 431)):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(said)
        assert expected == _problem(await reader.read())[0]
        writer.close()
    assert 1 == await api.metric('http_server_connections_cut_total{why="headers-too-large"}')
    assert 1 <= await api.metric("http_server_connections")
