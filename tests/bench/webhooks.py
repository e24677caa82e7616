"""How many webhooks one process sends in a second, and what an endpoint that does not answer costs the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import msgspec
import psutil
from uuid_utils.compat import uuid7

from contracts.codec import outgoing
from contracts.envelope import Outgoing
from contracts.examples import example
from contracts.orders import OrderStatusChanged
from contracts.vocabulary import OrderStatus
from contracts.webhooks import StoredSecret, secrets_to
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.sealing import Seal
from saga_kit.runtime.settings import KafkaSettings
from tests.bench.bar import bar
from tests.bench.ground import Ground, System
from tests.bench.load import LoadError
from tests.bench.scenario import CPU, RATIOS, SPEED, Figures, Options, Outcome, Scenario, Target
from tests.support.listening import take_no_more

RATE: Final = "webhooks/s"
COST: Final = "rate of all others: without / with an endpoint that hangs"
TIME: Final = "webhook process"
DEAD: Final = "nobody"
PATIENCE_S: Final = 120.0
PUBLISHED_AT_ONCE: Final = 500
ANSWER: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
_ENDPOINT: Final = """
    INSERT INTO webhooks.endpoints (endpoint_id, user_id, kind, target, event_types, secrets)
    VALUES ($1, $2, 'webhook', $3, '{}', $4)"""
_CHANGED: Final = "UPDATE webhooks.changes SET version = version + 1"


class Sink:
    """A receiver that counts, answers at once, and reads no more of a request than it must."""

    def __init__(self) -> None:
        self.received = 0
        self.wanted = 0
        self.all_there = asyncio.Event()

    def expect(self, number: int) -> None:
        """Have `all_there` set when so many more have come."""
        self.received, self.wanted = 0, number
        self.all_there.clear()

    def count(self) -> None:
        """Count one."""
        self.received += 1
        if self.received >= self.wanted:
            self.all_there.set()


class Connection(asyncio.Protocol):
    """A connection of the receiver; without a sink it never answers."""

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink
        self._data = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to answer by."""
        self._transport = transport

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        if self._sink is None:
            return
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            whole = end + 4 + int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(self._data) < whole:
                return
            self._data = self._data[whole:]
            self._transport.write(ANSWER)
            self._sink.count()


@asynccontextmanager
async def _receiving(sink: Sink | None) -> AsyncIterator[str]:
    """Run a receiver; give its URL."""
    connections: list[Connection] = []

    def connect() -> Connection:
        connections.append(Connection(sink))
        return connections[-1]

    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        await take_no_more(server)
        for one in connections:
            one.abort()


async def measure(ground: Ground, options: Options) -> Outcome:
    """Send events of as many users as there are endpoints, in turns with and without one that hangs."""
    system = await ground.system("webhooks", replicas={"webhooks": 1, "orchestrator": 0, "balance": 0, "assets": 0})
    kafka = KafkaSettings(kafka_bootstrap_servers=ground.kafka_bootstrap_servers, kafka_topic_prefix=system.prefix)
    publisher = Publisher(kafka, client_id="bench")
    database = await asyncpg.connect(system.contender.database_url)
    sink, figures = Sink(), Figures()
    users = [f"user-{number}" for number in range(options.accounts)]
    try:
        async with _receiving(sink) as url, _receiving(None) as dead_url:
            await _endpoints(system, database, dict.fromkeys(users, url))
            with bar(ground.out, options.rounds + 1, "rounds") as done:
                for number in range(options.rounds + 1):
                    orders = options.orders if number else options.warm_up
                    alone = await _round(system, publisher, sink, users, orders)
                    dead = await _endpoints(system, database, {DEAD: dead_url})
                    beside = await _round(system, publisher, sink, [*users, DEAD], orders)
                    await database.execute("DELETE FROM webhooks.endpoints WHERE endpoint_id = ANY($1)", dead)
                    await database.execute(_CHANGED)
                    if number:  # the first round warms up
                        figures.setdefault(SPEED, {}).setdefault(RATE, []).append(alone[0])
                        figures.setdefault(RATIOS, {}).setdefault(COST, []).append(alone[0] / beside[0])
                        figures.setdefault(CPU, {}).setdefault(TIME, []).append(alone[1])
                    ground.out.print(f"{alone[0]:.0f} webhooks/s alone, {beside[0]:.0f} beside one that hangs")
                    done()
    finally:
        await database.close()
        await publisher.stop()
    return Outcome(figures, {"webhooks": 2 * options.rounds * options.orders, "endpoints": options.accounts})


