"""HTTP load that costs little CPU time itself: raw connections in one event loop, each with one request at a time.

Latency of a steady load counts from the moment when a request was due, not from when a connection was free for it, so
a stall of the server also counts for the requests that were due meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length: "


@dataclass
class Sample:
    """The answers to one load: their number by status (0: the connection broke), their latencies and bodies."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    bodies: list[bytes] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Accepted requests a second."""
        return self.statuses[202] / self.seconds

    def percentile_ms(self, share: float) -> float:
        """Return the latency that this share of the requests did not exceed."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3


class Connection(asyncio.Protocol):
    """A keep-alive connection that sends one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Collect data; an answer is complete when its body has the length that its head says."""
        self._buffer += data
        head, end, body = self._buffer.partition(HEAD_END)
        if not end:
            return
        lower = head.lower()
        start = lower.index(LENGTH) + len(LENGTH)
        length = int(lower[start:].split(b"\r\n", 1)[0])
        if len(body) >= length and self._answer is not None and not self._answer.done():
            self._buffer = b""
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        """End a waiting request with status 0."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((0, repr(exc).encode()))
        self._transport = None

    @property
    def alive(self) -> bool:
        """Whether the connection is open."""
        return self._transport is not None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return status and body."""
        if self._transport is None:
            return 0, b"closed"
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def as_fast_as_it_goes(port: int, requests: Iterator[bytes], *, connections: int, seconds: float) -> Sample:
    """Let each connection send its next request as soon as it has its answer."""
    sample, end = Sample(), time.perf_counter() + seconds

    async def client() -> None:
        connection = await connect(port)
        while (began := time.perf_counter()) < end:
            await _one(connection, next(requests), sample, began)
            if not connection.alive:
                connection = await connect(port)
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    sample.seconds = time.perf_counter() - began
    return sample


async def steadily(
    port: int, requests: Iterator[bytes], *, per_s: float, connections: int, seconds: float, keep_bodies: bool = False
) -> Sample:
    """Send at a fixed rate, whatever the server does, as far as this number of connections allows."""
    sample, began, due = Sample(), time.perf_counter(), iter(range(int(per_s * seconds)))

    async def client() -> None:
        connection = await connect(port)
        for number in due:
            at = began + number / per_s
            if (early_s := at - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)
            await _one(connection, next(requests), sample, at, keep_body=keep_bodies)
            if not connection.alive:
                connection = await connect(port)
        connection.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    sample.seconds = time.perf_counter() - began
    return sample


async def _one(
    connection: Connection, request: bytes, sample: Sample, since: float, *, keep_body: bool = False
) -> None:
    status, body = await connection.ask(request)
    sample.latencies_s.append(time.perf_counter() - since)
    sample.statuses[status] += 1
    if keep_body and status == 202:
        sample.bodies.append(body)


async def connect(port: int) -> Connection:
    """Open a connection to a server on this machine."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection
