"""One simulated process with the real batch process, outbox, relay and timers. It may die anywhere and restarts."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from contracts.envelope import UnreadableMessage, read_envelope
from order_saga.triggers.metrics import TriggerMetrics, keep_tidy
from order_saga.triggers.process import Price, TriggerHandler
from order_saga.worker import timers
from order_saga.worker.admission import AdmissionLimit
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.metrics import SagaMetrics
from order_saga.worker.process import ChangeHandler, SagaHandler
from participants.assets.service import AssetHandler
from participants.balance.service import participant
from saga_kit.messaging.batch import BatchProcess, Received, RejectedRecord
from saga_kit.messaging.outbox import Outbox, Relay
from saga_kit.messaging.poller import Poller
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.crash_points import CrashPoint, reached
from saga_kit.runtime.telemetry import KitMetrics
from tests.evidence.simulation.broker import Member
from tests.evidence.simulation.database import Engine
from tests.evidence.simulation.statements.resting import is_fired

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from datetime import datetime
    from enum import StrEnum

    from contracts.envelope import Outgoing
    from order_saga.triggers.feed import Tick
    from saga_kit.messaging.batch import Effects, Handler
    from saga_kit.runtime.transactions import Transaction as KitTransaction
    from tests.evidence.simulation.broker import Record
    from tests.evidence.simulation.database import Database, Transaction
    from tests.evidence.simulation.world import World

SCHEMAS: Final = {"orchestrator": "orders", "balance": "balances", "assets": "assets"}
SESSION_S: Final = 10.0
"""The time after which the group notices that a member is dead or frozen."""
PUBLISH_TIMEOUT_S: Final = 4.0
RELAY_EVERY_S: Final = 0.5
SCAN_EVERY_S: Final = 0.25
current: ContextVar[Node | None] = ContextVar("current", default=None)
"""The process that the running code belongs to."""
_METRICS: Final = KitMetrics()
_SAGA_METRICS: Final = SagaMetrics()
_TRIGGER_METRICS: Final = TriggerMetrics()


class Died(BaseException):
    """The process dies here; no product code may catch it."""


async def _no_feed_here() -> bool:
    """Do nothing: the world confirms the prices, or does not."""
    return False


class Node:
    """A process of a service; its memory is lost when it dies."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.service = name.partition("-")[0]
        self.passed: Counter[StrEnum] = Counter()
        self.members: list[Member] = []
        self.batch = BatchOfTicks({}, {})
        """What its trigger engine judges at present."""
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.changed = asyncio.Event()
        """Something was committed in the service's schema."""
        rows = ["orders", "resting"] if self.service == "orchestrator" else []
        self.watches = {f"{SCHEMAS[self.service]}.outbox", *rows}
        """The tables whose rows fall due for it."""
        self.down_s = 0.0
        self.alive = False
        self._tasks: list[asyncio.Task[None]] = []

    async def live(self) -> None:
        """Run; when killed, stay down for a while and start again with an empty memory."""
        current.set(self)
        while True:
            members = await self._start()
            self.alive = True
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self.alive = False
            self.kill()
            ends = await asyncio.gather(*self._tasks, return_exceptions=True)
            for end in ends:
                if isinstance(end, Exception):
                    self.world.broken.append(f"{self.name} ended: {end!r}")
            self.world.tell(self.name, "dies")
            asyncio.get_running_loop().create_task(self._is_missed(members))
            await asyncio.sleep(max(0.01, self.down_s))
            self.thawed.set()
            self.world.tell(self.name, "starts again")

    def kill(self) -> None:
        """Cancel every task of the process, wherever it waits."""
        for task in self._tasks:
            task.cancel()

    def freeze(self) -> None:
        """Stop at the next call that leaves the process."""
        self.thawed.clear()

    def pass_point(self, point: StrEnum, work: Collection[object]) -> None:
        """Die here if that is planned."""
        self.passed[point] += 1
        fault = self.world.crashes.pop((self.name, point, self.passed[point]), None)
        if fault is not None:
            self.down_s = fault.for_s
            self.world.tell(self.name, f"dies at '{point}', {len(work)} messages in work")
            self.world.seen[point] += 1
            raise Died

    async def _start(self) -> list[Member]:
        schema = SCHEMAS[self.service]
        engine = cast("Any", Engine(self.world.database, self, self.world.lingers_s))
        outbox, self.stopping = Outbox(schema), asyncio.Event()
        dead_letters, publisher = DeadLetters(self), Publisher(self)
        self.members, work, processes = [], [self._relay(Relay(engine, schema, outbox, publisher), outbox)], []
        breaker, fired = CircuitBreaker(self.world.scenario.breaker_opens_after), asyncio.Event()
        for group, handler in self._handlers(engine, breaker, fired).items():
            process: BatchProcess[Any] = BatchProcess(
                transactions=engine,
                handler=handler,
                outbox=outbox,
                dead_letters=cast("Any", dead_letters),
                publisher=publisher,
                metrics=_METRICS,
                stopping=self.stopping,
            )
            member = Member(self.world.broker, self.world.broker.groups[group], Poller(), self.world.batch_size)
            self.members.append(member)
            processes.append(process)
            work.append(self._consume(member, handler, process))
        if self.service == "orchestrator":
            work += self._tasks_of_orders(engine, processes[0], breaker, fired)
        self._tasks = [asyncio.create_task(one) for one in work]
        for member in self.members:
            await member.group.join(member)
        return self.members

    def _handlers(self, engine: Any, breaker: CircuitBreaker, fired: asyncio.Event) -> dict[str, Handler[Any]]:
        """Make what handles the batches of each group."""
        if self.service == "balance":
            return {"balance": participant()}
        if self.service == "assets":
            return {"assets": AssetHandler(self.world.STALE_AFTER, _no_feed_here)}
        return {
            "orchestrator": SagaHandler(time_scale=1.0, metrics=_SAGA_METRICS, breaker=breaker),
            "cancels": ChangeHandler(time_scale=1.0, metrics=_SAGA_METRICS, breaker=breaker),
            "triggers": WatchedTriggers(
                engine,
                metrics=_TRIGGER_METRICS,
                on_fired=lambda _ids: fired.set(),
                round_max=self.world.scenario.round_most,
            ),
        }

    def _tasks_of_orders(
        self, engine: Any, process: BatchProcess[Any], breaker: CircuitBreaker, fired: asyncio.Event
    ) -> list[Any]:
        """List what an orchestrator does beside its consumers."""
        admission = AdmissionLimit(asyncio.get_running_loop().time, young_s=2.0)
        fires, ends = WhenThereIs(engine, self, has_fired), WhenThereIs(engine, self, has_expired)
        every = {"interval_s": SCAN_EVERY_S}
        tasks = [
            self._timers(engine, process, breaker),
            timers.run_fires(cast("Any", fires), process, admission, fired, self.stopping, **every),
            timers.run_expiries(cast("Any", ends), process, self.stopping, **every),
        ]
        return tasks + ([self._tidy(engine)] if self.world.scenario.ticks else [])

    async def _tidy(self, engine: Any) -> None:
        """Do single rounds of what is done once a minute, at any moment."""
        while True:
            await asyncio.sleep(self.world.chance.uniform(0.5, 20))
            ending = asyncio.Event()
            asyncio.get_running_loop().call_soon(ending.set)
            await keep_tidy(engine, ending)

    async def _is_missed(self, members: Sequence[Member]) -> None:
        await asyncio.sleep(SESSION_S)
        for member in members:
            await member.group.leave(member)

    # What the kit's consumer does, with its own poller ----------------------------------------------------------------

    async def _consume(self, member: Member, handler: Handler[Any], process: BatchProcess[Any]) -> None:
        while True:
            await self.breathe()
            member.news.clear()
            records = await member.poller.poll(member)
            if not records:
                await member.news.wait()
                await asyncio.sleep(self.world.pause_s())
                continue
            readable, unreadable = read(handler, records)
            await process.run(readable, unreadable)
            member.poller.handled(records)
            await self._acknowledge(member)
            reached(CrashPoint.OFFSETS_COMMITTED, readable)

    async def _acknowledge(self, member: Member) -> None:
        await asyncio.sleep(self.world.pause_s())
        await self.breathe()
        if self.world.broker_is_away:
            return
        try:
            offsets = member.poller.offsets(member)
            await member.commit(offsets)
            member.poller.committed(offsets)
        except Exception as error:  # noqa: BLE001 - a group that has rebalanced: what is not acknowledged comes again
            self.world.tell(self.name, f"offsets not committed: {error}")

    async def _relay(self, relay: Relay, outbox: Outbox) -> None:
        async def one_round() -> int:
            await self._until_due("available_at", RELAY_EVERY_S, lambda: bool(outbox.sent))
            await relay.sweep()
            return await relay.relay_once()

        await keep_doing("relay", one_round, self.stopping, every_s=RELAY_EVERY_S)

    async def _timers(self, engine: Any, process: BatchProcess[Any], breaker: CircuitBreaker) -> None:
        scanner: Any = timers._Scanner(engine, process, breaker)

        async def scan() -> bool:
            await self._until_due(
                "due_at", SCAN_EVERY_S, lambda: bool(cast("Any", breaker)._closed_again or scanner._waking)
            )
            return bool(await scanner.scan() == timers.ROUND_MAX)

        await keep_doing("timers", scan, self.stopping, every_s=SCAN_EVERY_S)

    async def _until_due(self, column: str, every_s: float, at_once: Callable[[], bool]) -> None:
        """Leave out the rounds in which nothing could be found: the same work, in less time of ours."""
        await self.until(lambda: self.world.next_due(SCHEMAS[self.service], column), every_s, at_once)

    async def until(
        self,
        due_at: Callable[[], datetime | None],
        every_s: float = SCAN_EVERY_S,
        at_once: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait for a moment, which every commit may change."""
        await self.breathe()
        while not at_once():
            moment = due_at()
            seconds = 1e6 if moment is None else (moment - self.world.database.now()).total_seconds()
            if seconds <= every_s:
                await asyncio.sleep(max(0.0, seconds))
                return
            self.changed.clear()
            handle = asyncio.get_running_loop().call_later(min(seconds, 3600), self.changed.set)
            await self.changed.wait()
            handle.cancel()
            await asyncio.sleep(every_s)  # what was committed is published by now, if it goes well

    # Its connection to the database -----------------------------------------------------------------------------------

    async def breathe(self) -> None:
        """Wait while the process is frozen."""
        if not self.thawed.is_set():
            await self.thawed.wait()

    async def round_trip(self) -> None:
        """Take the time of a statement; raise when the database is away or the connection breaks."""
        await asyncio.sleep(self.world.pause_s())
        await self.breathe()
        self.world.fail_if_database_is_away()

    async def commits(self, apply: Callable[[], None]) -> None:
        """Commit, or lose the connection before or after it."""
        await asyncio.sleep(self.world.pause_s())
        await self.breathe()
        self.world.fail_if_database_is_away()
        how = self.world.commit_outcome()
        if how != "not done":
            apply()
        if how:
            self.world.tell(self.name, f"commit of unknown outcome ({how})")
            raise ConnectionResetError("connection lost during COMMIT")
        await asyncio.sleep(self.world.pause_s())
        await self.breathe()


def has_fired(database: Database) -> datetime | None:
    """Tell since when a tick has fired an order that is not executed."""
    return min((row["fired_at"] for row in database.tables["resting"].values() if is_fired(row)), default=None)


def has_expired(database: Database) -> datetime | None:
    """Tell when the next resting order expires."""
    rows = [
        row
        for row in database.tables["resting"].values()
        if (row["live"] or row["suspended"]) and row["fired_sequence"] is None
    ]
    return min((row["expires_at"] for row in rows if row["expires_at"] is not None), default=None)


class WhenThereIs:
    """Begins transactions when something is to be found, and leaves out the looks that would find nothing."""

    def __init__(self, engine: Engine, node: Node, since: Callable[[Database], datetime | None]) -> None:
        self._engine, self._node, self._since = engine, node, since

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """Wait, and begin a transaction."""
        await self._node.until(lambda: self._since(self._node.world.database))
        async with self._engine.begin() as tx:
            yield tx


class BatchOfTicks(NamedTuple):
    """A batch as its handler took it, and when the market of each of its assets was read first."""

    prices: dict[str, list[Tick]]
    read_at: dict[str, datetime]


class WatchedTriggers(TriggerHandler):
    """The trigger engine; its process notes what it is about to judge, so that the judge can judge the same."""

    async def handle(self, tx: KitTransaction, received: Sequence[Received[Price]]) -> Effects:
        """Note the batch, and have it judged."""
        prices: dict[str, list[Tick]] = defaultdict(list)
        for price in (each.message for each in received):
            prices[price.asset_id].append(price.tick)
        node = current.get()
        assert node is not None
        node.batch = BatchOfTicks(prices, {})
        return await super().handle(tx, received)


class Publisher:
    """Stands in for the kit's publisher, over the simulated network."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def publish(self, messages: Sequence[Outgoing]) -> bool:
        """Publish; False means unknown."""
        if not messages:
            return True
        node, world = self._node, self._node.world
        await asyncio.sleep(world.pause_s())
        await node.breathe()
        stored, told = world.publish_outcome(len(messages))
        half = stored // 2
        world.broker.send(world, messages[:half])
        reached(CrashPoint.PUBLISH_BEGUN, messages)
        world.broker.send(world, messages[half:stored])
        if not told:
            world.tell(node.name, f"publish failed, {stored} of {len(messages)} are stored")
        await asyncio.sleep(world.pause_s() if told else PUBLISH_TIMEOUT_S)
        await node.breathe()
        return told


class DeadLetters:
    """Stands in for the kit's store of dead letters."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def write(self, tx: Transaction, rejected: Sequence[RejectedRecord]) -> None:
        """Store them in a table."""
        for record, reason in rejected:
            place = (record.topic, record.partition, record.offset)
            await tx.insert("dead_letters", place, {"reason": reason, "by": self._node.name})


def read(handler: Handler[Any], records: Sequence[Record]) -> tuple[list[Received[Any]], list[RejectedRecord]]:
    """Decode records as the kit's consumer does."""
    readable: list[Received[Any]] = []
    unreadable: list[RejectedRecord] = []
    for record in records:
        try:
            envelope = read_envelope(record.headers)
            readable.append(Received(handler.decode(envelope, record), envelope, record))
        except UnreadableMessage as error:
            unreadable.append(RejectedRecord(record, error.reason))
    return readable, unreadable


def watcher(point: StrEnum, work: Collection[object]) -> None:
    """Tell the process that passes a crash point."""
    node = current.get()
    if node is not None:
        node.pass_point(point, work)
