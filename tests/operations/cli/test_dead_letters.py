"""Many dead letters: of all services, by filter, once each; one that fails again is left for another run."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer

from saga_kit.messaging.dead_letters import DeadLetters
from saga_kit.messaging.fetch_limits import NOT_WHOLE
from saga_kit.runtime.transactions import begin
from tests.operations.cli.support import Terminal, lines
from tests.saga_kit.support import FakeRecord
from tests.support.infrastructure import Infrastructure

OPEN = """
    SELECT dead_letter_id AS id, replayed_at IS NULL AND discarded_at IS NULL AS open FROM {schema}.dead_letters
    ORDER BY 1"""
Sent = Callable[[], Coroutine[Any, Any, list[bytes | None]]]


async def write(db: Terminal, schema: str, *reasons: str, topic: str = "sys.orders.requests", first: int = 0) -> None:
    """Store dead letters with these reasons, whose value is their number."""
    records = [
        (FakeRecord(topic=topic, offset=offset, value=b"%d" % offset), why) for offset, why in enumerate(reasons, first)
    ]
    async with begin(db.engine) as tx:
        await DeadLetters(schema).write(tx, records)


@pytest_asyncio.fixture
async def topic(infrastructure: Infrastructure, topic_prefix: str) -> str:
    """Create the topic that the dead letters come from."""
    name = f"{topic_prefix}orders.requests"
    await infrastructure.create_topics({name: 1})
    return name


@pytest_asyncio.fixture
async def sent(infrastructure: Infrastructure, topic: str) -> AsyncIterator[Sent]:
    """Read what was published to that topic."""

    async def read() -> list[bytes | None]:
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=infrastructure.kafka_bootstrap_servers, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            [partition] = consumer.assignment()
            end = (await consumer.end_offsets([partition]))[partition]
            return [(await consumer.getone()).value for _ in range(end)]
        finally:
            await consumer.stop()

    yield read


async def test_those_of_all_services_are_listed_by_filter(db: Terminal) -> None:
    """By topic, with or without the system's prefix, by words of the reason, by age; more than fit on one page."""
    await write(db, "orders", *["no such order"] * 600)
    await write(db, "balances", "Numeric overflow", topic="sys.balance.commands")
    await write(db, "assets", "not JSON", topic="sys.assets.commands")
    numbers = {}
    for words in (
        (), ("--topic", "orders.requests"), ("--topic", "sys.balance.commands"), ("--topic", "commands"),
        ("--reason", "overflow"), ("--reason", "ORDER", "--topic", "orders.requests"), ("--older-than", "3600"),
    ):  # fmt: skip
        output = await db.cli("dead-letters", "list", "--json", *words)
        numbers[words] = (output.code, len(json.loads(output.out)))
    assert {
        (): (1, 602),
        ("--topic", "orders.requests"): (1, 600),
        ("--topic", "sys.balance.commands"): (1, 1),
        ("--topic", "commands"): (1, 2),
        ("--reason", "overflow"): (1, 1),
        ("--reason", "ORDER", "--topic", "orders.requests"): (1, 600),
        ("--older-than", "3600"): (0, 0),
    } == numbers


async def test_discard_by_filter_closes_those_and_no_others(db: Terminal) -> None:
    """Every dead letter has its result and its note; the same run started again finds nothing to do."""
    await write(db, "orders", "a", "b")
    await write(db, "assets", "a")
    look = await db.cli("dead-letters", "discard", "--reason", "a", "--dry-run")
    assert (0, ["orders/1: would be done", "assets/1: would be done"]) == (look.code, look.out.splitlines())
    done = await db.cli("dead-letters", "discard", "--reason", "a", "--yes", "--by", "ops", "--run", "r", "--json")
    assert (0, ["orders/1", "assets/1"]) == (done.code, [line["item"] for line in lines(done)[:-1]])
    assert [True] == [row["open"] for row in await db.rows(OPEN.format(schema="orders")) if row["id"] == 2]
    repairs = "SELECT item, done_by, result FROM audit.repairs WHERE run_id = 'r' AND action = 'discard' ORDER BY item"
    expected = [(item, "ops", "discarded") for item in ("assets/1", "orders/1")]
    assert expected == [tuple(row.values()) for row in await db.rows(repairs)]
    again = await db.cli("dead-letters", "discard", "--reason", "a", "--yes", "--run", "r")
    assert (0, "") == (again.code, again.out)
    named = await db.cli("dead-letters", "discard", "orders/1", "--run", "r")
    assert (0, "orders/1: done before\n") == (named.code, named.out)
    other = await db.cli("dead-letters", "discard", "orders/1", "orders/2")
    assert (1, "orders/1: is not open\norders/2: discarded\n") == (other.code, other.out)


async def test_a_locked_one_delays_no_other(db: Terminal, topic: str) -> None:
    """The others of a run are done; the locked one is reported, and the next run does it."""
    await write(db, "orders", *["x"] * 3, topic=topic)
    words = ("dead-letters", "discard", "--topic", topic, "--reason", "x", "--yes")
    async with db.engine.connect() as bystander:
        await bystander.exec_driver_sql("SELECT FROM orders.dead_letters WHERE dead_letter_id = 2 FOR UPDATE")
        part = await db.cli(*words)
        await bystander.rollback()
    expected = ["orders/1: discarded", "orders/2: somebody holds its row locked: try again, or see 'order-saga stuck'"]
    assert (1, [*expected, "orders/3: discarded"]) == (part.code, part.out.splitlines())
    rest = await db.cli(*words)
    assert (0, ["orders/2: discarded"]) == (rest.code, rest.out.splitlines())


