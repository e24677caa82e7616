"""Runs one participant outside the stack, so that it can be frozen, or killed and left dead, and brought back."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Final, Literal

import psutil

from local_stack.ports import free_ports
from local_stack.probes import http_ready
from local_stack.supervisor import ProcessSpec, Supervisor
from tests.evidence.chaos.arena import Arena

REPLICAS: Final = 2
How = Literal["freeze", "kill"]


class Participant:
    """The replicas of one service, and the supervisor that restarts them."""

    def __init__(self, arena: Arena, name: str) -> None:
        self.name = name
        self._specs = [self._spec(arena, number, port) for number, port in enumerate(free_ports(REPLICAS), 1)]
        self._supervisor = Supervisor(arena.stack.logs, say=lambda _: None)

    @property
    def pids(self) -> list[int]:
        """The processes that run."""
        return [pid for pids in self._supervisor.pids.values() for pid in pids if psutil.pid_exists(pid)]

    async def start(self) -> None:
        """Start all replicas; return when they are ready."""
        await self._supervisor.start(*self._specs)

    async def stop(self) -> None:
        """End what still runs."""
        await self._supervisor.stop()

    async def leave(self, how: How) -> None:
        """Freeze or kill all replicas at once; killed ones stay dead."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if how == "freeze" else signal.SIGKILL)
        if how == "kill":
            await self._supervisor.stop()

    async def come_back(self, how: How) -> None:
        """Let all replicas go on, or start them again.

        The watchdog (`saga_kit.runtime.watchdog`) ends a replica that was frozen for too long, and it is restarted.
        """
        if how == "kill":
            await self.start()
            return
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)

    def _spec(self, arena: Arena, number: int, port: int) -> ProcessSpec:
        environment = {
            **os.environ,
            **arena.stack.options.environment,
            "KAFKA_BOOTSTRAP_SERVERS": arena.stack.kafka_bootstrap_servers,
            "DATABASE_URL": arena.stack.logins[self.name],
            "HTTP_PORT": str(port),
        }
        return ProcessSpec(
            name=f"{self.name}-{number}",
            argv=[sys.executable, "-m", "operations.cli", self.name],
            ready=http_ready(port),
            env=environment,
        )
