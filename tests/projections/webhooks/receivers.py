"""Receivers of webhooks for tests: one that answers as told and keeps what it got, and ways to answer badly."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from saga_kit.runtime.sealing import Seal
from tests.support.listening import listening

KEY: Final = base64.urlsafe_b64encode(b"for the tests of this room alone").decode()
SEAL: Final = Seal(KEY)


class Received(NamedTuple):
    """A request as it came."""

    target: str
    headers: dict[str, str]
    body: bytes


Answering = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def answer(status: str = "200 OK", body: bytes = b"", *headers: str) -> Answering:
    """Answer like this."""

    async def write(_: Received, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return write


def raw(data: bytes, *, close: bool = True) -> Answering:
    """Answer with these bytes, whatever they are."""

    async def write(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if close:
            writer.close()

    return write


def drip(head: bytes, drop: bytes = b"x", pause_s: float = 0.02) -> Answering:
    """Answer with this, and then with a little more now and then, for ever."""

    async def write(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return write


def answer_without_end(part: bytes) -> Answering:
    """Answer with this again and again, as fast as it is read."""

    async def write(_: Received, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(part)
            await writer.drain()

    return write


async def hang(_: Received, __: asyncio.StreamWriter) -> None:
    """Answer nothing."""
    await asyncio.Event().wait()


async def flood(_: Received, writer: asyncio.StreamWriter) -> None:
    """Answer with 10 MB."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n")
    for _number in range(100):
        writer.write(b"y" * 100_000)
        await writer.drain()


class Receiver:
    """An HTTP server on this machine that keeps what it got."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.received: list[Received] = []
        self.connections = 0
        self.port = 0
        self._new = asyncio.Condition()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    async def wait_for(self, number: int, within_s: float = 30.0) -> None:
        """Wait until it got so many requests."""
        async with asyncio.timeout(within_s), self._new:
            await self._new.wait_for(lambda: len(self.received) >= number)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, until its other end has enough."""
        self.connections += 1
        try:
            while not writer.is_closing():
                await self._serve_one(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        got = Received(first.split(" ")[1], headers, body)
        self.received.append(got)
        async with self._new:
            self._new.notify_all()
        await self.answering(got, writer)


@asynccontextmanager
async def receiving(answering: Answering | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver(answering or answer())
    async with listening(receiver.serve) as receiver.port:
        yield receiver
