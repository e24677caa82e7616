"""A whole process: it logs what it waits for, is ready when it works, drains at the end, and logs why it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx2
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from structlog.testing import capture_logs

from local_stack.ports import free_ports
from saga_kit.messaging.batch import BatchProcess, Effects, Received
from saga_kit.messaging.publisher import Publisher, RawMessage
from saga_kit.runtime.database import check_sessions, create_engine
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.errors import CannotStart
from saga_kit.runtime.startup import wait_for
from saga_kit.runtime.transactions import Transaction
from saga_kit.service import FurtherConsumer, Kit, Service
from tests.saga_kit.messaging.consumer_setup import HEADERS
from tests.saga_kit.support import CuttingProxy, Item, Schema, Worker, kit_settings, until
from tests.support.infrastructure import Infrastructure

BUSY_S = 90.0
"""A loaded machine takes its time to import a program, and to answer."""


@dataclass
class Running:
    """A process and its log lines."""

    process: asyncio.subprocess.Process
    port: int
    lines: list[str]
    reading: asyncio.Task[None]

    async def said(self, text: str) -> str:
        """Wait for a line that contains a text."""
        async with asyncio.timeout(BUSY_S):
            while True:
                if found := [line for line in self.lines if text in line]:
                    return found[0]
                assert self.process.returncode is None or not self.lines, "\n".join(self.lines)
                await asyncio.sleep(0.02)

    async def get(self, path: str) -> httpx2.Response:
        """Request a path of its health server."""
        async with httpx2.AsyncClient(timeout=BUSY_S) as client:
            return await client.get(f"http://127.0.0.1:{self.port}{path}")

    async def ends(self) -> int:
        """Wait for its end and its last line."""
        async with asyncio.timeout(BUSY_S):
            await self.reading
            return await self.process.wait()


@dataclass
class ServiceSetup:
    """The schema, broker and topics of a test's services."""

    schema: Schema
    address: str
    prefix: str

    @asynccontextmanager
    async def service(self, **environment: str) -> AsyncIterator[Running]:
        """Run a service process."""
        [port] = free_ports(1)  # none that an outgoing connection of another test can take
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.saga_kit.service_main",
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "DATABASE_"))},
                "DATABASE_URL": self.schema.url,
                "KAFKA_BOOTSTRAP_SERVERS": self.address,
                "KAFKA_TOPIC_PREFIX": self.prefix,
                "KAFKA_SESSION_TIMEOUT_S": "6",
                "HTTP_PORT": str(port),
                "TEST_SCHEMA": self.schema.name,
                "LOG_FORMAT": "json",
                **environment,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        lines: list[str] = []
        reading = asyncio.create_task(_read(process, lines))
        try:
            yield Running(process, int(environment.get("HTTP_PORT", port)), lines, reading)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading

    async def send(self, *items: tuple[str, int]) -> None:
        """Publish items."""
        publisher = Publisher(kit_settings(self.schema.url, self.address, self.prefix), timeout_s=15)
        messages = [RawMessage(f"{self.prefix}t", b"k", json.dumps(item).encode(), HEADERS) for item in items]
        assert await publisher.publish_raw(messages)
        await publisher.stop()

    async def published(self, count: int) -> list[str]:
        """Read what the service published."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.address, auto_offset_reset="earliest")
        await consumer.start()
        try:
            consumer.assign([TopicPartition(f"{self.prefix}out", n) for n in range(2)])
            keys: list[str] = []
            async with asyncio.timeout(BUSY_S):
                while len(keys) < count:
                    batches = await consumer.getmany(timeout_ms=100)
                    keys += [record.key.decode() for records in batches.values() for record in records]
            return sorted(keys)
        finally:
            await consumer.stop()

    async def done(self) -> list[str]:
        """Read the committed rows."""
        return [row[0] for row in await self.schema.rows("SELECT key FROM {s}.done ORDER BY key")]


async def _read(process: asyncio.subprocess.Process, lines: list[str]) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        lines.append(line.decode().rstrip())  # noqa: PERF401 - seen by the test as they come


@pytest_asyncio.fixture
async def setup(schema: Schema, infrastructure: Infrastructure, topic_prefix: str) -> ServiceSetup:
    """Give this test a schema and topics."""
    await infrastructure.create_topics({f"{topic_prefix}t": 2, f"{topic_prefix}out": 2})
    return ServiceSetup(schema, infrastructure.kafka_bootstrap_servers, topic_prefix)


async def test_a_service_works_and_drains(setup: ServiceSetup, tmp_path: Path) -> None:
    """A service is ready once it consumes; after SIGTERM its batch commits, publishes and is acknowledged; exit 0."""
    hold = tmp_path / "hold"
    async with setup.service(TEST_HOLD=str(hold)) as running:
        await running.said("consuming")
        await running.said("handling")
        async with asyncio.timeout(BUSY_S):
            while (await running.get("/health")).status_code != 200:
                await asyncio.sleep(0.1)
        running.lines.clear()
        hold.touch()
        await setup.send(("a", 1))
        await running.said("handling")
        running.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(BUSY_S):  # it still answers while it drains
            while (response := await running.get("/health")).status_code == 200:
                await asyncio.sleep(0.05)
        hold.unlink()
        assert response.json()["checks"] == {"stopping": "stopping"}
        assert await running.ends() == 0
        assert any('"event": "ended"' in line for line in running.lines)
    assert await setup.done() == ["a", "timer"]
    assert await setup.published(2) == ["a", "timer"]
    assert await setup.schema.rows("SELECT * FROM {s}.outbox") == []
    async with setup.service() as running:  # nothing is delivered again
        await running.said("consuming")
        await setup.send(("b", 1))
        async with asyncio.timeout(BUSY_S):
            while await setup.done() != ["a", "b", "timer", "timer"]:
                await asyncio.sleep(0.05)
    assert await setup.done() == ["a", "b", "timer", "timer"]


async def test_a_killed_service_loses_nothing(setup: ServiceSetup, tmp_path: Path) -> None:
    """`kill -9` in a transaction commits no part of it, and the next process does the work."""
    hold = tmp_path / "hold"
    hold.touch()
    async with setup.service(TEST_HOLD=str(hold)) as running:
        await running.said("consuming")
        await running.said("handling")
        await setup.send(("a", 1))
        running.process.kill()
        await running.ends()
    assert await setup.done() == []
    async with setup.service():
        async with asyncio.timeout(BUSY_S):
            while "a" not in await setup.done():
                await asyncio.sleep(0.05)
    assert "a" in await setup.published(2)


@asynccontextmanager
async def serving(setup: ServiceSetup, **changes: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Run a service in this process; on leaving it must end by itself."""
    settings = kit_settings(
        changes.get("database_url", setup.schema.url),
        changes.get("address", setup.address),
        changes.get("prefix", setup.prefix),
    )
    stopping = asyncio.Event()
    schema = changes.get("schema", setup.schema.name)
    worker = Worker(schema, topics=("t",))
    service = Service(settings, name="svc", schema=schema, handler=lambda _: worker, stopping=stopping)
    running = asyncio.create_task(service.run())
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{service.server.port}", timeout=BUSY_S) as client:
        try:
            yield client
        finally:
            stopping.set()
            await asyncio.wait_for(running, 60)


