"""What it costs to let a limit order rest and to cancel it, compared with a market order in the same system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from contracts.decimals import Price
from contracts.vocabulary import OrderStatus, OrderType
from tests.bench import accounts
from tests.bench.ground import Ground, System
from tests.bench.load import ACCOUNTS, Course, Load, Result
from tests.bench.peers import check_rows
from tests.bench.rounds import figures_of, likeness, rounds_of
from tests.bench.scenario import RATIOS, Options, Outcome, Scenario, Target

NAME: Final = "limit"
COURSE: Final = Course(OrderType.LIMIT_BUY, Price("15.00"), OrderStatus.CANCELLED, cancels=True)
"""The sample data's price of ACME stays at 20."""
STATUSES: Final = "SELECT status, count(*) FROM orders.orders WHERE user_id LIKE 'limit-%' GROUP BY status"
LEFT: Final = "SELECT count(*) FROM orders.resting"


class Limits:
    """A contender: the system that also carries the market orders, with limit orders that rest until their cancel."""

    name = "limit"

    def __init__(self, system: System, servers: str) -> None:
        self._system, self._servers = system, servers
        self._asked = 0

    @property
    def pids(self) -> Mapping[str, Sequence[int]]:
        """The system's processes."""
        return self._system.contender.pids

    @property
    def database_url(self) -> str:
        """The system's."""
        return self._system.contender.database_url

    async def run(self, orders: int, in_flight: int) -> Result:
        """Let so many orders rest and cancel each; see `Contender`."""
        load = Load(self._servers, self._system.prefix, lambda number: f"{NAME}-{number % ACCOUNTS}", COURSE)
        result = await load.run(orders, in_flight)
        self._asked += orders
        await check_rows(self.name, self.database_url, STATUSES, {"CANCELLED": self._asked})
        return result


class Markets:
    """A contender: the same system, with market orders."""

    name = "market"

    def __init__(self, system: System) -> None:
        self._contender = system.contender

    @property
    def pids(self) -> Mapping[str, Sequence[int]]:
        """The system's processes."""
        return self._contender.pids

    @property
    def database_url(self) -> str:
        """The system's."""
        return self._contender.database_url

    async def run(self, orders: int, in_flight: int) -> Result:
        """Carry market orders; see `Contender`."""
        return await self._contender.run(orders, in_flight)


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure both kinds of orders alternately; in the end no order may rest any more."""
    system = await ground.system("resting", replicas={"api": 1})
    await accounts.fill(system.contender.database_url, ACCOUNTS, NAME)
    limits, markets = Limits(system, ground.kafka_bootstrap_servers), Markets(system)
    rounds = await rounds_of(ground, options, [limits, markets])
    figures = figures_of(rounds, [("limit", "market")])
    figures[RATIOS] |= likeness(rounds, "limit", "market")
    left = await accounts.count(system.contender.database_url, LEFT)
    return Outcome(figures, found=[f"{left} rows of orders that have ended are among those that rest"] if left else [])


SCENARIO: Final = Scenario(
    name="limit",
    title="Limit orders that rest and are cancelled",
    what=(
        "One system carries two loads in turn, each with 1,000 orders open at once: market orders to their end, and "
        "limit orders far from the market, each of which is cancelled, by Kafka, as soon as its event says that it "
        "rests. A limit order counts from its request until the event of its cancel; its money has been held and given "
        "back by then."
    ),
    reading=(
        "Both kinds ask three questions and get three answers. A limit order has its row among those that rest "
        "besides, which is written twice and deleted, two decisions more (it rests; it is cancelled), one more message "
        "for its cancel, and its batches share the lock of the asset. The ratio says what that costs."
    ),
    takes="2 min",
    sizes=("rounds", "seconds", "in_flight"),
    full=Options(rounds=4),
    quick=Options(1, 0.4, in_flight=100, warm_up=100),
    systems=("resting",),
    targets=(Target("as many limit orders a second, nearly", "limit / market, orders/s", "at least", 0.8),),
    measure=measure,
)
