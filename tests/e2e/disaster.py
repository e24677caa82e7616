"""A system whose servers can lose what they had: PostgreSQL goes back to a point in time, Kafka to older disks.

Everything is killed at once, and the system may be started again on any of the states that were kept.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from local_stack.stack import LocalStack, StackOptions
from operations.demo.samples import load_samples
from tests.e2e.system import Output, System, command, eventually, watched
from tests.support.cluster import Cluster
from tests.support.postgres_machine import Machine, Place, shown
from tests.support.project import ROOT

BROKER: Final = 1
PAGE: Final = "backup.md"


def _to_a_time(restore: str, time: datetime) -> str:
    """Name a time as the target of a second restore, by the two settings that the page gives for that."""
    text = (ROOT / "docs" / PAGE).read_text(encoding="utf-8")
    assert "`recovery_target_time = '" in text
    assert "`recovery_target_timeline = 'current'`" in text
    name = "recovery_target_name = 'before-the-deploy'"
    assert name in restore
    return restore.replace(name, f"recovery_target_time = '{time.isoformat()}'\nrecovery_target_timeline = 'current'")


@dataclass
class Site:
    """One PostgreSQL and one Kafka, on which the system runs from time to time."""

    machine: Machine
    kafka: Cluster
    folder: Path
    prefix: str = ""
    time_scale: float = 1.0

    @property
    def place(self) -> Place:
        """Where the database's server is."""
        return self.machine.places[0]

    @property
    def database_url(self) -> str:
        """The owner's address."""
        return self.machine.address(self.place)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that lead an operator's command to the servers."""
        return self.kafka.environment | {"DATABASE_URL": self.database_url, "KAFKA_TOPIC_PREFIX": self.prefix}

    async def type(self, name: str) -> str:
        """Type a block of the page at the database's machine."""
        return await self.machine.type(self.place, shown(PAGE, name))

    async def cli(self, *words: str) -> Output:
        """Run one of the product's commands."""
        return await command(*words, env=self.environment)

    async def recover(self, *words: str) -> Output:
        """Run `order-saga recover`; again, as long as it says that services which were killed are still members."""
        ended: list[Output] = []

        async def nobody_reads() -> bool:
            ended[:] = [await self.cli("recover", *words)]
            return "its session is over" not in ended[0].err

        await eventually(nobody_reads, "the sessions of killed services are over")
        assert 0 == ended[0].code, ended[0].err
        return ended[0]

    @asynccontextmanager
    async def running(self, *, samples: bool = False) -> AsyncIterator[System]:
        """Run the system on the servers as they are; kill all its processes at the end of the block."""
        options = StackOptions(
            database_url=self.database_url,
            kafka_bootstrap_servers=self.kafka.settings.kafka_bootstrap_servers,
            environment={"KAFKA_TOPIC_PREFIX": self.prefix, "API_RATE_LIMIT_PER_S": "0"},
            replicas={"webhooks": 0},
            time_scale=self.time_scale,
            load_samples=(lambda logins: load_samples(logins, self.time_scale)) if samples else None,
        )
        async with LocalStack(self.folder, options) as stack, watched(stack, self.prefix) as system:
            try:
                yield system
            finally:
                for pids in stack.pids.values():
                    for pid in pids:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)

    async def kill_servers(self) -> None:
        """End both servers as a power cut does."""
        await asyncio.gather(self.machine.kill(self.place), self.kafka.kill(BROKER))

    async def snapshot(self, name: str) -> None:
        """Keep what is on Kafka's disks at this moment, while it runs."""
        await self.kafka.freeze(BROKER)
        await self.kafka.keep(BROKER, name)
        await self.kafka.thaw(BROKER)

    async def keep(self, name: str) -> None:
        """Keep what is on the disks of both servers, which are dead."""
        await self.machine.type(self.place, 'mv "$PGDATA" "$PGDATA.kept"')
        await self.kafka.keep(BROKER, name)

    @asynccontextmanager
    async def on(self, *, restored: datetime | bool, kafka: str) -> AsyncIterator[None]:
        """Run both servers: on the database as it was kept or `restored` by the page, and on the disks of `kafka`.

        The page's restore is to the moment that has a name, or to a time.
        """
        await self.kafka.put_back(BROKER, kafka)
        await self.kafka.start(BROKER)
        await self.machine.type(self.place, 'rm -rf "$PGDATA" "$PGDATA.old" && cp -a "$PGDATA.kept" "$PGDATA"')
        if restored:
            await self.type("last-segments")
            restore = shown(PAGE, "restore")
            if isinstance(restored, datetime):
                restore = _to_a_time(restore, restored)
            await self.machine.type(self.place, restore)
            await self.type("restored")
        else:
            await self.machine.start(self.place)
        await self.kafka.ready()
        try:
            yield
        finally:
            await self.kill_servers()
