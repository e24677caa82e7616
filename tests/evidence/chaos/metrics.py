"""The system's own counters, added up over all processes that ever ran.

The counts that a process made between its last reading and its death are lost, so the sums are lower bounds.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Final

import httpx2
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.evidence.chaos.arena import Arena
from tests.evidence.chaos.schedule import SERVICES

EVERY_S: Final = 2.0
KEPT: Final = {
    "saga_replies_ignored_total": "why",
    "batch_retries_total": None,
    "messages_set_aside_total": "outcome",
    "orders_published_again_total": None,
    "price_ticks_ignored_total": "why",
    "triggers_fired_total": None,
    "price_unsent_total": None,
    "stream_events_conflated_total": None,
    "stream_ended_total": "why",
    "webhook_attempts_total": "verdict",
}


class Counters:
    """The last reading of each process."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._said: dict[tuple[int, str], float] = {}

    async def watch(self) -> None:
        """Read all processes repeatedly, until cancelled."""
        async with httpx2.AsyncClient(timeout=2) as client:
            while True:
                await self.ask(client)
                await asyncio.sleep(EVERY_S)

    async def ask(self, client: httpx2.AsyncClient) -> None:
        """Read all processes once; a process that does not answer keeps its last reading."""
        pids = [pid for service in SERVICES for pid in self._arena.pids(service)]
        await asyncio.gather(*(self._ask(client, pid) for pid in pids))

    def sums(self) -> dict[str, int]:
        """Add up the counters of all processes, separately for each value of a label."""
        sums: dict[str, float] = defaultdict(float)
        for (_, name), value in self._said.items():
            sums[name] += value
        return {name: int(value) for name, value in sorted(sums.items()) if value}

    async def _ask(self, client: httpx2.AsyncClient, pid: int) -> None:
        with suppress(httpx2.HTTPError, psutil.Error, KeyError):
            port = psutil.Process(pid).environ()["HTTP_PORT"]
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name in KEPT:
                        label = KEPT[sample.name]
                        name = sample.name if label is None else f"{sample.name} {sample.labels[label]}"
                        self._said[pid, name] = sample.value
