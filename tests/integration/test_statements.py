"""What a batch sends to PostgreSQL: few statements, and none that reads a table from one end to the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest_asyncio
from prometheus_client import CollectorRegistry

from contracts.assets import AssetApproved, AssetRefused, CheckAsset
from contracts.balance import BalanceReserved, ReserveBalance, SettleBalance
from contracts.codec import Message, decode
from contracts.decimals import Money, Price, Quantity
from contracts.envelope import read_envelope
from contracts.orders import OrderRequested
from contracts.vocabulary import HoldState, OrderType
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.metrics import SagaMetrics
from order_saga.worker.process import SagaHandler
from participants.assets.service import AssetHandler
from participants.balance.service import participant
from participants.balance.store import deposit
from saga_kit.messaging.batch import BatchProcess, Handler
from saga_kit.messaging.dead_letters import DeadLetters
from saga_kit.messaging.outbox import Outbox
from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.telemetry import KitMetrics
from saga_kit.runtime.transactions import Transactions
from tests.participants.support import order, received, refund, reserve, settle
from tests.saga_kit.support import FakePublisher
from tests.support.infrastructure import Database
from tests.support.plans import nodes_of
from tests.support.transactions import Recorder

SMALL: Final = frozenset({"pauses", "pauses_pkey"})
"""Tables that are read whole: they have a row for each participant at most."""


@dataclass
class Service:
    """A service's own handler in the kit's batch process, on connections like its own; only the broker is fake."""

    handler: Handler[Any]
    schema: str
    pool: Transactions
    publisher: FakePublisher = field(default_factory=FakePublisher)

    def __post_init__(self) -> None:
        """Build the batch process."""
        self.recorder = Recorder(self.pool)
        self._process = BatchProcess[Any](
            transactions=self.recorder,
            handler=self.handler,
            outbox=Outbox(self.schema),
            dead_letters=DeadLetters(self.schema),
            publisher=self.publisher,
            metrics=KitMetrics(CollectorRegistry()),
            stopping=asyncio.Event(),
        )

    async def handle(self, *messages: Message) -> list[str]:
        """Handle a batch; return the first word of each statement that was sent."""
        before = len(self.recorder.sent)
        async with asyncio.timeout(20):  # a batch whose statements fail is run again and again
            await self._process.run([received(self.handler, message, n, _now()) for n, message in enumerate(messages)])
        return self.recorder.verbs[before:]

    def said(self, kind: type[Message]) -> list[Any]:
        """Return the messages of one type that were published so far."""
        said = [decode(read_envelope(one.headers).type, one.value) for one in self.publisher.published]
        return [one for one in said if type(one) is kind]

    async def count(self, table: str) -> int:
        """Count the rows of one of the service's tables."""
        async with self.pool.begin() as tx:
            return int(await tx.fetchval(f"SELECT count(*) FROM {self.schema}.{table}"))

    async def tables_read_whole(self) -> set[str]:
        """Name the tables that a statement so far reads without an index, by the plans of a service's session."""
        found: set[str] = set()
        async with self.pool.begin() as tx:
            for sql, args in self.recorder.sent:
                if sql.startswith(("SELECT", "WITH", "INSERT")):
                    told = await tx.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *args)
                    found.update(filter(None, map(_read_whole, nodes_of(told))))
        return found - SMALL


def _read_whole(node: dict[str, Any]) -> str | None:
    """Name the table, or the index, of which a node of a plan reads everything."""
    if node["Node Type"] == "Seq Scan" or ("Index Name" in node and "Index Cond" not in node):
        return str(node.get("Relation Name") or node["Index Name"])
    return None


def _now() -> datetime:
    return datetime.now(UTC)  # a request that is much older would be refused


async def _never() -> bool:
    return False


def _pool(database: Database, login: str) -> Transactions:
    url = parse_database_url(database.url_of(login))
    return Transactions(url, application_name=f"test-{login}", by_key=True)


@pytest_asyncio.fixture
async def orchestrator(database: Database) -> AsyncIterator[Service]:
    """Give the orchestrator."""
    pool = _pool(database, "orchestrator")
    handler = SagaHandler(time_scale=100.0, metrics=SagaMetrics(), breaker=CircuitBreaker())
    yield Service(handler, "orders", pool)
    await pool.close()


