"""A tick that fires very many orders: how long until all of them are bound to it, and until they are executed."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, NamedTuple

import asyncpg
from uuid_utils.compat import uuid7

from contracts.codec import outgoing
from contracts.decimals import Price, Quantity
from contracts.orders import OrderRequested
from contracts.vocabulary import OrderType
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.settings import KafkaSettings
from tests.bench.bar import bar
from tests.bench.ground import Ground, System
from tests.bench.load import Result
from tests.bench.market.prices import Feed, feed
from tests.bench.market.twins import FIRST_USER, add_twins, add_users
from tests.bench.rounds import in_words
from tests.bench.scenario import RATIOS, SPEED, BenchError, Figures, Options, Outcome, Scenario, Target

ASSET: Final = "BTC"
LIMIT, REACHES, ABOVE = Decimal(20_000), Decimal(19_000), Decimal(50_000)
"""The orders' limit, a price that fires them, and one that does not."""
SHARE: Final = 0.15
"""How many market orders come meanwhile, of the peak."""
DEADLINE_S: Final = 600.0
LOOK_S: Final = 0.2
DURABLE: Final = "until all are bound to the tick, s"
EXECUTED: Final = "executed / peak of market orders, orders/s"
MEANWHILE: Final = "market orders meanwhile / before, p99"
_RESTS: Final = "SELECT phase = 'WORKING' FROM orders.orders WHERE order_id = $1"
# The second look reads all orders, and is taken when nothing rests any more.
_ENDED: Final = """
    SELECT CASE WHEN EXISTS (SELECT FROM orders.resting) THEN false ELSE NOT EXISTS (SELECT FROM orders.orders
                       WHERE terms IS NOT NULL AND status IN ('PENDING', 'CONFIRMED', 'PROCESSING')) END"""
_RESTING: Final = "SELECT count(*) FROM orders.resting WHERE live AND fired_sequence IS NULL"
_STATUSES: Final = "SELECT status, count(*) FROM orders.orders WHERE terms IS NOT NULL GROUP BY status"


