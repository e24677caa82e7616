"""Starts the peers of the system in processes of their own, loads them, checks their results, and stops them.

A peer needs a broker with its topics and a PostgreSQL server. Every order of a load must be completed, by its events
and by its row. When the process of a peer dies, the run ends with the end of its log.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec

from contracts.topics import TOPICS
from local_stack.errors import StackError
from local_stack.stack import LocalStack
from local_stack.supervisor import ProcessSpec, Supervisor
from tests.bench.load import Load, Result, Users, ordinary
from tests.support.infrastructure import execute


class Carried(Protocol):
    """The result of a load of any kind."""

    @property
    def orders(self) -> int: ...  # noqa: D102 - how many have ended


T = TypeVar("T")
C = TypeVar("C", bound=Carried)
LAST_WORDS = 2000
DBOS_DATABASE = "dbos_peer"
STATUSES_OF_SYSTEM = """
    SELECT status, count(*) FROM orders.orders WHERE user_id >= 'bench-' AND user_id < 'bench.' GROUP BY status"""
"""Counts orders of the load's users only: a system may have had others before."""
STATUSES_OF_LEAN = "SELECT phase, count(*) FROM lean.orders GROUP BY phase"
STATUSES_OF_NAIVE = "SELECT status, count(*) FROM naive.orders GROUP BY status"
STATUSES_OF_DBOS = "SELECT status, count(*) FROM orders GROUP BY status"


class PeerError(Exception):
    """A peer failed; says how, with the end of the log of a process that died."""


@dataclass(frozen=True)
class Place:
    """The servers of peers. `prefix` begins the names of their topics; `logs` is the folder of their logs."""

    kafka_bootstrap_servers: str
    database_url: str
    prefix: str
    logs: Path


class Contender(Protocol):
    """A system or a peer that processes orders."""

    @property
    def name(self) -> str: ...  # noqa: D102 - what it is called in a report
    @property
    def pids(self) -> Mapping[str, Sequence[int]]: ...  # noqa: D102 - its processes by what they are called in a report
    @property
    def database_url(self) -> str: ...  # noqa: D102 - the owner's address of its database
    async def run(self, orders: int, in_flight: int) -> Result:
        """Process so many orders and check that all were completed. Raises `PeerError`."""


def topics_of(prefix: str, *peers: str) -> dict[str, int]:
    """Return the topics that peers need, with the number of partitions of each."""
    return {f"{prefix}{peer}.{topic.name}": topic.partitions for peer in peers for topic in TOPICS}


class KafkaContender:
    """A contender that takes orders and publishes events by Kafka."""

    def __init__(self, name: str, place: Place, prefix: str, statuses: str, source: Supervisor | LocalStack) -> None:
        """Take the prefix of its topics, the query that counts its orders by status, and who started its processes."""
        self.name = name
        self._place = place
        self._prefix = prefix
        self._statuses = statuses
        self._source = source
        self._asked = 0

    @property
    def pids(self) -> Mapping[str, Sequence[int]]:
        """Its processes."""
        return self._source.pids

    @property
    def database_url(self) -> str:
        """The owner's address of its database."""
        return self._place.database_url

    async def run(self, orders: int, in_flight: int, users: Users = ordinary) -> Result:
        """Carry a load; see `Contender`."""
        return await self.carry(lambda load: load.run(orders, in_flight), users)

    async def carry(self, work: Callable[[Load], Coroutine[Any, Any, C]], users: Users = ordinary) -> C:
        """Carry a load of any kind; see `Contender`."""
        result = await self._unless_one_dies(work(Load(self._place.kafka_bootstrap_servers, self._prefix, users)))
        self._asked += result.orders
        await check_rows(self.name, self._place.database_url, self._statuses, {"COMPLETED": self._asked})
        return result

    async def _unless_one_dies(self, work: Coroutine[Any, Any, T]) -> T:
        if isinstance(self._source, LocalStack):  # a stack restarts what dies; the rounds check that it did not
            return await work
        working, dying = asyncio.create_task(work), asyncio.create_task(self._source.lost())
        try:
            await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
            if dying.done():
                raise PeerError(f"{dying.result()} died: {last_words(self._place.logs / f'{dying.result()}.log')}")
            return await working
        finally:
            working.cancel()
            dying.cancel()
            await asyncio.gather(working, dying, return_exceptions=True)


class Crowd:
    """A contender: one system, with orders of certain users. So one system carries several loads in turn."""

    def __init__(self, name: str, system: KafkaContender, users: Users = ordinary) -> None:
        self.name = name
        self._system, self._users = system, users

    @property
    def pids(self) -> Mapping[str, Sequence[int]]:
        """The system's processes."""
        return self._system.pids

    @property
    def database_url(self) -> str:
        """The system's."""
        return self._system.database_url

    async def run(self, orders: int, in_flight: int) -> Result:
        """Carry a load; see `Contender`."""
        return await self._system.run(orders, in_flight, self._users)


