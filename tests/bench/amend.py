"""What it costs to amend orders that rest, beside market orders; and how long an amend takes, beside a cancel."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from itertools import accumulate
from typing import Final

from contracts.amends import OrderAmendRequested
from contracts.codec import Message, outgoing
from contracts.decimals import Price
from contracts.envelope import Outgoing
from contracts.orders import OrderCancelRequested
from contracts.vocabulary import OrderStatus
from tests.bench import accounts
from tests.bench.ground import Ground, System
from tests.bench.limit import COURSE, LEFT, lay_to_rest
from tests.bench.load import ACCOUNTS, WAVE, Result, summary
from tests.bench.peers import Crowd
from tests.bench.rounds import figures_of, likeness, rounds_of
from tests.bench.scenario import RATIOS, SPEED, Figures, Options, Outcome, Scenario, Target
from tests.bench.watch import PATIENCE_S, Watch, watching

NAME: Final = "amend"
PER_S: Final = 20.0
TICK: Final = Decimal("0.01")
RATE, LATENCY = "amend / market, orders/s", "an amend that needs no money / a cancel, p50"


Free = tuple[int, int] | BaseException
"""The number of an order that can be amended, and for the how manieth time; or why an amend was not applied."""


class Amends(Crowd):
    """A contender: the system that also carries the market orders, with limit orders whose price rises and rises."""

    def __init__(self, system: System, servers: str) -> None:
        super().__init__(NAME, system.contender, lambda number: f"{NAME}-{number % ACCOUNTS}")
        self._prefix, self._servers = system.prefix, servers

    async def run(self, orders: int, in_flight: int) -> Result:
        """Amend so often, with as many amends open at once as there are orders; each needs more money.

        The orders are laid to rest before, and cancelled after, the time that counts.
        """
        async with watching(self._servers, self._prefix) as watch:
            rest = await lay_to_rest(watch, in_flight, self._users)
            free: asyncio.Queue[Free] = asyncio.Queue()
            for number in range(in_flight):
                free.put_nowait((number, 1))
            took: list[float] = []
            began, asked = time.time(), 0
            while asked < orders:
                wave = [await _next(free)]
                while not free.empty() and len(wave) < min(WAVE, orders - asked):
                    wave.append(await _next(free))
                asked += len(wave)
                await self._ask(watch, rest, wave, free, took)
            while len(took) < orders:
                await _next(free)
            result = summary(took, time.time() - began)
            await _end(watch, rest, self._users)
        return result

    async def _ask(
        self,
        watch: Watch,
        rest: Sequence[uuid.UUID],
        wave: Sequence[tuple[int, int]],
        free: asyncio.Queue[Free],
        took: list[float],
    ) -> None:
        """Ask for one amend of each of these orders; the next ones are free when they are done."""
        asked_at = time.time()

        def done(number: int, times: int, moment: asyncio.Future[float]) -> None:
            if (error := moment.exception()) is not None:
                free.put_nowait(error)
                return
            took.append(moment.result() - asked_at)
            free.put_nowait((number, times + 1))

        for number, times in wave:
            watch.expect_amend(rest[number], str(times)).add_done_callback(partial(done, number, times))
        await watch.publish([_amend(rest[n], self._users(n), str(times), _price(times)) for n, times in wave])


async def _next(free: asyncio.Queue[Free]) -> tuple[int, int]:
    """Return the next order that can be amended, or raise why one can't."""
    found = await asyncio.wait_for(free.get(), PATIENCE_S)
    if isinstance(found, BaseException):
        raise found
    return found


def _price(times: int) -> Price:
    assert COURSE.limit_price is not None
    return Price(COURSE.limit_price + times * TICK)


def _amend(order_id: uuid.UUID, user_id: str, amend_id: str, price: Price) -> Outgoing:
    return _said(OrderAmendRequested(order_id, user_id, user_id, amend_id, limit_price=price))


def _said(message: Message) -> Outgoing:
    return outgoing(message, message_id=str(uuid.uuid4()), source="/bench", time=datetime.now(UTC))