async def answers(client: httpx2.AsyncClient, path: str, status: int) -> httpx2.Response:
    """Wait for an answer with a status."""
    async with asyncio.timeout(BUSY_S):
        while (response := await client.get(path)).status_code != status:
            await asyncio.sleep(0.05)
    return response


async def test_metrics_and_health(setup: ServiceSetup) -> None:
    """The metrics that alarms use exist, and the health report names its checks."""
    async with serving(setup) as client:
        assert (await answers(client, "/health/ready", 200)).json() == {
            "status": "ok",
            "checks": {"database": "ok", "consumer": "ok", "outbox": "ok"},
        }
        assert (await client.get("/health/live")).json() == {"status": "ok"}
        metrics = (await client.get("/metrics")).text
    for name in (
        "outbox_oldest_unsent_seconds",
        "dead_letters",
        "batch_size_bucket",
        "batch_duration_seconds_bucket",
        "consumer_lag_messages",
        "process_cpu_seconds_total",
    ):
        assert f"\n{name}" in metrics


async def test_a_further_consumer_waits_for_no_other(setup: ServiceSetup) -> None:
    """Two groups of one process read the same topic: while one is held up, the other works; both drain at the end.

    The second one's metrics bear its name, and those that only a process has are shown once.
    """
    stopping, free = asyncio.Event(), asyncio.Event()
    first, second = Worker(setup.schema.name), Worker(setup.schema.name)
    handle = first.handle

    async def held_up(tx: Transaction, messages: Sequence[Received[Item]]) -> Effects:
        await free.wait()
        return await handle(tx, messages)

    first.handle = held_up  # type: ignore[method-assign]
    settings = kit_settings(setup.schema.url, setup.address, setup.prefix)
    further = [FurtherConsumer("second", lambda _: second)]
    service = Service(
        settings, name="svc", schema=setup.schema.name, handler=lambda _: first, further=further, stopping=stopping
    )
    running = asyncio.create_task(service.run())
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{service.server.port}", timeout=BUSY_S) as client:
        await answers(client, "/health", 200)
        await setup.send(("a", 1))
        await until(lambda: bool(second.handled))
        metrics = (await client.get("/metrics")).text
    assert [] == first.handled
    stopping.set()
    free.set()
    await asyncio.wait_for(running, 60)
    assert [[Item("a", 1)]] == first.handled
    assert ["a", "a"] == await setup.done()
    assert "\nsecond_batch_size_count 1.0" in metrics
    assert "\nsecond_consumer_lag_messages" in metrics
    assert 1 == metrics.count("\nprocess_cpu_seconds_total")
    assert "second_process" not in metrics


