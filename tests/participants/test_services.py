"""Both services as processes on a real broker: they answer commands, end cleanly, and report wrong settings."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import AssetApproved, CheckAsset
from contracts.balance import BalanceReserved
from contracts.codec import Message, decode, outgoing
from contracts.decimals import Price, Quantity
from contracts.envelope import read_envelope
from contracts.topics import (
    ASSETS_COMMANDS,
    ASSETS_REPLIES,
    BALANCE_COMMANDS,
    BALANCE_REPLIES,
    HOLDS_EVENTS,
    HOLDS_REQUESTS,
)
from contracts.vocabulary import OrderType
from participants.assets.price_store import set_price
from participants.assets.rules import Asset
from participants.assets.store import put_asset
from tests.participants.support import Balance, order, reserve
from tests.support.infrastructure import Database, Infrastructure

TOPICS = (ASSETS_COMMANDS, ASSETS_REPLIES, BALANCE_COMMANDS, BALANCE_REPLIES, HOLDS_REQUESTS, HOLDS_EVENTS)


@asynccontextmanager
async def running(service: str, settings: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a service as a process of its own; the test itself ends it."""
    program = f"import sys; from participants.{service}.service import run; sys.exit(run())"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), env={**os.environ, **settings}, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answered(brokers: str, prefix: str, commands: list[Message]) -> list[Message]:
    """Send commands; return as many replies."""
    replies: list[Message] = []
    async with AIOKafkaProducer(bootstrap_servers=brokers, acks="all") as producer:
        for n, command in enumerate(commands):
            wire = outgoing(command, message_id=f"test:{n}", source="/tests", time=datetime.now(UTC))
            await producer.send_and_wait(prefix + wire.topic, wire.value, wire.key.encode(), headers=wire.headers)
    topics = [prefix + topic.name for topic in (ASSETS_REPLIES, BALANCE_REPLIES)]
    async with AIOKafkaConsumer(*topics, bootstrap_servers=brokers, auto_offset_reset="earliest") as consumer:
        async with asyncio.timeout(60):
            while len(replies) < len(commands):
                record = await consumer.getone()
                replies.append(decode(read_envelope(record.headers).type, record.value))
    return replies


async def test_the_processes_answer_and_end_in_an_orderly_way(
    infrastructure: Infrastructure, database: Database, topic_prefix: str, balance: Balance, assets_engine: AsyncEngine
) -> None:
    """Each service takes its commands from the broker, replies through it, and ends with status 0 on a signal."""
    await infrastructure.create_topics({topic_prefix + topic.name: 2 for topic in TOPICS})
    await balance.deposit("alice", USD="100")
    await put_asset(assets_engine, Asset("BTC", Decimal("0.01")))
    await set_price(assets_engine, "BTC", Price("50000"))
    brokers = infrastructure.kafka_bootstrap_servers
    settings = {"KAFKA_BOOTSTRAP_SERVERS": brokers, "KAFKA_TOPIC_PREFIX": topic_prefix, "HTTP_PORT": "0"}
    check = CheckAsset(f"{order(1)}:check", order(1), "BTC", OrderType.MARKET_BUY, Quantity("0.001"))
    async with (
        running("balance", settings | {"DATABASE_URL": database.url_of("balance")}) as one,
        running("assets", settings | {"DATABASE_URL": database.url_of("assets")}) as two,
    ):
        replies = await answered(brokers, topic_prefix, [reserve(order(1), "alice", "USD", "100"), check])
        for process in (one, two):
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.communicate(), 90)
        assert (0, 0) == (one.returncode, two.returncode)
    assert {BalanceReserved, AssetApproved} == {type(reply) for reply in replies}


@pytest.mark.parametrize("name", ["ASSETS_STALE_AFTER_S", "ASSETS_CONFIRM_EVERY_S"])
async def test_a_wrong_setting_is_one_clear_line(name: str) -> None:
    """The service names an invalid setting on stderr and ends with status 2."""
    settings = {"DATABASE_URL": "postgresql://u:p@localhost/d", "KAFKA_BOOTSTRAP_SERVERS": "localhost:1", name: "0"}
    async with running("assets", settings) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 90)
        assert 2 == process.returncode
        assert errors.decode().startswith(f"{name}: ")
        assert 1 == len(errors.splitlines())
