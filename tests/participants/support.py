"""Shared by the participants' tests: commands as Kafka delivers them, and services of which only the broker is fake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.balance import AdjustBalance, RefundBalance, ReserveBalance, SettleBalance
from contracts.codec import Message, decode, outgoing
from contracts.decimals import Money, Quantity
from contracts.envelope import read_envelope
from contracts.holds import HoldCaptureRequested, HoldReleaseRequested, HoldRequest, HoldRequested
from participants.balance.hold_handler import HoldHandler
from participants.balance.service_holds import Expiry
from participants.balance.store import StoredLedger, deposit
from participants.balance.tables import SCHEMA
from saga_kit.messaging.batch import BatchProcess, Handler, Received
from saga_kit.messaging.dead_letters import DeadLetters
from saga_kit.messaging.outbox import Outbox
from saga_kit.participant.balance import BalanceAdapter
from saga_kit.participant.handler import ParticipantHandler
from saga_kit.runtime.telemetry import KitMetrics
from tests.migrations.support import connected
from tests.saga_kit.support import FakePublisher, FakeRecord
from tests.support.transactions import OnEngine

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Pair = tuple[Decimal | int, Decimal | int]
"""The available and the held amount."""


def order(name: object) -> UUID:
    """Make an order id from a name."""
    return uuid5(UUID(int=0), str(name))


def reserve(order_id: UUID, user_id: str, asset_id: str, amount: str | Decimal) -> ReserveBalance:
    """Make a command that holds an amount."""
    return ReserveBalance(f"{order_id}:reserve", order_id, f"{order_id}:reserve", user_id, asset_id, Money(amount))


def adjust(order_id: UUID, user_id: str, asset_id: str, amount: str | Decimal, revision: int) -> AdjustBalance:
    """Make a command that makes an amount the whole of the hold."""
    command_id, hold_id = f"{order_id}:adjust.{revision}", f"{order_id}:reserve"
    return AdjustBalance(command_id, order_id, hold_id, user_id, asset_id, Money(amount), revision)


def refund(order_id: UUID, user_id: str, asset_id: str, amount: str | Decimal, revision: int = 0) -> RefundBalance:
    """Make a command that gives the hold back; `revision` is the last adjustment that was confirmed."""
    command_id, hold_id = f"{order_id}:refund", f"{order_id}:reserve"
    return RefundBalance(command_id, order_id, hold_id, user_id, asset_id, Money(amount), revision=revision)


def settle(
    order_id: UUID,
    user_id: str,
    asset_id: str,
    amount: str | Decimal,
    *,
    capture: str | Decimal,
    credit: tuple[str, str | Decimal],
    fee: tuple[str, str | Decimal],
    revision: int = 0,
) -> SettleBalance:
    """Make a command that captures from the hold and credits the other leg; `credit` and `fee` are asset and amount."""
    return SettleBalance(
        command_id=f"{order_id}:settle",
        order_id=order_id,
        hold_id=f"{order_id}:reserve",
        user_id=user_id,
        asset_id=asset_id,
        amount=Money(amount),
        capture=Money(capture),
        credit_asset_id=credit[0],
        credit=Money(credit[1]),
        fee_asset_id=fee[0],
        fee=Money(fee[1]),
        revision=revision,
    )


HELD_SINCE = datetime.now(UTC)
"""When this run of the tests began: times of holds are reckoned from it."""


def hold_id(name: object) -> UUID:
    """Make the id of a service's hold from a name."""
    return uuid5(UUID(int=1), str(name))


def held_until(away: timedelta = timedelta(days=1)) -> datetime:
    """Return the `expires_at` that is so far away, the same one in the whole run, which may take hours."""
    return HELD_SINCE + away


def place(
    hold: UUID, user_id: str, asset_id: str, amount: str | Decimal, *, expires_at: datetime | None = None
) -> HoldRequested:
    """Make a request to hold an amount."""
    return HoldRequested(hold, user_id, asset_id, Quantity(amount), expires_at or held_until())


def capture(
    hold: UUID, user_id: str, asset_id: str, amount: str | Decimal, *, capture: str | Decimal, to: str = "@external"
) -> HoldCaptureRequested:
    """Make a request to capture from a hold."""
    return HoldCaptureRequested(hold, user_id, asset_id, Quantity(amount), Quantity(capture), to)


def release(hold: UUID, user_id: str, asset_id: str, amount: str | Decimal) -> HoldReleaseRequested:
    """Make a request to release a hold."""
    return HoldReleaseRequested(hold, user_id, asset_id, Quantity(amount))


def received(handler: Handler[Any], message: Message, offset: int = 0, at: datetime = NOW) -> Received[Any]:
    """Deliver a message as Kafka would: encoded, with headers, and decoded by the service. It was sent `at`."""
    wire = outgoing(message, message_id=f"test:{offset}", source="/tests", time=at, traceparent=TRACEPARENT)
    record = FakeRecord(wire.topic, 0, offset, int(at.timestamp() * 1000), wire.key.encode(), wire.value, wire.headers)
    envelope = read_envelope(wire.headers)
    return Received(handler.decode(envelope, record), envelope, record)


