"""The simulated world of one history: its processes, users, operator and faults, all from one seed.

`live` runs a scenario from the first request to the end of the last order; `judge` judges it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import asyncpg
from msgspec import structs

from contracts.amends import OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested
from contracts.codec import decode, outgoing
from contracts.decimals import Price, Quantity
from contracts.envelope import Outgoing, read_envelope
from contracts.orders import OrderCancelRequested, OrderRequested, OrderStatusChanged
from contracts.vocabulary import OrderType, TimeInForce
from operations.repair import orders
from operations.repair.pauses import pause, unpause, wake
from operations.repair.runs import Run
from operations.retention import archive
from order_saga.core.saga import Participant
from order_saga.triggers.process import TriggerHandler
from order_saga.worker import store
from order_saga.worker.process import ChangeHandler, SagaHandler
from participants.assets.service import AssetHandler
from participants.balance.service import participant
from saga_kit.participant.holds import Holds
from saga_kit.runtime.crash_points import watch
from tests.evidence.simulation.broker import Broker, Group, Record
from tests.evidence.simulation.database import EPOCH, Database, Engine, ServerError, Transaction
from tests.evidence.simulation.judge import Judge
from tests.evidence.simulation.market_judge import RESTING
from tests.evidence.simulation.node import SESSION_S, Node, watcher
from tests.evidence.simulation.prices import Prices
from tests.evidence.simulation.scenario import (
    GROUPS,
    HOLDINGS,
    NODES,
    Change,
    Expects,
    Fault,
    Kind,
    OrderPlan,
    Scenario,
    What,
)
from tests.evidence.simulation.statements import statements
from tests.evidence.simulation.statements.values import numeric

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from tests.evidence.simulation.database import Result

    Message = OrderRequested | OrderCancelRequested | OrderAmendRequested | OrderHoldRequested | OrderReleaseRequested

QUIET_S: Final = 400.0
"""Liveness: every order ends within this time after the last fault has stopped."""
SEND_AGAIN_S: Final = 20.0
"""A producer sends a request again until it has seen the order."""
CANCEL_AFTER_S: Final = 45.0
"""Users cancel what still rests so long after the last fault has stopped."""
TOLERATES_LOSS: Final = frozenset(
    {"balance.commands", "balance.replies", "assets.commands", "assets.replies", "assets.prices", "orders.changes"}
)
"""Topics whose messages may be lost, since they come again: questions, answers and the newest prices. Users repeat
requests, and may lose changes; no event may be lost."""
_BY: Final = {"operator": "@operator:olga", "another user": "mallory"}
"""Who asks, if not the order's user."""
_PAGES: Final = ("(0,0)", "(100000,0)")
_YEARS_S: Final = 1e9
_STATEMENTS: Final = statements()
_TOPICS: Final = {
    "orchestrator": SagaHandler.topics,
    "cancels": ChangeHandler.topics,
    "triggers": TriggerHandler.topics,
    "balance": participant().topics,
    "assets": AssetHandler.topics,
}


class Told(NamedTuple):
    """A line of a history."""

    at_s: float
    who: str
    what: str


