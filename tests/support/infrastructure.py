"""Chooses the PostgreSQL and the broker that the tests run on, starts them when first needed, and reports the choice.

For each of the two it takes the first of: the server that `DATABASE_URL` or `KAFKA_BOOTSTRAP_SERVERS` names; a
container, where a Docker engine answers; the embedded one. The embedded broker can't show groups of several members or
durability: tests marked `apache_kafka` are skipped there and named at the end, and so are tests whose program is
missing. With `REQUIRE_APACHE_KAFKA=1` the session fails instead; `REQUIRE_KUBERNETES=1` asks for Helm and an API server
alone. On a server that `DATABASE_URL` names, the tests create databases, roles and logins.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from docker.errors import DockerException

from docs.generate.kubernetes import program
from local_stack.stack import LOGIN_PREFIX, login_password
from tests.support.servers import (
    EmbeddedBroker,
    EmbeddedPostgres,
    ExternalServer,
    Server,
    docker_trouble,
    prepare_docker,
    start_docker_kafka,
    start_docker_postgres,
)

BrokerKind = Literal["apache", "embedded"]

LOGINS = ("orchestrator", "api", "balance", "assets", "webhooks", "auditor")

OF_KUBERNETES: Final = {"helm", "kubernetes"}
"""Markers of tests that `REQUIRE_KUBERNETES` asks for, without anything else."""

_TOPIC_EXISTS = 36
_VISIBLE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated database. `url` is its owner's, a superuser's."""

    url: str

    def url_of(self, login: str) -> str:
        """Return the address for one of `LOGINS`."""
        parts = urlsplit(self.url)
        server = parts.netloc.rpartition("@")[2]
        return urlunsplit(
            parts._replace(netloc=f"{LOGIN_PREFIX}{login}:{login_passwords(self.url, login)[login]}@{server}")
        )


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """The servers of a test session, shared by all tests; a test that stops a server uses its own (`own_broker`)."""

    postgres: Server
    broker: Server
    broker_kind: BrokerKind

    @property
    def database_url_admin(self) -> str:
        """The owner's address of the database that was there first."""
        return self.postgres.address

    @property
    def kafka_bootstrap_servers(self) -> str:
        """The address for Kafka clients."""
        return self.broker.address

    async def create_topics(self, topics: Mapping[str, int]) -> None:
        """Create topics, each with its number of partitions; return when clients can see them."""
        if isinstance(self.broker, EmbeddedBroker):
            for name, partitions in topics.items():
                self.broker.create_topic(name, partitions)
        else:
            await create_topics(self.kafka_bootstrap_servers, topics)

    async def delete_topics(self, prefix: str) -> None:
        """Delete the topics that begin with `prefix`; the embedded broker can't, and they cost it little."""
        if not isinstance(self.broker, EmbeddedBroker):
            await delete_topics(self.kafka_bootstrap_servers, prefix)


