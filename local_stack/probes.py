"""Probes: ask a server on this machine whether it can be used. They return false rather than raise."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

Ready: TypeAlias = Callable[[], Awaitable[bool]]

_PATIENCE_S = 2.0
_REQUEST = b"GET /health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
_POSTGRES_3 = (3 << 16).to_bytes(4)


def http_ready(port: int) -> Ready:
    """Make a probe that says whether `GET /health/ready` answers 200."""

    async def ready() -> bool:
        return (await _answer(port, _REQUEST)).split(b" ")[1:2] == [b"200"]

    return ready


def tcp_ready(port: int) -> Ready:
    """Make a probe that says whether a program listens there."""

    async def ready() -> bool:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    return ready


def postgres_ready(port: int, user: str) -> Ready:
    """Make a probe like `pg_isready`: a server in recovery answers with an error, a ready one asks for a password."""
    hello = _POSTGRES_3 + f"user\0{user}\0\0".encode()

    async def ready() -> bool:
        return (await _answer(port, (len(hello) + 4).to_bytes(4) + hello)).startswith(b"R")

    return ready


async def _answer(port: int, hello: bytes) -> bytes:
    """Return the first bytes that a server answers, nothing if there is none or it does not answer in time."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(hello)
                return await reader.read(64)
            finally:
                writer.close()
    except OSError:  # TimeoutError is one
        return b""
