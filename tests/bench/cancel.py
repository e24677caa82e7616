"""How long a cancel takes from the API's 202 to its effect, with nothing else to do and under full load."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from contracts.vocabulary import OrderStatus
from operations.access.tokens import Signer
from tests.bench import accounts
from tests.bench.bar import bar
from tests.bench.ground import Ground, System
from tests.bench.limit import LEFT, lay_to_rest
from tests.bench.load import ACCOUNTS, LoadError, Result
from tests.bench.rounds import in_words
from tests.bench.scenario import RATIOS, SPEED, Figures, Options, Outcome, Scenario, Target
from tests.bench.traffic import Connection, connect
from tests.bench.watch import PATIENCE_S, Watch, watching

NAME: Final = "cancel"
PER_S: Final = 20.0
LEAD_S: Final = 1.5
"""How long the load runs before the first cancel."""
SPARE: Final = 1.5
"""The load has so many times the orders that the cancels' time needs, by the last rate."""
RATIO: Final = "p99 under full load / with nothing else to do"
CALM, LOADED = "with nothing else to do", "under full load"


class Cancelled(NamedTuple):
    """Milliseconds from the cancel's request to its answer, and from the answer to the event of its effect."""

    answered_ms: float
    effect_ms: float


async def measure(ground: Ground, options: Options) -> Outcome:
    """In each round cancel orders that rest, first in peace, then beside as many market orders as the system takes."""
    system = await ground.system("resting", replicas={"api": 1})
    url = system.contender.database_url
    await accounts.fill(url, ACCOUNTS, NAME)
    signer = Signer(system.stack.jwt_secret)
    tokens = [signer.sign(f"{NAME}-{number}", ttl_s=86_400) for number in range(ACCOUNTS)]
    figures: Figures = {RATIOS: {}, SPEED: {}}
    peak = await system.contender.run(options.warm_up, options.in_flight)
    alone = 0
    async with watching(ground.kafka_bootstrap_servers, system.prefix) as watch:
        clients = _Clients(system.stack.ports["api"], tokens)
        with bar(ground.out, options.rounds * 2) as done:
            for number in range(1, options.rounds + 1):
                calm = await _cancel(watch, clients, await lay_to_rest(watch, options.orders, _user))
                ground.out.print(f"round {number}: {CALM}: {_in_words(calm)}")
                done()
                order_ids = await lay_to_rest(watch, options.orders, _user)
                loaded, peak, late = await _beside_load(system, options, peak, watch, clients, order_ids)
                ground.out.print(f"round {number}: {LOADED}: {_in_words(loaded)}; {in_words(peak)}")
                _tell(figures, {CALM: calm, LOADED: loaded}, peak)
                alone += late
                done()
        clients.close()
    left = await accounts.count(url, LEFT)
    found = [f"{left} rows of orders that have ended are among those that rest"] if left else []
    counts = {"cancels of a round, each way": options.orders, "cancels that came after the load's last order": alone}
    return Outcome(figures, dict(counts), found=found)


async def _beside_load(
    system: System, options: Options, peak: Result, watch: Watch, clients: _Clients, order_ids: Sequence[uuid.UUID]
) -> tuple[list[Cancelled], Result, int]:
    """Cancel while market orders keep the system busy; say how many cancels came too late for that."""
    seconds = LEAD_S + len(order_ids) / PER_S
    orders = max(options.in_flight, round(peak.orders_per_s * seconds * SPARE))
    loading = asyncio.create_task(system.contender.run(orders, options.in_flight))
    try:
        await asyncio.sleep(LEAD_S)
        sent_when_over: list[int] = []
        loading.add_done_callback(lambda _: sent_when_over.append(clients.sent))
        took = await _cancel(watch, clients, order_ids)
        late = clients.sent - sent_when_over[0] if sent_when_over else 0
        return took, await loading, late
    finally:
        loading.cancel()


