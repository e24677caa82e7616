"""What the processes of a system cost while nothing happens."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg

from saga_kit.messaging.fetch_wait import IDLE_S
from tests.bench.bar import bar
from tests.bench.drift import OUTBOX_ROWS
from tests.bench.ground import Ground
from tests.bench.rounds import Meter
from tests.bench.scenario import Figures, Options, Outcome, Scenario, Target

IDLE_SHARE: Final = "Share of a core while nothing happens, %"
ALL: Final = "the system's processes together"
SERVICES: Final = ("orchestrator", "balance", "assets", "api")


async def measure(ground: Ground, options: Options) -> Outcome:
    """Let a whole system carry some orders, and then measure in each round what it uses while it has none."""
    contender = (await ground.system("idle", replicas={"api": 1})).contender
    await contender.run(options.warm_up, options.in_flight)
    await _nothing_left(contender.database_url)
    meter = Meter(ground)
    figures: Figures = {IDLE_SHARE: {}}
    with bar(ground.out, options.rounds, "rounds") as done:
        for _ in range(options.rounds):
            before, _log = await meter.read(contender.pids)
            await asyncio.sleep(options.seconds)  # this is what is measured
            after, _log = await meter.read(contender.pids)
            shares = {name: 100 * (after[name] - before[name]) / options.seconds for name in after if name != "load"}
            for name, share in {ALL: sum(shares[name] for name in SERVICES), **shares}.items():
                figures[IDLE_SHARE].setdefault(name, []).append(share)
            done()
    return Outcome(figures)


async def _nothing_left(database_url: str) -> None:
    """Wait until the orders that there were have left nothing to do: no row is in an outbox, and consumers are idle."""
    connection = await asyncpg.connect(database_url)
    try:
        while await connection.fetchval(OUTBOX_ROWS):
            await asyncio.sleep(IDLE_S)
        await asyncio.sleep(2 * IDLE_S)  # so long after the last record
    finally:
        await connection.close()


SCENARIO: Final = Scenario(
    name="idle",
    title="Nothing to do",
    what=(
        "A whole system, each service once, has carried some orders and gets no more. In each round its processes, the "
        "broker and PostgreSQL are left alone for a while, and their CPU time is read."
    ),
    reading=(
        "A service that waits still fetches, sends heartbeats, looks for what is due and answers a readiness check. "
        "That is paid all night, once for each replica."
    ),
    takes="2 min",
    sizes=("rounds", "seconds"),
    full=Options(seconds=20),
    quick=Options(1, 1, in_flight=100, warm_up=100),
    systems=("idle",),
    targets=(Target("all four services together: three hundredths of a core", ALL, "at most", 3.0, IDLE_SHARE),),
    measure=measure,
)
