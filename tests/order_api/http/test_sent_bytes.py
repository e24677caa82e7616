"""What a connection may send: what is endless, slow, broken or smuggled is cut off or refused, and nothing else is."""

from __future__ import annotations

import asyncio
import time

import pytest

from order_api.http.bodies import DRAINED_BYTES_MAX
from saga_kit.runtime.connections import HEAD_BYTES_MAX, MESSAGE_BYTES_MAX
from tests.order_api.http.connection_server import (
    BODY_S,
    BYTES_MAX,
    CUT_WITHIN_S,
    GET,
    HEAD_S,
    POST,
    Server,
    no_lingering,  # noqa: F401 - a fixture of all tests here
    problem_of,
    serving,
    status_of,
)
from tests.order_api.support import Api, until


async def test_a_head_that_is_too_large_is_a_431() -> None:
    """16 KiB of line and headers are taken, more is not: at once, in pieces, in one header or in thousands."""
    async with serving() as server:
        fits = b"x: " + b"a" * (HEAD_BYTES_MAX - 200) + b"\r\n"
        assert 200 == status_of(await server.say(GET[:-2] + fits + b"Connection: close\r\n\r\n"))
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
            assert (431, "headers-too-large") == problem_of(await server.say(*parts)), parts[0][:40]
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
    began = time.monotonic()  # before the server's own clock begins
    reader, writer = await server.connect()
    writer.write(first)
    dribbling = asyncio.create_task(_dribble(writer, then))
    try:
        async with asyncio.timeout(CUT_WITHIN_S):
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
    async with serving(head_s=HEAD_S) as server:
        assert HEAD_S <= await _seconds_until_cut(server, first, then)
        assert 1 == server.cut("head too slow")
        await until(lambda: server.connections == 0)


async def test_a_connection_that_waits_for_its_next_request_is_left_alone() -> None:
    """The head's deadline is not the one of an idle connection: that is uvicorn's keep-alive."""
    async with serving(head_s=HEAD_S) as server:
        reader, writer = await server.connect()
        for _ in range(2):
            writer.write(GET)
            assert b"HTTP/1.1 200" == (await reader.readuntil(b"well"))[:12]
            await asyncio.sleep(HEAD_S * 2)
        writer.close()
        assert 0 == server.cut("head too slow")


async def test_an_answer_under_way_is_not_cut_off_by_what_comes_meanwhile() -> None:
    """While we still work, the client owes nothing: a stray line end or half of a next head does no harm."""
    async with serving(head_s=HEAD_S) as server:
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


async def test_a_body_that_does_not_end_is_a_408() -> None:
    """A body has a deadline, however it dribbles in; the answer says so and the connection ends."""
    async with serving(body_s=BODY_S) as server:
        chunked = POST.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")
        for first, then in ((POST, b""), (POST, b"a"), (chunked, b"1\r\na\r\n")):
            reader, writer = await server.connect()
            began = time.monotonic()
            writer.write(first)
            dribbling = asyncio.create_task(_dribble(writer, then))
            async with asyncio.timeout(CUT_WITHIN_S):
                answer = await reader.readuntil(b"}")  # at once: whoever goes on sending loses what it has not read
            assert (408, "request-timeout") == problem_of(answer)
            assert BODY_S <= time.monotonic() - began
            dribbling.cancel()
            writer.close()


async def test_a_body_that_is_too_large_is_a_413_and_not_kept() -> None:
    """A body over the limit is read to its end, and up to a bound, so that the client hears why."""
    async with serving() as server:
        for size in (BYTES_MAX + 1, 200_000):
            head = POST.replace(b"100", str(size).encode())
            assert (413, "body-too-large") == problem_of(await server.say(head + b"a" * size))
        endless = POST.replace(b"100", str(100 * DRAINED_BYTES_MAX).encode())
        assert status_of(await server.say(endless, *[b"a" * 100_000] * 12)) in {0, 413}  # cut off before it is heard
        exact = POST.replace(b"100", str(BYTES_MAX).encode()).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert b"1000 bytes" in await server.say(exact + b"a" * BYTES_MAX)


async def test_a_body_that_nobody_reads_does_not_hold_the_connection() -> None:
    """Once the answer is out, the rest of a body has the time of a head."""
    async with serving(head_s=HEAD_S) as server:
        unread = POST.replace(b"/x", b"/unread")
        assert HEAD_S <= await _seconds_until_cut(server, unread, b"a" * 3)
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
            assert answer == b"" or 408 == status_of(answer)
        assert 1 <= server.cut("body too large")
        for scope in server.asked:
            assert {b"host", b"transfer-encoding"} == {name for name, _ in scope["headers"]}


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
        assert (400, "bad-request") == problem_of(answer) if answer else False, answer
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
        assert (405, "method-not-allowed") == problem_of(await server.say(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"))


async def test_the_api_is_behind_these_connections(api: Api) -> None:
    """The API itself refuses so, counts it, and gives no version away."""
    for said, expected in ((b"nonsense\r\n\r\n", 400), (GET[:-2] + b"x: " + b"a" * 20_000 + b"\r\n\r\n", 431)):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(said)
        assert expected == problem_of(await reader.read())[0]
        writer.close()
    assert 1 == await api.metric('http_server_connections_cut_total{why="headers-too-large"}')
    assert 1 <= await api.metric("http_server_connections")
