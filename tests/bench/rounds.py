"""The rounds of a benchmark: contenders alternate on one broker and one PostgreSQL, under the same load.

A disturbance of the machine in a round affects all of them, so figures are compared round by round. A contender gets
as many orders as it can process in the wanted time, by its last round; the first round is only a warm-up. All processes
keep running, so the figures of a contender include what the idle ones cost on the servers meanwhile.
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
"""Contenders that work on one order at a time, or nearly so: with more orders open, each would only wait longer."""
Pids = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Measurement:
    """The figures of a contender in a round: its result, and for an order CPU time and bytes of PostgreSQL's log."""

    result: Result
    cpu_us_per_order: Mapping[str, float]
    wal_bytes_per_order: float = 0.0


Read = Callable[[Pids], Awaitable[tuple[Mapping[str, float], int]]]
"""Returns the processor time used so far, by process, and the bytes of PostgreSQL's log."""
Round = Mapping[str, Measurement]
"""The measurements of a round, by the contender's name."""


class Meter:
    """Reads what has been used so far: processor time by process, and bytes of PostgreSQL's log."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def read(self, own: Pids) -> tuple[dict[str, float], int]:
        """Read both, for the contender's own processes and for the shared ones."""
        connection = await asyncpg.connect(self._ground.database_url)
        try:
            position = await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'")
        finally:
            await connection.close()
        return cpu_s({**own, **self._ground.shared_pids}), int(position)


async def rounds_of(ground: Ground, options: Options, contenders: Sequence[Contender]) -> list[Round]:
    """Measure the contenders alternately on these servers."""
    return await run_rounds(options, contenders, Meter(ground).read, ground.out)


async def run_rounds(options: Options, contenders: Sequence[Contender], read: Read, out: Console) -> list[Round]:
    """Measure the contenders alternately; each round begins with another one."""
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
    """Describe a result in one line."""
    latency = f"p50 {result.p50_ms:.0f} ms, p99 {result.p99_ms:.0f} ms"
    return f"{result.orders_per_s:7.0f} orders/s, {latency}, {result.orders} orders"


def figures_of(rounds: Sequence[Round], pairs: Sequence[tuple[str, str]]) -> Figures:
    """Return the values of every figure, one for each round, and for each pair the ratio of the first to the second."""
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
    """Return further ratios of two similar contenders: latency, log, and CPU time of each process that both have."""
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

    This process counts without its children, which are the other contenders.
    """
    return {
        name: sum(_own_s(pid) if pid == os.getpid() else _family_s(pid) for pid in pids)
        for name, pids in processes.items()
    }


def _own_s(pid: int) -> float:
    try:
        return sum(psutil.Process(pid).cpu_times()[:2])
    except psutil.NoSuchProcess:  # a child that has just ended: from now on its parent's figure includes it
        return 0.0


def _family_s(pid: int) -> float:
    process = psutil.Process(pid)
    return sum(process.cpu_times()[:4]) + sum(_own_s(child.pid) for child in process.children(recursive=True))


def memory_mib(pid: int) -> float:
    """Return the memory of a process that it shares with no other."""
    return float(psutil.Process(pid).memory_full_info().uss) / 2**20


def per_order_us(before: Mapping[str, float], after: Mapping[str, float], orders: int) -> dict[str, float]:
    """Return the processor time that each used for an order."""
    return {name: round((after[name] - used) * 1e6 / orders, 1) for name, used in before.items() if name in after}


def _open_at_once(options: Options, name: str) -> int:
    return options.in_flight_slow if name in SLOW else options.in_flight


def _orders(options: Options, name: str, last: Result | None) -> int:
    """Return the number of orders for the next round, given the last result."""
    if last is None:
        return options.warm_up_slow if name in SLOW else options.warm_up
    return max(_open_at_once(options, name), round(last.orders_per_s * options.seconds))
