"""A machine with PostgreSQL on which a test types what a database's administrator types: backups, restores, promotions.

The commands are those of the documentation, as they stand there. One container has all servers, each with data and a
port of its own (`Place`), and a folder for what must be elsewhere in a real system: base backups and archived WAL.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from testcontainers.core.container import DockerContainer

from local_stack.ports import free_ports
from tests.support.project import ROOT
from tests.support.servers import POSTGRES_IMAGE, listening

BACKUPS: Final = "/var/lib/postgresql/backups"
_PASSWORD: Final = "test-only"
_IN_PATH: Final = "PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)\n"
"""Images differ in which of the tools they put into the path."""
_ALIVE: Final = "while true; do sleep 3600; done"
"""The first process of the container: a shell that waits, which also buries servers that were killed."""


def shown(page: str, name: str) -> str:
    """Return the code block of a page in `docs` that stands under the comment with this name."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    block = re.search(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert block is not None, (page, name)
    return block.group(1)


@dataclass(frozen=True)
class Place:
    """Where one server is: its data, and its port inside the machine and outside of it."""

    data: str
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables that every command of PostgreSQL takes."""
        return {
            "PGDATA": self.data, "PGHOST": "/var/run/postgresql", "PGPORT": str(self.port), "PGUSER": "owner",
            "PGDATABASE": "postgres", "BACKUPS": BACKUPS,
        }  # fmt: skip


@dataclass
class Machine:
    """Some places for servers of one installation."""

    container: DockerContainer
    host: str
    places: tuple[Place, ...]

    def address(self, *places: Place) -> str:
        """Return the owner's address; of several servers, clients take the first that takes writes."""
        hosts = ",".join(f"{self.host}:{place.port}" for place in places)
        several = "?target_session_attrs=read-write" if len(places) > 1 else ""
        return f"postgresql://owner:{_PASSWORD}@{hosts}/postgres{several}"

    async def type(self, place: Place, commands: str, **variables: str) -> str:
        """Run commands there as PostgreSQL's user; return what they print."""
        environment = place.environment | variables
        code, out = await asyncio.to_thread(
            self.container.get_wrapped_container().exec_run,
            ["bash", "-euo", "pipefail", "-c", _IN_PATH + commands],
            user="postgres",
            environment=environment,
            workdir="/var/lib/postgresql",
        )
        assert isinstance(out, bytes)
        text = out.decode(errors="replace").strip()
        assert code == 0, f"{commands}\n{text}"
        return text

    async def make(self, place: Place) -> None:
        """Make an empty server and start it."""
        await self.type(place, _MAKE, PASSWORD=_PASSWORD)
        await self.start(place)

    async def start(self, place: Place) -> None:
        """Start the server of these data; return when it takes connections: after a recovery, if there is one."""
        await self.type(place, 'pg_ctl --wait --silent --log="$PGDATA.log" start')

    async def kill(self, place: Place) -> None:
        """End a server with all its processes as `kill -9` does; return when they are dead."""
        await self.type(place, _KILL)


_MAKE: Final = """
initdb --username=owner --pwfile=<(echo "$PASSWORD") --auth-host=scram-sha-256 --encoding=UTF8 --locale=C >/dev/null
echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
printf "%s\\n" "listen_addresses = '*'" "unix_socket_directories = '$PGHOST'" 'max_connections = 200' \\
  >>"$PGDATA/postgresql.conf"
mkdir -p "$BACKUPS"
"""
_KILL: Final = """
server=$(head -n 1 "$PGDATA/postmaster.pid")
family=$(cat /proc/$server/task/*/children)
kill -KILL $server $family
for one in $server $family; do
  while grep -q . /proc/$one/cmdline 2>/dev/null; do sleep 0.02; done
done
"""


@asynccontextmanager
async def machine(places: int) -> AsyncIterator[Machine]:
    """Run a machine with room for so many servers. For tests marked `apache_kafka`: it needs Docker."""
    ports = free_ports(places)
    container = DockerContainer(POSTGRES_IMAGE).with_command([])
    container.with_kwargs(entrypoint=["bash", "-c", _ALIVE], **listening(container, *ports))
    await asyncio.to_thread(container.start)
    try:
        folders = "mkdir -p /var/run/postgresql && chown postgres /var/run/postgresql /var/lib/postgresql"
        code, out = await asyncio.to_thread(container.exec, ["bash", "-c", folders])
        assert code == 0, out
        host = container.get_docker_client().host()
        yield Machine(container, host, tuple(Place(f"/var/lib/postgresql/{port}", port) for port in ports))
    finally:
        await asyncio.to_thread(container.stop)