@dataclass
class ServiceUnderTest:
    """One instance of a service: its handler in the kit's batch process, and a fake broker that stores what it gets."""

    engine: AsyncEngine
    handler: Handler[Any]
    schema: str
    publisher: FakePublisher = field(default_factory=FakePublisher)
    metrics: KitMetrics = field(default_factory=lambda: KitMetrics(CollectorRegistry()))

    def __post_init__(self) -> None:
        """Build the batch process."""
        self._process = BatchProcess[Any](
            transactions=OnEngine(self.engine),
            handler=self.handler,
            outbox=Outbox(self.schema),
            dead_letters=DeadLetters(self.schema),
            publisher=self.publisher,
            metrics=self.metrics,
            stopping=asyncio.Event(),
        )

    async def handle(self, *messages: Message) -> list[Message]:
        """Handle messages as one batch; return the replies."""
        sent_before = len(self.publisher.published)
        await self._process.run([received(self.handler, message, n) for n, message in enumerate(messages)])
        return [decode(read_envelope(one.headers).type, one.value) for one in self.publisher.published[sent_before:]]

    async def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Query the database."""
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.exec_driver_sql(sql, values)]

    @property
    def retries(self) -> float:
        """How often a batch was run again (after a deadlock, for example)."""
        return self.metrics.registry.get_sample_value("batch_retries_total") or 0.0


class Balance(ServiceUnderTest):
    """An instance of the balance service."""

    def __init__(self, engine: AsyncEngine, ledger: Callable[[], StoredLedger] = StoredLedger) -> None:
        super().__init__(engine, ParticipantHandler(SCHEMA, BalanceAdapter(), ledger), SCHEMA)

    async def deposit(self, user_id: str, **amounts: str) -> None:
        """Deposit amounts for a user, one for each asset."""
        for asset_id, amount in amounts.items():
            assert await deposit(self.engine, f"test:{user_id}:{asset_id}", user_id, asset_id, Money.parse(amount))

    async def accounts(self, user_id: str) -> dict[str, Pair]:
        """Return the user's available and held amounts by asset."""
        sql = "SELECT asset_id, available, held FROM balances.accounts WHERE user_id = $1"
        return {asset_id: (available, held) for asset_id, available, held in await self.rows(sql, user_id)}

    async def all_accounts(self) -> dict[str, dict[str, Pair]]:
        """Return all available and held amounts by user and asset, without empty accounts."""
        found: dict[str, dict[str, Pair]] = {}
        rows = await self.rows("SELECT user_id, asset_id, available, held FROM balances.accounts")
        for user_id, asset_id, available, held in rows:
            if available or held:
                found.setdefault(user_id, {})[asset_id] = (available, held)
        return found

    async def hold(self, order_id: UUID) -> tuple[Any, ...] | None:
        """Return an order's hold: state, amount, captured, refunded."""
        sql = "SELECT state, amount, captured, refunded FROM balances.holds WHERE hold_id = $1"
        return next(iter(await self.rows(sql, f"{order_id}:reserve")), None)

    async def faults(self) -> list[tuple[Any, ...]]:
        """Return every violation of double entry (I1), and every dead letter."""
        return [row for sql in FAULTS for row in await self.rows(sql)]


class HoldService(Balance):
    """An instance of the balance service's other half: the holds of services."""

    def __init__(self, engine: AsyncEngine) -> None:
        ServiceUnderTest.__init__(self, engine, HoldHandler(CollectorRegistry()), SCHEMA)

    async def work(self, *asked: HoldRequest | Expiry) -> list[Any]:
        """Handle requests and the scanner's words as one batch; return the events."""
        sent_before = len(self.publisher.published)
        await self._process.run(
            [
                Received(one) if isinstance(one, Expiry) else received(self.handler, one, n)
                for n, one in enumerate(asked)
            ]
        )
        return [decode(read_envelope(one.headers).type, one.value) for one in self.publisher.published[sent_before:]]

    async def pass_time(self, holds: Collection[UUID]) -> None:
        """Let these holds be as they would be an hour after their time has come."""
        sql = """UPDATE balances.service_holds SET expires_at = $2
                 WHERE hold_id = ANY ($1::text[]) AND expires_at IS NOT NULL"""
        async with self.engine.begin() as connection:
            ids = [f"hold:{hold}" for hold in holds]
            await connection.exec_driver_sql(sql, (ids, held_until(-timedelta(hours=1))))

    async def ends(self) -> dict[str, str]:
        """Return how each known hold ended, or HELD."""
        return dict(await self.rows("SELECT hold_id, coalesce(ended, 'HELD') FROM balances.service_holds"))


FAULTS: Sequence[str] = (
    """SELECT 'entry is not zero', entry_id FROM balances.journal_lines
       GROUP BY entry_id, asset_id HAVING sum(amount) <> 0""",
    """SELECT 'account is not its journal', user_id, asset_id, available + held, booked
       FROM balances.accounts FULL JOIN (
           SELECT account AS user_id, asset_id, sum(amount) AS booked FROM balances.journal_lines
           WHERE account NOT LIKE '@%' GROUP BY account, asset_id) AS lines USING (user_id, asset_id)
       WHERE available + held IS DISTINCT FROM coalesce(booked, 0)""",
    """SELECT 'held is not its holds', user_id, asset_id, held, active
       FROM balances.accounts FULL JOIN (
           SELECT owner AS user_id, unit AS asset_id, sum(amount) AS active FROM balances.holds
           WHERE state = 'HELD' GROUP BY owner, unit) AS active_holds USING (user_id, asset_id)
       WHERE held IS DISTINCT FROM coalesce(active, 0)""",
    "SELECT 'dead letter', reason FROM balances.dead_letters",
)


async def somebody_waits(engine: AsyncEngine) -> None:
    """Wait until a session of this database waits for a lock, as seen from a separate session."""
    sql = "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()"
    async with connected(engine.url.set(drivername="postgresql").render_as_string(hide_password=False)) as connection:
        async with asyncio.timeout(30):  # it may begin to wait late on a busy machine
            while not await connection.fetch(sql):
                await asyncio.sleep(0.01)
