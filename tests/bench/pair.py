"""Whether sharing the work costs more: two orchestrators and two balance services compared with one of each."""

from __future__ import annotations

from typing import Final

from tests.bench.ground import Ground
from tests.bench.rounds import figures_of, likeness, rounds_of
from tests.bench.scenario import RATIOS, Options, Outcome, Scenario, Target


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure the two systems alternately."""
    one = await ground.system("one")
    two = await ground.system("two", replicas={"orchestrator": 2, "balance": 2})
    rounds = await rounds_of(ground, options, [two.contender, one.contender])
    figures = figures_of(rounds, [("two", "one")])
    figures[RATIOS] |= likeness(rounds, "two", "one")
    return Outcome(figures)


SCENARIO: Final = Scenario(
    name="pair",
    title="Two of each",
    what=(
        "Two systems on one broker and one PostgreSQL take turns: one orchestrator and one balance service, and two of "
        "each that share the partitions. The CPU time of two processes of a kind is their sum."
    ),
    reading=(
        "Processes share no lock and no row, so an order should cost two of them together what it costs one. What it "
        "costs more is smaller batches: the same orders in twice as many transactions. More orders a second come of "
        "it only where there are cores for it: on a machine that one of each can fill, the ratio of orders/s says "
        "what sharing costs."
    ),
    takes="2 min",
    sizes=("rounds", "seconds", "in_flight"),
    full=Options(rounds=4),
    quick=Options(1, 0.4, in_flight=100, warm_up=100),
    systems=("one", "two"),
    targets=(
        Target(
            "the orchestrators together cost what one does", "two / one, CPU per order of orchestrator", "at most", 1.15
        ),
        Target("so do the balance services", "two / one, CPU per order of balance", "at most", 1.15),
        Target("nothing is lost by sharing", "two / one, orders/s", "at least", 0.95),
    ),
    measure=measure,
    needs_kafka="the embedded broker has one member a group",
)
