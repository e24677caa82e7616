"""Run the repeated audit as a process: with its metrics over HTTP, until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from operations.audit.watch import AuditMetrics, watch
from saga_kit.runtime.health import Health, HealthServer, health_routes, listen

if TYPE_CHECKING:
    from collections.abc import Callable


async def serve(
    database: str,
    host: str,
    port: int,
    *,
    every_s: float,
    ledger: str,
    listening: Callable[[int], None],
    say: Callable[[str], None],
    alarm: Callable[[str], None] = lambda _findings: None,
) -> int:
    """Audit every `every_s` until SIGTERM or SIGINT; return the exit status of the last run, as `watch` does.

    `listening` is called with the port of /metrics: a free one where `port` is 0.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    metrics = AuditMetrics()
    server = HealthServer(listen(host, port), health_routes(Health(), metrics.registry))
    server.start()
    listening(server.port)
    try:
        return await watch(database, stopping, metrics, say, every_s=every_s, ledger=ledger, alarm=alarm)
    finally:
        await server.stop()
