"""`make bench`: orders a second and latency of the whole system, as ratios to peers measured in the same run.

The system: from requests on Kafka to the terminal events read back, through the orchestrator and both reference
services with their ledgers, everything durable. Beside it, on the same broker and PostgreSQL, the same order by
- lean: the least that a loop of aiokafka and asyncpg can do and be right, its participants answering from memory;
- naive: one message, one session, one outbox row at a time, as most would write it, with the same participants;
- dbos: a DBOS workflow of four steps, without Kafka.
They take turns, a round each; ratios are taken round by round. Ratios compare; absolute figures are this machine's, at
this moment. With KAFKA_BOOTSTRAP_SERVERS the broker is that one, else the embedded one. Every order of every round
must have ended completed. The last line is one JSON object. What one API process carries: `make bench ARGS=door`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import door
from tests.bench.rounds import Plan, Round, measure

out = Console(highlight=False, soft_wrap=True)
OWN_PROCESSES = {
    "system": ("orchestrator", "balance", "assets"),
    "lean": ("lean", "answers of lean"),
    "naive": ("naive", "answers of naive"),
    "dbos": ("dbos",),
}
SHARED_PROCESSES = ("postgres", "broker", "load")


def figures_of(rounds: Sequence[Round]) -> dict[str, list[float]]:
    """List every figure's values, one a round."""
    figures: dict[str, list[float]] = {}
    names = list(OWN_PROCESSES)
    for name in names:
        figures[f"{name}, orders/s"] = [turns[name].result.orders_per_s for turns in rounds]
    for name in names[1:]:
        figures[f"system / {name}"] = [
            turns["system"].result.orders_per_s / turns[name].result.orders_per_s for turns in rounds
        ]
    for name in names:
        figures[f"{name}, p50 ms"] = [turns[name].result.p50_ms for turns in rounds]
        figures[f"{name}, p99 ms"] = [turns[name].result.p99_ms for turns in rounds]
    for name in names:
        for process in (*OWN_PROCESSES[name], *SHARED_PROCESSES):
            if all(process in turns[name].cpu_us_per_order for turns in rounds):
                figures[f"{name}, us an order of {process}"] = [
                    turns[name].cpu_us_per_order[process] for turns in rounds
                ]
    return figures


def report(rounds: Sequence[Round], plan: Plan, broker: str) -> dict[str, object]:
    """Print medians with their spread; return them, and all else, for programs."""
    title = (
        f"{len(rounds)} rounds of {plan.seconds:g} s each, {plan.in_flight} orders in flight "
        f"(naive and dbos: {plan.in_flight_slow}), {'embedded broker' if broker == 'embedded' else broker}"
    )
    table = Table("figure", "median", "least", "most", title=title, title_justify="left")
    spread: dict[str, Mapping[str, float]] = {}
    for name, values in figures_of(rounds).items():
        one = {"median": statistics.median(values), "least": min(values), "most": max(values)}
        table.add_row(name, *(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in one.values()))
        spread[name] = {key: round(value, 3) for key, value in one.items()}
    out.print(table)
    return {
        "plan": asdict(plan),
        "broker": broker,
        "python": platform.python_version(),
        "figures": spread,
        "rounds": [{name: asdict(turn) for name, turn in turns.items()} for turns in rounds],
    }


def main() -> int:
    """Read the arguments, measure, report."""
    if sys.argv[1:2] == ["door"]:
        return door.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12, help="how long each of the four works in a round")
    parser.add_argument("--in-flight", type=int, default=1000, help="orders that may be open at once")
    parser.add_argument("--in-flight-slow", type=int, default=50, help="the same, for naive and dbos")
    parser.add_argument("--quick", action="store_true", help="a smoke test: one round of a few orders")
    chosen = parser.parse_args()
    plan = Plan(chosen.rounds, chosen.seconds, chosen.in_flight, chosen.in_flight_slow)
    if chosen.quick:
        plan = Plan(1, 0.5, in_flight=200, in_flight_slow=10, warm_up=200, warm_up_slow=10)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="order-saga-bench-") as folder:
        broker, rounds = asyncio.run(measure(plan, Path(folder), out))
    data = report(rounds, plan, broker)
    out.print(f"[dim]{time.monotonic() - began:.0f} s[/]")
    sys.stdout.write(json.dumps(data) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
