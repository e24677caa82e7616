"""Bounds what is read of an answer from the network, whatever comes.

The parser takes any number of interim answers (1xx) before the real one. A host that sends them as fast as it can would
keep the process busy for as long as an attempt may take.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any, Final

import httpcore2
from httpcore2 import SOCKET_OPTION, AsyncNetworkBackend, AsyncNetworkStream

PIECE_BYTES: Final = 16_384
"""Bytes that are read at a time, so that others get their turn in between."""


class BoundedNetwork(AsyncNetworkBackend):
    """Dials by another backend. Between two requests, `bytes_max` are read of a connection, and little more."""

    def __init__(self, inner: AsyncNetworkBackend, bytes_max: int) -> None:
        self._inner = inner
        self._bytes_max = bytes_max

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> AsyncNetworkStream:
        """Connect as the other backend does."""
        return _BoundedStream(await self._inner.connect_tcp(host, port, *args, **options), self._bytes_max)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Connect as the other backend does."""
        return _BoundedStream(await self._inner.connect_unix_socket(path, timeout, socket_options), self._bytes_max)

    async def sleep(self, seconds: float) -> None:
        """Sleep, as a backend must be able to."""
        await asyncio.sleep(seconds)


class _BoundedStream(AsyncNetworkStream):
    def __init__(self, inner: AsyncNetworkStream, bytes_max: int) -> None:
        self._inner = inner
        self._bytes_max = bytes_max
        self._read = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's interface
        if self._read >= self._bytes_max:
            raise httpcore2.RemoteProtocolError("its answer is too long")
        data = await self._inner.read(min(max_bytes, PIECE_BYTES), timeout)
        self._read += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._read = 0
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> AsyncNetworkStream:
        return _BoundedStream(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._bytes_max)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
