"""`stuck` says why anything does not move, and groups what has one cause."""

from __future__ import annotations

import json
import re
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer
from msgspec import structs

from contracts.decimals import Money, Price
from contracts.topics import ORDERS_REQUESTS
from contracts.vocabulary import OrderType, Side
from tests.operations.cli.support import Terminal
from tests.order_saga.core.sample import approved, cancel, park, reserved
from tests.order_saga.core.test_fold import of
from tests.order_saga.worker.test_market import MARK, rests
from tests.support.infrastructure import Infrastructure
from tests.support.order_database import CLAIM, YESTERDAY

EVENT = """
    INSERT INTO orders.outbox (created_at, due_at, available_at, refs, payload)
    VALUES (now() - interval '1 hour', now(), now(), ARRAY[$1::text], '')"""
TIME = r"\d\d:\d\d:\d\d"


async def said(db: Terminal, *words: str) -> dict[str, tuple[str, str]]:
    """Return cause and reason by order id."""
    output = await db.cli("stuck", "--json", *words)
    found = json.loads(output.out)
    assert (1 if found else 0) == output.code
    return {each["order_id"]: (each["cause"], each["why"]) for each in found}


async def test_nothing_to_say_is_exit_0(db: Terminal) -> None:
    """An order that has just begun is not stuck."""
    await db.begin(1)
    assert (0, "no order is stuck\n") == (await db.cli("stuck"))[:2]
    assert {} == await said(db)


async def test_orders_that_rest_are_counted_apart(db: Terminal) -> None:
    """However long they do; one that is parked is stuck."""
    for number in (1, 2, 3):
        terms = {"order_type": OrderType.LIMIT_SELL, "price": None, "limit_price": Price(60_000)}
        held = structs.replace(reserved(), amount=Money("0.01"))
        await db.begin(number, Side.SELL, approved(), held, *([park("a lie")] if number == 3 else []), **terms)
    await db.execute(YESTERDAY)
    await db.execute(MARK, 8, "50000", 0.0)
    assert {str(UUID(int=3))} == (await said(db)).keys()
    counted = "2 orders rest until a price fires them: these are not stuck\n"
    assert (await db.cli("stuck")).out.endswith(counted)
    assert counted == (await db.cli("stuck", "--json")).err


async def test_a_silent_feed_is_trouble(db: Terminal) -> None:
    """It is named on stderr, and the command fails, though no order is stuck."""
    await rests(db, OrderType.LIMIT_BUY)
    await db.execute(MARK, 8, "50000", 120.0)
    result = await db.cli("stuck")
    assert 1 == result.code
    assert "BTC: orders rest, and the price of sequence 8 was confirmed 12" in result.err


@pytest.mark.parametrize(
    ("side", "told", "cause", "why"),
    [
        (Side.BUY, (), "waiting for assets", rf"waiting for assets \(check\) since {TIME}, 1 attempt, next at {TIME}"),
        (
            *(Side.SELL, (), "waiting for assets and balance"),
            rf"waiting for assets \(check\) since {TIME}, 1 attempt and balance \(reserve\) since {TIME}, .*",
        ),
        (
            *(Side.BUY, (approved(), reserved()), "settlement not acknowledged by balance"),
            rf"settlement not acknowledged: waiting for balance \(settle\) since {TIME}, 1 attempt, next at {TIME}",
        ),
        (
            *(Side.BUY, (approved(), cancel()), "compensation not acknowledged by balance"),
            rf"compensation not acknowledged: waiting for balance \(refund\) since {TIME}, 1 attempt, next at {TIME}",
        ),
        (
            *(Side.BUY, (park("a column was too small"),), "parked: a column was too small"),
            r"parked: a column was too small; 'order-saga resume [0-9a-f-]{36}' lets it go on",
        ),
    ],
)
async def test_an_order_says_why(db: Terminal, side: Side, told: tuple[object, ...], cause: str, why: str) -> None:
    """Whom it waits for since when, how often it has asked, when it asks next; or why it is parked."""
    order_id = await db.begin(1, side, *told)  # type: ignore[arg-type]
    await db.execute(YESTERDAY)
    found = await said(db)
    assert cause == found[str(order_id)][0]
    assert re.fullmatch(why, found[str(order_id)][1])


async def test_attempts_and_overdue_are_told(db: Terminal) -> None:
    """The number of attempts is the question's own; an overdue order says so."""
    order_id = await db.begin(1, Side.BUY, approved(), reserved())
    again = "UPDATE orders.orders SET due_at = now()"
    for _ in range(6):
        await db.execute(again)
        await db.scan()
    long_ago = r"""
        UPDATE orders.orders SET due_at = now(), progress = regexp_replace(
            progress, '"asked_at":"\d{4}', '"asked_at":"1999', 'g')"""
    await db.execute(long_ago)
    await db.scan()
    why = (await said(db, "--older-than", "3600"))[str(order_id)][1]
    assert re.search(rf"since 1999-[0-9: -]+, 8 attempts, overdue, next at {TIME}", why)


