"""What it costs to let a limit order rest and to cancel it, compared with a market order in the same system."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Final

from uuid_utils.compat import uuid7

from contracts.codec import outgoing
from contracts.decimals import Price, Quantity
from contracts.orders import OrderRequested
from contracts.vocabulary import OrderStatus, OrderType
from tests.bench import accounts
from tests.bench.ground import Ground, System
from tests.bench.load import ACCOUNTS, Course, Load, Result, Users
from tests.bench.peers import Crowd, check_rows
from tests.bench.rounds import figures_of, likeness, rounds_of
from tests.bench.scenario import RATIOS, Options, Outcome, Scenario, Target
from tests.bench.watch import PATIENCE_S, Watch

NAME: Final = "limit"
COURSE: Final = Course(OrderType.LIMIT_BUY, Price("15.00"), OrderStatus.CANCELLED, cancels=True)
"""The sample data's price of ACME stays at 20."""
STATUSES: Final = "SELECT status, count(*) FROM orders.orders WHERE user_id LIKE 'limit-%' GROUP BY status"
LEFT: Final = "SELECT count(*) FROM orders.resting"


async def lay_to_rest(watch: Watch, orders: int, users: Users) -> list[uuid.UUID]:
    """Let so many limit orders rest, far from the market; return their ids."""
    now = datetime.now(UTC)
    requests = [
        OrderRequested(
            uuid.UUID(str(uuid7())),
            users(number),
            "ACME",
            COURSE.order_type,
            Quantity(1),
            requested_at=now,
            limit_price=COURSE.limit_price,
        )
        for number in range(orders)
    ]
    rest = [watch.expect(one.order_id, OrderStatus.CONFIRMED) for one in requests]
    await watch.publish([outgoing(one, message_id=str(uuid.uuid4()), source="/bench", time=now) for one in requests])
    await asyncio.wait_for(asyncio.gather(*rest), PATIENCE_S)
    return [one.order_id for one in requests]


class Limits(Crowd):
    """A contender: the system that also carries the market orders, with limit orders that rest until their cancel."""

    def __init__(self, system: System, servers: str) -> None:
        super().__init__(NAME, system.contender, lambda number: f"{NAME}-{number % ACCOUNTS}")
        self._prefix, self._servers = system.prefix, servers
        self._asked = 0

    async def run(self, orders: int, in_flight: int) -> Result:
        """Let so many orders rest and cancel each; see `Contender`."""
        load = Load(self._servers, self._prefix, self._users, COURSE)
        result = await load.run(orders, in_flight)
        self._asked += orders
        await check_rows(self.name, self.database_url, STATUSES, {"CANCELLED": self._asked})
        return result


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure both kinds of orders alternately; in the end no order may rest any more."""
    system = await ground.system("resting", replicas={"api": 1})
    await accounts.fill(system.contender.database_url, ACCOUNTS, NAME)
    limits, markets = Limits(system, ground.kafka_bootstrap_servers), Crowd("market", system.contender)
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
