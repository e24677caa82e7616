"""Whether an order costs more beside many old ones: two systems on one PostgreSQL, one with many ended orders."""

from __future__ import annotations

from typing import Final

import asyncpg

from tests.bench.bar import bar
from tests.bench.ground import Ground, Prepare
from tests.bench.rounds import figures_of, likeness, rounds_of
from tests.bench.scenario import RATIOS, Options, Outcome, Scenario, Target
from tests.operations.audit.many import fill, parts

SMALL: Final = 10_000


async def measure(ground: Ground, options: Options) -> Outcome:
    """Fill two databases, and measure their systems alternately."""
    sizes = {"large": options.orders, "small": min(SMALL, options.orders // 10)}
    systems = {name: await ground.system(name, prepare=_filled(ground, orders)) for name, orders in sizes.items()}
    rounds = await rounds_of(ground, options, [systems[name].contender for name in sizes])
    figures = figures_of(rounds, [("large", "small")])
    figures[RATIOS] |= likeness(rounds, "large", "small")
    counts: dict[str, int | float | str] = {}
    for name, orders in sizes.items():
        counts[f"{name}: orders that had ended before"] = orders
        counts[f"{name}: size of the database, GB"] = await _gigabytes(systems[name].contender.database_url)
    return Outcome(figures, counts)


def _filled(ground: Ground, orders: int) -> Prepare:
    async def prepare(owner_url: str) -> None:
        ground.out.print(f"  {orders:,} orders that have ended, and all their rows (2 min for a million) ...")
        connection = await asyncpg.connect(owner_url)
        try:
            with bar(ground.out, parts(orders), "half millions of orders") as done:
                await fill(connection, orders, open_max=0, done=done)
            await connection.execute("CHECKPOINT")  # otherwise the first rounds would pay for the loading
        finally:
            await connection.close()

    return prepare


async def _gigabytes(url: str) -> float:
    connection = await asyncpg.connect(url)
    try:
        size: int = await connection.fetchval("SELECT pg_database_size(current_database())")
        return round(size / 1e9, 2)
    finally:
        await connection.close()


SCENARIO: Final = Scenario(
    name="growth",
    title="With many orders in the tables",
    what=(
        "Two systems on one PostgreSQL take turns. In the database of one lie ten thousand orders that have ended, "
        "in the other's a million by default (ten million: `--orders 10000000`), with their history, fills, holds, "
        "journal and claims; all was loaded by SQL as the system itself leaves it, then VACUUM ANALYZE; autovacuum "
        "stays on."
    ),
    reading=(
        "What has ended must cost what is alive nothing: all ratios should be 1. The open orders are found by partial "
        "indexes, and new rows go to the ends of the tables and of the indexes: order ids are of version 7, as the "
        "API makes them (`docs/adr/0018-order-ids-are-in-the-order-of-time.md`)."
    ),
    takes="6 min; ten million half an hour and 50 GB",
    sizes=("rounds", "seconds", "orders", "in_flight"),
    full=Options(rounds=4, orders=1_000_000),
    quick=Options(1, 0.4, orders=2000, in_flight=100, warm_up=100),
    systems=("large", "small"),
    targets=(
        Target("as many orders a second", "large / small, orders/s", "at least", 0.95),
        Target("the same latency", "large / small, p50", "at most", 1.05),
        Target("the same CPU time of PostgreSQL", "large / small, CPU per order of postgres", "at most", 1.1),
        Target(
            "the same CPU time of the orchestrator", "large / small, CPU per order of orchestrator", "at most", 1.05
        ),
    ),
    measure=measure,
)
