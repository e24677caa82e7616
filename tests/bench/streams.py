"""What idle streams cost, how soon clients are told, and what a herd of clients that comes back costs others.

One API process serves all streams. No other service runs: the events are published by the benchmark, so that the time
from Kafka to the client is known.
"""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import cycle
from typing import Any, Final
from uuid import UUID

import msgspec
import psutil
from uuid_utils.compat import uuid7

from contracts.codec import outgoing
from contracts.envelope import Outgoing
from contracts.examples import example
from contracts.orders import OrderStatusChanged
from contracts.vocabulary import OrderStatus
from operations.access.tokens import Signer
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.settings import KafkaSettings
from tests.bench.bar import bar
from tests.bench.ground import Ground, System
from tests.bench.load import LoadError
from tests.bench.scenario import RATIOS, SPEED, Figures, Options, Outcome, Scenario, Target
from tests.bench.traffic import Sample, steadily

IDLE_CPU: Final = "idle streams: CPU of the API process beyond that without any, % of a core"
IDLE_KB: Final = "idle streams: memory of the API process for one, kB"
LATENCY: Final = "from Kafka to the client, p99, ms"
MEDIAN: Final = "from Kafka to the client, p50, ms"
HERD_S: Final = "a herd without manners, all at once: until each client has what it missed, s"
BESIDE: Final = "p99 of POST /orders: while a herd comes back when it was told to / normal"

LIVE: Final = 1_000
"""Clients, each of a user of its own, while events are published."""
EVENTS_PER_S: Final = 500
PUBLISHED_EVERY_S: Final = 0.01
HERD: Final = 2_000
POSTS_PER_S: Final = 100
POST_CONNECTIONS: Final = 32
OPENED_AT_ONCE: Final = 200
STREAMS_OF_A_USER: Final = 5
PATIENCE_S: Final = 120.0
SPARE: Final = 5_000
"""Connections and open files beside the streams."""
BODY: Final = json.dumps({"asset_id": "NONE", "order_type": "MARKET_BUY", "quantity": "0.01"}).encode()