class World:
    """Everything around the code under test, and its random decisions."""

    STALE_AFTER: Final = timedelta(seconds=10)

    def __init__(self, scenario: Scenario, *, traced: bool = False) -> None:
        """Prepare a world; `traced` keeps its history in words."""
        self.scenario = scenario
        self.rates = scenario.rates
        self.chance = random.Random(scenario.seed ^ 0x5DEECE66D)  # noqa: S311 - repeatable on purpose
        random.seed(scenario.seed)  # the pauses of our own backoff
        self.loop = asyncio.get_running_loop()
        self.database = Database({**_STATEMENTS, store._HISTORY: self._write_history}, self.loop.time)
        self.broker = Broker(self._broker_clock_ms)
        self.broken: list[str] = []
        """The faults found."""
        self.seen: Counter[str] = Counter()
        """The injected faults that took effect."""
        self.history: list[Told] = []
        self.ended_after_s = 0.0
        self.requested: dict[Any, OrderRequested] = {}
        self.crashes: dict[tuple[str, Any, int], Fault] = {}
        self.broker_is_away = False
        self._traced = traced
        self.database_is_away = False
        self._broker_is_off_s = 0.0
        self._calm = False
        self._poisoned: set[Any] = set()
        self._poisons = any(fault.kind is Kind.POISON for fault in scenario.faults)
        """Whether a message gets poisoned: then a request may be a dead letter, and only its user sends it again."""
        self._nodes: dict[str, Node] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self.judge = Judge(self)

    # Running a history ------------------------------------------------------------------------------------------------

    async def live(self) -> list[str]:
        """Run the whole history; return the faults found, in words."""
        try:
            self._furnish()
            self._begin()
            last_fault_s = max((fault.at + fault.for_s for fault in self.scenario.faults), default=0.0)
            changes = [change.at for plan in self.scenario.orders for change in plan.changes]
            last_order_s = max((*(plan.at for plan in self.scenario.orders), *changes), default=0.0)
            last_tick_s = max((tick.at for tick in self.scenario.ticks), default=0.0)
            await asyncio.sleep(max(last_fault_s, last_order_s, last_tick_s) + 5)
            self._calm_down()
            calm_at = self.loop.time()
            while not self._all_ended() and self.loop.time() - calm_at < QUIET_S:
                await asyncio.sleep(2)
            self.ended_after_s = self.loop.time() - calm_at
            await asyncio.sleep(self.rates.late_s + 60)  # what is still on its way arrives
            faults = self.judge.final()
        finally:
            await self._end()
        return [*self.broken, *faults]

    def tell(self, who: str, what: str) -> None:
        """Add a line to the history, if anybody wants to read it."""
        if self._traced:
            self.history.append(Told(self.loop.time(), who, what))

    def _furnish(self) -> None:
        self.broker.groups = {service: Group(self.broker, topics) for service, topics in _TOPICS.items()}
        for account, amount in HOLDINGS.items():
            self.database.tables["accounts"][account] = {"available": numeric(amount), "held": numeric("0")}
        self.prices = Prices(self)
        self.prices.begin()

    def _begin(self) -> None:
        watch(watcher)
        self.database.committed.append(self._after_commit)
        self.broker.appended.append(self._after_append)
        for name in NODES:
            self._nodes[name] = Node(self, name)
            self._do(self._nodes[name].live())
        for plan in self.scenario.orders:
            self._do(self._trade(plan))
        for fault in self.scenario.faults:
            if fault.kind is Kind.CRASH:
                self.crashes[fault.target, fault.point, fault.nth] = fault
            else:
                self._do(self._fault(fault))
        self._do(self.prices.confirm())
        for tick in self.scenario.ticks:
            self._do(self.prices.tick(tick))
        if self.scenario.ticks:  # a parked order may enter the market anew while prices move
            self._do(self._operate())

    def _do(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _end(self) -> None:
        watch(None)
        for task in self._tasks:
            task.cancel()
        for node in self._nodes.values():
            node.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.broken.append(f"the simulation itself failed: {error!r}")

    def _calm_down(self) -> None:
        self.tell("world", "no more faults")
        self._calm = True
        self.crashes.clear()
        self._poisoned.clear()
        self.database_is_away = self.broker_is_away = self.database.read_only = False
        self.prices.confirmed = dict.fromkeys(self.prices.confirmed, True)
        for node in self._nodes.values():
            node.thawed.set()
        if not self.scenario.ticks:
            self._do(self._operate())
        self._do(self._leave_the_market())

    def _all_ended(self) -> bool:
        orders = {**self.database.tables["archive"], **self.database.tables["orders"]}
        asked = all(plan.order_id in orders for plan in self.scenario.orders)
        outboxes = any(self.database.tables[f"{schema}.outbox"] for schema in ("orders", "balances", "assets"))
        ended = all(row["phase"] in {"COMPLETED", "CANCELLED", "FAILED"} for row in orders.values())
        return asked and ended and not outboxes

    # Users and operators ----------------------------------------------------------------------------------------------

    async def _trade(self, plan: OrderPlan) -> None:
        for number, cancel in enumerate(plan.cancels):
            by = _BY.get(cancel.by, plan.user_id)
            user = "mallory" if cancel.by == "another user" and number else plan.user_id
            self.loop.call_later(cancel.at, self._send, OrderCancelRequested(plan.order_id, user, by))
        for change in plan.changes:
            self.loop.call_later(change.at, self._ask_for_change, plan, change)
        await asyncio.sleep(plan.at)
        request = self._request(plan)
        self.requested[plan.order_id] = request
        if plan.sent_with_other_words:
            other = OrderRequested(
                plan.order_id, plan.user_id, "BTC", OrderType.MARKET_SELL, Quantity("0.015"), requested_at=None
            )
            self.loop.call_later(self.chance.uniform(0, 3), self._send, other)
        taken = [self._send(request, invalid=plan.invalid) for _ in range(plan.copies)]
        while plan.order_id not in self.judge.told and not (plan.trusting and any(taken) and not self._poisons):
            await asyncio.sleep(SEND_AGAIN_S)
            taken.append(self._send(request, invalid=plan.invalid))

    def _request(self, plan: OrderPlan) -> OrderRequested:
        terms, at = plan.terms, EPOCH + timedelta(seconds=self.loop.time())
        request = OrderRequested(
            order_id=plan.order_id,
            user_id=plan.user_id,
            asset_id=plan.asset_id,
            order_type=OrderType(f"{'MARKET' if terms is None else terms.kind}_{plan.side}"),
            quantity=Quantity(plan.quantity),
            price=None if plan.price is None else Price(plan.price),
            client_order_id=plan.client_order_id,
            requested_at=at + timedelta(seconds=plan.stamped_off_s),
        )
        if terms is None:
            return request
        prices = {name: getattr(terms, name) for name in ("limit_price", "trigger_price", "trail_amount")}
        return structs.replace(
            request,
            **{name: None if text is None else Price(text) for name, text in prices.items()},
            trail_bps=terms.trail_bps,
            slippage_bps=terms.slippage_bps,
            time_in_force=None if terms.time_in_force is None else TimeInForce(terms.time_in_force),
            expires_at=None if terms.expires_after_s is None else at + timedelta(seconds=terms.expires_after_s),
            queue_when_closed=terms.queue_when_closed,
        )

    def _ask_for_change(self, plan: OrderPlan, change: Change) -> None:
        """Send a change, as often as is planned."""
        order_id, by = plan.order_id, _BY.get(change.by, plan.user_id)
        message: Message
        if change.what is What.AMEND:
            versions = [0, *self.judge.told.get(order_id, ())]
            newest = max(versions)
            expected = {Expects.NEWEST: newest, Expects.OLDER: max(0, newest - 1)}.get(change.expects)
            message = OrderAmendRequested(
                order_id,
                plan.user_id,
                by,
                change.amend_id,
                (expected,) if expected else None,
                **self.changed_fields(change),
            )
        elif change.what is What.HOLD:
            message = OrderHoldRequested(order_id, plan.user_id, by, reason="not now")
        else:
            message = OrderReleaseRequested(order_id, plan.user_id, by)
        for _ in range(change.copies):
            self._send(message)

    def changed_fields(self, change: Change) -> dict[str, Any]:
        """Give the fields that an amend changes, as they are sent."""
        prices = {name: getattr(change, name) for name in ("limit_price", "trigger_price", "trail_amount")}
        ends_s = None if change.expires_after_s is None else change.at + change.expires_after_s
        fields = {
            "quantity": None if change.quantity is None else Quantity(change.quantity),
            **{name: None if text is None else Price(text) for name, text in prices.items()},
            "trail_bps": change.trail_bps,
            "slippage_bps": change.slippage_bps,
            "time_in_force": None if change.time_in_force is None else TimeInForce(change.time_in_force),
            "expires_at": None if ends_s is None else EPOCH + timedelta(seconds=ends_s),
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _send(self, message: Message, *, invalid: bool = False) -> bool:
        """Send a message; False when the broker did not take it."""
        if self.broker_is_away:
            return False
        name = type(message).__name__
        sent = outgoing(message, message_id=f"{message.order_id}:{name}", source="/user", time=EPOCH)
        if invalid:
            sent = Outgoing(
                sent.topic, sent.key, sent.id, sent.value.replace(b'"quantity":"', b'"quantity":"-'), sent.headers
            )
        self.tell("user", f"sends {name} of {_short(message.order_id)}")
        self.broker.send(self, [sent])
        return True

    async def _leave_the_market(self) -> None:
        """Cancel what still rests, when every order that should have fired has had the time for it."""
        while not all(node.alive for node in self._nodes.values()):
            await asyncio.sleep(1)
        await asyncio.sleep(self.rates.late_s + CANCEL_AFTER_S)
        self.broken += self.judge.market.still()
        plans = [plan for plan in self.scenario.orders if plan.terms is not None]
        while True:
            for plan in plans:
                row = self.database.tables["orders"].get(plan.order_id)
                if row is not None and row["phase"] in RESTING:
                    self._send(OrderCancelRequested(plan.order_id, row["user_id"], row["user_id"]))
            await asyncio.sleep(SEND_AGAIN_S)

    async def _operate(self) -> None:
        """Resume orders that a poisoned message has parked, as soon as it can be written."""
        for number in count():
            for order_id, row in sorted(self.database.tables["orders"].items()):
                if row["parked_reason"] is not None:
                    self.tell("operator", f"resumes {_short(order_id)}")
                    with suppress(asyncpg.PostgresError, OSError):  # not now: the next round tries again
                        await orders.resume(self._operators_engine(), Run(f"resume-{number}", "olga"), order_id)
            await asyncio.sleep(5)

    def _operators_engine(self) -> Any:
        return Engine(self.database, _Patient())

    # Faults -----------------------------------------------------------------------------------------------------------

    async def _fault(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        self.seen[fault.kind] += 1
        self.tell("world", f"{fault.kind} {fault.target} {f'for {fault.for_s:.1f} s' if fault.for_s else ''}")
        match fault.kind:
            case Kind.KILL:
                self._nodes[fault.target].down_s = fault.for_s
                self._nodes[fault.target].kill()
            case Kind.FREEZE | Kind.SILENT:
                names = [name for name in NODES if fault.target in {name, name.partition("-")[0]}]
                await asyncio.gather(*(self._freeze(self._nodes[name], fault.for_s) for name in names))
            case Kind.DATABASE_AWAY:
                self.database_is_away = True
                self.database.restart()
                await asyncio.sleep(fault.for_s)
                self.database_is_away = False
            case Kind.DATABASE_READ_ONLY:
                self.database.read_only = True
                await asyncio.sleep(fault.for_s)
                self.database.read_only = False
            case Kind.LOCKED_ROW:
                await self._hold(fault)
            case Kind.BROKER_AWAY:
                self.broker_is_away = True
                await asyncio.sleep(fault.for_s)
                self.broker_is_away = False
            case Kind.REBALANCE:
                for group in GROUPS[fault.target]:
                    await self.broker.groups[group].rebalance()
            case Kind.POISON:
                order_id = self.scenario.orders[int(fault.target)].order_id
                self._poisoned.add(order_id)
                await asyncio.sleep(fault.for_s)
                self._poisoned.discard(order_id)
            case _:
                await self._change(fault)

    async def _hold(self, fault: Fault) -> None:
        """Lock a row as soon as it is there and free, and keep it to the end of the fault."""
        user, _, asset = fault.target.partition("/")
        row = ("accounts", (user, asset)) if asset else ("orders", self.scenario.orders[int(user)].order_id)
        until_s = self.loop.time() + fault.for_s
        tx = Transaction(self.database, _Patient())
        self.database.open.add(tx)
        while self.loop.time() < until_s and not tx.broken:
            if not tx.holds(*row) and tx.get(*row) is not None and tx.is_free(*row):
                with suppress(ServerError):  # a database that takes no locks now
                    await tx.lock(*row)
            await asyncio.sleep(0.1)
        tx.end()

    async def _change(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.CLOCK_JUMP:
                self.database.clock_is_off_s += fault.amount
                for node in self._nodes.values():
                    node.changed.set()
            case Kind.BROKER_CLOCK:
                self._broker_is_off_s += fault.amount
            case Kind.ASK_AGAIN:
                await self._ask_again(int(fault.target))
            case Kind.PAUSE:
                await self._pause(Participant(fault.target), fault.for_s)
            case Kind.ARCHIVE:
                await self._archive(self.loop.time() + fault.for_s)
            case Kind.PRICE:
                self.prices.move(fault.target, fault.amount)
            case Kind.NO_PRICE:
                self.prices.confirmed[fault.target] = False
                await asyncio.sleep(fault.for_s)
                self.prices.confirmed[fault.target] = True

    async def _pause(self, participant: Participant, for_s: float) -> None:
        engine = self._operators_engine()
        begin, end = (Run(f"{what}-{self.loop.time()}", "olga") for what in ("pause", "unpause"))
        await self._insist(lambda: pause(engine, participant, begin, "maintenance"))
        await asyncio.sleep(for_s)
        await self._insist(lambda: unpause(engine, participant, end))
        await self._insist(lambda: wake(engine))

    async def _insist(self, typed: Callable[[], Awaitable[object]]) -> None:
        """Repeat an operator's command while the database takes no writes."""
        while True:
            try:
                await typed()
            except asyncpg.PostgresError:
                await asyncio.sleep(1)
            else:
                return

    async def _ask_again(self, number: int) -> None:
        run = Run(f"ask-again-{self.loop.time()}", "olga")
        # A poisoned order, or a database that goes away: the operator is told.
        with suppress(asyncpg.PostgresError, OSError):
            await orders.ask_again(self._operators_engine(), run, self.scenario.orders[number].order_id)

    async def _archive(self, until_s: float) -> None:
        """Archive orders that have ended, of any age: here late messages of an archived order come soon."""
        engine = Engine(self.database, _Slow(self))
        while True:
            for move in (archive.move, Holds("balances").archive):
                with suppress(asyncpg.PostgresError, OSError):  # a database that goes away: the next round goes on
                    async with engine.begin() as tx:
                        await move(cast("Any", tx), _PAGES, -_YEARS_S, 500)
            await asyncio.sleep(0.2)
            if self.loop.time() >= until_s:
                return

    async def _freeze(self, node: Node, for_s: float) -> None:
        members = node.members
        node.freeze()
        if for_s > SESSION_S:
            await asyncio.sleep(SESSION_S)
            for member in members:
                await member.group.leave(member)
        await asyncio.sleep(max(0.0, for_s - SESSION_S) if for_s > SESSION_S else for_s)
        node.thawed.set()
        for member in members:
            if node.alive and member in node.members and member not in member.group.members:
                await member.group.join(member)

    # Chances ----------------------------------------------------------------------------------------------------------

    def pause_s(self) -> float:
        """Draw how long a step takes."""
        seconds = self.chance.random() * 0.004
        if self.rates.slow and not self._calm and self.chance.random() < self.rates.slow:
            seconds *= 1000
        return seconds

    def lingers_s(self) -> float:
        """Draw how long the server keeps the locks of a process that died."""
        return self.chance.choice((0.0, 0.0, 2.0, 20.0))

    def batch_size(self) -> int:
        """Draw how many records a poll may take."""
        return self.chance.randint(1, self.rates.batch_most)

    def journeys(self, topic: str) -> Iterable[float]:
        """Draw when the copies of a message arrive."""
        if self._calm:
            return (0.0,)
        rates, chance = self.rates, self.chance
        if rates.lost and topic in TOLERATES_LOSS and chance.random() < rates.lost:
            self.seen["message lost"] += 1
            return ()
        copies = 2 if rates.doubled and chance.random() < rates.doubled else 1
        return tuple(self._journey_s() for _ in range(copies))

    def _journey_s(self) -> float:
        if self.rates.late and self.chance.random() < self.rates.late:
            self.seen["message late"] += 1
            return self.chance.uniform(0, self.rates.late_s)
        return 0.0

    def publish_outcome(self, messages: int) -> tuple[int, bool]:
        """Draw how many messages are stored, and whether the publisher is told that all are."""
        if self.broker_is_away:
            return 0, False
        if not self._calm and self.rates.not_acknowledged and self.chance.random() < self.rates.not_acknowledged:
            self.seen["publish of unknown outcome"] += 1
            return self.chance.randint(0, messages), False
        return messages, True

    def commit_outcome(self) -> str:
        """Draw whether a commit's answer is lost: empty when it is not."""
        if self._calm or not self.rates.commit_unknown or self.chance.random() >= self.rates.commit_unknown:
            return ""
        self.seen["commit of unknown outcome"] += 1
        return self.chance.choice(("done", "not done"))

    def fail_if_database_is_away(self) -> None:
        """Raise as the driver does."""
        if self.database_is_away:
            raise ConnectionRefusedError("the database is away")
        if not self._calm and self.rates.connection_lost and self.chance.random() < self.rates.connection_lost:
            self.seen["connection lost"] += 1
            raise ConnectionResetError("connection lost")

    async def _write_history(self, tx: Transaction, *arrays: Any) -> Result:
        """Refuse what moves a poisoned order, as a value that a column can't take would be refused."""
        for order_id, entries in zip(arrays[0], arrays[5], strict=True):
            if order_id in self._poisoned and not {"parked", "ignored"} & {one["kind"] for one in json.loads(entries)}:
                raise ServerError("22P02", "a value that the column can't take")
        return await _STATEMENTS[store._HISTORY](tx, *arrays)

    def _broker_clock_ms(self) -> int:
        return int((EPOCH.timestamp() + self.loop.time() + self._broker_is_off_s) * 1000)

    # What is seen of it -----------------------------------------------------------------------------------------------

    def next_due(self, schema: str, column: str) -> datetime | None:
        """Return when the next row of a schema's orders or outbox is due."""
        table = "orders" if column == "due_at" else f"{schema}.outbox"
        moments = [
            row[column] for row in self.database.tables[table].values()
            if row[column] is not None and row.get("parked_reason") is None
        ]  # fmt: skip
        return min(moments, default=None)

    def _after_commit(self, tx: Transaction) -> None:
        self.judge.after_commit(tx)
        for node in self._nodes.values():
            if not node.watches.isdisjoint(tx.writes):
                node.changed.set()

    def _after_append(self, record: Record) -> None:
        if record.topic == "orders.events":
            event = decode("OrderStatusChanged", record.value or b"")
            self.judge.hear(cast("OrderStatusChanged", event))
        if self._traced:
            envelope = read_envelope(record.headers)
            self.tell(
                "broker", f"{record.topic}/{record.partition}@{record.offset} {envelope.type} {envelope.id[-24:]}"
            )


class _Patient:
    """The operator's connection to the database, without faults."""

    async def round_trip(self) -> None:
        """Take no time."""

    async def commits(self, apply: Callable[[], None]) -> None:
        """Commit."""
        apply()


class _Slow(_Patient):
    """The same connection with delays, so that other transactions come between."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def round_trip(self) -> None:
        """Take some time."""
        await asyncio.sleep(self._world.pause_s())


def _short(order_id: Any) -> str:
    return str(order_id)[:8]