class _Clients:
    """Users of the API, each with a token; a connection carries one request at a time."""

    def __init__(self, port: int, tokens: Sequence[str]) -> None:
        self.sent = 0
        self._port, self._tokens = port, tokens
        self._free: list[Connection] = []

    async def cancel(self, number: int, order_id: uuid.UUID) -> float:
        """Cancel an order as its user; return the time of the answer. Raises `LoadError` for another one than 202."""
        self._free = [one for one in self._free if one.alive]  # the API ends those that were idle for long
        connection = self._free.pop() if self._free else await connect(self._port)
        self.sent += 1
        status, body = await connection.ask(
            b"PUT /orders/%s/cancel HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer %s\r\ncontent-length: 0\r\n\r\n"
            % (str(order_id).encode(), self._tokens[number % ACCOUNTS].encode())
        )
        now = time.time()
        if status != 202:
            raise LoadError(f"a cancel was answered with {status}: {body.decode(errors='replace')[:200]}")
        self._free.append(connection)
        return now

    def close(self) -> None:
        """Close the connections."""
        for connection in self._free:
            connection.close()


async def _cancel(watch: Watch, clients: _Clients, order_ids: Sequence[uuid.UUID]) -> list[Cancelled]:
    """Cancel orders at random moments, `PER_S` of them a second, whatever becomes of those before."""
    chance, began = random.Random(len(order_ids)), time.monotonic()  # noqa: S311 - a load, no secret
    due = list(accumulate(chance.expovariate(PER_S) for _ in order_ids))

    async def one(number: int, order_id: uuid.UUID) -> Cancelled:
        await asyncio.sleep(began + due[number] - time.monotonic())
        effect = watch.expect(order_id, OrderStatus.CANCELLED)
        asked = time.time()
        answered = await clients.cancel(number, order_id)
        seen = await asyncio.wait_for(effect, PATIENCE_S)
        return Cancelled((answered - asked) * 1e3, max(0.0, seen - answered) * 1e3)

    return list(await asyncio.gather(*(one(number, order_id) for number, order_id in enumerate(order_ids))))


def _user(number: int) -> str:
    return f"{NAME}-{number % ACCOUNTS}"


def _tell(figures: Figures, took: Mapping[str, Sequence[Cancelled]], peak: Result) -> None:
    values = {
        f"{name}, {what} {share} ms": _percentile([getattr(one, field) for one in some], part)
        for name, some in took.items()
        for what, field in (("202 to the event", "effect_ms"), ("request to 202", "answered_ms"))
        for share, part in (("p50", 0.5), ("p99", 0.99))
    }
    values["market orders/s beside the cancels"] = peak.orders_per_s
    for name, value in values.items():
        figures[SPEED].setdefault(name, []).append(value)
    for share in ("p50", "p99"):
        calm, loaded = (values[f"{name}, 202 to the event {share} ms"] for name in (CALM, LOADED))
        figures[RATIOS].setdefault(RATIO.replace("p99", share), []).append(loaded / calm)


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


def _in_words(took: Sequence[Cancelled]) -> str:
    effects = [one.effect_ms for one in took]
    return f"p50 {_percentile(effects, 0.5):.1f} ms, p99 {_percentile(effects, 0.99):.1f} ms, {len(took)} cancels"


SCENARIO: Final = Scenario(
    name="cancel",
    title="A cancel under full load",
    what=(
        "Limit orders rest, and are cancelled by `PUT /orders/{id}/cancel` at random moments, 20 a second: first in a "
        "system with nothing else to do, then beside market orders of which 4,000 are open at any time, more than the "
        "orchestrator lets in, so that new orders wait in their topic. The clock runs from the answer 202 until the "
        "event of the cancelled order has been read back; its money has been given back by then."
    ),
    reading=(
        "A cancel has a topic and a consumer of its own, so it waits behind no new order "
        "(`docs/adr/0035-cancels-have-a-topic-of-their-own.md`). What it shares with them are the processes, their "
        "cores, and the balance service, which gives its money back: on a machine that the load fills, all of them "
        "are slower."
    ),
    takes="3 min",
    sizes=("rounds", "orders", "in_flight"),
    full=Options(orders=300, in_flight=4000),
    quick=Options(1, orders=10, in_flight=100, warm_up=100),
    systems=("resting",),
    targets=(Target("under full load less than twice as long, 99 of 100", RATIO, "at most", 2.0),),
    measure=measure,
)
