"""The system under chaos: two of each service, with a PostgreSQL and an Apache Kafka of its own behind proxies.

The services know only the ports of the proxies (Kafka advertises its proxy's), so a fault in a proxy affects them all.
Where Debian's `faketime` is installed, the second replica of each service runs with a clock that can be set.
"""

from __future__ import annotations

import asyncio
import secrets
import sysconfig
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
from aiokafka.errors import KafkaError

from contracts.decimals import Money
from contracts.topics import TOPICS
from local_stack.sample_data import DEPOSITS, SampleAsset
from local_stack.stack import LocalStack, StackOptions
from operations.access.database import connected
from operations.demo.samples import load_samples, sample_stores
from participants.balance.store import deposit
from tests.evidence.chaos.bodies import FEED, START
from tests.evidence.chaos.schedule import CLOCKED, REPLICAS, SERVICES, SESSION_S
from tests.support.infrastructure import create_topics, delete_topics, drop_database
from tests.support.proxy import Proxy
from tests.support.servers import Server, docker_trouble, prepare_docker, start_docker_kafka, start_docker_postgres

PARTITIONS: Final = 12
TIME_SCALE: Final = 0.5
"""Gives a check or a reservation a patience of 15 s: longer than a group session, shorter than some faults."""

WALKS: Final = tuple(SampleAsset(asset_id, Decimal(int(START)), walks_per_second=50.0) for asset_id in FEED)


@dataclass
class Arena:
    """The system, its servers and their proxies."""

    stack: LocalStack
    postgres: Server
    kafka: Server
    proxies: Mapping[str, Proxy]
    prefix: str
    owner_url: str
    """The address of the database's owner, which avoids the proxy."""
    clocks: Mapping[str, Path]
    """The file that says how wrong a process's clock is, by the process's name; empty without `faketime`."""

    def pids(self, target: str) -> list[int]:
        """Return the processes that a target names: `api-2` one of them, `api` all."""
        service, _, replica = target.partition("-")
        pids = self.stack.pids.get(service, [])
        return pids[int(replica) - 1 : int(replica)] if replica else pids

    def ports(self, service: str) -> list[int]:
        """Return the ports of a service's processes; each keeps its own over all restarts."""
        return sorted(int(psutil.Process(pid).environ()["HTTP_PORT"]) for pid in self.stack.pids[service])

    async def endow(self, users: list[str], holdings: Mapping[str, str]) -> dict[tuple[str, str], str]:
        """Deposit the same holdings for each user; return all deposits so far."""
        given = {(one.user_id, one.asset_id): str(one.amount) for one in DEPOSITS}
        async with connected(self.stack.logins["balance"]) as engine:
            for user, (asset_id, amount) in product(users, holdings.items()):
                await deposit(engine, secrets.token_hex(8), user, asset_id, Money.parse(amount))
                given[user, asset_id] = str(Decimal(given.get((user, asset_id), "0")) + Decimal(amount))
        return given


@asynccontextmanager
async def arena(folder: Path, *, session_s: float) -> AsyncIterator[Arena]:
    """Start everything; end everything, and keep `folder` with the logs. `session_s`: of the consumer groups."""
    if trouble := docker_trouble():
        raise RuntimeError(f"chaos needs an Apache Kafka and a PostgreSQL that it may hurt: {trouble}")
    prepare_docker()
    proxies = {name: Proxy() for name in ("postgres", "kafka")}
    for proxy in proxies.values():
        await proxy.start()
    try:
        async with (
            _servers(proxies) as (postgres, kafka),
            system_on(postgres, kafka, folder, proxies=proxies, session_s=session_s, assets=WALKS) as one,
        ):
            yield one
    finally:
        for proxy in proxies.values():
            await proxy.close()


def clock_library() -> Path | None:
    """Find the library of Debian's `faketime`, which sets the clock of one process; None where it is missing."""
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    places = [Path("/usr/lib", triplet, "faketime"), Path("/usr/lib/faketime"), Path("/usr/local/lib/faketime")]
    return next((found for place in places if (found := place / "libfaketimeMT.so.1").exists()), None)