async def test_what_is_not_even_an_order_yet_and_what_nobody_heard(db: Terminal) -> None:
    """Accepted requests that no orchestrator has seen, and events that were not sent."""
    await db.execute(CLAIM, UUID(int=7))
    order_id = await db.begin(1)
    await db.execute("DELETE FROM orders.outbox")
    await db.execute(EVENT, f"{order_id}:v1")
    found = await said(db)
    cause, why = found[str(UUID(int=7))]
    assert ("accepted, not seen by the orchestrator", True) == (cause, why.startswith("accepted by the API at "))
    cause, why = found[str(order_id)]
    assert ("event not sent", True) == (cause, why.startswith("the event of version 1 is not sent, since "))
    await db.execute("UPDATE api.claims SET settled = true")
    assert {str(order_id)} == set(await said(db)), "its row exists: the API knows"


async def test_causes_are_grouped_with_the_oldest_first(db: Terminal) -> None:
    """Counts, the oldest order and what to do; every order only when asked for."""
    for number in (1, 2, 3):
        await db.begin(number)
    parked = await db.begin(4, Side.BUY, park())
    await db.execute(YESTERDAY)
    await db.execute("UPDATE orders.orders SET updated_at = updated_at - interval '1 day' WHERE order_id = $1", parked)
    output = await db.cli("stuck")
    first, second = (line for line in output.out.splitlines() if "order-saga" in line)
    assert ("parked: a message could not be stored", "1") == _cells(first)[:2]
    assert str(parked) == _cells(first)[4]
    assert ("waiting for assets", "3") == _cells(second)[:2]
    assert "order-saga ask-again --waiting-for assets" in second
    assert str(UUID(int=2)) not in output.out
    details = await db.cli("stuck", "--details")
    assert all(f"{UUID(int=number)}  waiting for assets" in details.out for number in (1, 2, 3))


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip("│").split("│"))


async def test_causes_without_end_are_counted_together(db: Terminal) -> None:
    """Orders that are each parked for another reason: the table stays short and counts all of them."""
    for number in range(1, 51):
        await db.begin(number, Side.BUY, park(f"reason {number}"))
    output = await db.cli("stuck")
    counts = [int(_cells(line)[1]) for line in output.out.splitlines() if "parked: " in line]
    assert (41, 50) == (len(counts), sum(counts))


async def test_a_pause_is_a_cause(db: Terminal) -> None:
    """An order that waits for a paused participant says so, until it has looked again after the pause."""
    await db.cli("pause", "balance", "--reason", "new disks", "--by", "ops")
    order_id = await db.begin(1)
    await db.execute(YESTERDAY)
    cause, why = (await said(db))[str(order_id)]
    assert "held back: balance is paused" == cause
    expected = (
        rf"held back because balance is paused since {TIME}: new disks \(ops\), not asked yet, looks again at {TIME}"
    )
    assert re.fullmatch(expected, why)
    await db.execute("DELETE FROM orders.pauses")
    cause, why = (await said(db))[str(order_id)]
    assert ("held back by a pause that is over", True) == (cause, why.startswith("held back by a pause that is over"))
    await db.tell(of(cancel(), order_id))
    assert {} == await said(db)


async def test_a_session_that_holds_a_row_is_named(db: Terminal) -> None:
    """By its application, login and pid, with the table; our own short transactions are not named."""
    order_id = await db.begin(1)
    async with db.engine.connect() as connection:
        await connection.exec_driver_sql("SET application_name = 'somebodys psql'")
        await connection.exec_driver_sql("SELECT FROM orders.orders WHERE order_id = $1 FOR UPDATE", (order_id,))
        [pid] = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalars()
        output = await db.cli("stuck")
        assert (1, "no order is stuck\n") == output[:2]
        assert re.search(
            rf"somebodys psql \(\w+, pid {pid}\) holds locks on orders.orders in a transaction .* since", output.err
        )
    output = await db.cli("stuck")
    assert (0, "no order is stuck\n", "") == tuple(output)


@pytest.mark.apache_kafka  # the embedded broker has no transactions that stay open
async def test_an_open_transaction_in_a_topic_is_named(
    db: Terminal, infrastructure: Infrastructure, topic_prefix: str
) -> None:
    """With its partition, where it begins, and what ends it; one that is over is not."""
    topic = topic_prefix + ORDERS_REQUESTS.name
    await infrastructure.create_topics({topic: 3})
    kafka = infrastructure.kafka_bootstrap_servers
    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka, "KAFKA_TOPIC_PREFIX": topic_prefix}
    async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topic) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"{}", partition=2)
        output = await db.cli("stuck", **environment)
        assert (1, "no order is stuck\n") == output[:2]
        assert f"an open transaction holds {topic}/2 from offset 0" in output.err
        assert f"abort --topic {topic} --partition 2 --start-offset 0" in output.err
        await producer.commit_transaction()
    assert (0, "no order is stuck\n", "") == tuple(await db.cli("stuck", **environment))