async def check_rows(name: str, database_url: str, statuses: str, expected: Mapping[str, int]) -> None:
    """Raise `PeerError` unless there are exactly so many orders by status."""
    connection = await asyncpg.connect(database_url)
    try:
        found = dict(await connection.fetch(statuses))
    finally:
        await connection.close()
    if found != expected:
        raise PeerError(f"{name} was asked for {expected}; in its table are {found}")


@asynccontextmanager
async def running_lean(place: Place) -> AsyncIterator[Contender]:
    """Run the lean loop and its participants."""
    async with _running_loop(place, "lean", STATUSES_OF_LEAN) as peer:
        yield peer


@asynccontextmanager
async def running_naive(place: Place) -> AsyncIterator[Contender]:
    """Run the naive loop and its participants."""
    async with _running_loop(place, "naive", STATUSES_OF_NAIVE) as peer:
        yield peer


@asynccontextmanager
async def _running_loop(place: Place, name: str, statuses: str) -> AsyncIterator[Contender]:
    prefix = f"{place.prefix}{name}."
    place.logs.mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor(place.logs, say=lambda _: None)
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": place.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": prefix,
        "DATABASE_URL": place.database_url,
    }
    modules = {name: f"tests.bench.{name}", f"answers of {name}": "tests.bench.answers"}
    try:
        specs = [_process(place.logs, process, module, settings) for process, module in modules.items()]
        try:
            await supervisor.start(*specs)
        except StackError as error:
            said = {process: last_words(place.logs / f"{process}.log") for process in modules}
            raise PeerError(f"{name} does not start: {error}; its processes said {said}") from error
        yield KafkaContender(name, place, prefix, statuses, supervisor)
    finally:
        await supervisor.stop()


def _process(logs: Path, name: str, module: str, settings: Mapping[str, str]) -> ProcessSpec:
    ready = logs / f"{name}.ready"
    ready.unlink(missing_ok=True)

    async def is_ready() -> bool:
        return await asyncio.to_thread(ready.exists)

    environment = os.environ | settings | {"READY_FILE": str(ready)}
    return ProcessSpec(name, (sys.executable, "-m", module), is_ready, environment, vital=True)


def last_words(log: Path) -> str:
    """Return the end of a process's log."""
    return log.read_text(errors="replace")[-LAST_WORDS:].strip() if log.exists() else "nothing"


class DbosContender:
    """A contender that gets each round as a line on a pipe and answers with its result as a line."""

    name = "dbos"

    def __init__(self, process: asyncio.subprocess.Process, database_url: str, log: Path) -> None:
        """Take its process, the address of its database and its log."""
        self._process = process
        self.database_url = database_url
        self._log = log
        self._asked = 0

    @property
    def pids(self) -> Mapping[str, Sequence[int]]:
        """Its process."""
        return {self.name: [self._process.pid]}

    async def run(self, orders: int, in_flight: int) -> Result:
        """Carry a load; see `Contender`."""
        line = await self.ask(f"{orders} {in_flight}\n")
        self._asked += orders
        await check_rows(self.name, self.database_url, STATUSES_OF_DBOS, {"COMPLETED": self._asked})
        return msgspec.json.decode(line, type=Result)

    async def ask(self, line: str) -> bytes:
        """Write a line, read a line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode())
        if answer := await self._process.stdout.readline():
            return answer
        raise PeerError(f"{self.name} died: {last_words(self._log)}")


@asynccontextmanager
async def running_dbos(place: Place) -> AsyncIterator[Contender]:
    """Run DBOS on a database of its own, which is dropped afterwards."""
    place.logs.mkdir(parents=True, exist_ok=True)
    log = place.logs / "dbos.log"
    async with _own_database(place.database_url, DBOS_DATABASE) as url:
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.bench.dbos_peer"),
                env=os.environ | {"DATABASE_URL": url},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        peer = DbosContender(process, url, log)
        try:
            await peer.ask("")  # its first line says that it is ready
            yield peer
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close its pipe, which tells it to end; kill it when it does not."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), 10)
    except TimeoutError:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _own_database(admin_url: str, name: str) -> AsyncIterator[str]:
    await execute(admin_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await execute(admin_url, f'CREATE DATABASE "{name}"')
    try:
        yield urlunsplit(urlsplit(admin_url)._replace(path=f"/{name}"))
    finally:
        await execute(admin_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
