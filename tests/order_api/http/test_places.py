"""Who gets a place when connections are too many: who takes all takes them from itself, and each place comes back."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import httpx2

from order_api.settings import ApiSettings
from saga_kit.runtime.connections import SPARE_MAX, owner_of
from tests.order_api.http.connection_server import (
    ANSWER_S,
    CUT_WITHIN_S,
    GET,
    HEAD_S,
    POST,
    no_lingering,  # noqa: F401 - a fixture of all tests here
    problem_of,
    serving,
    status_of,
)
from tests.order_api.support import TRADER, running, token, until

ADDRESSES = [f"127.0.0.{number}" for number in range(11, 16)]
"""Of others: all of 127.0.0.0/8 is this machine."""


async def test_connections_are_bounded() -> None:
    """What is being answered keeps its place. One more is told that there are too many, and health has places left."""
    async with serving(at_most=3) as server:
        busy = [await server.connect() for _ in range(3)]
        for _, writer in busy:
            writer.write(GET.replace(b"/x", b"/wait"))
        await until(lambda: len(server.asked) == 3)
        for nth in range(3):
            server.belongs_to(f"user-{nth}", nth)
        assert (503, "overloaded") == problem_of(await server.say(GET))
        assert (503, "overloaded") == problem_of(await server.say())
        for path in (b"/health", b"/health/live", b"/metrics"):
            for _ in range(3):
                assert 200 == status_of(await server.say(GET.replace(b"/x", path)))
        server.may_go_on.set()
        for reader, writer in busy:
            assert b"200" in await reader.readuntil(b"well")
            writer.close()
        await until(lambda: server.connections == 0)
        assert 200 == status_of(await server.say(GET[:-2] + b"Connection: close\r\n\r\n"))


async def test_the_spare_places_can_not_be_held() -> None:
    """Whoever takes all places for health holds them for a moment: who asks for health gets one."""
    async with serving(at_most=1) as server:
        _, busy = await server.connect()
        busy.write(GET.replace(b"/x", b"/wait"))
        await until(lambda: server.asked)
        server.belongs_to("alice")
        held = [await server.connect() for _ in range(SPARE_MAX * 3)]
        for _ in range(5):
            assert 200 == status_of(await server.say(GET.replace(b"/x", b"/health")))
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
        assert 200 == status_of(await server.say(GET[:-2] + b"Connection: close\r\n\r\n", address=ADDRESSES[0]))
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
                async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(local_address=ADDRESSES[0])) as other:
                    assert 200 == (await other.get(f"http://127.0.0.1:{api.port}/health/live")).status_code
        assert 300 <= await api.metric('http_server_connections_cut_total{why="too many"}')
        for one in held:
            one.close()


async def test_an_answer_that_is_not_read_is_given_up() -> None:
    """A client that asks and does not read is cut off: what it left lying must not stay in memory."""
    async with serving(answer_s=ANSWER_S) as server:
        server.answer = b"a" * 20_000_000
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.setblocking(False)  # noqa: FBT003 - as the standard library has it
            await asyncio.get_running_loop().sock_connect(lazy, ("127.0.0.1", server.port))
            await asyncio.get_running_loop().sock_sendall(lazy, GET)
            await until(lambda: server.cut("answer not read"), CUT_WITHIN_S)
            await until(lambda: server.connections == 0)


async def test_a_stream_that_is_read_is_not_looked_at_and_one_that_is_not_is_cut() -> None:
    """Thousands of idle streams cost nothing each second; a client that stops reading is found all the same."""
    async with serving() as server:
        server.answer = b"a" * 8_000_000
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.setblocking(False)  # noqa: FBT003 - as the standard library has it
            await asyncio.get_running_loop().sock_connect(lazy, ("127.0.0.1", server.port))
            await asyncio.get_running_loop().sock_sendall(lazy, GET.replace(b"/x", b"/stream"))
            reader, writer = await server.connect()
            writer.write(GET.replace(b"/x", b"/stream"))
            read = 0
            while read < len(server.answer):
                part = await reader.read(2**20)
                assert part, "it was cut"
                read += len(part)
            await until(lambda: server.connections == 2 and len(server.watched) == 1)
            assert server.bounds is not None
            server.bounds._answer_s = ANSWER_S  # noqa: SLF001 - who reads, but is held up, is not cut
            await until(lambda: server.cut("answer not read"), CUT_WITHIN_S)
            await until(lambda: server.connections == 1)
            assert not server.watched
        writer.close()


async def test_after_a_stream_its_connection_has_its_limits_again() -> None:
    """Whoever goes on with half a head when the stream has ended is cut."""
    async with serving(head_s=HEAD_S) as server:
        reader, writer = await server.connect()
        writer.write(GET.replace(b"/x", b"/stream"))
        await reader.readuntil(b"\r\n\r\n")
        await until(lambda: not server.watched)
        server.may_go_on.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(GET[:9])
        assert b"" == await asyncio.wait_for(reader.read(), CUT_WITHIN_S)
        assert 1 == server.cut("head too slow")
        writer.close()


async def test_a_client_that_resets_its_connection_leaves_nothing_behind() -> None:
    """Hanging up at any moment, also rudely, gives the place back."""
    async with serving() as server:
        for said in (b"", GET[:9], GET.replace(b"/x", b"/wait"), POST + b"a"):
            with socket.create_connection(("127.0.0.1", server.port)) as rude:
                rude.sendall(said)
                await asyncio.sleep(0.05)
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: server.connections == 0)
