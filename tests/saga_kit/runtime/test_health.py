"""A worker's health port answers under attack, and its report can be read by anybody at any rate."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx2
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from saga_kit.runtime import health as health_module
from saga_kit.runtime.connections import Connections
from saga_kit.runtime.health import CONNECTIONS_MAX, Health, HealthServer, health_routes, listen

HIDDEN_HOST = "db.internal.example"


@asynccontextmanager
async def serving(health: Health) -> AsyncIterator[int]:
    """Serve health as a worker does; return the port."""
    server = HealthServer(listen("127.0.0.1", 0), health_routes(health, CollectorRegistry()))
    server.start()
    try:
        yield server.port
    finally:
        await server.stop()


async def get(port: int, path: str = "/health/live") -> httpx2.Response:
    """Request a path on a new connection."""
    async with httpx2.AsyncClient(timeout=30) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


async def test_a_huge_header_stops_no_other_client() -> None:
    """A header of 48 MB is cut off at 16 KiB, and meanwhile others are answered at once."""
    async with serving(Health()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: a\r\n")

        async def push() -> None:
            for _ in range(48):
                writer.write(b"x: " + b"a" * 1_000_000 + b"\r\n")
                await writer.drain()

        pushing = asyncio.create_task(push())
        began = time.monotonic()
        for _ in range(5):
            assert 200 == (await get(port)).status_code
        assert time.monotonic() - began < 15
        await asyncio.gather(pushing, return_exceptions=True)  # cut off, unless it was faster than the linger
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * 20_000)
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        writer.close()


async def test_an_unread_body_is_bounded() -> None:
    """No request of this port has a body, so a long body ends its connection."""
    async with serving(Health()) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def push() -> None:
            while True:
                writer.write(b"10000\r\n" + b"a" * 65_536 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(push(), 60)
        assert 200 == (await get(port)).status_code
        writer.close()


async def test_idle_connections_do_not_block_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many idle or slow connections do not block a probe, and they are closed in the end."""
    monkeypatch.setattr(health_module, "Connections", partial(Connections, head_s=0.5))
    async with serving(Health()) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX * 3)]
        for _, writer in held[::2]:
            writer.write(b"GET /health HT")
        for _ in range(5):
            assert 200 == (await get(port)).status_code
        closed = await asyncio.gather(*(asyncio.wait_for(reader.read(), 30) for reader, _ in held))
        assert {b""} == set(closed)
        for _, writer in held:
            writer.close()


async def test_many_requests_are_one_check_a_second() -> None:
    """However many requests come, the database is asked at most once a second."""
    looks = 0

    async def database() -> None:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.05)  # other requests come while it is asked

    few = httpx2.Limits(max_connections=20)
    async with serving(Health({"database": database})) as port, httpx2.AsyncClient(limits=few, timeout=30) as client:
        url = f"http://127.0.0.1:{port}/health"
        began = time.monotonic()
        answers = await asyncio.gather(*(client.get(url + path) for path in ("", "/ready") for _ in range(50)))
        assert {200} == {answer.status_code for answer in answers}
        assert looks <= 1 + (time.monotonic() - began) / health_module.REUSED_S
        asked = looks
        await asyncio.sleep(health_module.REUSED_S + 0.1)  # until the report is too old to be reused
        await client.get(url)
        assert asked + 1 == looks


async def test_the_text_of_an_error_is_only_in_the_log() -> None:
    """An error's hosts, users and addresses are not in the public report; the log has them, once for each change."""

    async def database() -> None:
        raise ConnectionRefusedError(f"can't connect to {HIDDEN_HOST}:5432 as api")

    async def consumer() -> str:
        return "no partitions assigned"

    health = Health({"database": database, "consumer": consumer})
    with capture_logs() as lines:
        async with serving(health) as port:
            await get(port, "/health")
            health._made = None  # noqa: SLF001 - as if a second had passed
            answer = await get(port, "/health/ready")
    assert 503 == answer.status_code
    expected = {"database": "failed: ConnectionRefusedError; the log says more", "consumer": "no partitions assigned"}
    assert {"status": "unavailable", "checks": expected} == answer.json()
    told = [line for line in lines if line["event"] == "health changed"]
    assert ["database", "consumer"] == [line["check"] for line in told]
    assert HIDDEN_HOST in json.dumps(told)


async def test_a_change_of_the_checks_is_seen_at_once() -> None:
    """When the checks change, the next report uses them instead of a stored report."""

    async def stopping() -> str:
        return "stopping"

    health = Health()
    assert {} == await health.report()
    health.checks = {"stopping": stopping}
    assert {"stopping": "stopping"} == await health.report()
    health.checks = {}
    assert {} == await health.report()


async def test_a_cancelled_request_does_not_cancel_the_report_for_others() -> None:
    """A request that is cancelled does not cancel the report that others wait for."""
    asked, released = asyncio.Event(), asyncio.Event()

    async def database() -> None:
        asked.set()
        await released.wait()

    health = Health({"database": database})
    impatient, patient = (asyncio.create_task(health.report()) for _ in range(2))
    await asked.wait()
    impatient.cancel()
    released.set()
    assert {"database": "ok"} == await patient


async def test_an_answer_does_not_wait_for_the_clients_acknowledgement() -> None:
    """Nagle's algorithm is off on both event loops; otherwise an answer in two parts would take 40 ms."""
    with listen("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname()):
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
