"""`make bench`: orders a second and latency of the whole system, as ratios to a floor measured in the same run.

The system: from requests on Kafka to the terminal events read back, through the orchestrator and both reference
services with their ledgers, everything durable. The floor: a bare aiokafka and asyncpg loop that stores a request's row
in one transaction a batch and publishes one event; it asks nobody, keeps no history and moves no money. Rounds
alternate. Ratios compare; absolute figures are this machine's, at this moment. The last line is one JSON object.
What one API process carries is measured by `make bench ARGS=door`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from local_stack.stack import LocalStack, StackOptions
from order_saga.cli.local import load_samples
from tests.bench import door
from tests.bench.floor import running_floor
from tests.bench.load import Load, Result

out = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Round:
    """One round: both loops under the same load, and the processor time of the system's processes for each order."""

    system: Result
    floor: Result
    cpu_us_per_order: Mapping[str, float]


async def run(orders: int, in_flight: int, rounds: int) -> list[Round]:
    """Measure `rounds` rounds of `orders` orders each, after one round that is not counted."""
    with tempfile.TemporaryDirectory(prefix="order-saga-bench-") as folder:

        async def samples(logins: Mapping[str, str]) -> None:
            await load_samples(logins, 1.0)

        options = StackOptions(load_samples=samples)
        async with LocalStack(Path(folder), options, out) as stack, running_floor(stack) as floor_topics:
            load = Load(stack.kafka_bootstrap_servers)
            measured = []
            for number in range(rounds + 1):
                floor = await load.run(orders, in_flight, *floor_topics)
                before = _cpu(stack)
                system = await load.run(orders, in_flight)
                cpu = {name: round((now - before[name]) * 1e6 / orders, 1) for name, now in _cpu(stack).items()}
                if number:
                    measured.append(Round(system, floor, cpu))
                    _say(number, measured[-1])
            return measured


def _cpu(stack: LocalStack) -> dict[str, float]:
    """Return the processor seconds that each kind of process has used, children included."""
    used = {}
    for name, pids in stack.pids.items():
        family = [one for pid in pids for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
        used[name] = sum(sum(one.cpu_times()[:2]) for one in family)
    return used


def _say(number: int, measured: Round) -> None:
    system, floor = measured.system, measured.floor
    out.print(f"round {number}: system {system.orders_per_s:.0f} orders/s, floor {floor.orders_per_s:.0f} orders/s")


def report(rounds: list[Round], orders: int, in_flight: int) -> dict[str, object]:
    """Print medians with their spread; return them for programs."""
    ratios = [one.system.orders_per_s / one.floor.orders_per_s for one in rounds]
    table = Table("figure", "median", "least", "most", title=f"{orders} orders a round, {in_flight} in flight")
    figures = {
        "system, orders/s": [one.system.orders_per_s for one in rounds],
        "floor, orders/s": [one.floor.orders_per_s for one in rounds],
        "ratio system / floor": ratios,
        "system p50, ms": [one.system.p50_ms for one in rounds],
        "system p99, ms": [one.system.p99_ms for one in rounds],
        **{
            f"{name}, us of CPU an order": [one.cpu_us_per_order[name] for one in rounds]
            for name in rounds[0].cpu_us_per_order
        },
    }
    for name, values in figures.items():
        table.add_row(name, *(f"{value:.3g}" for value in (statistics.median(values), min(values), max(values))))
    out.print(table)
    return {
        "orders": orders,
        "in_flight": in_flight,
        "broker": "embedded",
        "python": platform.python_version(),
        "medians": {name: round(statistics.median(values), 3) for name, values in figures.items()},
        "rounds": [asdict(one) for one in rounds],
    }


def main() -> int:
    """Read the arguments, measure, report."""
    if sys.argv[1:2] == ["door"]:
        return door.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=5000, help="orders of a round")
    parser.add_argument("--in-flight", type=int, default=1000, help="orders that may be open at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smoke test: one round of 300 orders")
    chosen = parser.parse_args()
    orders, rounds = (300, 1) if chosen.quick else (chosen.orders, chosen.rounds)
    began = time.monotonic()
    data = report(asyncio.run(run(orders, chosen.in_flight, rounds)), orders, chosen.in_flight)
    out.print(f"[dim]{time.monotonic() - began:.0f} s[/]")
    sys.stdout.write(json.dumps(data) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
