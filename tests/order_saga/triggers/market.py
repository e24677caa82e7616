"""A market on a real database: rows that rest, and ticks that the handler judges."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import Trading
from contracts.decimals import exact_text
from contracts.vocabulary import Side
from order_saga.core.gate import GATE, gate_key
from order_saga.triggers.feed import Tick
from order_saga.triggers.metrics import TriggerMetrics
from order_saga.triggers.process import Price, TriggerHandler
from saga_kit.messaging.batch import Received
from saga_kit.runtime.transactions import Transaction, begin
from tests.order_saga.triggers.oracle import Order, Outcome

LONG = timedelta(hours=1)
REST = """
    INSERT INTO orders.resting (order_id, asset_id, side, revision, live, queued, up_price, down_price, limit_price,
        trail_amount, trail_bps, from_sequence, entered_at, expires_at, told)
    VALUES ($1, $2, $3, 1, true, $4, $5, $6, $7, $8, $9, $10, clock_timestamp(), $11, true)"""
TRAIL = """
    INSERT INTO orders.trails (asset_id, side, kind, trail, oldest) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (asset_id, side, kind, trail) DO UPDATE SET oldest = least(trails.oldest, excluded.oldest)"""
QUOTE = """
    INSERT INTO orders.peaks (asset_id, side, upto, price, set_by) VALUES ($1, $2, $3, $4, $3)
    ON CONFLICT DO NOTHING"""
SHARE = "SELECT pg_advisory_xact_lock_shared($1, $2)"


class OnEngine:
    """Begins transactions on an engine's connections."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    def begin(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction."""
        return begin(self._engine)


class StoredMarket:
    """One database, and a handler; `member` makes another one."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.fired: list[UUID] = []
        self.metrics = TriggerMetrics()
        self.handler = self.member()

    def member(self, round_max: int = 2_000) -> TriggerHandler:
        """Make a handler."""
        return TriggerHandler(
            OnEngine(self.engine), metrics=self.metrics, on_fired=self.fired.extend, age_max=LONG, round_max=round_max
        )

    async def rest(
        self, number: int, order: Order, quote: tuple[int, Decimal] | None = None, asset_id: str = "A"
    ) -> UUID:
        """Let an order rest, as the accepting transaction does it."""
        order_id, side = UUID(int=number), order.side.value
        async with begin(self.engine) as tx:
            await tx.fetch(SHARE, GATE, gate_key(asset_id))
            await tx.execute(
                REST, order_id, asset_id, side, order.queued, order.up, order.down, order.limit, order.amount,
                order.bps, order.start, order.expires_at,
            )  # fmt: skip
            if order.amount is not None:
                await tx.execute(TRAIL, asset_id, side, "amount", order.amount, order.start)
            if order.bps is not None:
                await tx.execute(TRAIL, asset_id, side, "bps", Decimal(order.bps), order.start)
            if quote is not None:
                await tx.execute(QUOTE, asset_id, side, *quote)
        return order_id

    async def judge(self, *prices: Price, member: TriggerHandler | None = None) -> None:
        """Have a batch judged."""
        async with begin(self.engine) as tx:
            await (member or self.handler).handle(tx, [Received(price) for price in prices])

    async def tick(self, sequence: int, price: str, *, stale: bool = False, asset_id: str = "A") -> None:
        """Have one tick judged."""
        await self.judge(tick(sequence, Decimal(price), stale=stale, asset_id=asset_id))

    async def outcomes(self, asset_id: str = "A") -> dict[int, Outcome]:
        """Read what became of the orders."""
        rows = await self.rows(
            """
            SELECT order_id, fired_sequence, fired_price, triggered_sequence, fired_watermark
            FROM orders.resting WHERE asset_id = $1""",
            asset_id,
        )
        return {row[0].int: Outcome(*row[1:]) for row in rows}

    async def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Query the database."""
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.exec_driver_sql(sql, values)]

    async def execute(self, sql: str, *values: object) -> None:
        """Change the database."""
        async with self.engine.begin() as connection:
            await connection.exec_driver_sql(sql, values)


def tick(
    sequence: int,
    price: Decimal,
    *,
    stale: bool = False,
    trading: Trading = Trading.OPEN,
    asset_id: str = "A",
) -> Price:
    """Make one message of the feed, that the broker has just appended."""
    now = datetime.now(UTC)
    as_of = now - 2 * LONG if stale else now
    return Price(asset_id, Tick(sequence, Decimal(exact_text(price)), as_of, as_of, now, trading))


def level(side: Side, *, up: str | None = None, down: str | None = None, limit: str | None = None) -> Order:
    """Make an order with a level, that rests from sequence 0."""
    return Order(side, 0, up=_price(up), down=_price(down), limit=_price(limit))


def _price(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def trailing(side: Side, start: int, *, amount: str | None = None, bps: int | None = None) -> Order:
    """Make a trailing order that rests from a sequence."""
    return Order(side, start, amount=_price(amount), bps=bps)


def numbers(ids: Sequence[UUID]) -> list[int]:
    """Name orders by their numbers."""
    return [one.int for one in ids]
