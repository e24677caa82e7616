"""The example of a balance service of one's own, run as it stands with `saga-kit` alone, on real servers."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer

from contracts.balance import BalanceReserved, BalanceSettled, RefundRefused, ReserveBalance, SettleBalance
from contracts.balance import RefundBalance as Refund
from contracts.codec import Message, decode, outgoing
from contracts.decimals import Money
from contracts.topics import BALANCE_COMMANDS, BALANCE_REPLIES
from local_stack.ports import free_ports
from local_stack.probes import http_ready
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.settings import KafkaSettings
from tests.e2e.system import eventually
from tests.support.infrastructure import Database, Infrastructure
from tests.support.wheels import build_ours, installed

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "wallet_service.py"


@pytest.fixture(scope="module")
def kit_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment that has `saga-kit` and what it needs, and nothing else of ours."""
    folder = tmp_path_factory.mktemp("kit")
    return installed(folder / "kit", build_ours(folder), "saga-kit")


@pytest_asyncio.fixture
async def wallet_service(
    infrastructure: Infrastructure, database: Database, topic_prefix: str, kit_python: Path
) -> AsyncIterator[None]:
    """Run the example with a schema and topics of its own, and 100 USD in ann's wallet."""
    await _make_schema(database, kit_python)
    topics = {topic_prefix + topic.name: 3 for topic in (BALANCE_COMMANDS, BALANCE_REPLIES)}
    await infrastructure.create_topics(topics)
    async with _running(infrastructure, database, topic_prefix, kit_python):
        yield


@asynccontextmanager
async def _running(
    infrastructure: Infrastructure, database: Database, topic_prefix: str, python: Path
) -> AsyncIterator[None]:
    port = free_ports(1)[0]
    environment = _without_ours(
        {
            "DATABASE_URL": database.url,
            "KAFKA_BOOTSTRAP_SERVERS": infrastructure.kafka_bootstrap_servers,
            "KAFKA_TOPIC_PREFIX": topic_prefix,
            "HTTP_PORT": str(port),
        }
    )
    process = await asyncio.create_subprocess_exec(python, "-P", EXAMPLE, "serve", env=environment)
    await eventually(http_ready(port), "the example is ready")
    yield
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


def _without_ours(environment: dict[str, str]) -> dict[str, str]:
    """Leave out of an environment how Python finds this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment


async def _make_schema(database: Database, python: Path) -> None:
    # The login belongs to the whole cluster, which other tests share: it has the password of the page in all of them.
    environment = {"DATABASE_URL": database.url, "WALLET_DB_PASSWORD": "local-only-wallet"}  # pragma: allowlist secret
    for words in (
        ("migrate",),
        ("migrate",),
        ("deposit", "1", "ann", "USD", "100"),
        ("deposit", "1", "ann", "USD", "100"),
    ):
        done = await asyncio.create_subprocess_exec(python, "-P", EXAMPLE, *words, env=_without_ours(environment))
        assert 0 == await done.wait()


def _conversation(order_id: uuid.UUID) -> list[Message]:
    hold_id = f"{order_id}:reserve"
    terms = (order_id, hold_id, "ann", "USD", Money(60))
    return [
        ReserveBalance(hold_id, *terms),
        SettleBalance(f"{order_id}:settle", *terms, Money(60), "BTC", Money(2), "USD", Money(0)),
    ]


async def _publish(infrastructure: Infrastructure, prefix: str, commands: list[Message]) -> None:
    settings = KafkaSettings(kafka_bootstrap_servers=infrastructure.kafka_bootstrap_servers, kafka_topic_prefix=prefix)
    publisher = Publisher(settings)
    try:
        messages = [
            outgoing(command, message_id=str(uuid.uuid4()), source="/test", time=datetime.now(UTC))
            for command in commands
        ]
        assert await publisher.publish(messages)
    finally:
        await publisher.stop()


async def _answers(infrastructure: Infrastructure, prefix: str, commands: list[Message]) -> list[Any]:
    consumer = AIOKafkaConsumer(
        prefix + BALANCE_REPLIES.name,
        bootstrap_servers=infrastructure.kafka_bootstrap_servers,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        await _publish(infrastructure, prefix, commands)
        async with asyncio.timeout(60):
            records = [await consumer.getone() for _ in commands]
        return [decode(dict(record.headers)["ce_type"].decode(), record.value) for record in records]
    finally:
        await consumer.stop()


async def _wallets(database: Database) -> list[tuple[str, str]]:
    connection = await asyncpg.connect(database.url)
    rows = await connection.fetch(
        "SELECT unit, trim_scale(free)::text FROM wallet.wallets WHERE owner = 'ann' ORDER BY unit"
    )
    await connection.close()
    return [tuple(row) for row in rows]


@pytest.mark.usefixtures("wallet_service")
async def test_a_service_of_ones_own_has_exact_effects(
    infrastructure: Infrastructure, database: Database, topic_prefix: str
) -> None:
    """Repeated and disordered commands move a ledger's money once, behind the barrier, and get the same answers."""
    order_id = uuid.uuid4()
    reserve, settle = _conversation(order_id)
    refund = Refund(f"{order_id}:refund", order_id, f"{order_id}:reserve", "ann", "USD", Money(60))

    answers = await _answers(infrastructure, topic_prefix, [reserve, reserve, settle, refund, settle, reserve])

    kinds = [BalanceReserved, BalanceReserved, BalanceSettled, RefundRefused, BalanceSettled, BalanceReserved]
    assert kinds == [type(answer) for answer in answers]
    assert [("BTC", "2"), ("USD", "40")] == await _wallets(database)


async def test_commands_of_before_its_first_start_move_nothing(
    infrastructure: Infrastructure, database: Database, topic_prefix: str, kit_python: Path
) -> None:
    """A group that reads the topic from its beginning executes nothing that another ledger has executed before it."""
    old, new = uuid.uuid4(), uuid.uuid4()
    await _make_schema(database, kit_python)
    await infrastructure.create_topics({topic_prefix + topic.name: 3 for topic in (BALANCE_COMMANDS, BALANCE_REPLIES)})
    await _publish(infrastructure, topic_prefix, _conversation(old))

    async with _running(infrastructure, database, topic_prefix, kit_python):
        answers = await _answers(infrastructure, topic_prefix, _conversation(new))

    assert [(new, BalanceReserved), (new, BalanceSettled)] == [(one.order_id, type(one)) for one in answers]
    assert [("BTC", "2"), ("USD", "40")] == await _wallets(database)
