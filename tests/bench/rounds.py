"""The rounds of a benchmark: contenders in turn, on one broker and one PostgreSQL, under the same load.

What disturbs the machine in a round disturbs all of them, so figures are compared round by round. Each carries as many
orders as take it about the same time, judged by its last round; the first round warms up and counts for nothing else.
The processes of all stay up; what the others ask of the servers meanwhile is part of its figures.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import asyncpg
import psutil
from rich.console import Console

from tests.bench.bar import bar
from tests.bench.ground import Ground
from tests.bench.load import Result
from tests.bench.peers import Contender, PeerError
from tests.bench.scenario import CPU, RATIOS, SPEED, WAL, Figures, Options

SLOW = frozenset({"naive", "dbos"})
"""Those that work on one order at a time, or nearly so: with more of them open, each would only wait longer."""
Pids = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Measurement:
    """A contender's part of a round: what it carried, and what each process and PostgreSQL's log used for an order."""

    result: Result
    cpu_us_per_order: Mapping[str, float]
    wal_bytes_per_order: float = 0.0


Read = Callable[[Pids], Awaitable[tuple[Mapping[str, float], int]]]
"""Tells the processor time that was used so far, by process, and the bytes of PostgreSQL's log."""
Round = Mapping[str, Measurement]
"""The measurements of a round, by the contender's name."""


class Meter:
    """Reads what has been used so far: processor time by process, and bytes of PostgreSQL's log."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def read(self, own: Pids) -> tuple[dict[str, float], int]:
        """Read both, for one's own processes and for those that everybody uses."""
        connection = await asyncpg.connect(self._ground.database_url)
        try:
            position = await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'")
        finally:
            await connection.close()
        return cpu_s({**own, **self._ground.shared_pids}), int(position)


async def rounds_of(ground: Ground, options: Options, contenders: Sequence[Contender]) -> list[Round]:
    """Let the contenders take turns on the ground."""
    return await run_rounds(options, contenders, Meter(ground).read, ground.out)


async def run_rounds(options: Options, contenders: Sequence[Contender], read: Read, out: Console) -> list[Round]:
    """Let the contenders take turns, each round begun by another one."""
    last: dict[str, Result] = {}
    rounds: list[Round] = []
    with bar(out, (options.rounds + 1) * len(contenders)) as done:
        for number in range(options.rounds + 1):
            measured: dict[str, Measurement] = {}
            first = number % len(contenders)
            for contender in (*contenders[first:], *contenders[:first]):
                name = contender.name
                measured[name] = await _measure(contender, _orders(options, name, last.get(name)), options, read)
                last[name] = measured[name].result
                out.print(f"{'warm-up' if not number else f'round {number}'}: {name:6} {in_words(last[name])}")
                done()
            if number:
                rounds.append({contender.name: measured[contender.name] for contender in contenders})
    return rounds


async def _measure(contender: Contender, orders: int, options: Options, read: Read) -> Measurement:
    pids = contender.pids
    before, began = await read(pids)
    result = await contender.run(orders, _open_at_once(options, contender.name))
    if contender.pids != pids:
        raise PeerError(f"a process of {contender.name} died and was started again: its log says why")
    after, ended = await read(pids)
    return Measurement(result, per_order_us(before, after, result.orders), (ended - began) / result.orders)


def in_words(result: Result) -> str:
    """Say what was carried in a line."""
    latency = f"p50 {result.p50_ms:.0f} ms, p99 {result.p99_ms:.0f} ms"
    return f"{result.orders_per_s:7.0f} orders/s, {latency}, {result.orders} orders"


def figures_of(rounds: Sequence[Round], pairs: Sequence[tuple[str, str]]) -> Figures:
    """List every figure's values, one a round; of the pairs, the ratios of the first to the second."""
    figures: Figures = {RATIOS: {}, SPEED: {}, CPU: {}, WAL: {}}
    for one, other in pairs:
        figures[RATIOS][f"{one} / {other}, orders/s"] = [
            measured[one].result.orders_per_s / measured[other].result.orders_per_s for measured in rounds
        ]
    for name in rounds[0]:
        figures[SPEED][f"{name}, orders/s"] = [measured[name].result.orders_per_s for measured in rounds]
        figures[SPEED][f"{name}, p50 ms"] = [measured[name].result.p50_ms for measured in rounds]
        figures[SPEED][f"{name}, p99 ms"] = [measured[name].result.p99_ms for measured in rounds]
        for process in rounds[0][name].cpu_us_per_order:
            figures[CPU][f"{name}: {process}"] = [measured[name].cpu_us_per_order[process] for measured in rounds]
        figures[CPU][f"{name}: all"] = [sum(measured[name].cpu_us_per_order.values()) for measured in rounds]
        figures[WAL][name] = [measured[name].wal_bytes_per_order for measured in rounds]
    return figures


def likeness(rounds: Sequence[Round], one: str, other: str) -> dict[str, list[float]]:
    """Compare two of a kind in everything else, too: latency, log, and each process that both have."""
    values: Mapping[str, Callable[[Measurement], float]] = {
        "p50": lambda one: one.result.p50_ms,
        "p99": lambda one: one.result.p99_ms,
        "WAL bytes per order": lambda one: one.wal_bytes_per_order,
        **{f"CPU per order of {process}": _cpu_of(process) for process in rounds[0][one].cpu_us_per_order},
    }
    ratios: dict[str, list[float]] = defaultdict(list)
    for measured in rounds:
        for what, value in values.items():
            if below := value(measured[other]):
                ratios[f"{one} / {other}, {what}"].append(value(measured[one]) / below)
    return ratios


def _cpu_of(process: str) -> Callable[[Measurement], float]:
    return lambda one: one.cpu_us_per_order[process]


def cpu_s(processes: Pids) -> dict[str, float]:
    """Return the processor seconds that each has used, with its children, those that have ended included.

    Our own process stands for itself: the children are the others.
    """
    return {
        name: sum(_own_s(pid) if pid == os.getpid() else _family_s(pid) for pid in pids)
        for name, pids in processes.items()
    }


def _own_s(pid: int) -> float:
    try:
        return sum(psutil.Process(pid).cpu_times()[:2])
    except psutil.NoSuchProcess:  # a child that has ended this moment; its parent's figure has it from now on
        return 0.0


def _family_s(pid: int) -> float:
    process = psutil.Process(pid)
    return sum(process.cpu_times()[:4]) + sum(_own_s(child.pid) for child in process.children(recursive=True))


def per_order_us(before: Mapping[str, float], after: Mapping[str, float], orders: int) -> dict[str, float]:
    """Return the processor time that each used for an order."""
    return {name: round((after[name] - used) * 1e6 / orders, 1) for name, used in before.items() if name in after}


def _open_at_once(options: Options, name: str) -> int:
    return options.in_flight_slow if name in SLOW else options.in_flight


def _orders(options: Options, name: str, last: Result | None) -> int:
    """Say how many orders to carry in the next round, given how the last one went."""
    if last is None:
        return options.warm_up_slow if name in SLOW else options.warm_up
    return max(_open_at_once(options, name), round(last.orders_per_s * options.seconds))
