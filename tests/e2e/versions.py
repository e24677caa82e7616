"""Two versions of the system on one database and one broker: each process is started and stopped by itself."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from local_stack.ports import free_ports
from local_stack.probes import http_ready
from local_stack.sample_data import DEPOSITS
from local_stack.stack import LocalStack, StackOptions
from local_stack.supervisor import ProcessSpec, Supervisor
from tests.e2e.system import Servers, System, eventually, watched
from tests.support.infrastructure import drop_database, execute
from tests.support.proxy import Proxy
from tests.support.released import Released

SESSION_TIMEOUT_S: Final = 6
_SEED: Final = """
import asyncio, json, sys
from decimal import Decimal
from local_stack.sample_data import SampleDeposit
from operations.demo.samples import load_samples, sample_stores

async def main():
    logins, time_scale, deposits = json.load(sys.stdin)
    await load_samples(logins, time_scale)
    async with sample_stores(logins["balance"], logins["assets"]) as stores:
        for *names, amount in deposits:
            await stores.deposit(SampleDeposit(*names, Decimal(amount)))

asyncio.run(main())
"""
"""Run by a version's own Python: only its own code can write to its own schema."""


class Version(NamedTuple):
    """What runs `order-saga` of a version, and the settings that only it has."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = {}
    number: str = ""


HEAD: Final = Version("new", (sys.executable, "-m", "operations.cli"))


def old(released: Released) -> Version:
    """Make the released version one."""
    return Version("old", released.command, released.environment, released.version)


@dataclass
class Fleet:
    """The processes of both versions. Clients know one address, `proxy`, behind which the APIs take turns."""

    system: System
    proxy: Proxy
    settings: Mapping[str, str]
    _running: dict[str, Supervisor] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    """What is wrong with processes: one that ended by itself, or had to be killed."""

    async def start(self, version: Version, *services: str) -> None:
        """Start a process of each service; return when all are ready, and APIs are asked."""
        await asyncio.gather(*(self._start(version, service) for service in services))

    async def _start(self, version: Version, service: str) -> None:
        name, [port] = f"{version.name}-{service}", free_ports(1)
        own = {"DATABASE_URL": self.system.stack.logins[service], "HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(port)}
        environment = {**os.environ, **self.settings, **version.environment, **own}
        supervisor = Supervisor(self.system.stack.logs, say=self.said.append, grace_s=30)
        self._running[name], self._ports[name] = supervisor, port
        await supervisor.start(ProcessSpec(name, [*version.command, service], http_ready(port), environment))
        if service == "api":
            self.proxy.turns.append(("127.0.0.1", port))

    async def stop(self, version: Version, *services: str) -> None:
        """End processes by SIGTERM, one after the other. An API gets no new connection before."""
        for service in services:
            name = f"{version.name}-{service}"
            if service == "api":
                self.proxy.turns.remove(("127.0.0.1", self._ports[name]))
            await self._running.pop(name).stop()

    def api(self, version: Version) -> str:
        """Return the address of a version's own API."""
        return f"http://127.0.0.1:{self._ports[f'{version.name}-api']}"

    async def close(self) -> None:
        """End all that runs."""
        while self._running:
            await self._running.popitem()[1].stop()


@asynccontextmanager
async def fleet(
    servers: Servers, folder: Path, first: Version, *, time_scale: float, holdings: Mapping[str, Mapping[str, str]]
) -> AsyncIterator[Fleet]:
    """Give a database and topics that `first` has made, with the sample data and `holdings`, and no process yet."""
    prefix, name = f"t{secrets.token_hex(4)}.", f"versions_{secrets.token_hex(4)}"
    await execute(servers.database_url_admin, f'CREATE DATABASE "{name}"')
    deposits = [
        (f"{user}:{asset}", user, asset, amount) for user, held in holdings.items() for asset, amount in held.items()
    ]
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": servers.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": prefix,
        "KAFKA_SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S),
        "ORDER_SAGA_TIME_SCALE": f"{time_scale:g}",
        "API_RATE_LIMIT_PER_S": "0",
    }
    options = StackOptions(
        database_url=urlunsplit(urlsplit(servers.database_url_admin)._replace(path=f"/{name}")),
        kafka_bootstrap_servers=servers.kafka_bootstrap_servers,
        environment=settings | dict(first.environment),
        replicas=dict.fromkeys(("api", "orchestrator", "balance", "assets", "webhooks"), 0),
        time_scale=time_scale,
        command=first.command,
        load_samples=lambda logins: _seed(first, (logins, time_scale, deposits)),
    )
    try:
        async with LocalStack(folder, options) as stack, watched(stack, prefix) as system:
            given = [(one.user_id, one.asset_id, one.amount) for one in DEPOSITS]
            given += [(user, asset, Decimal(amount)) for _, user, asset, amount in deposits]
            system.deposits |= {(user, asset): amount for user, asset, amount in given}
            proxy = Proxy(stack.ports["api"])
            await proxy.start()
            secrets_ = {"JWT_SECRET": stack.jwt_secret, "WEBHOOKS_KEYS": stack.webhooks_keys}
            one = Fleet(system, proxy, settings | secrets_)
            try:
                yield one
            finally:
                await one.close()
                await proxy.close()
    finally:
        await drop_database(servers.database_url_admin, name)
        await servers.delete_topics(prefix)


async def _seed(version: Version, asked: Any) -> None:
    python, *_ = version.command
    process = await asyncio.create_subprocess_exec(
        *(python, "-P", "-c", _SEED),
        env={**os.environ, **version.environment},
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate(json.dumps(asked).encode())
    assert process.returncode == 0, errors.decode()


__all__ = ["HEAD", "Fleet", "Version", "eventually", "fleet", "old"]
