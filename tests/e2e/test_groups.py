"""Members of a consumer group join, leave and die while orders run, and every order ends as it would without."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from local_stack.ports import free_ports
from local_stack.probes import http_ready
from local_stack.processes import spawn
from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import HOLDINGS, RETRYABLE, mixed
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.apache_kafka]


async def test_orchestrators_come_and_go_while_orders_run(system: System, trader: Trader) -> None:
    """Two orchestrators share a group; a third joins, one stops, one is killed: every order ends as expected."""
    users = await system.endow([f"group-{number}" for number in range(20)], HOLDINGS)

    async def come_and_go() -> None:
        async with _another(system, "orchestrator"):
            await system.end("orchestrator", signal.SIGTERM, number=0)
            await system.end("orchestrator", signal.SIGKILL, number=1)

    ids = await trader.trade_during(come_and_go(), mixed(users, seed=300), at_least=300, rate=15)
    ends = await trader.ended(ids)
    surprises = {order_id: end for order_id, end in ends.items() if end not in trader.accepted[order_id].announced}
    assert set(surprises.values()) <= RETRYABLE  # on a machine that is too slow
    assert len(surprises) < len(ends) / 10
    await assert_all_is_well(system, trader)


@asynccontextmanager
async def _another(system: System, service: str) -> AsyncIterator[None]:
    """Run one more process of a service, with the settings of the first, and kill it at the end."""
    [port] = free_ports(1)
    settings = psutil.Process(system.stack.pids[service][0]).environ() | {"HTTP_PORT": str(port)}
    log = system.stack.logs / f"another-{service}.log"
    process, _ = await spawn([sys.executable, "-m", "operations.cli", service], log, env=settings)
    try:
        await eventually(http_ready(port), f"another {service} is ready")
        yield
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