async def _endpoints(system: System, database: asyncpg.Connection, urls: dict[str, str]) -> list[UUID]:
    """Make an endpoint for each user."""
    secrets = secrets_to([StoredSecret(Seal(system.stack.webhooks_keys).seal(bytes(32)))])
    ids = [uuid4() for _ in urls]
    rows = [(one, user, url, secrets) for one, (user, url) in zip(ids, urls.items(), strict=True)]
    await database.executemany(_ENDPOINT, rows)
    await database.execute(_CHANGED)
    return ids


async def _round(
    system: System, publisher: Publisher, sink: Sink, users: Sequence[str], orders: int
) -> tuple[float, float]:
    """Publish the ends of orders, whose users take turns; return webhooks a second, and µs of CPU for each."""
    events = [_event(users[number % len(users)]) for number in range(orders)]
    wanted = sum(message.user_id != DEAD for message in events)
    sink.expect(wanted)
    process = psutil.Process(system.stack.pids["webhooks"][0])
    used_s, began = _cpu_s(process), time.perf_counter()
    for start in range(0, orders, PUBLISHED_AT_ONCE):
        if not await publisher.publish([one.message for one in events[start : start + PUBLISHED_AT_ONCE]]):
            raise LoadError("the broker did not take the load")
    try:
        async with asyncio.timeout(PATIENCE_S):
            await sink.all_there.wait()
    except TimeoutError:
        raise LoadError(f"{sink.received} of {wanted} webhooks have come") from None
    took_s = time.perf_counter() - began
    return wanted / took_s, (_cpu_s(process) - used_s) / wanted * 1e6


class _Event(msgspec.Struct):
    user_id: str
    message: Outgoing


def _event(user_id: str) -> _Event:
    """Make the event of an order's end."""
    shown = example("OrderStatusChanged")
    assert isinstance(shown, OrderStatusChanged)
    order_id = UUID(str(uuid7()))
    order = msgspec.structs.replace(
        shown.order, order_id=order_id, user_id=user_id, version=4, status=OrderStatus.COMPLETED
    )
    event = msgspec.structs.replace(
        shown, order_id=order_id, version=4, status=OrderStatus.COMPLETED, previous_status=OrderStatus.PROCESSING,
        order=order,
    )  # fmt: skip
    message = outgoing(event, message_id=f"{order_id}:v4", source="/bench", time=datetime.now(UTC))
    return _Event(user_id, message)


def _cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


SCENARIO: Final = Scenario(
    name="webhooks",
    title="Webhooks",
    what=(
        "Events of orders that have ended are published, each for one of many users with an endpoint on this machine, "
        "and one process stores, signs and sends a webhook for each. In each second turn one more user has an endpoint "
        "that takes connections and never answers, and gets as many events as each of the others."
    ),
    reading=(
        "The clock runs from the first event on Kafka to the last webhook at its receiver; storing and marking are "
        "part of it. The process has one thread, so one core. The ratio is what one endpoint that hangs costs others."
    ),
    takes="3 min",
    sizes=("rounds", "orders", "accounts"),
    full=Options(rounds=4, orders=10_000, accounts=50, warm_up=2_000),
    quick=Options(1, orders=40, accounts=4, warm_up=8),
    systems=("webhooks",),
    targets=(
        Target("webhooks a second of one process", RATE, "at least", 1000.0, SPEED),
        Target("what an endpoint that hangs costs the others", COST, "at most", 1.05),
    ),
    measure=measure,
)