class Client(asyncio.Protocol):
    """A stream's client. It notes when it has all there is (`begun`), and when each order's event has come."""

    def __init__(self, seen: dict[bytes, float]) -> None:
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: Any = None
        self.retry_s = 0.0
        """After how long the API would have it come back."""
        self._seen = seen
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Read whole events; what the chunks' lengths say lies between them."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        if self._rest.startswith(b"HTTP/1.1 ") and not self._rest.startswith(b"HTTP/1.1 200"):
            self._fail(self._rest[:2000].decode(errors="replace"))
        for event in events:
            if not self.retry_s and (start := event.find(b"retry: ")) >= 0:
                self.retry_s = int(event[start + 7 :].split(b"\n", 1)[0]) / 1000
            if b"event: order\n" in event:
                start = event.index(b'"order_id":"') + 12
                self._seen.setdefault(event[start : start + 36], time.perf_counter())
            elif b"event: snapshot-end\n" in event and not self.begun.done():
                self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits for its beginning."""
        self._fail(self._rest[:2000].decode(errors="replace") or f"the connection ended: {exc}")

    def _fail(self, why: str) -> None:
        if not self.begun.done():
            self.begun.set_exception(LoadError(f"a stream did not begin: {why}"))


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure idle streams once, in a process that has had none; then live ones and the herd, in rounds."""
    idle, live, herd = options.connections, min(LIVE, options.connections), min(HERD, options.connections)
    _make_room(idle + SPARE)
    system = await ground.system("streams", replicas=_ALONE, environment_of={"api": _settings(idle)})
    signer = Signer(system.stack.jwt_secret)
    tokens = [signer.sign(f"user-{number}", ttl_s=86_400) for number in range(max(live, idle // STREAMS_OF_A_USER))]
    kafka = KafkaSettings(kafka_bootstrap_servers=ground.kafka_bootstrap_servers, kafka_topic_prefix=system.prefix)
    publisher = Publisher(kafka, client_id="bench")
    figures: Figures = {SPEED: {}, RATIOS: {}}
    try:
        with bar(ground.out, 1 + 2 * options.rounds, "measurements") as done:
            ground.out.print(await _idle(system, tokens, idle, options.seconds, figures))
            done()
            for _ in range(options.rounds):
                ground.out.print(await _live(system, publisher, tokens[:live], options.seconds, figures))
                done()
                ground.out.print(await _herd(system, tokens, herd, options.seconds, figures))
                done()
    finally:
        await publisher.stop()
    return Outcome(figures, {"idle streams": idle, "live streams": live, "events a second": EVENTS_PER_S, "herd": herd})


_ALONE: Final = {"api": 1, "orchestrator": 0, "balance": 0, "assets": 0}


def _settings(streams: int) -> dict[str, str]:
    return {
        "API_STREAMS_MAX": str(streams + LIVE),
        "API_CONNECTIONS_MAX": str(2 * (streams + LIVE)),  # streams may have half of them
        "API_RATE_LIMIT_PER_S": "100000",
        "API_SWEEP_INTERVAL_S": "60",  # no orchestrator runs: the sweeper would only publish again
        "API_ACCESS_LOG": "false",
    }


def _make_room(files: int) -> None:
    """Let this process, which is all clients, open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(files, hard) if hard > 0 else files), hard))


async def _idle(system: System, tokens: Sequence[str], streams: int, seconds: float, figures: Figures) -> str:
    """Open streams on which nothing happens; measure the memory that each takes, and the CPU time that all take."""
    process = psutil.Process(system.stack.pids["api"][0])
    without, before = await _percent(process, seconds), process.memory_info().rss
    async with _opened(system, tokens, streams, {}):
        kb = (process.memory_info().rss - before) / streams / 1000
        with_them = await _percent(process, seconds)
    figures[SPEED][IDLE_CPU] = [with_them - without]
    figures[SPEED][IDLE_KB] = [kb]
    return f"{streams} idle streams: {with_them:.2f} % of a core, {without:.2f} % without them; {kb:.1f} kB each"


async def _percent(process: psutil.Process, seconds: float) -> float:
    """Measure how much of a core a process uses."""
    used_s, began = _cpu_s(process), time.perf_counter()
    await asyncio.sleep(seconds)  # this is what is measured
    return 100 * (_cpu_s(process) - used_s) / (time.perf_counter() - began)


async def _live(system: System, publisher: Publisher, tokens: Sequence[str], seconds: float, figures: Figures) -> str:
    """Publish events, each for one client; measure how long each was on its way."""
    seen: dict[bytes, float] = {}
    sent: dict[bytes, float] = {}
    users = cycle(range(len(tokens)))
    async with _opened(system, tokens, len(tokens), seen):
        began = time.perf_counter()
        for number in range(int(seconds / PUBLISHED_EVERY_S)):
            due = began + number * PUBLISHED_EVERY_S
            await asyncio.sleep(max(0.0, due - time.perf_counter()))  # an open load: so many a second, whatever comes
            events = [_event(f"user-{next(users)}") for _ in range(int(EVENTS_PER_S * PUBLISHED_EVERY_S))]
            sent |= dict.fromkeys((key for key, _ in events), time.perf_counter())
            if not await publisher.publish([message for _, message in events]):
                raise LoadError("the broker did not take the load")
        await _until(lambda: len(seen) >= len(sent), f"each of {len(sent)} events has come")
    took = sorted((seen[key] - at) * 1e3 for key, at in sent.items())
    p50, p99 = took[len(took) // 2], took[min(len(took) - 1, int(len(took) * 0.99))]
    figures[SPEED].setdefault(MEDIAN, []).append(p50)
    figures[SPEED].setdefault(LATENCY, []).append(p99)
    return f"{len(sent)} events to {len(tokens)} clients: p50 {p50:.1f} ms, p99 {p99:.1f} ms"


async def _herd(system: System, tokens: Sequence[str], herd: int, seconds: float, figures: Figures) -> str:
    """Let all clients come back at once; then, beside orders, when each was told to."""
    requests, port = _posts(tokens), system.stack.ports["api"]
    last_id = f"t{int((time.time() - 5) * 1e6)}"
    began = time.perf_counter()
    async with _opened(system, tokens, herd, {}, last_id=last_id, at_once=herd) as clients:
        took_s = time.perf_counter() - began
        normal = await _post(port, requests, seconds)
        pauses = [client.retry_s for client in clients]
    posting = asyncio.create_task(_post(port, requests, max(pauses)))
    async with _opened(system, tokens, herd, {}, last_id=last_id, pauses=pauses):
        beside = await posting
    ratio = beside.percentile_ms(0.99) / normal.percentile_ms(0.99)
    figures[SPEED].setdefault(HERD_S, []).append(took_s)
    figures[RATIOS].setdefault(BESIDE, []).append(ratio)
    return (
        f"a herd of {herd}: served in {took_s:.1f} s; as it was told to: p99 of POST /orders "
        f"{beside.percentile_ms(0.99):.1f} ms, {normal.percentile_ms(0.99):.1f} ms without"
    )


async def _post(port: int, requests: Iterator[bytes], seconds: float) -> Sample:
    sample = await steadily(port, requests, per_s=POSTS_PER_S, connections=POST_CONNECTIONS, seconds=seconds)
    if sample.statuses.keys() != {202}:
        raise LoadError(f"orders were answered with {dict(sample.statuses)}")
    return sample


def _posts(tokens: Sequence[str]) -> Iterator[bytes]:
    """Yield orders without end, of one user after the other."""
    for token in cycle(tokens):
        yield (
            b"POST /orders HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nauthorization: Bearer %s\r\n"
            b"content-length: %d\r\n\r\n%s" % (token.encode(), len(BODY), BODY)
        )


@asynccontextmanager
async def _opened(
    system: System,
    tokens: Sequence[str],
    number: int,
    seen: dict[bytes, float],
    *,
    last_id: str = "",
    at_once: int = OPENED_AT_ONCE,
    pauses: Sequence[float] = (0.0,),
) -> AsyncIterator[list[Client]]:
    """Open streams, users in turns, each after its pause, until each has all there is; close them at the end."""
    room = asyncio.Semaphore(at_once)
    clients: list[Client] = []
    loop, port = asyncio.get_running_loop(), system.stack.ports["api"]
    resumed = b"last-event-id: %s\r\n" % last_id.encode() if last_id else b""

    async def open_one(token: str, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        async with room:
            _, client = await loop.create_connection(lambda: Client(seen), "127.0.0.1", port)
            clients.append(client)
            head = b"GET /events HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer %s\r\n" % token.encode()
            client.transport.write(head + resumed + b"\r\n")
            await client.begun

    try:
        async with asyncio.timeout(PATIENCE_S):
            ways = zip(range(number), cycle(tokens), cycle(pauses), strict=False)
            await asyncio.gather(*(open_one(token, pause_s) for _, token, pause_s in ways))
        yield clients
    finally:
        for client in clients:
            client.begun.cancel()
            client.transport.abort()


async def _until(there: Any, what: str) -> None:
    end = time.perf_counter() + PATIENCE_S
    while not there():
        if time.perf_counter() > end:
            raise LoadError(f"it was not so within {PATIENCE_S:.0f} s: {what}")
        await asyncio.sleep(0.05)


def _event(user_id: str) -> tuple[bytes, Outgoing]:
    """Make the event of an order's end; return the order's id as it comes, and the message."""
    shown = example("OrderStatusChanged")
    assert isinstance(shown, OrderStatusChanged)
    order_id = UUID(str(uuid7()))
    ended = {"order_id": order_id, "version": 4, "status": OrderStatus.COMPLETED}
    order = msgspec.structs.replace(shown.order, user_id=user_id, **ended)
    event = msgspec.structs.replace(shown, previous_status=OrderStatus.PROCESSING, order=order, **ended)
    message = outgoing(event, message_id=f"{order_id}:v4", source="/bench", time=datetime.now(UTC))
    return str(order_id).encode(), message


def _cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


SCENARIO: Final = Scenario(
    name="streams",
    title="Streams",
    what=(
        "One API process serves streams of server-sent events (`GET /events`). First many on which nothing happens; "
        f"then {LIVE:,} of as many users, to whom {EVENTS_PER_S} events a second are published; at last {HERD:,} "
        "clients that lose their connections and come back: all at once, and, beside "
        f"{POSTS_PER_S} orders a second, when each was told to."
    ),
    reading=(
        "An event's clock runs from before it is published to Kafka until its client has read it; the clients share "
        "the machine. A herd is served when its last client has been shown what it missed. The product's clients and "
        "browsers come back after the random time that the API tells them (`retry`), 2 to 10 s."
    ),
    takes="5 min",
    sizes=("rounds", "seconds", "connections"),
    full=Options(rounds=3, seconds=20, connections=10_000),
    quick=Options(1, 1, connections=20),
    systems=("streams",),
    targets=(
        Target("idle streams take less than a hundredth of a core", IDLE_CPU, "at most", 1.0, SPEED),
        Target("an idle stream takes less than 25 kB", IDLE_KB, "at most", 25.0, SPEED),
        Target("a client is told within a tenth of a second", LATENCY, "at most", 100.0, SPEED),
        Target("a herd is served within ten seconds", HERD_S, "at most", 10.0, SPEED),
        Target("orders are accepted meanwhile", BESIDE, "at most", 2.0),
    ),
    measure=measure,
)
