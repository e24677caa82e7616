"""The naive loop: the same order as a typical first implementation would process it, in a process of its own.

It handles one message at a time: an ORM session and a transaction, a row that marks the message as processed, the
order's row, an outbox row for each message to send, and then the offset. A relay polls the outbox every 100 ms and
sends row by row. As the lean loop, it supports only a buy that succeeds.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import BaseModel
from sqlalchemy import BigInteger, DateTime, Identity, MetaData, Numeric, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from contracts.envelope import Envelope, write_headers
from contracts.topics import (
    ASSETS_COMMANDS,
    ASSETS_REPLIES,
    BALANCE_COMMANDS,
    BALANCE_REPLIES,
    ORDERS_EVENTS,
    ORDERS_REQUESTS,
)
from saga_kit.runtime.settings import KitSettings, load
from tests.bench import bare
from tests.bench.naive_messages import (
    AssetApproved,
    BalanceReserved,
    BalanceSettled,
    CheckAsset,
    OrderRequested,
    OrderSnapshot,
    OrderStatusChanged,
    ReserveBalance,
    SettleBalance,
)

TOPICS = (ORDERS_REQUESTS.name, ASSETS_REPLIES.name, BALANCE_REPLIES.name)
POLL_S = 0.1
PAGE = 100
AMOUNT = Numeric(38, 18)
MOMENT = DateTime(timezone=True)
MESSAGES: dict[str, type[BaseModel]] = {
    message.__name__: message for message in (OrderRequested, AssetApproved, BalanceReserved, BalanceSettled)
}


class Base(DeclarativeBase):
    """All tables are in a schema of their own."""

    metadata = MetaData(schema="naive")


class Order(Base):
    """An order."""

    __tablename__ = "orders"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    client_order_id: Mapped[str | None]
    user_id: Mapped[str]
    asset_id: Mapped[str]
    order_type: Mapped[str]
    status: Mapped[str]
    quantity: Mapped[Decimal] = mapped_column(AMOUNT)
    price: Mapped[Decimal | None] = mapped_column(AMOUNT)
    slippage_bps: Mapped[int]
    filled_quantity: Mapped[Decimal] = mapped_column(AMOUNT)
    average_price: Mapped[Decimal | None] = mapped_column(AMOUNT)
    fee: Mapped[Decimal] = mapped_column(AMOUNT)
    quoted_price: Mapped[Decimal | None] = mapped_column(AMOUNT)
    quoted_fee: Mapped[Decimal | None] = mapped_column(AMOUNT)
    cash_asset_id: Mapped[str | None]
    fee_asset_id: Mapped[str | None]
    hold: Mapped[Decimal | None] = mapped_column(AMOUNT)
    version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(MOMENT)
    updated_at: Mapped[datetime] = mapped_column(MOMENT)


class OutboxMessage(Base):
    """A message to send."""

    __tablename__ = "outbox"

    outbox_id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    topic: Mapped[str]
    key: Mapped[str]
    message_id: Mapped[str]
    message_type: Mapped[str]
    payload: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(MOMENT)


class ProcessedMessage(Base):
    """A message that must not be processed again."""

    __tablename__ = "processed_messages"

    message_id: Mapped[str] = mapped_column(primary_key=True)
    processed_at: Mapped[datetime] = mapped_column(MOMENT)


async def consume(consumer: AIOKafkaConsumer, sessions: async_sessionmaker[AsyncSession]) -> None:
    """Process message by message."""
    async for record in consumer:
        async with sessions() as session, session.begin():
            await process(session, record)
        await consumer.commit()


async def process(session: AsyncSession, record: Any) -> None:
    """Process a message, once."""
    headers = dict(record.headers)
    message_id = headers["ce_id"].decode()
    if await session.get(ProcessedMessage, message_id) is not None:
        return
    session.add(ProcessedMessage(message_id=message_id, processed_at=datetime.now(UTC)))
    message = MESSAGES[headers["ce_type"].decode()].model_validate_json(record.value)
    if isinstance(message, OrderRequested):
        place(session, message)
        return
    order = await session.get_one(Order, message.order_id, with_for_update=True)  # type: ignore[attr-defined]
    if isinstance(message, AssetApproved):
        reserve(session, order, message)
    elif isinstance(message, BalanceReserved):
        settle(session, order)
    else:
        complete(session, order)


def place(session: AsyncSession, request: OrderRequested) -> None:
    """Store a new order, and ask whether it is allowed."""
    now = datetime.now(UTC)
    order = Order(
        **request.model_dump(),
        status="PENDING",
        filled_quantity=Decimal(0),
        fee=Decimal(0),
        version=0,
        created_at=now,
        updated_at=now,
    )
    session.add(order)
    tell(session, order, None)
    check = CheckAsset(
        command_id=f"{order.order_id}:check",
        order_id=order.order_id,
        asset_id=order.asset_id,
        order_type=order.order_type,
        quantity=order.quantity,
        price=order.price,
    )
    send(session, ASSETS_COMMANDS.name, order.asset_id, check.command_id, check)


def reserve(session: AsyncSession, order: Order, quote: AssetApproved) -> None:
    """Keep the quote, and have the money held."""
    unit = Decimal(1).scaleb(-quote.cash_scale)
    gross = order.quantity * quote.price
    order.quoted_price = quote.price
    order.quoted_fee = (gross * quote.fee_bps / 10_000).quantize(unit, ROUND_CEILING)
    order.cash_asset_id = order.fee_asset_id = quote.cash_asset_id
    order.hold = gross.quantize(unit, ROUND_CEILING) + order.quoted_fee
    hold_id = f"{order.order_id}:reserve"
    command = ReserveBalance(
        command_id=hold_id,
        order_id=order.order_id,
        hold_id=hold_id,
        user_id=order.user_id,
        asset_id=order.cash_asset_id,
        amount=order.hold,
        hold_asked_at=order.created_at,
    )
    send(session, BALANCE_COMMANDS.name, order.user_id, command.command_id, command)


def settle(session: AsyncSession, order: Order) -> None:
    """Fill the order, and have the money settled."""
    change_status(session, order, "CONFIRMED")
    order.filled_quantity = order.quantity
    order.average_price = order.quoted_price
    order.fee = order.quoted_fee or Decimal(0)
    change_status(session, order, "PROCESSING")
    command = SettleBalance(
        command_id=f"{order.order_id}:settle",
        order_id=order.order_id,
        hold_id=f"{order.order_id}:reserve",
        user_id=order.user_id,
        asset_id=order.cash_asset_id or "",
        amount=order.hold or Decimal(0),
        capture=order.hold or Decimal(0),
        credit_asset_id=order.asset_id,
        credit=order.quantity,
        fee_asset_id=order.cash_asset_id or "",
        fee=order.fee,
        hold_asked_at=order.created_at,
    )
    send(session, BALANCE_COMMANDS.name, order.user_id, command.command_id, command)


def complete(session: AsyncSession, order: Order) -> None:
    """End the order."""
    change_status(session, order, "COMPLETED")


def change_status(session: AsyncSession, order: Order, status: str) -> None:
    """Move the order's status, and tell."""
    previous, order.status = order.status, status
    tell(session, order, previous)


