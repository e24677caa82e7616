"""The servers of a benchmark, one PostgreSQL and one broker, and the systems that are started on them on demand.

Systems that are compared share the servers, each with a database and topics of its own. Everything stops with the
servers, and nothing is left afterwards. The PostgreSQL is the embedded one, with fsync on; the broker is the embedded
one, the Apache Kafka that KAFKA_BOOTSTRAP_SERVERS names, or one in a container.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
from docker import DockerClient
from rich.console import Console

from local_stack import broker
from local_stack.errors import StackError
from local_stack.ports import free_ports
from local_stack.postgres import Postgres
from local_stack.processes import run_to_end
from local_stack.stack import LocalStack, StackOptions
from local_stack.supervisor import Supervisor
from operations.demo.samples import load_samples
from tests.bench import accounts
from tests.bench.bare import PARTITIONS
from tests.bench.load import ACCOUNTS
from tests.bench.peers import STATUSES_OF_SYSTEM, KafkaContender, Place, topics_of
from tests.support.infrastructure import create_topics, delete_topics
from tests.support.servers import DockerServer, docker_trouble, start_docker_kafka

BrokerChoice = Literal["embedded", "kafka"]
_LOAD_SAMPLES = """
import asyncio, json, os
from operations.demo.samples import load_samples
asyncio.run(load_samples(json.loads(os.environ["LOGINS"]), 1.0))
"""
LIBRARIES = ("aiokafka", "asyncpg", "dbos", "fastapi", "faststream", "msgspec", "pydantic", "sqlalchemy", "uvloop")
Prepare = Callable[[str], Awaitable[None]]
"""Prepares a system's database before its services start, given the owner's address."""


@dataclass(frozen=True)
class System:
    """A running system, and the contender that sends it orders."""

    stack: LocalStack
    contender: KafkaContender
    prefix: str


@dataclass
class Ground:
    """The servers that systems and peers share, and the systems that run."""

    kafka_bootstrap_servers: str
    database_url: str
    prefix: str
    folder: Path
    out: Console
    versions: str
    """A description of the servers and libraries for people."""
    broker_kind: BrokerChoice
    pids: Mapping[str, Sequence[int]]
    """The process ids of the servers, by name."""
    everything: AsyncExitStack
    systems: dict[str, System] = field(default_factory=dict)

    @property
    def shared_pids(self) -> dict[str, Sequence[int]]:
        """The processes that all contenders use: the servers, and this process, which is the load."""
        return {**self.pids, "load": [os.getpid()]}

    @property
    def place(self) -> Place:
        """The servers as peers need them."""
        return Place(self.kafka_bootstrap_servers, self.database_url, self.prefix, self.folder / "peers")

    async def system(
        self,
        name: str = "system",
        *,
        replicas: Mapping[str, int] | None = None,
        environment: Mapping[str, str] | None = None,
        environment_of: Mapping[str, Mapping[str, str]] | None = None,
        prepare: Prepare | None = None,
        users: int = ACCOUNTS,
        source: Path | None = None,
    ) -> System:
        """Return the system of this name; start it the first time. Without `replicas` it has no API and no webhooks.

        `source`: the folder of another version of the program, which then runs instead of this one.
        """
        if name in self.systems:
            return self.systems[name]
        prefix, url = f"{self.prefix}{name}.", await create_database(self.database_url, f"bench_{name}")

        async def samples(logins: Mapping[str, str]) -> None:
            if prepare is not None:
                await prepare(url)
            if source is None:
                await load_samples(logins, 1.0)
            else:
                await _load_other_samples(source, logins, self.folder / name / "logs")
            await accounts.fill(url, users)

        options = StackOptions(
            load_samples=samples,
            command=_command(source),
            environment={"KAFKA_TOPIC_PREFIX": prefix, **_path(source), **(environment or {})},
            environment_of=environment_of or {},
            replicas={"api": 0, "webhooks": 0, **(replicas or {})},
            database_url=url,
            kafka_bootstrap_servers=self.kafka_bootstrap_servers,
        )
        self.out.print(f"[dim]{name}:[/]")
        stack = await self.everything.enter_async_context(LocalStack(self.folder / name, options, self.out))
        place = Place(self.kafka_bootstrap_servers, url, prefix, self.folder / name)
        self.systems[name] = System(stack, KafkaContender(name, place, prefix, STATUSES_OF_SYSTEM, stack), prefix)
        return self.systems[name]


@asynccontextmanager
async def ground(
    folder: Path, kind: BrokerChoice, names: Sequence[str], out: Console, *, topics: Sequence[str] = ()
) -> AsyncIterator[Ground]:
    """Start the servers with the topics of all `names` and `topics`; at the end stop the systems, then the servers."""
    prefix = f"bench{secrets.token_hex(3)}."
    logs = folder / "servers"
    logs.mkdir(parents=True)
    wanted = topics_of(prefix, *names) | {f"{prefix}{name}": PARTITIONS for name in topics}
    supervisor = Supervisor(logs, say=lambda text: out.print(text, markup=False))
    async with AsyncExitStack() as servers:
        servers.push_async_callback(supervisor.stop)
        postgres = Postgres(folder / "postgres", free_ports(1)[0])
        await postgres.prepare(logs)
        await supervisor.start(postgres.spec())
        kafka, words, pids = await _broker(kind, prefix, wanted, supervisor, servers)
        pids = {"postgres": supervisor.pids["postgres"], **pids}
        async with AsyncExitStack() as everything:
            versions = f"{words}, {await _versions(postgres.database_url)}"
            yield Ground(kafka, postgres.database_url, prefix, folder, out, versions, kind, pids, everything)


def _path(source: Path | None) -> dict[str, str]:
    return {} if source is None else {"PYTHONPATH": str(source)}


def _command(source: Path | None) -> Sequence[str]:
    """Return how the program is started; without `-P` the folder that we are in would come before `PYTHONPATH`."""
    return (sys.executable, *(() if source is None else ("-P",)), "-m", "operations.cli")


async def _load_other_samples(source: Path, logins: Mapping[str, str], logs: Path) -> None:
    """Load the sample data as that version of the program writes it."""
    argv = (sys.executable, "-P", "-c", _LOAD_SAMPLES)
    await run_to_end("samples", argv, logs, env={**os.environ, **_path(source), "LOGINS": json.dumps(dict(logins))})


async def create_database(admin_url: str, name: str) -> str:
    """Create a database; return its owner's address."""
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return urlunsplit(urlsplit(admin_url)._replace(path=f"/{name}"))


