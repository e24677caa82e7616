"""How fast the orchestrator processes the orders that waited in the topic while it was dead."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from local_stack.ports import free_ports
from local_stack.probes import http_ready
from local_stack.stack import SESSION_TIMEOUT_S
from local_stack.supervisor import ProcessSpec, Supervisor
from tests.bench.bar import bar
from tests.bench.ground import Ground, System
from tests.bench.rounds import Meter, in_words, per_order_us
from tests.bench.scenario import CPU, RATIOS, SPEED, Figures, Options, Outcome, Scenario, Target

CATCHING_UP: Final = "catching up / peak, orders/s"
FIRST: Final = "until the first order moves, s"


class Orchestrator:
    """The system's only orchestrator, which the scenario starts and kills."""

    def __init__(self, system: System) -> None:
        [port] = free_ports(1)
        stack = system.stack
        environment = {
            **os.environ,
            **stack.options.environment,
            "KAFKA_BOOTSTRAP_SERVERS": stack.kafka_bootstrap_servers,
            "KAFKA_SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S),
            "DATABASE_URL": stack.logins["orchestrator"],
            "HTTP_PORT": str(port),
        }
        argv = [sys.executable, "-m", "operations.cli", "orchestrator"]
        self._spec = ProcessSpec("orchestrator", argv, http_ready(port), environment, vital=True)
        self._supervisor = Supervisor(stack.logs, say=lambda _: None)

    @property
    def pids(self) -> Mapping[str, Sequence[int]]:
        """Its process, while it lives."""
        return self._supervisor.pids

    async def start(self) -> None:
        """Start it; return when it is ready."""
        await self._supervisor.start(self._spec)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Mapping[str, Sequence[int]]]:
        """Let it run inside; gives its process."""
        await self.start()
        try:
            yield self.pids
        finally:
            await self.stop()

    async def kill(self) -> None:
        """Kill it, and wait until its consumer group has removed it."""
        for [pid] in self.pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._supervisor.stop()
        await asyncio.sleep(SESSION_TIMEOUT_S + 1)

    async def stop(self) -> None:
        """End it."""
        await self._supervisor.stop()


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure in each round the peak, then kill the orchestrator, let orders wait, and measure its recovery."""
    system = await ground.system("recovery", replicas={"orchestrator": 0})
    orchestrator, meter = Orchestrator(system), Meter(ground)
    ground.everything.push_async_callback(orchestrator.stop)
    await orchestrator.start()
    figures: Figures = {RATIOS: {CATCHING_UP: []}, SPEED: {}, CPU: {}}
    await system.contender.run(options.warm_up, options.in_flight)
    with bar(ground.out, options.rounds, "rounds") as done:
        for number in range(1, options.rounds + 1):
            peak = await system.contender.run(options.orders, options.in_flight)
            ground.out.print(f"round {number}: peak {in_words(peak)}")
            await orchestrator.kill()
            before, _ = await meter.read(system.contender.pids)
            back = await system.contender.carry(lambda load: load.recover(options.orders, orchestrator.start))
            after, _ = await meter.read({**system.contender.pids, **orchestrator.pids})
            used = per_order_us({"orchestrator": 0.0, **before}, after, back.orders)
            ground.out.print(
                f"round {number}: the first of {back.orders} moved after {back.first_s:.1f} s, all had ended after "
                f"{back.all_s:.1f} s, {back.orders_per_s:.0f} orders/s"
            )
            figures[RATIOS][CATCHING_UP].append(back.orders_per_s / peak.orders_per_s)
            values = {
                FIRST: back.first_s,
                "until all have ended, s": back.all_s,
                "all that time, orders/s": back.orders / back.all_s,
                "catching up, orders/s": back.orders_per_s,
                "peak, orders/s": peak.orders_per_s,
            }
            for name, value in values.items():
                figures[SPEED].setdefault(name, []).append(value)
            for process, one in used.items():
                figures[CPU].setdefault(f"catching up: {process}", []).append(one)
            done()
    return Outcome(figures, {"orders that waited": options.orders})


SCENARIO: Final = Scenario(
    name="recovery",
    title="Coming back from the dead",
    what=(
        "The orchestrator is killed with SIGKILL, and stays dead until its consumer group no longer counts on it. "
        "Requests come and wait in the topic. It is started; the clock runs from that moment, so the start of a "
        "Python process is part of it (and of its CPU). Before each death, the same orders with a bounded number "
        "open: the peak. *Catching up* counts from the first event of an order that had waited."
    ),
    reading=(
        "A backlog must be worked off at least as fast as orders are carried otherwise, or an outage would cost more "
        "than its own length. The first order waits for the process to start and to join its group."
    ),
    takes="4 min",
    sizes=("rounds", "orders", "in_flight"),
    full=Options(orders=10_000),
    quick=Options(1, orders=200, in_flight=100, warm_up=100),
    systems=("recovery",),
    targets=(
        Target("a backlog goes as fast as the peak", CATCHING_UP, "at least", 1.0),
        Target("three seconds after the start, orders move", FIRST, "at most", 3.0, SPEED),
    ),
    measure=measure,
)
