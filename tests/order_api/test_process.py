"""The API as a process: how it starts, how it ends, and that an order outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from local_stack.ports import free_ports
from order_api.process import DRAIN_S, LAST_ANSWERS_S
from order_api.settings import ApiSettings
from saga_kit.runtime.health import listen
from tests.order_api.support import BUY, SECRET, Orchestrator, records, token, until

PROGRAM = "from order_api.process import run; raise SystemExit(run())"
PATIENT = "from order_api import process; process.LAST_ANSWERS_S = 90; raise SystemExit(process.run())"
"""A process in which a client that is held up is still waited for."""
LAST_LINES = 50
"""So much of what a process wrote is shown when its test fails."""


def _headers() -> dict[str, str]:
    """Sign a token that is good for ten minutes from now, not from when the tests were collected."""
    return {"Authorization": f"Bearer {token()}", "Idempotency-Key": "k"}


@dataclass
class Running:
    """A process, and where it listens."""

    process: asyncio.subprocess.Process
    client: httpx2.AsyncClient
    log: Path

    def told(self) -> str:
        """Read what it has written to stderr."""
        return self.log.read_text(errors="replace")

    async def answers(self, path: str) -> bool:
        """Tell whether a path answers 200."""
        try:
            return (await self.client.get(path)).status_code == httpx2.codes.OK
        except httpx2.TransportError:
            return False

    async def end(self, how: signal.Signals) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(how)
        return await self.process.wait()


@asynccontextmanager
async def process(settings: ApiSettings, *, program: str = PROGRAM, **environment: str) -> AsyncIterator[Running]:
    """Start an API process; kill it in the end if it still runs. When the test fails, show what it said."""
    [port] = free_ports(1)  # out of the range of outgoing connections, which any client could take meanwhile
    own = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": settings.kafka_topic_prefix,
        "JWT_SECRET": SECRET,
        "HTTP_PORT": str(port),
        **environment,
    }
    with tempfile.NamedTemporaryFile() as log:  # a pipe that nobody reads fills up, and stops who writes
        started = await asyncio.create_subprocess_exec(sys.executable, "-c", program, env=os.environ | own, stderr=log)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            one = Running(started, client, Path(log.name))
            try:
                yield one
            except BaseException:
                sys.stderr.write("\n".join(["the API process said last:", *one.told().splitlines()[-LAST_LINES:], ""]))
                raise
            finally:
                if started.returncode is None:
                    started.kill()
                await started.wait()


async def test_a_kill_between_claim_and_publish_loses_nothing(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """`kill -9` after the claim's commit: a process that starts later shows the order, replays it and publishes it."""
    mute = listen("127.0.0.1", 0)  # a broker that takes the connection and never says a word: the publish waits for it
    address = f"127.0.0.1:{mute.getsockname()[1]}"
    async with process(settings, KAFKA_BOOTSTRAP_SERVERS=address) as dying:
        await until(lambda: dying.answers("/health/live"), 60)
        posting = asyncio.create_task(dying.client.post("/orders", json=BUY, headers=_headers()))
        [row] = await until(lambda: orchestrator.run("SELECT order_id::text FROM api.claims"))
        assert -signal.SIGKILL == await dying.end(signal.SIGKILL)
        with pytest.raises(httpx2.TransportError):
            await posting
    mute.close()
    async with process(settings) as next_one:
        await until(lambda: next_one.answers("/health/ready"), 60)
        assert (
            "PENDING" == (await next_one.client.get(f"/orders/{row['order_id']}", headers=_headers())).json()["status"]
        )
        await orchestrator.run("UPDATE api.claims SET next_publish_at = now()")
        await until(lambda: _is_published(settings, row["order_id"]), 30)
        again = await next_one.client.post("/orders", json=BUY, headers=_headers())
        assert (202, row["order_id"]) == (again.status_code, again.json()["order_id"])
        assert 0 == await next_one.end(signal.SIGTERM)


async def _is_published(settings: ApiSettings, order_id: str) -> bool:
    found = await records(settings.kafka_bootstrap_servers, settings.kafka_topic_prefix)
    return order_id in {record.key.decode() for record in found}


async def test_what_is_wrong_at_the_start_is_one_line(settings: ApiSettings) -> None:
    """A wrong setting ends with status 2 and names itself, never the secret; a busy port with status 1."""
    async with process(settings, JWT_SECRET="too-short") as one:
        assert 2 == await one.process.wait()
        assert one.told() == "JWT_SECRET: must be at least 32 bytes long\n"
    with listen("127.0.0.1", 0) as busy:
        port = busy.getsockname()[1]
        async with process(settings, HTTP_PORT=str(port)) as one:
            assert 1 == await one.process.wait()
            [line] = one.told().splitlines()
            assert f"can't listen on 127.0.0.1:{port}" in line


async def test_a_database_that_can_never_be_worked_with_ends_the_process(settings: ApiSettings) -> None:
    """A wrong password is not waited for, as a database that is away is: status 1, and the last line says why."""
    url = urlsplit(settings.database_url.get_secret_value())
    wrong = url._replace(netloc=url.netloc.replace(":", ":not-", 1)).geturl()
    async with process(settings, DATABASE_URL=wrong) as one:
        async with asyncio.timeout(90):
            assert 1 == await one.process.wait()
        assert "password authentication failed for user" in one.told().splitlines()[-1]


async def test_who_keeps_a_connection_is_answered_when_the_process_ends(settings: ApiSettings) -> None:
    """After SIGTERM a request on an open connection is answered, as the last one; new ones are refused."""
    async with process(settings, program=PATIENT) as one:
        await until(lambda: one.answers("/health/live"), 60)
        reader, writer = await asyncio.open_connection("127.0.0.1", one.client.base_url.port)
        assert "close" not in await _asks(reader, writer)
        ending = asyncio.create_task(one.end(signal.SIGTERM))
        await until(lambda: _refuses(one.client.base_url.port))
        assert "connection: close" in await _asks(reader, writer)
        assert b"" == await reader.read()
        writer.close()
        await one.client.aclose()
        async with asyncio.timeout(30):  # nobody is left to wait for
            assert 0 == await ending


async def test_who_keeps_a_connection_and_says_nothing_stops_no_end(settings: ApiSettings) -> None:
    """A connection on which nothing comes is closed after a while."""
    async with process(settings) as one:
        await until(lambda: one.answers("/health/live"), 60)
        reader, writer = await asyncio.open_connection("127.0.0.1", one.client.base_url.port)
        await _asks(reader, writer)
        async with asyncio.timeout(LAST_ANSWERS_S + DRAIN_S):
            assert 0 == await one.end(signal.SIGTERM)
        assert b"" == await reader.read()
        writer.close()


async def _asks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Ask for something on an open connection; return the answer's head in small letters."""
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: api\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert head.startswith("http/1.1 200"), head
    length = next(line for line in head.splitlines() if line.startswith("content-length:"))
    await reader.readexactly(int(length.partition(":")[2]))
    return head


async def _refuses(port: int | None) -> bool:
    """Tell whether no connection is taken any more."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return True
    writer.close()
    return False