async def _broker(
    kind: BrokerChoice,
    prefix: str,
    topics: Mapping[str, int],
    supervisor: Supervisor,
    servers: AsyncExitStack,
) -> tuple[str, str, Mapping[str, Sequence[int]]]:
    """Yield the broker's address, its description, and its processes where they run on this machine."""
    if kind == "embedded":
        [port] = free_ports(1)
        await supervisor.start(broker.process_spec(port, topics))
        words = f"the embedded broker (librdkafka {version('confluent-kafka')}'s mock, in memory)"
        return f"127.0.0.1:{port}", words, {"broker": supervisor.pids["broker"]}
    if address := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        await create_topics(address, topics)
        servers.push_async_callback(delete_topics, address, prefix)
        return address, "the Kafka that KAFKA_BOOTSTRAP_SERVERS names", {}
    if trouble := docker_trouble():
        raise StackError(f"no Apache Kafka: KAFKA_BOOTSTRAP_SERVERS is not set, and {trouble}")
    server = await _started(servers)
    await create_topics(server.address, topics)
    return server.address, server.description, _pids_of(server)


async def _started(servers: AsyncExitStack) -> DockerServer:
    """Start Kafka in a container; an interrupted start also removes the container."""
    starting = asyncio.ensure_future(asyncio.to_thread(start_docker_kafka, measured=True))
    servers.push_async_callback(_close, starting)
    return await asyncio.shield(starting)


async def _close(starting: asyncio.Future[DockerServer]) -> None:
    await asyncio.wait([starting])
    if starting.exception() is None:
        await asyncio.to_thread(starting.result().close)


def _pids_of(server: DockerServer) -> Mapping[str, Sequence[int]]:
    """Return the container's process, where the engine runs on this machine."""
    client = DockerClient.from_env()
    try:
        pid = client.containers.get(server.container_id or "").attrs["State"]["Pid"]
    finally:
        client.close()
    return {"broker": [pid]} if psutil.pid_exists(pid) and "java" in psutil.Process(pid).name() else {}


async def _versions(database_url: str) -> str:
    connection = await asyncpg.connect(database_url)
    try:
        postgres = await connection.fetchval("SELECT split_part(current_setting('server_version'), ' ', 1)")
    finally:
        await connection.close()
    return f"PostgreSQL {postgres} (embedded, fsync on), " + ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
