"""Whether market orders cost what they cost before there were conditional orders: both versions of the program."""

from __future__ import annotations

from typing import Final

from contracts.decimals import Price
from operations.access.database import connected
from participants.assets.price_store import Source, set_price
from tests.bench import before
from tests.bench.ground import Ground
from tests.bench.rounds import Measurement, figures_of, likeness, rounds_of
from tests.bench.scenario import RATIOS, Options, Outcome, Scenario, Target

WALKS: Final = "WAVE"
"""The asset of the sample data whose price moves by itself; the version before has none like it."""
USED: Final = "now / before, CPU of the whole system for an order"
RATE: Final = "now / before, orders/s"


async def measure(ground: Ground, options: Options) -> Outcome:
    """Start both versions, and measure them alternately."""
    source = await before.source(ground.folder / "source")
    now = await ground.system("now")
    async with connected(now.contender.database_url) as assets:
        await set_price(assets, WALKS, Price("100.00"), Source.FIXED)
    old = await ground.system("before", source=source)
    rounds = await rounds_of(ground, options, [now.contender, old.contender])
    figures = figures_of(rounds, [("now", "before")])
    figures[RATIOS][USED] = [_used(one["now"]) / _used(one["before"]) for one in rounds]
    figures[RATIOS] |= likeness(rounds, "now", "before")
    return Outcome(figures, {"before": before.COMMIT[:7]})


def _used(one: Measurement) -> float:
    """Sum up what the services and the servers used, without the load."""
    return sum(used for process, used in one.cpu_us_per_order.items() if process != "load")


SCENARIO: Final = Scenario(
    name="market",
    title="Market orders beside no order that rests",
    what=(
        "Two systems on one broker and one PostgreSQL take turns with the same market orders: this version, in which "
        "no order rests, and the last one without conditional orders, which is run from the repository's history with "
        "the same libraries. No price moves meanwhile; this version repeats each every 10 s, which the one before "
        "does not do."
    ),
    reading=(
        "Who trades at the market must not pay for the orders that wait for a price: both ratios should be 1. A batch "
        "of orders finds out, in the statement that locks them, that none of them rests. What the idle consumers of "
        "prices and of cancels cost is in the figures of this version."
    ),
    takes="4 min",
    sizes=("rounds", "seconds", "in_flight"),
    full=Options(rounds=8),
    quick=Options(1, 0.4, in_flight=100, warm_up=100),
    systems=("now", "before"),
    targets=(
        Target("as many market orders a second as before", RATE, "at least", 0.98),
        Target("for the same CPU time", USED, "at most", 1.02),
    ),
    measure=measure,
    why_absent=before.why_absent,
)