async def test_the_tasks_of_a_further_consumer_have_its_batches(setup: ServiceSetup) -> None:
    """What a task of it makes is handled by it, beside what it reads, and by no other consumer."""
    stopping = asyncio.Event()
    first, second = Worker(setup.schema.name), Worker(setup.schema.name)

    async def task(kit: Kit, process: BatchProcess[Item]) -> None:
        await process.run([Received(Item("made", 1))])
        await kit.stopping.wait()

    settings = kit_settings(setup.schema.url, setup.address, setup.prefix)
    further = [FurtherConsumer("second", lambda _: second, tasks=(task,))]
    service = Service(
        settings, name="svc", schema=setup.schema.name, handler=lambda _: first, further=further, stopping=stopping
    )
    running = asyncio.create_task(service.run())
    await until(lambda: bool(second.handled))
    stopping.set()
    await asyncio.wait_for(running, 60)
    assert ([], [[Item("made", 1)]]) == (first.handled, second.handled)


@pytest.mark.parametrize(
    ("changes", "what", "cause"),
    [
        ({"database_url": "postgresql://u:p@127.0.0.1:1/d"}, "database 127.0.0.1:1/d", "refused|Connect call failed"),
        ({"schema": "no_such_schema"}, "database", 'relation "no_such_schema.outbox" does not exist'),
        ({"address": "127.0.0.1:1"}, "broker 127.0.0.1:1", "Unable to bootstrap"),
        ({"prefix": "none."}, "broker", r"missing topics \(or hidden from this login\): t"),
    ],
)
async def test_a_service_waits_for_what_is_not_there_yet(
    setup: ServiceSetup, changes: dict[str, str], what: str, cause: str
) -> None:
    """Without database, tables, broker or topics a service waits and logs it once; it is alive, but not ready."""
    with capture_logs() as lines:
        async with serving(setup, **changes) as client:
            await until(lambda: any(line["event"] == "waiting" for line in lines))
            assert (await client.get("/health/live")).status_code == 200
            assert (await client.get("/health")).json() == {
                "status": "unavailable",
                "checks": {"started": "starting"},
            }
            await asyncio.sleep(0.4)  # enough time to log it again
    [line] = [line for line in lines if line["event"] == "waiting"]
    assert line["what"].startswith(what)
    assert re.search(cause, line["cause"])


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (
            lambda url: url._replace(netloc=url.netloc.replace(":", ":not", 1)),
            "password authentication failed for user",
        ),
        (lambda url: url._replace(path="/nowhere"), 'database "nowhere" does not exist'),
    ],
)
async def test_a_wrong_database_ends_a_service_in_one_line(
    setup: ServiceSetup, change: Callable[[SplitResult], SplitResult], cause: str
) -> None:
    """A wrong database, which no waiting can fix, ends the service with status 1 and one line with place and cause."""
    url = urlsplit(setup.schema.url)
    async with setup.service(DATABASE_URL=change(url).geturl()) as running:
        assert await running.ends() == 1
        line: dict[str, Any] = json.loads(await running.said("ends"))
    assert line["cause"].startswith(f"CannotStart: database {url.hostname}:{url.port}/")
    assert cause in line["cause"]