@dataclass
class Session:
    """Chooses and starts the infrastructure of a test session, and says what it chose."""

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    docker_trouble: str | None = field(default_factory=docker_trouble)
    """Why there are no containers; None where there can be."""
    not_run: list[str] = field(default_factory=list)
    """The tests that were skipped because there is no Apache Kafka."""
    not_seen: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of a missing program and the test that was skipped because of that."""
    infrastructure: Infrastructure | None = None
    _servers: list[Future[Server]] = field(default_factory=list)
    _up_in_s: float = 0.0
    _template: str | None = None

    @property
    def apache_is_required(self) -> bool:
        """Whether the session fails without Apache Kafka."""
        return self._is_set("REQUIRE_APACHE_KAFKA")

    def required_by(self, marker: str) -> str | None:
        """Name the variable that makes a test with this marker fail without its program; None: it is skipped."""
        asked = ["REQUIRE_APACHE_KAFKA", *(["REQUIRE_KUBERNETES"] if marker in OF_KUBERNETES else [])]
        return next((variable for variable in asked if self._is_set(variable)), None)

    @property
    def broker_kind(self) -> BrokerKind:
        """The kind of broker; before it is started, the kind that is expected."""
        return "apache" if "KAFKA_BOOTSTRAP_SERVERS" in self.environment or not self.docker_trouble else "embedded"

    def start(self) -> Infrastructure:
        """Start the chosen servers once; when the Docker engine answers but can't start them, the embedded ones."""
        if self.infrastructure is None:
            begin = time.monotonic()
            try:
                self.infrastructure = self._start()
            except (DockerException, RuntimeError, TimeoutError) as error:
                if self.docker_trouble or self.apache_is_required:
                    raise
                self.docker_trouble = f"the Docker engine does not serve: {str(error).splitlines()[0]}"
                self.infrastructure = self._start()
            self._up_in_s = time.monotonic() - begin
        return self.infrastructure

    async def template(self) -> str:
        """Return the name of the migrated database that others are copied from; make it the first time."""
        if self._template is None:
            name = f"template_{secrets.token_hex(4)}"
            await migrated_database(self.start().database_url_admin, name)
            self._template = name
        return self._template

    def close(self) -> None:
        """Stop what was started, and remove what was created on a server that is not ours."""
        if self._template and isinstance(self.start().postgres, ExternalServer):
            asyncio.run(drop_database(self.start().database_url_admin, self._template))
        self._close_servers()

    def describe(self) -> str:
        """Say in one line what the tests run on."""
        if self.infrastructure is not None:
            used = f"{self.infrastructure.broker.description}, {self.infrastructure.postgres.description}"
            return f"{used}, up in {self._up_in_s:.1f} s"
        if self.broker_kind == "apache":
            return "Apache Kafka and PostgreSQL, started when first needed"
        return f"the EMBEDDED broker and PostgreSQL, started when first needed; NOT Apache Kafka: {self.docker_trouble}"

    def _is_set(self, variable: str) -> bool:
        return self.environment.get(variable, "") not in {"", "0"}

    def _start(self) -> Infrastructure:
        """Start both at the same time; if one fails, stop the other."""
        if not self.docker_trouble:
            prepare_docker()
        with ThreadPoolExecutor(2) as pool:
            self._servers = [pool.submit(self._start_postgres), pool.submit(self._start_broker)]
        try:
            postgres, broker = (server.result() for server in self._servers)
        except BaseException:
            self._close_servers()
            raise
        return Infrastructure(postgres, broker, self.broker_kind)

    def _close_servers(self) -> None:
        """Stop all servers, those included that are still starting when Ctrl-C comes."""
        while self._servers:
            server = self._servers.pop()
            if server.exception() is None:
                server.result().close()

    def _start_postgres(self) -> Server:
        if address := self.environment.get("DATABASE_URL"):
            return ExternalServer(address, "the PostgreSQL that DATABASE_URL names")
        return EmbeddedPostgres() if self.docker_trouble else start_docker_postgres(in_memory=True)

    def _start_broker(self) -> Server:
        if address := self.environment.get("KAFKA_BOOTSTRAP_SERVERS"):
            return ExternalServer(address, "the Kafka that KAFKA_BOOTSTRAP_SERVERS names")
        return EmbeddedBroker() if self.docker_trouble else start_docker_kafka()


