"""A system's processes as a cluster's controller runs them: on nodes, one by one, with a Service before the API.

The Service is what kube-proxy is: it passes each new connection to one of the processes that it names; connections that
are open stay where they are. It names a process from its readiness until the beginning of its end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.subprocess import Process
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from local_stack.probes import http_ready
from local_stack.processes import spawn
from local_stack.stack import SERVICES, LocalStack
from tests.e2e.system import eventually
from tests.evidence.chaos.cluster.manifest import Life, lives
from tests.support.proxy import Proxy

NODES: Final = ("north", "south")
READY_WITHIN_S: Final = 60.0
"""The chart's startup probe gives a process so long."""


@dataclass(eq=False)
class Pod:
    """A process on a node. `ended`: its exit status."""

    name: str
    service: str
    node: str
    process: Process
    port: int
    ready: bool = False
    ended: int | None = None
    ending_s: float = 0.0
    """How long it took to end, from SIGTERM on."""


@dataclass
class Cluster:
    """All processes. `faults`: what a controller would report, a line each, such as one that had to be killed."""

    stack: LocalStack
    front: Proxy
    """The Service before the API."""
    life: Mapping[str, Life]
    pods: list[Pod] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    starting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """While orders run, one process starts at a time: each needs a core for two seconds, and a cluster has more."""
    _made: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def url(self) -> str:
        """Where the API's Service is."""
        return f"http://127.0.0.1:{self.front.port}"

    def of(self, service: str) -> list[Pod]:
        """Return a service's processes, the oldest first; none that is ending."""
        return [pod for pod in self.pods if pod.service == service and pod.ended is None]

    def on(self, node: str) -> list[Pod]:
        """Return the processes of a node."""
        return [pod for pod in self.pods if pod.node == node and pod.ended is None]

    async def start(self, service: str, node: str = "") -> Pod:
        """Start one more process of a service, on the node with fewest of it; return when it is ready."""
        number = self._made[service]
        self._made[service] += 1
        spec = self.stack.service(service, number + 1)  # the first one's port is everybody's
        counts = {one: sum(pod.node == one for pod in self.of(service)) for one in NODES}
        port = int((spec.env or {})["HTTP_PORT"])
        async with self.starting:
            process, _ = await spawn(spec.argv, self.stack.logs / f"{spec.name}.log", env=spec.env)
            pod = Pod(spec.name, service, node or min(NODES, key=counts.__getitem__), process, port)
            self.pods.append(pod)
            await self.is_ready(pod)
        return pod

    async def is_ready(self, pod: Pod) -> None:
        """Wait until a process is ready; from then on the Service names it."""
        ready = http_ready(pod.port)

        async def holds() -> bool:
            assert pod.process.returncode is None, f"{pod.name} ended with {pod.process.returncode}"
            return await ready()

        await eventually(holds, f"{pod.name} is ready", within_s=READY_WITHIN_S, poll_s=0.05)
        pod.ready = True
        self._name()

    def forget(self, pods: Iterable[Pod]) -> None:
        """Name these processes no more in the Service."""
        for pod in pods:
            pod.ready = False
        self._name()

    async def end(self, pod: Pod, how: signal.Signals = signal.SIGTERM) -> None:
        """End a process as Kubernetes does, which kills it when its grace is over; return when it has ended."""
        life = self.life[pod.service]
        self.pods.remove(pod)
        self.forget([pod])
        await asyncio.sleep(life.pre_stop_s)
        began = time.monotonic()
        pod.process.send_signal(how)
        try:
            async with asyncio.timeout(life.grace_s - life.pre_stop_s):
                pod.ended = await pod.process.wait()
        except TimeoutError:
            self.faults.append(f"{pod.name} had not ended after {life.grace_s:g} s and was killed")
            pod.process.kill()
            pod.ended = await pod.process.wait()
        pod.ending_s = time.monotonic() - began
        if how is signal.SIGTERM and pod.ended != 0:
            self.faults.append(f"{pod.name} ended with {pod.ended} after SIGTERM")

    async def kill(self, pods: Iterable[Pod]) -> None:
        """Kill processes at one moment. The Service goes on naming them: nobody has noticed yet."""
        gone = list(pods)
        for pod in gone:
            pod.process.kill()
        for pod in gone:
            pod.ended = await pod.process.wait()
            self.pods.remove(pod)

    def freeze(self, pods: Iterable[Pod]) -> None:
        """Stop processes where they are: they keep their connections, their locks and what they had read."""
        for pod in pods:
            os.kill(pod.process.pid, signal.SIGSTOP)

    def thaw(self, pods: Iterable[Pod]) -> None:
        """Let frozen processes go on."""
        for pod in pods:
            with suppress(ProcessLookupError):
                os.kill(pod.process.pid, signal.SIGCONT)

    def _name(self) -> None:
        named = [("127.0.0.1", pod.port) for pod in self.pods if pod.service == "api" and pod.ready]
        self.front.turns.clear()
        self.front.turns.extend(named)


@asynccontextmanager
async def cluster(stack: LocalStack) -> AsyncIterator[Cluster]:
    """Run as many processes of each service as the chart does, on two nodes; kill what is left at the end."""
    one = Cluster(stack, Proxy(), lives(), starting=asyncio.Semaphore(len(SERVICES) * 2))
    await one.front.start()
    try:
        await asyncio.gather(
            *(
                one.start(service, NODES[number % len(NODES)])
                for service in SERVICES
                for number in range(one.life[service].replicas)
            )
        )
        one.starting = asyncio.Semaphore(1)
        yield one
    finally:
        one.thaw(one.pods)
        for pod in one.pods:
            with suppress(ProcessLookupError):
                pod.process.kill()
        for pod in one.pods:
            await pod.process.wait()
        await one.front.close()