async def test_an_unknown_host_is_not_waited_for_for_ever() -> None:
    """An unknown host is waited for and logged, because it may appear during a start; after a limit the start fails."""
    engine = create_engine(parse_database_url("postgresql://u:p@no-such-host.invalid/d"), application_name="t")
    with capture_logs() as lines, pytest.raises(CannotStart, match="no such host is known"):
        await wait_for("database", lambda: check_sessions(engine), asyncio.Event(), unknown_host_s=0.5)
    await engine.dispose()
    assert ["waiting"] == [line["event"] for line in lines]


async def test_a_service_that_has_lost_its_database_is_not_ready_and_recovers(setup: ServiceSetup) -> None:
    """Readiness follows the database; the process stays, and works again when the database does."""
    url = parse_database_url(setup.schema.url)
    proxy = CuttingProxy(url.host or "localhost", url.port or 5432)
    address = url.set(drivername="postgresql", host="127.0.0.1", port=await proxy.start())
    async with serving(setup, database_url=address.render_as_string(hide_password=False)) as client:
        await answers(client, "/health", 200)
        proxy.refuse()
        report = (await answers(client, "/health", 503)).json()
        assert report["checks"]["database"] != "ok"
        await setup.send(("a", 1))
        proxy.refusing = False
        await answers(client, "/health", 200)
        async with asyncio.timeout(BUSY_S):
            while await setup.done() != ["a"]:
                await asyncio.sleep(0.05)
    await proxy.stop()


async def test_a_host_whose_clock_is_wrong_handles_what_is_young(
    setup: ServiceSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replay horizon uses the database's clock: a host that is 40 days ahead rejects no record."""
    ahead = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + 40 * 86_400)
    monkeypatch.setattr("saga_kit.messaging.consumer.time", ahead)
    async with serving(setup), asyncio.timeout(BUSY_S):
        await setup.send(("a", 1))
        while await setup.done() != ["a"]:
            assert [] == await setup.schema.rows("SELECT reason FROM {s}.dead_letters")
            await asyncio.sleep(0.05)


async def test_a_busy_port_is_one_clear_line(setup: ServiceSetup) -> None:
    """A port that is taken ends the process at once with status 1 and one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with setup.service(HTTP_PORT=str(port)) as running:
            assert await running.ends() == 1
            [line] = running.lines
            assert json.loads(line)["cause"] == f"CannotStart: can't listen on 127.0.0.1:{port}: Address already in use"


async def test_a_broken_task_ends_the_process_with_status_1(setup: ServiceSetup) -> None:
    """A task that raises ends the process, which drains first and logs the cause."""
    async with setup.service(TEST_TASK_FAILS="1") as running:
        assert await running.ends() == 1
        line: dict[str, Any] = json.loads(await running.said("a part failed"))
        assert line["cause"] == "RuntimeError: the task broke"
    assert await setup.done() == ["timer"]


async def test_wrong_settings_are_lines_and_status_2(setup: ServiceSetup) -> None:
    """Wrong settings end the process before anything starts."""
    async with setup.service(DATABASE_URL="nonsense", LOG_LEVEL="loud") as running:
        assert await running.ends() == 2
        assert len(running.lines) == 2
