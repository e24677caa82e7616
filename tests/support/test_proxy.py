"""The proxy passes bytes unchanged, and its faults do what they say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.listening import listening
from tests.support.proxy import Proxy


@asynccontextmanager
async def _echo() -> AsyncIterator[Proxy]:
    """Run a server that sends back what it gets, with a proxy in front of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass

    proxy = Proxy()
    await proxy.start()
    try:
        async with listening(serve) as behind:
            proxy.target = ("127.0.0.1", behind)
            yield proxy
    finally:
        await proxy.close()


@asynccontextmanager
async def _client(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    writer.write(data)
    async with asyncio.timeout(20):
        return await reader.readexactly(len(data))


async def test_bytes_pass_as_they_are() -> None:
    """A megabyte arrives complete and in order, also while the delay changes."""
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        for delay_s in (0.0, 0.02, 0.001, 0.0):
            proxy.delay_s = delay_s
            data = bytes(range(256)) * 4096
            assert data == await _says(reader, writer, data)


async def test_a_delay_makes_everything_late_by_it_in_each_direction() -> None:
    """A round trip takes twice the delay."""
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        await _says(reader, writer, b"warm")
        proxy.delay_s = 0.1
        began = time.monotonic()
        await _says(reader, writer, b"late")
        assert 0.2 <= time.monotonic() - began < 10


async def test_a_cut_resets_connections_and_refuses_new_ones_until_it_is_healed() -> None:
    """A cut resets both sides of a connection."""
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        await _says(reader, writer, b"hello")
        assert 1 == proxy.cut()
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        async with _client(proxy) as (late_reader, _):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await late_reader.readexactly(1)
        proxy.heal()
        async with _client(proxy) as (new_reader, new_writer):
            assert b"again" == await _says(new_reader, new_writer, b"again")


async def test_swallowed_connections_stay_half_open_and_only_new_ones_work_afterwards() -> None:
    """On a half-open connection writing works, and no answer comes, neither during the fault nor later."""
    async with _echo() as proxy, _client(proxy) as (reader, writer):
        await _says(reader, writer, b"hello")
        assert 1 == proxy.swallow()
        async with _client(proxy) as (late_reader, late_writer):
            late_writer.write(b"into the dark")
            proxy.heal()
            for receiver, sender in ((reader, writer), (late_reader, late_writer)):
                sender.write(b"anybody there?")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await receiver.read(1)
        async with _client(proxy) as (new_reader, new_writer):
            assert b"again" == await _says(new_reader, new_writer, b"again")
