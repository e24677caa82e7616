"""A TCP proxy that can cut, delay and half-open its connections. It knows no protocol.

No byte passes through a half-open connection in either direction, and neither side learns of it, not even when the
other side closes: as when a firewall forgets its table or a cable is pulled. It stays half-open after the fault has
ended; only new connections work. A kernel would notice some day; here it does so after `FORGOTTEN_S`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import Final, Literal

from tests.support.listening import take_no_more

FORGOTTEN_S: Final = 45.0

Mood = Literal["pass", "refuse", "swallow"]


class Proxy:
    """Listens on `port` of 127.0.0.1 (0: any) and passes connections on to `target`, except for its faults."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.target: tuple[str, int] | None = None
        self.turns: deque[tuple[str, int]] = deque()
        """When there are any, new connections go to these in turn, instead of to `target`."""
        self.delay_s = 0.0
        """How much later data arrives, in each direction."""
        self.passed_bytes = 0
        self.swallowed = asyncio.Event()
        """Set when the first byte was swallowed."""
        self._mood: Mood = "pass"
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, and end every connection."""
        if self._server is not None:
            await take_no_more(self._server)
        for link in list(self._links):
            link.abort()

    @property
    def connections(self) -> int:
        """How many connections there are, half-open ones included."""
        return len(self._links)

    def cut(self) -> int:
        """Reset all connections and refuse new ones until `heal`; return how many were cut."""
        self._mood = "refuse"
        victims = [link for link in self._links if not link.swallowed]
        for link in victims:
            link.abort()
        return len(victims)

    def swallow(self) -> int:
        """Make all connections half-open, and new ones likewise until `heal`; return how many there were."""
        self._mood = "swallow"
        victims = [link for link in self._links if not link.swallowed]
        for link in victims:
            link.swallow()
        return len(victims)

    def heal(self) -> None:
        """Let new connections pass without delay. Half-open ones stay half-open."""
        self._mood, self.delay_s = "pass", 0.0

    def _next_target(self) -> tuple[str, int] | None:
        self.turns.rotate(-1)
        return self.turns[-1] if self.turns else self.target

    def forget(self, link: _Link) -> None:
        """Remove a connection that has ended from the list."""
        self._links.discard(link)

    def _accept(self) -> _Side:
        link = _Link(self)
        self._links.add(link)
        return link.near

    async def connect(self, link: _Link) -> None:
        """Connect a new connection to the target, or apply the present fault to it."""
        if self._mood == "swallow":
            link.swallow()
        elif self._mood == "refuse" or (target := self._next_target()) is None:
            link.abort()
        else:
            try:
                await asyncio.get_running_loop().create_connection(lambda: link.far, *target)
            except OSError:
                link.abort()


class _Link:
    """One connection through the proxy: its two sides and the data between them."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.swallowed = False
        self.near, self.far = _Side(self), _Side(self)
        self.near.other, self.far.other = self.far, self.near
        self._connecting: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._connecting = asyncio.create_task(self.proxy.connect(self))

    def swallow(self) -> None:
        self.swallowed = True
        asyncio.get_running_loop().call_later(FORGOTTEN_S, self.abort)

    def abort(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self.proxy.forget(self)
        for side in (self.near, self.far):
            side.waiting.clear()
            if side.transport is not None:
                plug = side.transport.get_extra_info("socket")
                plug.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )  # a reset instead of an orderly close
                side.transport.abort()

    def lost(self, side: _Side) -> None:
        side.transport = None
        if self.swallowed:
            return  # the other side does not hear of it
        assert side.other is not None
        assert self._connecting is not None
        if side.other.transport is not None:
            side.other.finish()  # it may still have to send, so it is not forgotten yet
        elif side is self.far or self._connecting.done():
            self.proxy.forget(self)


class _Side(asyncio.Protocol):
    """One side of a connection: what it receives is sent by `other`, in order, after the delay."""

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.other: _Side | None = None
        self.transport: asyncio.Transport | None = None
        self.waiting: deque[bytes] = deque()
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self is self.link.near:
            self.link.begin()
        else:
            self._flush()
            if self.link.near.transport is None:
                self.finish()

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        if self.link.swallowed:
            self.link.proxy.swallowed.set()
        else:
            self.other.send(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's interface
        self.link.lost(self)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def send(self, data: bytes) -> None:
        """Write after the proxy's delay and after all earlier data."""
        proxy = self.link.proxy
        proxy.passed_bytes += len(data)
        if self.transport is not None and not self.waiting and not proxy.delay_s:
            self.transport.write(data)
            return
        self.waiting.append(data)
        if self.transport is not None:
            asyncio.get_running_loop().call_later(proxy.delay_s, self._next)

    def finish(self) -> None:
        """Close when everything is written."""
        self._closing = True
        if not self.waiting and self.transport is not None:
            self.transport.close()

    def _next(self) -> None:
        """Write the oldest piece: there is one call for each piece, so the order is preserved."""
        if self.waiting and self.transport is not None and not self.link.swallowed:
            self.transport.write(self.waiting.popleft())
        if self._closing:
            self.finish()

    def _flush(self) -> None:
        while self.waiting and self.transport is not None:
            self.transport.write(self.waiting.popleft())