async def test_replay_by_filter_publishes_each_once(
    db: Terminal, infrastructure: Infrastructure, topic: str, sent: Sent
) -> None:
    """Byte for byte and in order; one that fails again meanwhile is left alone, even when the run is started again."""
    kafka = {"KAFKA_BOOTSTRAP_SERVERS": infrastructure.kafka_bootstrap_servers}
    await write(db, "orders", *["x"] * 5, topic=topic)
    words = ("dead-letters", "replay", "--topic", topic, "--run", "r", "--yes")
    part = await db.cli(*words, "--limit", "3", **kafka)
    assert (0, ["orders/1: replayed", "orders/2: replayed", "orders/3: replayed"]) == (part.code, part.out.splitlines())
    await write(db, "orders", "x", topic=topic, first=100)  # one of them failed again
    rest = await db.cli(*words, **kafka)
    assert (0, ["orders/4: replayed", "orders/5: replayed"]) == (rest.code, rest.out.splitlines())
    assert [b"%d" % number for number in range(5)] == await sent()
    assert [6] == [row["id"] for row in await db.rows(OPEN.format(schema="orders")) if row["open"]]


async def test_one_that_the_broker_does_not_take_stays_open(
    db: Terminal, infrastructure: Infrastructure, topic_prefix: str
) -> None:
    """The topic does not exist: exit 1, and the dead letter stays open."""
    await write(db, "orders", "x", topic=f"{topic_prefix}gone")
    output = await db.cli(
        "dead-letters", "replay", "orders/1", KAFKA_BOOTSTRAP_SERVERS=infrastructure.kafka_bootstrap_servers
    )
    assert (1, "orders/1: the broker did not take it\n") == (output.code, output.out)
    assert [True] == [row["open"] for row in await db.rows(OPEN.format(schema="orders"))]
    assert [] == await db.rows("SELECT * FROM audit.repairs")


@pytest.mark.parametrize(
    ("name", "says"), [("17", "is not a dead letter's id"), ("orders/9", "there is no dead letter")]
)
async def test_a_name_that_is_none(db: Terminal, name: str, says: str) -> None:
    """A wrong name is wrong usage, an unknown number trouble; both are one line."""
    output = await db.cli("dead-letters", "show", name)
    assert says in output.err
    assert (2 if name == "17" else 1) == output.code


async def test_large_ones_are_listed_in_little_memory_and_discarded_and_purged(db: Terminal) -> None:
    """300 of a megabyte: a list shows how each begins, and the commands need a fraction of that memory."""
    value = b"x" * 1_000_000
    for first in range(0, 300, 50):
        records = [(FakeRecord(topic="t", offset=offset, value=value), "large") for offset in range(first, first + 50)]
        async with begin(db.engine) as tx:
            await DeadLetters("orders").write(tx, records)
    tracemalloc.start()
    try:
        listed = json.loads((await db.cli("dead-letters", "list", "--json")).out)
        assert [(1_000_000, 1024)] * 300 == [(one["value_bytes"], len(one["value"])) for one in listed]
        done = await db.cli("dead-letters", "discard", "--topic", "t", "--yes", "--rate", "10000")
        assert 0 == done.code
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
    shown = json.loads((await db.cli("dead-letters", "show", "orders/1")).out)
    assert 1_000_000 == len(shown["value"])


async def test_purge_deletes_what_is_closed_and_old_and_nothing_else(db: Terminal) -> None:
    """Open ones stay unless --state says so; a dry run and a run without a choice delete nothing."""
    await write(db, "orders", "a", "b", "c")
    await db.cli("dead-letters", "discard", "orders/1", "orders/2")
    numbers = "SELECT dead_letter_id AS id FROM orders.dead_letters ORDER BY 1"
    look = await db.cli("dead-letters", "purge", "--all", "--dry-run")
    assert (0, 3) == (look.code, len(await db.rows(numbers)))
    assert 2 == (await db.cli("dead-letters", "purge", "--yes")).code
    assert 0 == (await db.cli("dead-letters", "purge", "--older-than", "3600", "--yes")).code
    assert 1 == (await db.cli("dead-letters", "purge", "orders/3")).code
    assert 3 == len(await db.rows(numbers))
    done = await db.cli("dead-letters", "purge", "--all", "--yes", "--json", "--run", "r", "--by", "ops")
    assert ["orders/1", "orders/2"] == [line["item"] for line in lines(done) if "item" in line]
    assert [{"id": 3}] == await db.rows(numbers)
    noted = await db.rows("SELECT item, done_by, result FROM audit.repairs WHERE action = 'purge' ORDER BY item")
    assert [("orders/1", "ops", "deleted"), ("orders/2", "ops", "deleted")] == [tuple(row.values()) for row in noted]
    opened = await db.cli("dead-letters", "purge", "--state", "open", "--reason", "c", "--yes")
    assert (0, []) == (opened.code, await db.rows(numbers))


async def test_what_was_not_kept_whole_is_not_replayed(
    db: Terminal, infrastructure: Infrastructure, topic: str, sent: Sent
) -> None:
    """Only its place was stored: publishing it would put an empty message into the topic."""
    await write(db, "orders", NOT_WHOLE + "can't be parsed", topic=topic)
    told = await db.cli(
        "dead-letters", "replay", "orders/1", KAFKA_BOOTSTRAP_SERVERS=infrastructure.kafka_bootstrap_servers
    )
    assert (1, "orders/1: can't be replayed: only a part of the record was kept\n") == (told.code, told.out)
    assert [] == await sent()
