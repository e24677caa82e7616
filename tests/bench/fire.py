"""How long it takes from a tick to the event of the order that it fires, in a system that has nothing else to do."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from datetime import UTC, datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine
from uuid_utils.compat import uuid7

from contracts.codec import outgoing
from contracts.decimals import Price, Quantity
from contracts.orders import OrderRequested
from contracts.vocabulary import OrderStatus, OrderType
from operations.access.database import connected
from participants.assets.price_store import PriceChange, Source, price_message, set_price, set_prices
from tests.bench import accounts
from tests.bench.bar import bar
from tests.bench.ground import Ground
from tests.bench.hop import hop_ms
from tests.bench.scenario import RATIOS, SPEED, Figures, Options, Outcome, Scenario, Target
from tests.bench.watch import PATIENCE_S, Watch, watching

NAME: Final = "fire"
ASSET: Final = "ETH"
QUANTITY: Final = Quantity("0.01")
CALM, LIMIT = Price("2500.00"), Price("2400.00")
PAUSE_S: Final = 0.05
"""The average pause before a tick, so that none meets what the order's own entry still does."""
P50, P99 = "tick to the event of its fire, p50 ms", "tick to the event of its fire, p99 ms"
HOPS: Final = f"{P50.removesuffix(' ms')} / 2 hops"
TOPIC: Final = "hop"
HOPS_MEASURED: Final = 40
LEFT: Final = "SELECT count(*) FROM orders.resting"


class Took(NamedTuple):
    """Milliseconds from a tick to the event that shows the fire, and to the one of the order's end."""

    fired_ms: float
    ended_ms: float


async def measure(ground: Ground, options: Options) -> Outcome:
    """Fire one order after the other, each by a tick of its own."""
    system = await ground.system("resting", replicas={"api": 1})
    url = system.contender.database_url
    await accounts.fill(url, options.accounts, NAME)
    figures: Figures = {RATIOS: {}, SPEED: {}}
    async with (
        connected(url) as assets,
        watching(ground.kafka_bootstrap_servers, system.prefix) as watch,
    ):
        await set_price(assets, ASSET, CALM, Source.EXTERNAL)
        with bar(ground.out, options.rounds + 1, "rounds") as done:
            for number in range(options.rounds + 1):
                hop = await hop_ms(ground.kafka_bootstrap_servers, f"{ground.prefix}{TOPIC}", HOPS_MEASURED)
                orders = options.orders if number else min(options.orders, options.warm_up)
                took = [await _fire(assets, watch, f"{NAME}-{one % options.accounts}") for one in range(orders)]
                if number:  # the first round warms up
                    _tell(figures, took, hop)
                ground.out.print(f"{'warm-up' if not number else f'round {number}'}: {_in_words(took)}")
                done()
        await set_price(assets, ASSET, CALM, Source.FIXED)
    left = await accounts.count(url, LEFT)
    found = [f"{left} rows of orders that have ended are among those that rest"] if left else []
    return Outcome(figures, {"orders": (options.rounds * options.orders)}, found=found)


async def _fire(assets: AsyncEngine, watch: Watch, user_id: str) -> Took:
    """Let an order rest below a calm market, move the price to its limit, and time what follows."""
    await _move(assets, watch, CALM)  # it is confirmed by that: a price from outside grows stale otherwise
    order_id = uuid.UUID(str(uuid7()))
    now = datetime.now(UTC)
    request = OrderRequested(
        order_id, user_id, ASSET, OrderType.LIMIT_BUY, QUANTITY, requested_at=now, limit_price=LIMIT
    )
    rests = watch.expect(order_id, OrderStatus.CONFIRMED)
    await watch.publish([outgoing(request, message_id=str(uuid.uuid4()), source="/bench", time=now)])
    await asyncio.wait_for(rests, PATIENCE_S)
    await asyncio.sleep(random.uniform(0, 2 * PAUSE_S))  # noqa: S311 - no secret
    fired, ended = watch.expect(order_id, OrderStatus.PROCESSING), watch.expect(order_id, OrderStatus.COMPLETED)
    began = await _move(assets, watch, LIMIT)
    moments = await asyncio.wait_for(asyncio.gather(fired, ended), PATIENCE_S)
    return Took(*((moment - began) * 1e3 for moment in moments))


async def _move(assets: AsyncEngine, watch: Watch, price: Price) -> float:
    """Set the price as a source from outside does, and publish it from memory; return when it was handed to Kafka."""
    moved = await set_prices(assets, [PriceChange(ASSET, [price])])
    began = time.time()
    await watch.publish([price_message(one) for one in moved])
    return began


def _tell(figures: Figures, took: list[Took], hop: float) -> None:
    fired, ended = sorted(one.fired_ms for one in took), sorted(one.ended_ms for one in took)
    values = {
        P50: fired[len(fired) // 2],
        P99: fired[int(len(fired) * 0.99)],
        "tick to the order's end, p50 ms": ended[len(ended) // 2],
        "tick to the order's end, p99 ms": ended[int(len(ended) * 0.99)],
        "one hop, p50 ms": hop,
    }
    for name, value in values.items():
        figures[SPEED].setdefault(name, []).append(value)
    figures[RATIOS].setdefault(HOPS, []).append(values[P50] / (2 * hop))


def _in_words(took: list[Took]) -> str:
    fired = sorted(one.fired_ms for one in took)
    return f"p50 {fired[len(fired) // 2]:.1f} ms, p99 {fired[int(len(fired) * 0.99)]:.1f} ms, {len(fired)} orders"


SCENARIO: Final = Scenario(
    name="fire",
    title="From a tick to the fire",
    what=(
        "Limit orders rest one at a time in a system that has nothing else to do. The price moves to the limit, and "
        "before the next order, back again. The clock runs from the moment when the tick is handed to Kafka until "
        "the order's event of the fire (PROCESSING) has been read back; both are read on this machine."
    ),
    reading=(
        "The tick goes the shortest real way: a source from outside (EXTERNAL) sets the price and publishes it from "
        "memory, as a platform's own feed does. `order-saga price` is longer, since it sends by the outbox. Two hops "
        "are messages, tick and event. Between them are two commits that wait for one another, the one that binds the "
        "order to its tick and the one that executes it."
    ),
    takes="4 min",
    sizes=("rounds", "orders", "accounts"),
    full=Options(orders=300, accounts=100, warm_up=30),
    quick=Options(1, orders=5, accounts=5, warm_up=2),
    systems=("resting",),
    topics=(TOPIC,),
    targets=(
        Target("from the tick to the event, half of the orders", P50, "at most", 30.0, SPEED),
        Target("and 99 of 100", P99, "at most", 100.0, SPEED),
    ),
    measure=measure,
)