@asynccontextmanager
async def _servers(proxies: Mapping[str, Proxy]) -> AsyncIterator[tuple[Server, Server]]:
    starts: dict[str, Callable[[], Server]] = {
        "postgres": start_docker_postgres,
        "kafka": lambda: start_docker_kafka(advertised=f"127.0.0.1:{proxies['kafka'].port}"),
    }
    started = await asyncio.gather(*(asyncio.to_thread(start) for start in starts.values()), return_exceptions=True)
    servers = {
        name: server for name, server in zip(starts, started, strict=True) if not isinstance(server, BaseException)
    }
    try:
        for failure in started:
            if isinstance(failure, BaseException):
                raise failure
        for name, server in servers.items():
            proxies[name].target = _place(server.address)
        yield servers["postgres"], servers["kafka"]
    finally:
        for server in servers.values():
            await asyncio.to_thread(server.close)


@asynccontextmanager
async def system_on(
    postgres: Server,
    kafka: Server,
    folder: Path,
    *,
    proxies: Mapping[str, Proxy] | None = None,
    session_s: float = SESSION_S,
    time_scale: float = TIME_SCALE,
    replicas: Mapping[str, int] | None = None,
    assets: Sequence[SampleAsset] = (),
) -> AsyncIterator[Arena]:
    """Start a system on these servers, through `proxies` where there are any; `replicas` where not two of each.

    `assets`: those that the sample data lacks, or has with other rules.
    """
    prefix, database = f"t{secrets.token_hex(4)}.", f"chaos_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(postgres.address)
    await connection.execute(f'CREATE DATABASE "{database}"')
    await connection.close()
    places = {name: f"127.0.0.1:{proxy.port}" for name, proxy in (proxies or {}).items()}
    kafka_address = places.get("kafka", kafka.address)
    await create_topics(kafka_address, {prefix + topic.name: topic.partitions for topic in TOPICS})
    parts = urlsplit(postgres.address)
    owner_url = urlunsplit(parts._replace(path=f"/{database}"))
    login, _, place = parts.netloc.rpartition("@")
    through = f"{login}@{places.get('postgres', place)}"
    clocks = _clocks(folder) if proxies else {}
    options = StackOptions(
        database_url=urlunsplit(parts._replace(netloc=through, path=f"/{database}")),
        kafka_bootstrap_servers=kafka_address,
        environment={
            "KAFKA_TOPIC_PREFIX": prefix,
            "KAFKA_SESSION_TIMEOUT_S": f"{session_s:g}",
            "API_RATE_LIMIT_PER_S": "0",  # no limit: the load sends for all users
        },
        environment_of={name: _with_clock(file) for name, file in clocks.items()},
        replicas=dict.fromkeys(SERVICES, REPLICAS) | dict(replicas or {}),
        time_scale=time_scale,
        load_samples=lambda logins: _load(logins, time_scale, assets),
    )
    try:
        async with LocalStack(folder, options) as stack:
            yield Arena(stack, postgres, kafka, proxies or {}, prefix, owner_url, clocks)
    finally:
        with suppress(OSError, asyncpg.PostgresError, KafkaError):  # their servers may be gone already
            await drop_database(postgres.address, database)
            await delete_topics(kafka_address, prefix)


async def _load(logins: Mapping[str, str], time_scale: float, assets: Sequence[SampleAsset]) -> None:
    await load_samples(logins, time_scale)
    async with sample_stores(logins["balance"], logins["assets"]) as stores:
        for asset in assets:
            await stores.put_asset(asset, answer_after_s=asset.answer_after_s)


def _clocks(folder: Path) -> dict[str, Path]:
    if clock_library() is None:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    clocks = {f"{service}-{REPLICAS}": folder / f"clock-{service}" for service in CLOCKED}
    for file in clocks.values():
        file.write_text("+0\n")
    return clocks


def _with_clock(file: Path) -> dict[str, str]:
    """Let a process take the error of its wall clock from a file, and look there every second."""
    return {
        "LD_PRELOAD": str(clock_library()),
        "FAKETIME_TIMESTAMP_FILE": str(file.absolute()),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def _place(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    return parts.hostname or "127.0.0.1", parts.port or 0
