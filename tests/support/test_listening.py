"""A server of a test leaves nothing open, whatever the moment at which it ends."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

from tests.support.listening import listening
from tests.support.proxy import Proxy

TURNS: Final = range(8)
"""Of the loop, from a client's connection until everything rests."""
MUCH: Final = b"x" * 1_000_000


async def _hangs(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def _says_much(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(10 * MUCH)


@pytest.mark.parametrize("serve", [_hangs, _says_much])
def test_a_server_leaves_nothing_open(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client has just connected, and reads nothing: its connection is closed, at whatever stage it is."""

    async def play(turns: int) -> None:
        with socket.socket() as client:
            async with listening(serve) as port:
                client.connect(("127.0.0.1", port))
                await _turn(turns)

    assert [] == _left_by(play, monkeypatch)


@pytest.mark.parametrize("mood", ["passes", "refuses", "swallows", "is late, and the client has left"])
def test_a_proxy_leaves_nothing_open(mood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of a proxy, whatever its mood; nobody reads behind it."""

    async def play(turns: int) -> None:
        proxy = Proxy()
        proxy.target = behind.getsockname()
        await proxy.start()
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            if mood == "swallows":
                proxy.swallow()
            elif mood == "refuses":
                proxy.cut()
            elif mood != "passes":
                await _turn(len(TURNS))
                proxy.delay_s = 60
                client.send(b"something")
                client.close()
            await _turn(turns)
            await proxy.close()

    with socket.create_server(("127.0.0.1", 0)) as behind:
        assert [] == _left_by(play, monkeypatch)


async def _turn(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def _left_by(play: Callable[[int], Coroutine[Any, Any, None]], patch: pytest.MonkeyPatch) -> list[Any]:
    """Play in loops of their own; return what is told when that which is still open is collected."""
    told: list[Any] = []
    patch.setattr(sys, "unraisablehook", lambda one: told.append(str(one.exc_value)))
    for turns in TURNS:
        asyncio.run(play(turns))
    gc.collect()
    return told
