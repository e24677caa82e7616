"""The whole loop: the system compared with a lean loop, a naive loop and DBOS, all with the same order.

For the system it goes from requests on Kafka to the last events read back, through the orchestrator and both reference
services with their ledgers, all of it durable.
"""

from __future__ import annotations

import os
from typing import Final

from tests.bench.ground import Ground
from tests.bench.peers import running_dbos, running_lean, running_naive
from tests.bench.rounds import Round, figures_of, rounds_of
from tests.bench.scenario import CPU, RATIOS, Options, Outcome, Scenario, Target
from tests.bench.weigh import weigh

PEERS: Final = ("lean", "naive", "dbos")
IN_USE: Final = "system: share of the machine's cores in use"
ORCHESTRATOR: Final = "orchestrator / lean, CPU of the process for one order"
WEIGHED: Final = 500


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure all four alternately; then measure the messages, rows and bytes of one order of the system."""
    system = await ground.system()
    peers = [
        await ground.everything.enter_async_context(running(ground.place))
        for running in (running_lean, running_naive, running_dbos)
    ]
    rounds = await rounds_of(ground, options, [system.contender, *peers])
    figures = figures_of(rounds, [("system", peer) for peer in PEERS])
    figures[RATIOS][ORCHESTRATOR] = [
        _cpu(measured, "system", "orchestrator") / _cpu(measured, "lean", "lean") for measured in rounds
    ]
    if "broker" in ground.pids:  # the CPU time of an external broker is unknown
        figures[RATIOS][IN_USE] = [_in_use(measured) for measured in rounds]
    return Outcome(figures | await weigh(ground, system, min(WEIGHED, options.warm_up)))


def _cpu(measured: Round, name: str, process: str) -> float:
    return measured[name].cpu_us_per_order[process]


def _in_use(measured: Round) -> float:
    system = measured["system"]
    return system.result.orders_per_s * sum(system.cpu_us_per_order.values()) / 1e6 / (os.cpu_count() or 1)


SCENARIO: Final = Scenario(
    name="loop",
    title="The whole loop",
    what=(
        "Market orders, 1,000 open at once (50 for *naive* and *dbos*, where more would only wait), from the request "
        "on Kafka until the last event has been read back: through the orchestrator and both reference services with "
        "their ledgers, every state durable. In the same rounds, on the same broker and PostgreSQL: *lean*, the least "
        "that a loop of aiokafka and asyncpg can do and be right, its participants answering from memory; *naive*, one "
        "message, one session and one outbox row at a time, with the same participants; *dbos*, a DBOS workflow of "
        "four steps, without Kafka."
    ),
    reading=(
        "`system / lean` is how much of the bare minimum's speed is left after everything that the bare minimum does "
        "not do: ledgers, history, cancels, timers, audit, traces. `system / naive` is what batches are worth. When "
        "the share of the cores in use is near 1, the machine was the limit and no wait or lock was."
    ),
    takes="4 min",
    sizes=("rounds", "seconds", "in_flight", "in_flight_slow"),
    full=Options(),
    quick=Options(1, 0.4, in_flight=100, in_flight_slow=6, warm_up=100, warm_up_slow=6),
    systems=("system", "lean", "naive"),
    targets=(
        Target(
            "at least half as many orders as the floor that keeps no ledger", "system / lean, orders/s", "at least", 0.5
        ),
        Target("sixty times the loop that most would write", "system / naive, orders/s", "at least", 60),
        Target("forty times DBOS", "system / dbos, orders/s", "at least", 40),
        Target("85 % of the machine's cores in use, load and broker included", IN_USE, "at least", 0.85),
        Target("CPU time of the orchestrator's process: no more than that of the floor's", ORCHESTRATOR, "at most", 1),
        Target("150 µs of the orchestrator's process for an order", "system: orchestrator", "at most", 150, CPU),
        Target("80 µs of PostgreSQL for an order; measured with both ledgers", "system: postgres", "at most", 80, CPU),
    ),
    measure=measure,
)
