"""Samples every second what must stay bounded: memory, waiting rows, messages to the participant. It judges nothing."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import psutil
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # it is there

from tests.evidence.chaos.arena import PARTITIONS, Arena

EVERY_S: Final = 1.0
MB: Final = 1024 * 1024


@dataclass(frozen=True)
class Sample:
    """One sample. Sizes are in MB; `commands`: all messages ever written to the watched topic."""

    at_s: float
    memory: Mapping[str, float]
    phases: Mapping[str, int]
    unsent_rows: int
    outbox_mb: float
    database_mb: float
    commands: int
    busy_s: float
    """Processor time that all orchestrators have used."""


@dataclass
class Watch:
    """Takes samples until cancelled. `processes` returns the present process ids by name."""

    arena: Arena
    topic: str
    processes: Callable[[], Mapping[str, Sequence[int]]]
    samples: list[Sample] = field(default_factory=list)

    async def run(self) -> None:
        """Take samples."""
        connection = await asyncpg.connect(self.arena.owner_url)
        admin = AdminClient({"bootstrap.servers": self.arena.stack.kafka_bootstrap_servers, "log_level": 0})
        try:
            while True:
                await self._look(connection, admin)
                await asyncio.sleep(EVERY_S)
        finally:
            await connection.close()

    def between(self, begin_s: float, end_s: float) -> list[Sample]:
        """Return the samples between two times (monotonic)."""
        return [sample for sample in self.samples if begin_s <= sample.at_s <= end_s]

    async def _look(self, connection: asyncpg.Connection, admin: AdminClient) -> None:
        row = await connection.fetchrow(_SIZES)
        phases = await connection.fetch(_PHASES)
        commands = await asyncio.to_thread(self._written, admin)
        self.samples.append(
            Sample(
                time.monotonic(),
                self._memory(),
                {one["phase"]: one["count"] for one in phases},
                row["unsent_rows"],
                row["outbox_bytes"] / MB,
                row["database_bytes"] / MB,
                commands,
                self._busy("orchestrator"),
            )
        )

    def _memory(self) -> dict[str, float]:
        memory = {}
        for name, pids in self.processes().items():
            for number, pid in enumerate(pids, 1):
                with suppress(psutil.NoSuchProcess):
                    memory[f"{name}-{number}"] = psutil.Process(pid).memory_info().rss / MB
        return memory

    def _busy(self, service: str) -> float:
        busy_s = 0.0
        for pid in self.processes().get(service, ()):
            with suppress(psutil.NoSuchProcess):
                times = psutil.Process(pid).cpu_times()
                busy_s += times.user + times.system
        return busy_s

    def _written(self, admin: AdminClient) -> int:
        topic = self.arena.prefix + self.topic
        latest = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(PARTITIONS)}  # type: ignore[no-untyped-call]  # the same
        try:
            ends = admin.list_offsets(latest, request_timeout=5).values()
            return sum(end.result(timeout=10).offset for end in ends)
        except (KafkaException, TimeoutError):
            return self.samples[-1].commands if self.samples else 0


def growth_mb(samples: Sequence[Sample]) -> dict[str, float]:
    """Return how much each process grew from the second quarter to the last, which leaves out the first growth."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    names = {name for sample in late for name in sample.memory}
    return {
        name: round(
            statistics.median(sample.memory[name] for sample in late if name in sample.memory)
            - statistics.median([sample.memory[name] for sample in early if name in sample.memory] or [0.0]),
            1,
        )
        for name in sorted(names)
    }


_SIZES = """
    SELECT (SELECT count(*) FROM orders.outbox) + (SELECT count(*) FROM balances.outbox)
             + (SELECT count(*) FROM assets.outbox) AS unsent_rows,
           pg_total_relation_size('orders.outbox') + pg_total_relation_size('balances.outbox')
             + pg_total_relation_size('assets.outbox') AS outbox_bytes,
           pg_database_size(current_database()) AS database_bytes"""
_PHASES = "SELECT phase, count(*) FROM orders.orders WHERE due_at IS NOT NULL GROUP BY phase"
