"""Orders and holds that ended long ago, and what tables and views have of them."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from msgspec import structs

from contracts.assets import AssetApproved
from contracts.examples import example
from contracts.vocabulary import Side
from operations.retention import archive
from order_saga.core.saga import Requested
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.metrics import SagaMetrics
from order_saga.worker.process import SagaHandler
from saga_kit.messaging.batch import Received
from saga_kit.runtime.transactions import Transaction, begin
from tests.order_saga.core.sample import approved, requested, reserved, settled
from tests.participants.support import Balance, received
from tests.support.order_database import OrderDatabase

HORIZON_S: Final = 30 * archive.DAY_S
LONG_AGO: Final = """
    UPDATE {table} SET created_at = created_at - interval '31 days', updated_at = updated_at - interval '31 days'"""
SHOWN: Final = {
    view: f"SELECT * FROM {view} ORDER BY 1, 2"
    for view in ("api.orders", "api.history", "audit.history", "audit.versions", "audit.questions", "audit.fills")
} | {
    "audit.orders": "SELECT * FROM (SELECT *, NULL AS archived_at FROM audit.orders) AS o",
    "audit.holds": "SELECT * FROM audit.holds ORDER BY 1",
}
ORDER_ID: Final = example("OrderRequested").order_id  # type: ignore[attr-defined]
ENDINGS: Final[dict[str, tuple[list[str], list[str], str]]] = {
    "SETTLED": (["AssetApproved", "BalanceReserved", "BalanceSettled"], ["ReserveBalance", "SettleBalance"], "1000"),
    "REFUNDED": (
        ["AssetApproved", "BalanceReserved", "SettlementRefused"],
        ["ReserveBalance", "RefundBalance"],
        "1000",
    ),
    "REFUSED": (["AssetApproved", "BalanceRefused"], ["ReserveBalance"], "1"),
    "TOMBSTONE": (["AssetApproved", "OrderCancelRequested", "BalanceRefunded"], ["RefundBalance"], "1000"),
}
"""How an order and its hold may end: messages to the orchestrator, commands to balance, the user's money."""


async def fresh(db: OrderDatabase, name: str, orders: SagaHandler) -> Any:
    """Decode a message as if it had just been sent."""
    [row] = await db.rows("SELECT clock_timestamp() AS now")
    one = received(orders, example(name))
    if isinstance(one.message, Requested):
        request = structs.replace(one.message.request, requested_at=None)
        one = structs.replace(one, message=structs.replace(one.message, request=request, sent_at=row["now"]))
    if isinstance(one.message, AssetApproved):
        one = structs.replace(one, message=structs.replace(one.message, quoted_at=row["now"]))
    return one


async def live(db: OrderDatabase, ending: str) -> Balance:
    """Begin and end the example's order and its hold, and make both older than the horizon."""
    told, asked, has = ENDINGS[ending]
    orders, balance = orchestrator(), Balance(db.engine)
    await balance.deposit("alice", USD=has)
    for name in ("OrderRequested", *told):
        async with begin(db.engine) as tx:
            await orders.handle(tx, [await fresh(db, name, orders)])
    for name in asked:
        await balance.handle(example(name))
    await age(db)
    return balance


def orchestrator() -> SagaHandler:
    """Make the handler."""
    return SagaHandler(time_scale=1.0, metrics=SagaMetrics(), breaker=CircuitBreaker())


async def request_named(tx: Transaction, order_id: UUID) -> None:
    """Handle a new request that bears the client order id `mine`, and is as old as its batch."""
    now = await tx.fetchval("SELECT clock_timestamp()")
    request = structs.replace(requested(order_id=order_id, client_order_id="mine"), sent_at=now)
    await orchestrator().handle(tx, [Received(request)])


async def age(db: OrderDatabase) -> None:
    """Make everything that there is a month older."""
    for table in ("orders.orders", "balances.holds"):
        await db.execute(LONG_AGO.format(table=table))


async def ended(db: OrderDatabase, *numbers: int) -> list[UUID]:
    """Complete some orders, long ago."""
    ids = [await db.begin(number, Side.BUY, approved(), reserved(), settled()) for number in numbers]
    await age(db)
    return ids


async def content(db: OrderDatabase, *left_out: str) -> dict[str, list[Any]]:
    """Read every row of every table of the orchestrator and of the balance service."""
    tables = await db.rows(
        """SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
        WHERE schemaname IN ('orders', 'balances') ORDER BY 1"""
    )
    names = [row["name"] for row in tables if row["name"] not in left_out]
    return {name: await db.rows(f"SELECT * FROM {name} AS one ORDER BY one::text") for name in names}


async def number_of(db: OrderDatabase, table: str) -> int:
    """Count rows."""
    [row] = await db.rows(f"SELECT count(*) AS number FROM {table}")
    return int(row["number"])


async def shown(db: OrderDatabase) -> dict[str, list[Any]]:
    """Read what the views show."""
    return {view: await db.rows(statement) for view, statement in SHOWN.items()}


async def archived(db: OrderDatabase) -> dict[str, int]:
    """Archive whatever may go; return how many rows of each part went."""
    rows = {"orders": 0, "holds": 0}
    async for step in archive.archive(db.engine, HORIZON_S, 500):
        rows = step.rows
    return rows


def without_archived_at(views: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Leave out what archiving is meant to change."""
    return {view: sorted((str({**row, "archived_at": None}) for row in rows), key=str) for view, rows in views.items()}
