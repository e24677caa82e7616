"""What a cluster's controller does to a system under load: each function is one upheaval, as Kubernetes would do it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import Final

from local_stack.stack import SERVICES
from tests.evidence.chaos.cluster.pods import Cluster, Pod

SCALED: Final = ("orchestrator", "balance")


async def roll(cluster: Cluster, services: Sequence[str] = SERVICES, *, how: signal.Signals = signal.SIGTERM) -> None:
    """Replace every process of these services; all of them at once, as `helm upgrade` does.

    Of one service, a new process is started before an old one ends, and the next one is started while that one is still
    ending: it counts no more.
    """

    async def one(service: str) -> None:
        life = cluster.life[service]
        assert (1, 0) == (life.surge, life.unavailable), f"{service} is replaced in another way than this one"
        endings: list[asyncio.Task[None]] = []
        for old in cluster.of(service):
            await cluster.start(service, old.node)
            endings.append(asyncio.create_task(cluster.end(old, how)))
            await asyncio.sleep(0)  # its end begins now
        await asyncio.gather(*endings)

    await asyncio.gather(*(one(service) for service in services))


async def scale(
    cluster: Cluster, services: Sequence[str] = SCALED, *, least: int = 2, most: int = 6, every_s: float = 0.0
) -> None:
    """Go from `least` processes to `most` at once, and back one by one, with a pause of `every_s` after each."""

    async def one(service: str) -> None:
        await asyncio.gather(*(cluster.start(service) for _ in range(most - len(cluster.of(service)))))
        await asyncio.sleep(every_s)
        while len(running := cluster.of(service)) > least:
            await cluster.end(running[-1])
            await asyncio.sleep(every_s)

    await asyncio.gather(*(one(service) for service in services))


async def lose_node(cluster: Cluster, node: str, *, notice_s: float, evict_s: float) -> None:
    """Kill everything on a node at one moment.

    After `notice_s` the Service names it no more; after `evict_s` other processes are started in its place.
    """
    lost = cluster.on(node)
    await cluster.kill(lost)
    await asyncio.sleep(notice_s)
    cluster.forget(lost)
    await asyncio.sleep(evict_s - notice_s)
    await asyncio.gather(*(cluster.start(pod.service, node) for pod in lost))


async def freeze_node(cluster: Cluster, node: str, *, notice_s: float, hold_s: float) -> None:
    """Freeze everything on a node for `hold_s`; then it goes on where it was, with all that it had begun.

    After `notice_s` the Service names it no more, until it is ready again.
    """
    frozen: list[Pod] = cluster.on(node)
    cluster.freeze(frozen)
    try:
        await asyncio.sleep(notice_s)
        cluster.forget(frozen)
        await asyncio.sleep(hold_s - notice_s)
    finally:
        cluster.thaw(frozen)
    await asyncio.gather(*(cluster.is_ready(pod) for pod in frozen))
