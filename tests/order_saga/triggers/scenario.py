"""Random lives of one asset: a market, the ticks that its feed publishes, and orders that come, change and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import NamedTuple

from contracts.assets import Trading
from contracts.vocabulary import Side
from order_saga.triggers.feed import Tick
from tests.order_saga.triggers.memory import Memory
from tests.order_saga.triggers.oracle import Oracle, Order

BEGIN = datetime(2030, 1, 1, tzinfo=UTC)


class Rests(NamedTuple):
    """An order rests, by a quote `ahead` sequences after the mark."""

    number: int
    order: Order
    ahead: int


class Leaves(NamedTuple):
    """An order is cancelled."""

    number: int


class Retrails(NamedTuple):
    """A trailing order gets another trail, and keeps its watermark."""

    number: int
    amount: Decimal | None
    bps: int | None


class Passes(NamedTuple):
    """Time passes, and orders may expire."""

    seconds: int


Action = Rests | Leaves | Retrails | Passes


@dataclass(frozen=True)
class Life:
    """Ticks and actions in turn."""

    market: Sequence[Decimal]
    """The price of each sequence; the feed publishes some of them."""
    steps: Sequence[Action | list[Tick]]


def life(random: Random, turns: int) -> Life:
    """Draw a life. Prices move by a few ticks about 20, so that levels are met, gapped over and met again."""
    price, market = 20, []
    for _ in range(turns * 12 + 20):
        price = min(40, max(3, price + random.choice((-4, -2, -1, -1, 0, 1, 1, 2, 4))))
        market.append(Decimal(price) / 2)
    steps: list[Action | list[Tick]] = []
    sequence, numbers = random.randint(0, 3), 0
    for _ in range(turns):
        for _ in range(random.randint(0, 3)):
            steps.append(_action(random, numbers))
            numbers += isinstance(steps[-1], Rests)
        ticks: list[Tick] = []
        for _ in range(random.randint(1, 6)):
            kind = random.random()
            at = sequence
            if kind < 0.1:
                at = max(0, sequence - random.randint(1, 3))
            elif kind > 0.25:
                sequence = at = sequence + random.choice((1, 1, 1, 2, 3))
            trading = random.choices((Trading.OPEN, Trading.HALTED), (9, 1))[0]
            live = trading is Trading.OPEN and random.random() < 0.8
            ticks.append(Tick(at, market[at], BEGIN, BEGIN, BEGIN, trading, live))
        steps.append(ticks)
    return Life(market, steps)


def _action(random: Random, numbers: int) -> Action:
    kind = random.random()
    if kind < 0.7 or not numbers:
        return Rests(numbers, _order(random), random.choice((-1, 0, 0, 0, 1, 2, 4)))
    if kind < 0.8:
        return Leaves(random.randrange(numbers))
    if kind < 0.9:
        return Retrails(random.randrange(numbers), *_trail(random))
    return Passes(random.randint(1, 5))


def _trail(random: Random) -> tuple[Decimal | None, int | None]:
    if random.random() < 0.5:
        return Decimal(random.choice((1, 2, 3, 6))) / 2, None
    return None, random.choice((500, 1_000, 2_500))


def _order(random: Random) -> Order:
    side = random.choice(list(Side))
    expires_at = BEGIN + timedelta(seconds=random.randint(1, 30)) if random.random() < 0.3 else None
    order = Order(side, 0, expires_at=expires_at)
    level, limit = (Decimal(random.randint(8, 36)) / 2 for _ in range(2))
    kind = random.random()
    if kind < 0.5:
        order.amount, order.bps = _trail(random)
        order.watermark = Decimal(0)  # set when it rests
    elif kind < 0.55:
        order.queued = True
    elif kind < 0.7:  # a bracket: two levels, and no limit behind either
        order.down, order.up = sorted((level, limit))
        order.up += order.up == order.down
        return order
    elif random.random() < 0.5:
        order.up = level
    else:
        order.down = level
    if order.amount is None and order.bps is None and not order.queued and random.random() < 0.5:
        order.limit = limit
    return order


def run(life: Life, random: Random | None, limit: int = 1_000) -> tuple[Oracle, Memory]:
    """Live it twice: tick by tick by the oracle, and in batches, cut at random, by the engine."""
    oracle, memory, now = Oracle(), Memory(), BEGIN
    for step in life.steps:
        if isinstance(step, list):
            for tick in step:
                oracle.tick(tick.sequence, tick.price, now, live=tick.live)
            for batch in cut(step, random):
                memory.batch(batch, now, limit)
        elif isinstance(step, Rests):
            rests(life, step, oracle, memory, now)
        elif isinstance(step, Leaves):
            oracle.resting.pop(step.number, None)
            memory.rows.pop(step.number, None)
        elif isinstance(step, Retrails):
            _retrail(step, oracle, memory)
        else:
            now += timedelta(seconds=step.seconds)
    return oracle, memory


def cut(ticks: list[Tick], random: Random | None) -> list[list[Tick]]:
    """Cut ticks into batches; without `random`, each alone."""
    batches = [[ticks[0]]]
    for tick in ticks[1:]:
        if random is None or random.random() < 0.4:
            batches.append([tick])
        else:
            batches[-1].append(tick)
    return batches


def placed(life: Life, step: Rests, oracle: Oracle) -> tuple[Order, tuple[int, Decimal] | None]:
    """Return an order as it begins to rest, and the quote if that is newer than the mark and the order trails."""
    order = replace(step.order)
    trails = order.watermark is not None
    if oracle.mark is None or step.ahead > 0:
        start = max(0, step.ahead) if oracle.mark is None else oracle.mark[0] + step.ahead
        order.start, order.watermark = start, life.market[start] if trails else None
        return order, (start, life.market[start]) if trails else None
    # The tick of the mark still counts for an order with a level, when it comes again and can fire.
    order.start = oracle.mark[0] - (not trails and not oracle.mark_live)
    order.watermark = oracle.mark[1] if trails else None
    return order, None


def rests(life: Life, step: Rests, oracle: Oracle, memory: Memory, now: datetime) -> None:
    """Let an order rest in both."""
    order, quote = placed(life, step, oracle)
    memory.rest(step.number, replace(order), quote, now)
    oracle.rest(step.number, order, quote)


def _retrail(step: Retrails, oracle: Oracle, memory: Memory) -> None:
    order = oracle.resting.get(step.number)
    if order is None or order.watermark is None:
        return
    order.amount, order.bps = step.amount, step.bps
    row = memory.rows[step.number]._replace(trail_amount=step.amount, trail_bps=step.bps)
    memory.rows[step.number] = row
    memory.join(row)
