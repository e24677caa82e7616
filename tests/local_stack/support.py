"""What the tests of the local stack share: dummy services, and how to wait for a condition."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from local_stack.ports import free_ports
from local_stack.probes import http_ready
from local_stack.supervisor import ProcessSpec, Supervisor

HERE = Path(__file__).parent
DUMMY_COMMAND = (sys.executable, str(HERE / "dummy_service.py"))
ENVIRONMENT = os.environ | {"PYTHONPATH": str(HERE.parents[1])}


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until `condition` holds; fail after 90 s."""
    async with asyncio.timeout(90):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Say whether no such process runs; a zombie counts as ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def dummy(name: str) -> ProcessSpec:
    """Describe a dummy service on a free port."""
    [port] = free_ports(1)
    environment = os.environ | {"HTTP_PORT": str(port)}
    return ProcessSpec(name=name, argv=[*DUMMY_COMMAND, name], env=environment, ready=http_ready(port))


class Supervised:
    """A supervisor, the lines that it said, and the process ids after each restart."""

    def __init__(self, logs: Path, *, grace_s: float = 5.0) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = logs
        self.said: list[str] = []
        self.replaced: list[dict[str, list[int]]] = []
        self.supervisor = Supervisor(logs, say=self.said.append, changed=self._note, grace_s=grace_s)

    def pid(self, name: str) -> int:
        """Return the id of the one process of this name."""
        [pid] = self.supervisor.pids[name]
        return pid

    def _note(self) -> None:
        self.replaced.append(self.supervisor.pids)