async def _end(watch: Watch, rest: Sequence[uuid.UUID], users: Callable[[int], str]) -> None:
    ends = [watch.expect(order_id, OrderStatus.CANCELLED) for order_id in rest]
    cancels = [
        _said(OrderCancelRequested(order_id, users(number), users(number))) for number, order_id in enumerate(rest)
    ]
    await watch.publish(cancels)
    await asyncio.wait_for(asyncio.gather(*ends), PATIENCE_S)


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure amends and market orders alternately, then single amends and cancels with nothing else to do."""
    system = await ground.system("resting", replicas={"api": 1})
    url = system.contender.database_url
    await accounts.fill(url, ACCOUNTS, NAME)
    amends, markets = Amends(system, ground.kafka_bootstrap_servers), Crowd("market", system.contender)
    rounds = await rounds_of(ground, options, [amends, markets])
    figures = figures_of(rounds, [("amend", "market")])
    figures[RATIOS] |= likeness(rounds, "amend", "market")
    async with watching(ground.kafka_bootstrap_servers, system.prefix) as watch:
        for _ in range(options.rounds):
            await _compare(watch, options.orders, figures)
    left = await accounts.count(url, LEFT)
    return Outcome(figures, found=[f"{left} rows of orders that have ended are among those that rest"] if left else [])


async def _compare(watch: Watch, orders: int, figures: Figures) -> None:
    """Amend single orders so that they need less money, then cancel them, at random moments."""

    def users(number: int) -> str:
        return f"{NAME}-{number % ACCOUNTS}"

    rest = await lay_to_rest(watch, orders, users)
    assert COURSE.limit_price is not None
    lower = Price(COURSE.limit_price - TICK)
    amended = await _paced(
        watch,
        [_amend(order_id, users(number), "lower", lower) for number, order_id in enumerate(rest)],
        lambda order_id: watch.expect_amend(order_id, "lower"),
    )
    cancelled = await _paced(
        watch,
        [_said(OrderCancelRequested(one, users(number), users(number))) for number, one in enumerate(rest)],
        lambda order_id: watch.expect(order_id, OrderStatus.CANCELLED),
    )
    for share, part in (("p50", 0.5), ("p99", 0.99)):
        of_amend, of_cancel = (sorted(some)[int(len(some) * part)] for some in (amended, cancelled))
        figures[RATIOS].setdefault(LATENCY.replace("p50", share), []).append(of_amend / of_cancel)
        figures[SPEED].setdefault(f"an amend that needs no money {share} ms", []).append(of_amend * 1e3)
        figures[SPEED].setdefault(f"a cancel {share} ms", []).append(of_cancel * 1e3)


async def _paced(
    watch: Watch, messages: Sequence[Outgoing], expect: Callable[[uuid.UUID], asyncio.Future[float]]
) -> list[float]:
    """Publish each message at a random moment, `PER_S` a second; return the seconds until each one's event."""
    chance, began = random.Random(len(messages)), time.monotonic()  # noqa: S311 - a load, no secret
    due = list(accumulate(chance.expovariate(PER_S) for _ in messages))

    async def one(message: Outgoing, at: float) -> float:
        await asyncio.sleep(began + at - time.monotonic())  # an open load: it is due then, whatever became of others
        effect, asked_at = expect(uuid.UUID(message.key)), time.time()
        await watch.publish([message])
        return await asyncio.wait_for(effect, PATIENCE_S) - asked_at

    return list(await asyncio.gather(*map(one, messages, due)))


SCENARIO: Final = Scenario(
    name="amend",
    title="Amends of orders that rest",
    what=(
        "One system carries two loads in turn, each with 1,000 open at once: market orders to their end, and amends, "
        "by Kafka, that raise the price of limit orders far from the market, so that the asset service is asked and "
        "more money is held before the new price counts. An amend counts from its request until the event that it is "
        "applied. Then, with nothing else to do, orders are amended at random moments, 20 a second, so that they need "
        "less money, and cancelled in the same way: from the request until the event of the new terms, or of the "
        "cancelled order."
    ),
    reading=(
        "An amend that needs money asks two questions, where a market order asks three, and is shown twice: when it is "
        "asked for and when it is applied. One that needs less money waits for the asset service alone, as a cancel "
        "waits for the balance service alone; the money goes back afterwards."
    ),
    takes="3 min",
    sizes=("rounds", "seconds", "orders", "in_flight"),
    full=Options(rounds=4, orders=300),
    quick=Options(1, 0.4, orders=10, in_flight=100, warm_up=100),
    systems=("resting",),
    targets=(
        Target("at least half as many amends a second as market orders", RATE, "at least", 0.5),
        Target("without money no longer than 1.5 cancels", LATENCY, "at most", 1.5),
    ),
    measure=measure,
)
