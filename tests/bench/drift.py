"""Whether latency, CPU time, memory or tables grow: a steady load for half an hour, measured every minute."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import asyncpg
import psutil

from tests.bench.bar import bar
from tests.bench.ground import Ground
from tests.bench.load import Result
from tests.bench.rounds import Meter, in_words, per_order_us
from tests.bench.scenario import CPU, RATIOS, SPEED, Figures, Options, Outcome, Scenario, Target
from tests.evidence.record import Table

SHARE: Final = 0.7
OUTBOX: Final = "rows in the outboxes, most seen"
DEAD: Final = "dead rows for a row that lives"
PER_ORDER: Final = "bytes of the tables and indexes for an order"
LOOK_S: Final = 1.0
MIB: Final = 2**20


@dataclass(frozen=True)
class Minute:
    """The figures of one of the equal parts of the time."""

    result: Result
    cpu_us: Mapping[str, float]
    memory_mib: Mapping[str, float]
    database: Mapping[str, float]


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure the peak, continue at a share of it, and compare the first quarter with the last."""
    contender, meter = (await ground.system()).contender, Meter(ground)
    result = await contender.run(options.warm_up, options.in_flight)
    for seconds in (options.seconds / 5, options.seconds):  # the speed of the first orders says little about the others
        result = await contender.run(max(options.warm_up, round(seconds * result.orders_per_s)), options.in_flight)
    per_s, minutes = SHARE * result.orders_per_s, max(4, round(options.minutes))
    ground.out.print(f"peak {in_words(result)}; now {per_s:.0f} orders/s for {options.minutes:g} minutes")
    seen: list[Minute] = []
    with bar(ground.out, minutes, "minutes") as done:
        for number in range(1, minutes + 1):
            before, _ = await meter.read(contender.pids)
            looking = asyncio.create_task(_outbox_rows(contender.database_url, most := [0]))
            try:
                result = await contender.carry(lambda load: load.paced(per_s, options.minutes * 60 / minutes))
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
            after, _ = await meter.read(contender.pids)
            used = per_order_us(before, after, result.orders)
            database = {**await _database(contender.database_url), OUTBOX: float(most[0])}
            seen.append(Minute(result, used, _memory({**contender.pids, **ground.pids}), database))
            ground.out.print(f"minute {number}: {in_words(result)}")
            done()
    counts: dict[str, int | float | str] = {"minutes": options.minutes, "orders": sum(m.result.orders for m in seen)}
    return Outcome(figures_of(seen), counts, [_table(seen)])


def figures_of(seen: Sequence[Minute]) -> Figures:
    """Return the figures of every minute, and the ratios of the last quarter to the first."""
    columns = [_values(minute) for minute in seen]
    quarter = max(1, len(seen) // 4)
    figures: Figures = {RATIOS: {}, SPEED: {}, CPU: {}}
    for name in columns[0]:
        values = [column[name] for column in columns]
        first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
        if first:
            figures[RATIOS][f"last / first quarter, {name}"] = [last / first]
    for name in ("orders/s", "p50 ms", "p99 ms", OUTBOX):
        figures[SPEED][name] = [column[name] for column in columns]
    for process in seen[0].cpu_us:
        figures[CPU][process] = [minute.cpu_us[process] for minute in seen]
    return figures


def _values(minute: Minute) -> dict[str, float]:
    return {
        "orders/s": minute.result.orders_per_s,
        "p50 ms": minute.result.p50_ms,
        "p99 ms": minute.result.p99_ms,
        **{f"CPU per order of {process}": used for process, used in minute.cpu_us.items()},
        **{f"memory of {process}": size for process, size in minute.memory_mib.items()},
        **minute.database,
    }


def _table(seen: Sequence[Minute]) -> Table:
    processes = list(seen[0].memory_mib)
    columns = ["part", "p50 ms", "p99 ms", *(f"{name}, MiB" for name in processes), *seen[0].database]
    rows = [
        [
            str(number),
            f"{minute.result.p50_ms:.1f}",
            f"{minute.result.p99_ms:.1f}",
            *(f"{minute.memory_mib[name]:.1f}" for name in processes),
            *(f"{value:,.4g}" if value < 100 else f"{value:,.0f}" for value in minute.database.values()),
        ]
        for number, minute in enumerate(seen, 1)
    ]
    return Table("Part by part", columns, rows)


def _memory(pids: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the memory of each process; for PostgreSQL, with its children, shared memory counts once."""
    sizes = {}
    for name, some in pids.items():
        family = [one for pid in some for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
        sizes[name] = sum(map(_own_mib, family))
    return sizes


def _own_mib(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        memory = process.memory_info()
        return (memory.rss - getattr(memory, "shared", 0)) / MIB
    return 0.0


async def _outbox_rows(url: str, most: list[int]) -> None:
    """Sample the outboxes until cancelled."""
    connection = await asyncpg.connect(url)
    try:
        while True:
            most[0] = max(most[0], await connection.fetchval(OUTBOX_ROWS))
            await asyncio.sleep(LOOK_S)
    finally:
        await connection.close()


async def _database(url: str) -> dict[str, float]:
    connection = await asyncpg.connect(url)
    try:
        orders, size, dead, alive = await connection.fetchrow(_SIZES)
        return {PER_ORDER: size / max(1, orders), DEAD: dead / max(1, alive)}
    finally:
        await connection.close()


OUTBOX_ROWS: Final = """
    SELECT (SELECT count(*) FROM orders.outbox) + (SELECT count(*) FROM balances.outbox)
        + (SELECT count(*) FROM assets.outbox)"""
_SIZES: Final = """
    SELECT (SELECT count(*) FROM orders.orders), sum(pg_total_relation_size(relid))::float8, sum(n_dead_tup)::float8,
        sum(n_live_tup)::float8
    FROM pg_stat_user_tables WHERE schemaname IN ('orders', 'balances', 'assets')"""


SCENARIO: Final = Scenario(
    name="drift",
    title="Half an hour",
    what=(
        "Orders come by chance at 70 % of the peak that was measured at the beginning, for thirty minutes, "
        "and after every minute the last of them are waited for. Minute by minute: latency, CPU time, each process's "
        "own memory (what it shares with others is left out), the size of the tables with their indexes for an order, "
        "dead rows that wait for autovacuum, and the fullest that the outboxes were."
    ),
    reading=(
        "The last quarter of the time against the first: what is near 1 stays as it is. Memory that grows and tables "
        "that bloat would show as more. An outbox that fills shows by its rows."
    ),
    takes="33 min and 15 GB",
    sizes=("seconds", "minutes", "in_flight"),
    full=Options(60, minutes=30),
    quick=Options(1, 1, minutes=1 / 15, in_flight=100, warm_up=100),
    systems=("system",),
    targets=(
        Target("the latency stays", "last / first quarter, p50 ms", "at most", 1.1),
        Target("the orchestrator's memory stays", "last / first quarter, memory of orchestrator", "at most", 1.05),
        Target("the balance service's memory stays", "last / first quarter, memory of balance", "at most", 1.05),
        Target("the outboxes hold what is on its way, no more", OUTBOX, "at most", 50, SPEED),
        Target("the tables do not bloat", f"last / first quarter, {PER_ORDER}", "at most", 1.05),
    ),
    measure=measure,
)
