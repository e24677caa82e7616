"""What is written while a price rises and moves the watermarks of very many trailing orders."""

from __future__ import annotations

from typing import Final

import asyncpg

from tests.bench.bar import bar
from tests.bench.ground import Ground
from tests.bench.market import resting
from tests.bench.market.prices import TICK, feed
from tests.bench.market.ticks import NOBODY, PER_S
from tests.bench.recovery import Orchestrator
from tests.bench.scenario import RATIOS, Figures, Options, Outcome, Scenario, Target

ASSETS: Final = ["B0"]
ROWS: Final = "rows written for a batch of ticks"
TICKS: Final = "ticks of a batch"
_MARKS: Final = "marks"
_WRITTEN: Final = """
    SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables
    WHERE schemaname = 'orders' AND relname IN ('marks', 'peaks', 'trails', 'resting')"""


async def measure(ground: Ground, options: Options) -> Outcome:
    """Let a price rise without a pause, and count in each round the rows that were written meanwhile."""
    system = await ground.system("ratchet", replicas=NOBODY)
    orchestrator = Orchestrator(system)
    ground.everything.push_async_callback(orchestrator.stop)
    figures: Figures = {RATIOS: {ROWS: [], TICKS: []}}
    found: list[str] = []
    ticks = round(PER_S * options.seconds)
    connection = await asyncpg.connect(system.contender.database_url)
    try:
        await resting.fill_trailing(connection, ASSETS, options.orders)
        await resting.settle(connection)
        async with feed(ground, system) as prices:
            price = resting.LOW
            with bar(ground.out, options.rounds, "rounds") as done:
                for number in range(1, options.rounds + 1):
                    before = dict(await connection.fetch(_WRITTEN))
                    rise = [(ASSETS[0], price := price + TICK) for _ in range(ticks)]
                    async with orchestrator.running():
                        await prices.paced(rise, PER_S)
                        await prices.judged(ASSETS)
                    after = dict(await connection.fetch(_WRITTEN))  # a session that ends has told what it wrote
                    written = {table: after[table] - before[table] for table in after}
                    figures[RATIOS][ROWS].append(sum(written.values()) / written[_MARKS])
                    figures[RATIOS][TICKS].append(ticks / written[_MARKS])
                    ground.out.print(f"round {number}: {written}")
                    if written["resting"]:
                        found.append(f"{written['resting']} rows of orders were written though none fired")
                    done()
    finally:
        await connection.close()
    return Outcome(figures, {"trailing orders": options.orders, "ticks of a round": ticks}, found=found)


SCENARIO: Final = Scenario(
    name="ratchet",
    title="A rise beside many trailing orders",
    what=(
        "A hundred thousand trailing orders of both sides rest on one asset, with twenty different trails on each. Its "
        f"price rises by a tick {PER_S:g} times a second, so that each tick is a new watermark of every second order, "
        "and fires none. PostgreSQL counts the rows of the engine's tables that are written meanwhile, and the writes "
        "of the asset's mark are the batches."
    ),
    reading=(
        "Watermarks belong to the path of the asset, so a new high writes no order. A batch writes the mark, and a row "
        "for the step that it leaves behind. See `docs/adr/0037-a-trailing-stop-follows-the-path-of-its-asset.md`."
    ),
    takes="1 min",
    sizes=("rounds", "seconds", "orders"),
    full=Options(seconds=4, orders=100_000),
    quick=Options(1, 0.4, orders=1000),
    systems=("ratchet",),
    targets=(Target("a batch of ticks writes a few rows, however many orders trail", ROWS, "at most", 3.0),),
    measure=measure,
)