@pytest_asyncio.fixture
async def balance(database: Database) -> AsyncIterator[Service]:
    """Give the balance service, with an account of alice."""
    pool = _pool(database, "balance")
    engine = create_engine(parse_database_url(database.url_of("balance")), application_name="test-balance")
    await deposit(engine, "first", "alice", "USD", Money.parse("1000"))
    await engine.dispose()
    yield Service(participant(), "balances", pool)
    await pool.close()


@pytest_asyncio.fixture
async def assets(database: Database) -> AsyncIterator[Service]:
    """Give the asset service, which knows no asset."""
    pool = _pool(database, "assets")
    yield Service(AssetHandler(timedelta(seconds=10), _never), "assets", pool)
    await pool.close()


def _request(number: int) -> OrderRequested:
    return OrderRequested(
        order(number),
        "alice",
        "BTC",
        OrderType.MARKET_BUY,
        Quantity("0.01"),
        Price("50000"),
        100,
        f"mine-{number}",
        _now(),
    )


async def test_an_orchestrators_batch_is_four_round_trips(orchestrator: Service) -> None:
    """Every batch reads once and writes once, where no order of it rests; every part of it is there."""
    sent = await orchestrator.handle(_request(1), _request(2))
    quote = (Price("50000"), 1, _now(), Price("0.01"), Quantity("0.0001"), 10, "USD", 2, 1, _now())
    approved = [AssetApproved(one.command_id, one.order_id, "BTC", *quote) for one in orchestrator.said(CheckAsset)]
    sent += await orchestrator.handle(*approved)
    reserved = [
        BalanceReserved(
            one.command_id, one.order_id, one.hold_id, HoldState.HELD, one.amount, one.user_id, one.asset_id
        )
        for one in orchestrator.said(ReserveBalance)
    ]
    sent += await orchestrator.handle(*reserved)
    assert ["BEGIN", "WITH", "WITH", "COMMIT"] * 3 == sent
    assert set() == await orchestrator.tables_read_whole()
    assert (2, 6, 2, 1) == (
        await orchestrator.count("orders"),
        await orchestrator.count("history"),  # of each order a row for each batch
        await orchestrator.count("fills"),
        await orchestrator.count("outbox"),  # the last batch's; it deleted the row of the one before
    )


def _reserved(asked: ReserveBalance) -> BalanceReserved:
    what = (asked.hold_id, HoldState.HELD, asked.amount, asked.user_id, asked.asset_id)
    return BalanceReserved(asked.command_id, asked.order_id, *what)


async def test_a_balance_batch_is_five_round_trips(balance: Service) -> None:
    """Accounts are locked, then holds, and all is written at once; only a credit in a new asset costs two more."""
    five = ["BEGIN", "SELECT", "WITH", "WITH", "COMMIT"]
    assert five == await balance.handle(reserve(order(1), "alice", "USD", "100"))
    assert five == await balance.handle(reserve(order(2), "alice", "USD", "100"))
    assert ["BEGIN", "SELECT", "INSERT", *five[1:]] == await balance.handle(_bought(1))
    assert five == await balance.handle(_bought(2), refund(order(3), "alice", "USD", "5"))
    assert set() == await balance.tables_read_whole()


def _bought(number: int) -> SettleBalance:
    credit, fee = ("BTC", "0.01"), ("USD", "1")
    return settle(order(number), "alice", "USD", "100", capture="90", credit=credit, fee=fee)


async def test_an_asset_batch_is_two_round_trips(assets: Service) -> None:
    """A read of all assets, and a write of all answers, which is a transaction by itself."""
    check = CheckAsset("check", order(1), "BTC", OrderType.MARKET_BUY, Quantity("1"), Price("1"))
    await assets.handle(check)
    sent = await assets.handle(check, check)
    assert ["SELECT", "WITH"] == sent
    assert set() == await assets.tables_read_whole()
    assert 3 == len(assets.said(AssetRefused))
