"""The rounds of a benchmark: the system and its peers in turn, on one broker and one PostgreSQL, under the same load.

What disturbs the machine in a round disturbs all of them, so figures are compared round by round. Each carries as many
orders as take it about the same time, judged by its last round; the first round warms up and counts for nothing else.
The peers' processes stay up, as the system's do; what they use while others are measured is part of the figures.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import psutil
from rich.console import Console

from contracts.topics import TOPICS
from local_stack import broker
from local_stack.sample_data import CASH, SampleDeposit
from local_stack.stack import LocalStack, StackOptions
from local_stack.supervisor import Supervisor
from order_saga.cli.local import load_samples
from order_saga.cli.samples import sample_stores
from tests.bench.load import Result
from tests.bench.peers import (
    STATUSES_OF_SYSTEM,
    Contender,
    KafkaContender,
    Place,
    running_dbos,
    running_lean,
    running_naive,
    topics_of,
)
from tests.infrastructure import create_topics, delete_topics

SLOW = frozenset({"naive", "dbos"})
WARM_UP, WARM_UP_SLOW = 2000, 60
"""Orders of the first round."""
MONEY = Decimal(10**9)


@dataclass(frozen=True)
class Plan:
    """How much to measure: rounds that count, how long each contender works in one, how many orders are open at once.

    Those that work on one order at a time, or nearly so, have fewer open: with more, each would only wait longer.
    """

    rounds: int
    seconds: float
    in_flight: int
    in_flight_slow: int
    warm_up: int = WARM_UP
    warm_up_slow: int = WARM_UP_SLOW

    def open_at_once(self, name: str) -> int:
        """Return how many orders may be in flight."""
        return self.in_flight_slow if name in SLOW else self.in_flight

    def orders(self, name: str, last: Result | None) -> int:
        """Return how many orders to carry in the next round, given how the last one went."""
        if last is None:
            return self.warm_up_slow if name in SLOW else self.warm_up
        return max(self.open_at_once(name), round(last.orders_per_s * self.seconds))


@dataclass(frozen=True)
class Turn:
    """A contender's part of a round: what it carried, and the processor time that each process used for an order."""

    result: Result
    cpu_us_per_order: Mapping[str, float]


Round = Mapping[str, Turn]
"""The turns of a round by the contender's name."""


async def measure(plan: Plan, folder: Path, out: Console) -> tuple[str, list[Round]]:
    """Measure everything; return which broker it was, and the rounds that count."""
    prefix = f"bench{secrets.token_hex(3)}."
    topics = {f"{prefix}{topic.name}": topic.partitions for topic in TOPICS} | topics_of(prefix, "lean", "naive")
    async with AsyncExitStack() as everything:
        kafka, pids = await everything.enter_async_context(_broker(topics, prefix, folder))

        options = StackOptions(
            load_samples=_rich_samples, environment={"KAFKA_TOPIC_PREFIX": prefix}, kafka_bootstrap_servers=kafka
        )
        stack = await everything.enter_async_context(LocalStack(folder / "stack", options, out))
        place = Place(kafka, stack.database_url, prefix, folder / "peers")
        contenders: list[Contender] = [KafkaContender("system", place, prefix, STATUSES_OF_SYSTEM, None)]
        peers = (running_lean, running_naive, running_dbos)
        contenders += [await everything.enter_async_context(running(place)) for running in peers]
        pids = {**pids, **{name: pid for contender in contenders for name, pid in contender.pids.items()}}

        def processes() -> dict[str, int]:
            return {name: pid for name, [pid] in stack.pids.items()} | pids | {"load": os.getpid()}

        rounds = await run_rounds(plan, contenders, processes, out)
    return os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "embedded"), rounds


async def run_rounds(
    plan: Plan, contenders: Sequence[Contender], processes: Callable[[], Mapping[str, int]], out: Console
) -> list[Round]:
    """Let the contenders take turns, each round begun by another one."""
    last: dict[str, Result] = {}
    rounds: list[Round] = []
    for number in range(plan.rounds + 1):
        turns: dict[str, Turn] = {}
        first = number % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            name = contender.name
            before = cpu_s(processes())
            result = await contender.run(plan.orders(name, last.get(name)), plan.open_at_once(name))
            turns[name] = Turn(result, _per_order_us(before, cpu_s(processes()), result.orders))
            last[name] = result
            out.print(
                f"{'warm-up' if not number else f'round {number}'}: {name:6} {result.orders_per_s:7.0f} orders/s, "
                f"p50 {result.p50_ms:.0f} ms, p99 {result.p99_ms:.0f} ms, {result.orders} orders"
            )
        if number:
            rounds.append(turns)
    return rounds


def cpu_s(processes: Mapping[str, int]) -> dict[str, float]:
    """Return the processor seconds that each has used, with its children, those that have ended included.

    Our own process stands for itself: the children are the others.
    """
    return {name: _own_s(pid) if pid == os.getpid() else _family_s(pid) for name, pid in processes.items()}


def _own_s(pid: int) -> float:
    try:
        return sum(psutil.Process(pid).cpu_times()[:2])
    except psutil.NoSuchProcess:  # a child that has ended this moment; its parent's figure has it from now on
        return 0.0


def _family_s(pid: int) -> float:
    process = psutil.Process(pid)
    return sum(process.cpu_times()[:4]) + sum(_own_s(child.pid) for child in process.children(recursive=True))


def _per_order_us(before: Mapping[str, float], after: Mapping[str, float], orders: int) -> dict[str, float]:
    return {name: round((after[name] - used) * 1e6 / orders, 1) for name, used in before.items() if name in after}


@asynccontextmanager
async def _broker(topics: Mapping[str, int], prefix: str, folder: Path) -> AsyncIterator[tuple[str, dict[str, int]]]:
    """Give the broker that KAFKA_BOOTSTRAP_SERVERS names, else an embedded one, with the topics; and its process."""
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        await create_topics(servers, topics)
        try:
            yield servers, {}
        finally:
            await delete_topics(servers, prefix)
        return
    logs = folder / "broker"
    logs.mkdir()
    supervisor = Supervisor(logs)
    try:
        await supervisor.start(broker.process_spec(logs / "address", topics))
        yield broker.read_address(logs / "address"), {name: pid for name, [pid] in supervisor.pids.items()}
    finally:
        await supervisor.stop()


async def _rich_samples(logins: Mapping[str, str]) -> None:
    """Load the sample data, and give those who buy more than they can spend in any benchmark."""
    await load_samples(logins, 1.0)
    async with sample_stores(logins["balance"], logins["assets"]) as stores:
        for user in ("alice", "bob"):
            await stores.deposit(SampleDeposit(f"bench:{user}", user, CASH, MONEY))