def chromium() -> str | None:
    """Find the browser of this machine; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def nginx() -> str | None:
    """Find the proxy of this machine, which is no program of ordinary users; None where there is none."""
    return shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


def api_server() -> bool:
    """Tell whether there is an API server of Kubernetes, or what one is started from."""
    if not (program("kubectl") and program("helm")):
        return False
    return bool(os.environ.get("KUBECONFIG") or (program("etcd") and program("kube-apiserver") and shutil.which("go")))


PROGRAMS: Final[Mapping[str, tuple[str, Callable[[], object]]]] = {
    "browser": ("Chromium", chromium),
    "compose": ("docker compose", lambda: shutil.which("docker")),
    "helm": ("Helm (in the path or in KUBEBUILDER_ASSETS)", lambda: program("helm")),
    "kubernetes": ("an API server of Kubernetes (KUBEBUILDER_ASSETS or KUBECONFIG: CONTRIBUTING.md)", api_server),
    "nginx": ("nginx", nginx),
    "node": ("Node.js with npm", lambda: shutil.which("node") and shutil.which("npm")),
    "promtool": ("promtool (Debian's package prometheus)", lambda: shutil.which("promtool")),
}
"""What a test with this marker needs: its name, and what finds it; a test is skipped where there is none."""


@asynccontextmanager
async def own_broker() -> AsyncIterator[Server]:
    """Run an Apache Kafka for one test, to be killed and restarted. For tests marked `apache_kafka`."""
    if trouble := docker_trouble():
        pytest.skip(f"needs an Apache Kafka of its own: {trouble}")
    async with _closing(start_docker_kafka) as server:
        yield server


@asynccontextmanager
async def own_postgres() -> AsyncIterator[Server]:
    """Run a PostgreSQL for one test, to be killed and restarted. It is empty: see `migrated_database`."""
    async with _closing(EmbeddedPostgres if docker_trouble() else start_docker_postgres) as server:
        yield server


def login_passwords(owner_url: str, *logins: str) -> dict[str, str]:
    """Return the password of each login (of all `LOGINS`), as a local stack on the same server sets it."""
    return {login: login_password(urlsplit(owner_url).password or "", login) for login in logins or LOGINS}


async def migrated_database(admin_url: str, name: str = "order_saga") -> Database:
    """Create a database with the newest schema and a login for each service."""
    from migrations import create_logins, upgrade  # noqa: PLC0415  alembic costs what most test runs need not pay

    await execute(admin_url, f'CREATE DATABASE "{name}"')
    database = Database(_url_of_database(admin_url, name))
    await asyncio.to_thread(upgrade, database.url)
    await asyncio.to_thread(create_logins, database.url, login_passwords(database.url))
    return database


async def copied_database(admin_url: str, template: str) -> Database:
    """Create a database like `template`, in a few hundredths of a second."""
    name = f"test_{secrets.token_hex(6)}"
    await execute(admin_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    return Database(_url_of_database(admin_url, name))


async def drop_database(admin_url: str, name: str) -> None:
    """Drop a database, whoever is still connected to it."""
    await execute(admin_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@asynccontextmanager
async def kafka_admin(kafka_bootstrap_servers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """Connect an administrator's client to Apache Kafka."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap_servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def create_topics(kafka_bootstrap_servers: str, topics: Mapping[str, int]) -> None:
    """Create topics on Apache Kafka; return when clients can see them, which is a moment after they exist."""
    async with kafka_admin(kafka_bootstrap_servers) as admin:
        answer = await admin.create_topics([NewTopic(name, partitions, 1) for name, partitions in topics.items()])
        if refused := [error for error in answer.topic_errors if error[1] not in {0, _TOPIC_EXISTS}]:
            raise RuntimeError(f"the broker refuses topics: {refused}")
        async with asyncio.timeout(_VISIBLE_WITHIN_S):
            while not topics.keys() <= set(await admin.list_topics()):
                await asyncio.sleep(0.02)


async def delete_topics(kafka_bootstrap_servers: str, prefix: str) -> None:
    """Delete all topics of Apache Kafka whose names begin with `prefix`."""
    async with kafka_admin(kafka_bootstrap_servers) as admin:
        if names := [name for name in await admin.list_topics() if name.startswith(prefix)]:
            await admin.delete_topics(names)


@asynccontextmanager
async def _closing(start: Callable[[], Server]) -> AsyncIterator[Server]:
    server = await asyncio.to_thread(start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.close)


async def execute(url: str, statement: str) -> None:
    """Execute one statement on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _url_of_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