class Crash(NamedTuple):
    """What was seen after the tick."""

    durable_s: float
    executed_s: float


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure in each round the peak, market orders at a share of it, and the same while many orders fire."""
    system = await ground.system("crash", prepare=_with_users)
    figures: Figures = {RATIOS: {}, SPEED: {}}
    connection = await asyncpg.connect(system.contender.database_url)
    try:
        async with feed(ground, system) as prices:
            await system.contender.run(options.warm_up, options.in_flight)
            with bar(ground.out, options.rounds, "rounds") as done:
                for number in range(1, options.rounds + 1):
                    values = await _round(ground, options, system, connection, prices)
                    ground.out.print(
                        f"round {number}: " + ", ".join(f"{name} {one:.4g}" for name, one in values.items())
                    )
                    for name, value in values.items():
                        figures[RATIOS if name in {EXECUTED, MEANWHILE} else SPEED].setdefault(name, []).append(value)
                    done()
            statuses = dict(await connection.fetch(_STATUSES))
    finally:
        await connection.close()
    expected = {"COMPLETED": (options.orders + 1) * options.rounds}
    found = [] if statuses == expected else [f"the orders that fired are {statuses} and not {expected}"]
    return Outcome(figures, {"orders that fire": options.orders}, found=found)


async def _with_users(owner_url: str) -> None:
    connection = await asyncpg.connect(owner_url)
    try:
        await add_users(connection)
    finally:
        await connection.close()


async def _rests(ground: Ground, system: System, connection: asyncpg.Connection) -> uuid.UUID:
    """Have one order rest, the model of all others; return its id."""
    settings = KafkaSettings(kafka_bootstrap_servers=ground.kafka_bootstrap_servers, kafka_topic_prefix=system.prefix)
    publisher, now = Publisher(settings, client_id="bench"), datetime.now(UTC)
    request = OrderRequested(
        uuid7(), FIRST_USER, ASSET, OrderType.LIMIT_BUY, Quantity("0.01"), requested_at=now, limit_price=Price(LIMIT)
    )
    try:
        await publisher.publish([outgoing(request, message_id=str(uuid.uuid4()), source="/bench", time=now)])
        await _until(connection, _RESTS, request.order_id)
    finally:
        await publisher.stop()
    return request.order_id


async def _round(
    ground: Ground, options: Options, system: System, connection: asyncpg.Connection, prices: Feed
) -> dict[str, float]:
    peak = await system.contender.run(max(options.in_flight, round(options.orders * SHARE)), options.in_flight)
    seconds = options.orders / peak.orders_per_s
    before = await system.contender.carry(lambda load: load.paced(SHARE * peak.orders_per_s, seconds * SHARE))
    ground.out.print(f"peak {in_words(peak)}; before {in_words(before)}")
    await prices.publish([(ASSET, ABOVE)])
    await prices.judged([ASSET])
    await add_twins(connection, await _rests(ground, system, connection), options.orders)
    if (resting := await connection.fetchval(_RESTING)) != options.orders + 1:
        raise BenchError(f"{resting} orders rest, and not {options.orders + 1}")
    meanwhile: asyncio.Task[Result] = asyncio.create_task(
        system.contender.carry(lambda load: load.paced(SHARE * peak.orders_per_s, seconds))
    )
    try:
        crash = await _crash(connection, prices)
        after = await meanwhile
    finally:
        meanwhile.cancel()
        await asyncio.gather(meanwhile, return_exceptions=True)
    return {
        EXECUTED: options.orders / crash.executed_s / peak.orders_per_s,
        MEANWHILE: after.p99_ms / before.p99_ms,
        DURABLE: crash.durable_s,
        "until all are executed, s": crash.executed_s,
        "executed, orders/s": options.orders / crash.executed_s,
        "peak of market orders, orders/s": peak.orders_per_s,
        "market orders before, p99 ms": before.p99_ms,
        "market orders meanwhile, p99 ms": after.p99_ms,
    }


async def _crash(connection: asyncpg.Connection, prices: Feed) -> Crash:
    """Publish the tick, and watch what it does."""
    began = time.monotonic()
    await prices.publish([(ASSET, REACHES)])
    await prices.judged([ASSET])  # the mark moves with the last orders that fire
    durable_s = time.monotonic() - began
    await _until(connection, _ENDED)
    return Crash(durable_s, time.monotonic() - began)


async def _until(connection: asyncpg.Connection, question: str, *about: uuid.UUID) -> None:
    """Wait until a question is answered with yes."""
    async with asyncio.timeout(DEADLINE_S):
        while not await connection.fetchval(question, *about):
            await asyncio.sleep(LOOK_S)


SCENARIO: Final = Scenario(
    name="crash",
    title="One tick fires very many orders",
    what=(
        "A hundred thousand limit orders rest on one asset, their money held: copies, made by SQL, of one that the "
        "system has accepted. One tick reaches all of them. Meanwhile market orders for another asset come by chance, "
        f"at {SHARE:.0%} of the peak that was measured a moment before, as they came before the tick.".replace(
            "%", " %"
        )
    ),
    reading=(
        "To fire is to bind an order to the tick, in transactions of two thousand; once all are bound, no crash and no "
        "cancel changes which fire, and at which price. They are then executed as fast as there is room for them. "
        "Market orders have the rest, and must not wait for the end of the crash."
    ),
    takes="10 min",
    sizes=("rounds", "orders", "in_flight"),
    full=Options(orders=100_000),
    quick=Options(1, orders=400, in_flight=100, warm_up=100),
    systems=("crash",),
    targets=(
        Target("all are bound to the tick within five seconds", DURABLE, "at most", 5.0, SPEED),
        Target("they are executed nearly as fast as market orders", EXECUTED, "at least", 0.8),
        Target("market orders wait a little longer meanwhile", MEANWHILE, "at most", 3.0),
    ),
    measure=measure,
)
