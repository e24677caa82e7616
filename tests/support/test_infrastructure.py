"""The servers of all other tests are real, keep tests apart from each other, and survive a kill and a restart."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.support.infrastructure import (
    LOGINS,
    Database,
    Infrastructure,
    Session,
    create_topics,
    execute,
    own_broker,
    own_postgres,
)

PATIENCE_S = 30.0


async def _produce(bootstrap_servers: str, topic: str, *values: bytes) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all") as producer,
    ):
        for value in values:
            await producer.send_and_wait(topic, value)


async def _consume(bootstrap_servers: str, topic: str, count: int) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap_servers,
        group_id=f"{topic}-{secrets.token_hex(2)}",
        auto_offset_reset="earliest",
        fetch_max_wait_ms=20,
    )
    async with asyncio.timeout(PATIENCE_S), consumer:
        return [(await consumer.getone()).value for _ in range(count)]


async def test_what_is_produced_is_consumed(infrastructure: Infrastructure, topic_prefix: str) -> None:
    """A topic has the partitions that were asked for, and a group reads from it what a producer wrote."""
    topic = f"{topic_prefix}messages"
    await infrastructure.create_topics({topic: 3})
    await _produce(infrastructure.kafka_bootstrap_servers, topic, b"a", b"b", b"c")

    read = await _consume(infrastructure.kafka_bootstrap_servers, topic, 3)

    assert {b"a", b"b", b"c"} == set(read)
    async with AIOKafkaProducer(bootstrap_servers=infrastructure.kafka_bootstrap_servers) as producer:
        assert {0, 1, 2} == await producer.partitions_for(topic)


@pytest.mark.parametrize("run", ["first", "second"])
async def test_a_test_has_its_database_for_itself(database: Database, run: str) -> None:
    """The database is PostgreSQL 18, and no other test sees what one test creates in it."""
    connection = await asyncpg.connect(database.url)
    try:
        assert (await connection.fetchval("SHOW server_version")).startswith("18")
        await connection.execute("CREATE TABLE public.traces AS SELECT $1::text AS run", run)
    finally:
        await connection.close()


@pytest.mark.parametrize("login", LOGINS)
async def test_every_service_can_log_in(database: Database, login: str) -> None:
    """The database has the login of each service, which is no superuser."""
    connection = await asyncpg.connect(database.url_of(login))
    try:
        row = await connection.fetchrow(
            "SELECT current_user::text, rolsuper FROM pg_roles WHERE rolname = current_user"
        )
        assert (f"order_saga_{login}", False) == tuple(row or ())
    finally:
        await connection.close()


async def test_postgres_keeps_what_was_committed_through_kill_and_restart() -> None:
    """A PostgreSQL of a test's own comes back at the same address with its data."""
    async with own_postgres() as postgres:
        await execute(postgres.address, "CREATE TABLE kept AS SELECT 1 AS one")
        await postgres.kill()
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await asyncpg.connect(postgres.address, timeout=2)
        await postgres.start()
        await execute(postgres.address, "INSERT INTO kept VALUES (2)")
        await postgres.restart()

        connection = await asyncpg.connect(postgres.address)
        assert 2 == await connection.fetchval("SELECT count(*) FROM kept")
        await connection.close()


@pytest.mark.apache_kafka
async def test_kafka_keeps_what_was_acknowledged_through_kill_and_restart() -> None:
    """A broker of a test's own comes back at the same address with its topics and records."""
    async with own_broker() as broker:
        await create_topics(broker.address, {"kept": 1})
        await _produce(broker.address, "kept", b"before")
        await broker.kill()
        await broker.start()
        await _produce(broker.address, "kept", b"between")
        await broker.restart()
        await _produce(broker.address, "kept", b"after")

        assert [b"before", b"between", b"after"] == await _consume(broker.address, "kept", 3)


@pytest.mark.parametrize(
    ("environment", "docker_trouble", "expected"),
    [
        ({}, None, "apache"),
        ({}, "no engine", "embedded"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}, "no engine", "apache"),
        ({"DATABASE_URL": "postgresql://host/x"}, "no engine", "embedded"),
    ],
)
def test_the_environment_comes_before_docker_before_embedded(
    environment: Mapping[str, str], docker_trouble: str | None, expected: str
) -> None:
    """The broker is the named one, else a container, else the embedded one; the session reports which."""
    session = Session(environment, docker_trouble)

    assert expected == session.broker_kind
    assert ("EMBEDDED" in session.describe()) is (expected == "embedded")


@pytest.mark.parametrize(
    ("environment", "marker", "asked"),
    [
        ({}, "kubernetes", None),
        ({"REQUIRE_KUBERNETES": "0", "REQUIRE_APACHE_KAFKA": ""}, "kubernetes", None),
        ({"REQUIRE_KUBERNETES": "1"}, "kubernetes", "REQUIRE_KUBERNETES"),
        ({"REQUIRE_KUBERNETES": "1"}, "helm", "REQUIRE_KUBERNETES"),
        ({"REQUIRE_KUBERNETES": "1"}, "browser", None),
        ({"REQUIRE_APACHE_KAFKA": "1"}, "browser", "REQUIRE_APACHE_KAFKA"),
        ({"REQUIRE_APACHE_KAFKA": "1"}, "promtool", "REQUIRE_APACHE_KAFKA"),
    ],
)
def test_a_test_fails_for_want_of_a_program_where_it_is_asked_for(
    environment: Mapping[str, str], marker: str, asked: str | None
) -> None:
    """Elsewhere it is skipped and named; the variable that asked for it is named too."""
    assert asked == Session(environment, None).required_by(marker)
