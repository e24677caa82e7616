"""What a tick costs beside a million resting orders, and how many ticks one trigger consumer judges in a second."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import asyncpg

from tests.bench.bar import bar
from tests.bench.ground import Ground, Prepare
from tests.bench.market import resting
from tests.bench.market.prices import Feed, feed, walk
from tests.bench.recovery import Orchestrator
from tests.bench.rounds import Meter, memory_mib, per_order_us
from tests.bench.scenario import RATIOS, SPEED, Figures, Options, Outcome, Scenario, Target

FEW: Final = 1000
PER_S: Final = 1000.0
NOBODY: Final = {"orchestrator": 0, "balance": 0, "assets": 0}
"""A system without services: the scenario starts the orchestrator when it is its turn."""
ONE: Final = ["B0"]
MANY: Final = [f"B{number}" for number in range(1, 501)]
EACH: Final = 200
"""Orders that rest on each of the many assets."""
NONE, SOME, ALL = "none", "a thousand", "all"
COST: Final = "CPU time for one tick, µs"
MEMORY: Final = "Memory of the orchestrator, MiB"
TICK_RATIO: Final = "all / a thousand at rest, CPU of a tick"
MEMORY_RATIO: Final = "all / none at rest, memory of the orchestrator"
ONE_RATE, MANY_RATE = "one asset, ticks/s", f"{len(MANY)} assets, ticks/s"


@dataclass(frozen=True)
class Market:
    """A system of which only the orchestrator runs, while it is measured, and the feed of its prices."""

    orchestrator: Orchestrator
    feed: Feed


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure by turns three systems that differ in their resting orders, then backlogs of ticks on the largest."""
    sizes = {NONE: 0, SOME: min(FEW, options.orders), ALL: options.orders}
    figures: Figures = {RATIOS: {}, SPEED: {}, COST: {}, MEMORY: {}}
    meter, names = Meter(ground), list(sizes)
    async with AsyncExitStack() as feeds:
        markets = {name: await _market(ground, feeds, name, sizes[name]) for name in names}
        with bar(ground.out, options.rounds + 1, "rounds") as done:
            for number in range(options.rounds + 1):
                measured: Figures = {RATIOS: {}, SPEED: {}, COST: {}, MEMORY: {}}
                for name in (*names[number % 3 :], *names[: number % 3]):
                    await _at_a_rate(meter, options, measured, name, markets[name])
                for label, asset_ids in ((ONE_RATE, ONE), (MANY_RATE, MANY)):
                    measured[SPEED][label] = [await _backlog(markets[ALL], asset_ids, options.ticks)]
                _compare(measured)
                ground.out.print(f"{f'round {number}' if number else 'warm-up'}: {_in_words(measured)}")
                for group, values in measured.items() if number else ():
                    for name, [value] in values.items():
                        figures[group].setdefault(name, []).append(value)
                done()
    return Outcome(figures, {"orders that rest on the one asset": options.orders})


async def _market(ground: Ground, feeds: AsyncExitStack, name: str, orders: int) -> Market:
    number = (NONE, SOME, ALL).index(name)
    system = await ground.system(f"ticks-{number}", replicas=NOBODY, prepare=_filled(ground, orders, many=name == ALL))
    orchestrator = Orchestrator(system)
    ground.everything.push_async_callback(orchestrator.stop)
    return Market(orchestrator, await feeds.enter_async_context(feed(ground, system)))


def _filled(ground: Ground, orders: int, *, many: bool) -> Prepare:
    async def prepare(owner_url: str) -> None:
        ground.out.print(f"  {orders:,} resting orders (1 min for a million) ...")
        connection = await asyncpg.connect(owner_url)
        try:
            await resting.fill(connection, ONE, orders)
            await resting.fill(connection, MANY if many else [], min(EACH, orders))
            await resting.settle(connection)
        finally:
            await connection.close()

    return prepare


async def _at_a_rate(meter: Meter, options: Options, figures: Figures, name: str, market: Market) -> None:
    """Have an orchestrator judge some ticks, and then so many a second, and read its CPU time and memory."""
    prices = walk(ONE, round(PER_S * options.seconds))
    async with market.orchestrator.running() as pids:
        await market.feed.publish(prices[: options.warm_up])
        await market.feed.judged(ONE)
        before, _ = await meter.read(pids)
        await market.feed.paced(prices, PER_S)
        await market.feed.judged(ONE)
        after, _ = await meter.read(pids)
        figures[MEMORY][name] = [memory_mib(pid) for pid in pids["orchestrator"]]
    for process, used in per_order_us(before, after, len(prices)).items():
        if process != "load":
            figures[COST][f"{name}: {process}"] = [used]


async def _backlog(market: Market, asset_ids: list[str], ticks: int) -> float:
    """Let ticks wait, then start the orchestrator; return how many it judges in a second."""
    await market.feed.publish(walk(asset_ids, ticks))
    async with market.orchestrator.running():
        return await market.feed.judged(asset_ids)


def _compare(figures: Figures) -> None:
    """Add the ratios of a round."""
    cost, memory = figures[COST], figures[MEMORY]
    ours = {
        name: sum(cost[f"{name}: {process}"][0] for process in ("orchestrator", "postgres")) for name in (SOME, ALL)
    }
    figures[RATIOS][TICK_RATIO] = [ours[ALL] / ours[SOME]]
    figures[RATIOS][MEMORY_RATIO] = [memory[ALL][0] / memory[NONE][0]]


def _in_words(figures: Figures) -> str:
    return ", ".join(f"{name} {value[0]:.4g}" for group in (RATIOS, SPEED) for name, value in figures[group].items())


SCENARIO: Final = Scenario(
    name="ticks",
    title="A tick beside a million resting orders",
    what=(
        "Three systems of which only the orchestrator runs, one at a time, with a million orders at rest on one asset, "
        f"with a thousand, and with none. Their price walks {PER_S:g} times a second and reaches no order's level. A "
        "third of the orders waits for a higher price, a third for a lower one, a third trails. Then ticks wait in the "
        "topic while the orchestrator is stopped, and it judges them as fast as it can, in the system with the "
        f"million: ticks of that asset, and of {len(MANY)} others by chance, on each of which {EACH} orders rest."
    ),
    reading=(
        "A tick costs the CPU time of the orchestrator, in which the trigger consumer works, and of PostgreSQL; it "
        "must not grow with the orders that it does not fire. At this rate a batch has about ten ticks, and costs more "
        "than they do; in a backlog it has five hundred. Nothing about a resting order is in memory. The rate counts "
        "from the first tick that was judged until the last; the consumer uses one core at most, and nothing else "
        "works meanwhile but broker and PostgreSQL."
    ),
    takes="8 min",
    sizes=("rounds", "seconds", "orders", "ticks"),
    full=Options(orders=1_000_000, ticks=20_000, warm_up=3000),
    quick=Options(1, 0.4, orders=1000, ticks=2000, warm_up=100),
    systems=("ticks-0", "ticks-1", "ticks-2"),
    targets=(
        Target("a tick costs the same beside a million orders", TICK_RATIO, "at most", 1.1),
        Target("the orchestrator takes as much memory with a million at rest", MEMORY_RATIO, "at most", 1.05),
        Target("one consumer judges twenty thousand ticks a second of one asset", ONE_RATE, "at least", 20_000, SPEED),
        Target(f"and five thousand of {len(MANY)} assets", MANY_RATE, "at least", 5000, SPEED),
    ),
    measure=measure,
)
