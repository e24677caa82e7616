"""Servers in a test's own loop, which leave no connection open, whatever the moment at which they end.

asyncio's own servers may: a connection that is accepted, but not yet made when the server is closed, is forgotten, and
so is one whose handler is called off before it has begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
MADE_IN_TURNS: Final = 3
"""Of the loop: from a connection's acceptance until its protocol, and a task that this starts, have begun."""


async def take_no_more(server: asyncio.Server) -> None:
    """Close a server when all connections that it has accepted are made; who serves them can then close them."""
    for listener in server.sockets:
        server.get_loop().remove_reader(listener.fileno())
    for _ in range(MADE_IN_TURNS):
        await asyncio.sleep(0)
    server.close()


class Listener:
    """A server on this machine; `serve` is called in a task of its own for each connection, which ends with it."""

    def __init__(self, serve: Serve) -> None:
        self.port = 0
        self._serve = serve
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self, port: int = 0) -> None:
        """Listen, by default at a free port."""
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    def call_off(self) -> None:
        """End every connection that there is."""
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """Take no more connections, and end every one."""
        assert self._server is not None
        await take_no_more(self._server)
        self.call_off()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for writer in self._writers:
            writer.transport.abort()  # one that is only closed stays open while its other end does not read

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        self._writers.append(writer)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # not in the task, which may never begin


@asynccontextmanager
async def listening(serve: Serve, port: int = 0) -> AsyncIterator[int]:
    """Run a server; give its port."""
    one = Listener(serve)
    await one.start(port)
    try:
        yield one.port
    finally:
        await one.stop()
