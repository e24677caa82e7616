"""A whole system under test: started on given servers, read with SQL of the tests, and disturbed on purpose."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil

from contracts.decimals import Money
from contracts.topics import TOPICS
from local_stack.probes import http_ready
from local_stack.sample_data import DEPOSITS
from local_stack.stack import LocalStack, StackOptions
from operations.access.database import connected
from operations.audit import audit
from operations.demo.samples import load_samples
from participants.balance.store import deposit
from tests.e2e.wire import Events, Producer
from tests.support.infrastructure import drop_database, execute

WITHIN_S = 90.0
"""How long to wait for something that takes a second on an idle machine."""
POLL_S = 0.1


class Servers(Protocol):
    """Where a system finds PostgreSQL (its owner's address) and Kafka."""

    @property
    def database_url_admin(self) -> str: ...  # noqa: D102 - the protocol's docstring says it
    @property
    def kafka_bootstrap_servers(self) -> str: ...  # noqa: D102
    async def create_topics(self, topics: Mapping[str, int], /) -> None: ...  # noqa: D102
    async def delete_topics(self, prefix: str, /) -> None: ...  # noqa: D102


class Output(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@dataclass
class System:
    """A running system, with a follower of its events and a record of its deposits."""

    stack: LocalStack
    prefix: str
    producer: Producer
    events: Events
    database: asyncpg.Pool
    """Connections of the auditor, who sees the views of schema `audit` and nothing else."""
    deposits: dict[tuple[str, str], Decimal] = field(default_factory=dict)

    async def endow(self, users: list[str], holdings: Mapping[str, str], *, times: int = 1) -> list[str]:
        """Deposit the same holdings for each user, `times` times, and remember the sums."""
        async with connected(self.stack.logins["balance"]) as engine:
            for user, (asset_id, amount), _ in product(users, holdings.items(), range(times)):
                await deposit(engine, secrets.token_hex(8), user, asset_id, Money.parse(amount))
                self.deposits[user, asset_id] = self.deposits.get((user, asset_id), Decimal(0)) + Decimal(amount)
        return users

    async def rows(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Read the audit views; wait while the database is away."""
        give_up_at = time.monotonic() + WITHIN_S
        while True:
            try:
                return list(await self.database.fetch(statement, *arguments))
            except (
                OSError,
                asyncpg.PostgresConnectionError,
                asyncpg.CannotConnectNowError,
                asyncpg.AdminShutdownError,
            ):
                if time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(POLL_S)

    async def owner_rows(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Run any query, as the database's owner."""
        connection = await asyncpg.connect(self.stack.database_url)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    async def audit(self) -> list[Any]:
        """Run the product's own audit."""
        return list(await audit(self.stack.logins["auditor"]))

    async def cli(self, *words: str, env: Mapping[str, str] | None = None) -> Output:
        """Run one of the product's commands as a person next to a running stack does: it finds the stack by itself."""
        known = {"ORDER_SAGA_STACK": str(self.stack.folder / "stack.json")}
        return await command(*words, env=known | dict(env or {}))

    def port(self, pid: int) -> int:
        """Find the port of a service's process."""
        return int(psutil.Process(pid).environ()["HTTP_PORT"])

    @contextmanager
    def paused(self, service: str) -> Iterator[None]:
        """Freeze all processes of a service (SIGSTOP) while the block runs."""
        pids = self.stack.pids[service]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    async def end(self, service: str, how: signal.Signals, number: int = 0) -> None:
        """Send a signal that ends a process; return when its replacement is ready."""
        before = self.stack.pids[service][number]
        os.kill(before, how)
        await eventually(lambda: self.is_replaced(service, number, before), f"{service} is started again")

    async def is_replaced(self, service: str, number: int, before: int) -> bool:
        """Tell whether a process other than `before` is ready."""
        pid = self.stack.pids[service][number]
        with suppress(psutil.NoSuchProcess, KeyError):  # gone again, or not yet the service itself
            return pid != before and await http_ready(self.port(pid))()
        return False


@asynccontextmanager
async def running(
    servers: Servers,
    folder: Path,
    *,
    replicas: Mapping[str, int],
    time_scale: float = 1.0,
    samples: bool = True,
    environment: Mapping[str, str] | None = None,
    **more: Any,
) -> AsyncIterator[System]:
    """Run a system with a database and topics of its own, and remove both at the end.

    Webhooks are sent only where `replicas` asks for it. `environment`: further settings for all services; `more`:
    other options of `StackOptions`.
    """
    prefix, name = f"t{secrets.token_hex(4)}.", f"system_{secrets.token_hex(4)}"
    await execute(servers.database_url_admin, f'CREATE DATABASE "{name}"')
    await servers.create_topics({prefix + topic.name: topic.partitions for topic in TOPICS})
    url = urlunsplit(urlsplit(servers.database_url_admin)._replace(path=f"/{name}"))
    options = StackOptions(
        database_url=url,
        kafka_bootstrap_servers=servers.kafka_bootstrap_servers,
        environment={
            "KAFKA_TOPIC_PREFIX": prefix,
            "API_RATE_LIMIT_PER_S": "0",  # no limit: a few users trade as much as a thousand do
            **(environment or {}),
        },
        replicas={"webhooks": 0, **replicas},
        time_scale=time_scale,
        load_samples=(lambda logins: load_samples(logins, time_scale)) if samples else None,
        **more,
    )
    try:
        async with LocalStack(folder, options) as stack, watched(stack, prefix) as system:
            if samples:
                system.deposits |= {(one.user_id, one.asset_id): one.amount for one in DEPOSITS}
            yield system
    finally:
        await drop_database(servers.database_url_admin, name)
        await servers.delete_topics(prefix)


@asynccontextmanager
async def watched(stack: LocalStack, prefix: str) -> AsyncIterator[System]:
    """Follow the events of a stack that runs, from the beginning of the topic."""
    kafka = stack.kafka_bootstrap_servers
    with Events(kafka, prefix) as events:
        async with asyncpg.create_pool(stack.logins["auditor"], min_size=0, max_size=4) as database:
            yield System(stack, prefix, Producer(kafka, prefix), events, database)


async def command(*words: str, env: Mapping[str, str] | None = None) -> Output:
    """Run `order-saga` with these words."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "operations.cli", *words),
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Output(process.returncode, out.decode(), err.decode())


async def eventually(
    holds: Callable[[], Awaitable[bool]], what: str, *, within_s: float = WITHIN_S, poll_s: float = POLL_S
) -> None:
    """Wait until a condition holds; when that takes too long, fail and name the condition."""
    try:
        async with asyncio.timeout(within_s):
            while not await holds():
                await asyncio.sleep(poll_s)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None