def tell(session: AsyncSession, order: Order, previous: str | None) -> None:
    """Publish the order's next version."""
    order.version += 1
    order.updated_at = datetime.now(UTC)
    event = OrderStatusChanged(
        order_id=order.order_id,
        version=order.version,
        status=order.status,
        previous_status=previous,
        occurred_at=order.updated_at,
        order=OrderSnapshot.model_validate(order, from_attributes=True),
    )
    send(session, ORDERS_EVENTS.name, str(order.order_id), f"{order.order_id}:v{order.version}", event)


def send(session: AsyncSession, topic: str, key: str, message_id: str, message: BaseModel) -> None:
    """Put a message into the outbox."""
    session.add(
        OutboxMessage(
            topic=topic,
            key=key,
            message_id=message_id,
            message_type=type(message).__name__,
            payload=message.model_dump_json(),
            created_at=datetime.now(UTC),
        )
    )


async def relay(producer: AIOKafkaProducer, sessions: async_sessionmaker[AsyncSession], prefix: str) -> None:
    """Send what is in the outbox, row by row; wait when it is empty."""
    while True:
        async with sessions() as session, session.begin():
            rows = (await session.scalars(select(OutboxMessage).order_by(OutboxMessage.outbox_id).limit(PAGE))).all()
            for row in rows:
                envelope = Envelope(row.message_id, row.message_type, "/naive", row.created_at)
                value, key = row.payload.encode(), row.key.encode()
                await producer.send_and_wait(prefix + row.topic, value, key=key, headers=write_headers(envelope))
                await session.delete(row)
        if not rows:
            await asyncio.sleep(POLL_S)


async def main(settings: KitSettings) -> None:
    """Make the tables if necessary, and work until ended."""
    engine = create_async_engine(settings.sqlalchemy_url)
    await make_tables(engine)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with bare.producer(settings) as producer, bare.consumer(settings, "naive", *TOPICS) as consumer:
        bare.say_ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(consume(consumer, sessions))
            group.create_task(relay(producer, sessions, settings.kafka_topic_prefix))


async def make_tables(engine: AsyncEngine) -> None:
    """Make the schema."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA IF NOT EXISTS naive"))
        await connection.run_sync(Base.metadata.create_all)


if __name__ == "__main__":
    bare.run_until_told(main(load(KitSettings)))
