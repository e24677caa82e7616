"""Archiving beside a running system: messages that come again start no order and move no money."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from msgspec import structs

from contracts.examples import example
from contracts.orders import OrderRequested
from contracts.topics import ASSETS_REPLIES, BALANCE_COMMANDS, BALANCE_REPLIES, ORDERS_REQUESTS
from contracts.vocabulary import Side
from operations.access.database import connected
from operations.access.errors import WrongRequest
from operations.audit import audit
from operations.diagnosis.explain import explain
from operations.diagnosis.story import story
from operations.repair.orders import resume
from operations.repair.runs import Result, Run
from operations.retention import archive
from operations.retention.erase import erase
from order_saga.core.phases import ANSWERS
from order_saga.worker import store
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.metrics import SagaMetrics
from order_saga.worker.process import SagaHandler
from saga_kit.messaging.batch import Received
from saga_kit.participant.holds import Holds
from saga_kit.runtime.errors import Contention
from saga_kit.runtime.transactions import begin
from tests.operations.retention.archiving import (
    ENDINGS,
    HORIZON_S,
    ORDER_ID,
    age,
    archived,
    content,
    ended,
    fresh,
    live,
    number_of,
    orchestrator,
    request_named,
    shown,
    without_archived_at,
)
from tests.order_saga.core.sample import cancel, invalid, not_approved, park, requested, reserved, settled
from tests.order_saga.core.test_fold import of
from tests.participants.support import Balance, reserve, somebody_waits
from tests.support.infrastructure import Database
from tests.support.order_database import OrderDatabase

TO_ORDERS: Final = [
    message.__name__
    for topic in (ORDERS_REQUESTS, BALANCE_REPLIES, ASSETS_REPLIES)
    for message in topic.messages
    if message is OrderRequested or message in ANSWERS
]
TO_BALANCE: Final = [message.__name__ for message in BALANCE_COMMANDS.messages]


A, B = UUID(int=1), UUID(int=2)
END = """
    UPDATE orders.orders SET phase = 'FAILED', status = 'FAILED', due_at = NULL, reason_code = 'TIMED_OUT', version = 2
    WHERE order_id = $1"""


# Never again ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cancelled_early", [False, True])
async def test_a_name_whose_holder_was_archived_meanwhile_is_taken(db: OrderDatabase, *, cancelled_early: bool) -> None:
    """The holder was stored, ended and archived after a batch looked for it: the batch runs again, and finds it."""
    if cancelled_early:
        async with begin(db.engine) as tx:
            await orchestrator().handle(tx, [Received(of(cancel(), B))])
    with pytest.raises(Contention):
        await _store_while_the_holder_goes(db)
    async with begin(db.engine) as tx:
        await request_named(tx, B)
    [row] = await db.rows("SELECT reason_code FROM orders.orders WHERE order_id = $1", B)
    assert "DUPLICATE_CLIENT_ORDER_ID" == row["reason_code"]


async def _store_while_the_holder_goes(db: OrderDatabase) -> None:
    """Store B; between its look for holders and its writes A takes the name, ends and is archived, whatever its age."""
    async with begin(db.engine) as second:
        await request_named(second, B)
        async with begin(db.engine) as first:
            await request_named(first, A)
        await db.execute(END, A)
        async with begin(db.engine) as operator:
            await operator.execute(archive._MOVE, [A])  # noqa: SLF001 - the statement counts


@pytest.mark.parametrize("ending", ENDINGS)
async def test_no_message_moves_an_archived_order(db: OrderDatabase, ending: str) -> None:
    """Every message type, as new as can be: no row changes, nothing is sent, and it is counted as ignored."""
    await live(db, ending)
    await archived(db)
    assert 0 == await number_of(db, "orders.orders")
    before, metrics = await content(db), SagaMetrics()
    orders = SagaHandler(time_scale=1.0, metrics=metrics, breaker=CircuitBreaker())
    for name in TO_ORDERS:
        effects = await _handled(db, orders, name)
        assert ([], [], []) == (effects.messages, effects.outbox, effects.dead_letters), name
        assert before == await content(db), name
        effects.after_commit()
    samples = [sample for metric in metrics.ignored.collect() for sample in metric.samples if sample.value]
    assert [(len(TO_ORDERS), "archived")] == [
        (one.value, one.labels["why"]) for one in samples if one.name.endswith("_total")
    ]


async def _handled(db: OrderDatabase, orders: SagaHandler, name: str) -> Any:
    message = await fresh(db, name, orders)  # before there is a transaction: the engine has two connections
    async with begin(db.engine) as tx:
        return await orders.handle(tx, [message])


async def _handled_in_the_end(db: OrderDatabase, orders: SagaHandler, name: str) -> tuple[int, Any]:
    """Run a batch again that was too late to insert, as the batch process does; return the number of tries too."""
    try:
        return 1, await _handled(db, orders, name)
    except Contention:
        return 2, await _handled(db, orders, name)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_archived_hold_answers_as_it_ended_and_moves_nothing(db: OrderDatabase, ending: str) -> None:
    """Every command gets the same reply as before, with the same id; no account, hold or journal line changes."""
    balance = await live(db, ending)
    expected = await balance.handle(*map(example, TO_BALANCE))
    await archived(db)
    assert 0 == await number_of(db, "balances.holds")
    before = await content(db, "balances.outbox")
    assert expected == await balance.handle(*map(example, TO_BALANCE))
    assert before == await content(db, "balances.outbox")
    assert {ending} == {reply.hold_state for reply in expected}  # type: ignore[attr-defined]


async def test_another_amount_under_an_archived_hold_s_name_is_a_conflict(db: OrderDatabase) -> None:
    """As for a hold that is not archived."""
    balance = await live(db, "SETTLED")
    await archived(db)
    [reply] = await balance.handle(structs.replace(example("ReserveBalance"), user_id="bob"))
    assert "HOLD_CONFLICT" == reply.reason_code  # type: ignore[attr-defined]
    assert 0 == await number_of(db, "balances.holds")


async def test_a_client_order_id_is_its_order_s_for_good(db: OrderDatabase) -> None:
    """A new order with an archived order's name is a duplicate of it; another user's is not."""
    orders = orchestrator()
    await live(db, "SETTLED")
    await archived(db)
    for number, user in ((1, "alice"), (2, "bob")):
        one = await fresh(db, "OrderRequested", orders)
        request = structs.replace(one.message.request, order_id=UUID(int=number), user_id=user)
        await db.tell(structs.replace(one.message, request=request))
    rows = await db.rows("SELECT user_id, reason_code, reason FROM orders.orders ORDER BY 1")
    duplicate = ("alice", "DUPLICATE_CLIENT_ORDER_ID", f"order {ORDER_ID} has this client order id")
    assert [duplicate, ("bob", None, None)] == [tuple(row.values()) for row in rows]


async def test_the_rest_of_a_batch_is_done(db: OrderDatabase) -> None:
    """Messages of other orders are handled as usual; a repair of an archived order says that it is archived."""
    [old] = await ended(db, 1)
    await archived(db)
    new = UUID(int=2)
    [now] = [row["now"] for row in await db.rows("SELECT clock_timestamp() AS now")]
    request = structs.replace(requested(), sent_at=now)
    asked = await db.tell(of(cancel(), old), of(request, old), of(request, new), of(settled(), old))
    assert [f"{new}:check"] == asked
    assert Result(done=False, words="it has ended and is archived") == await resume(db.engine, Run("r", "ops"), old)


# Beside others --------------------------------------------------------------------------------------------------------


async def test_what_is_in_work_is_left_for_the_next_run(db: OrderDatabase) -> None:
    """A locked order or hold is skipped, and the next run archives it."""
    ids = await ended(db, 1, 2, 3)
    balance = await live(db, "SETTLED")
    async with begin(db.engine) as busy:
        await store.take(busy, [ids[1]])
        await Holds("balances").lock(busy, [f"{ORDER_ID}:reserve"])
        assert {"orders": 3, "holds": 0} == await archived(db)
    assert {"orders": 1, "holds": 1} == await archived(db)
    assert {"orders": 0, "holds": 0} == await archived(db)
    assert [] == await balance.faults()


@pytest.mark.parametrize("name", ["OrderRequested", "OrderCancelRequested", "BalanceReserved"])
async def test_a_batch_that_waits_for_the_archive_finds_the_order_there(db: OrderDatabase, name: str) -> None:
    """The batch waits for the row's lock, gets no row, and begins no new order; a request's first try fails."""
    await live(db, "REFUSED")
    await db.execute("UPDATE orders.orders SET client_order_id = NULL")  # its id alone must tell
    orders = orchestrator()
    async with asyncio.TaskGroup() as group, begin(db.engine) as moving:
        assert 1 == await archive.move(moving, ("(0,0)", "(9,0)"), 0.0, 10)
        waits = group.create_task(_handled_in_the_end(db, orders, name))
        await somebody_waits(db.engine)
        assert not waits.done()
    tries, effects = waits.result()
    assert (2 if name == "OrderRequested" else 1) == tries
    assert ([], [], []) == (effects.messages, effects.outbox, effects.dead_letters)
    assert 0 == await number_of(db, "orders.orders")


@pytest.mark.parametrize("name", TO_BALANCE)
async def test_a_command_that_waits_for_the_archive_finds_the_hold_there(db: OrderDatabase, name: str) -> None:
    """Its first try finds the hold in neither table and may write nothing; the second answers."""
    balance = await live(db, "SETTLED")
    expected = await balance.handle(example(name))
    before = await content(db, "balances.outbox", "balances.holds", "balances.holds_archive")
    async with asyncio.TaskGroup() as group, begin(db.engine) as moving:
        assert 1 == await Holds("balances").archive(moving, ("(0,0)", "(9,0)"), 0.0, 10)
        waits = group.create_task(balance.handle(example(name)))
        await somebody_waits(db.engine)
        assert not waits.done()
    assert expected == waits.result()
    assert 1 == balance.retries
    assert before == await content(db, "balances.outbox", "balances.holds", "balances.holds_archive")


# What is chosen, and what is shown of it ------------------------------------------------------------------------------


async def test_only_what_ended_before_the_horizon_goes(db: OrderDatabase) -> None:
    """Younger orders, live and parked ones, a cancel whose request has not come, and active holds stay, however old."""
    old, late = await ended(db, 1, 2)
    await db.tell(of(reserved(), late), of(park(), late))
    stuck, waiting = await db.begin(3), await db.begin(4, Side.BUY, park())
    await db.tell(of(cancel(), stub := UUID(int=5)))
    balance = Balance(db.engine)
    await balance.deposit("bob", USD="100")
    await balance.handle(reserve(UUID(int=6), "bob", "USD", "10"), reserve(UUID(int=7), "bob", "USD", "900"))
    await age(db)
    young = await db.begin(8, Side.BUY, not_approved())
    assert {"orders": 1, "holds": 1} == await archive.count_old(db.engine, HORIZON_S)
    assert 0 == await number_of(db, "orders.archive")
    assert {"orders": 1, "holds": 1} == await archived(db)
    assert [old] == [row["order_id"] for row in await db.rows("SELECT order_id FROM orders.archive")]
    left = {row["order_id"] for row in await db.rows("SELECT order_id FROM orders.orders")}
    assert {late, stuck, waiting, stub, young} == left
    assert ["HELD"] == [row["state"] for row in await db.rows("SELECT state FROM balances.holds")]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_readers_see_no_difference(db: OrderDatabase, ending: str) -> None:
    """The API's and the auditors' views show exactly the same; the audit holds before and after."""
    await live(db, ending)
    await db.execute("DELETE FROM orders.outbox")
    before = await shown(db)
    assert [] == await audit(db.engine, settle_s=0)
    assert {"orders": 1, "holds": 1} == await archived(db)
    after = await shown(db)
    assert without_archived_at(before) == without_archived_at(after)
    assert all(rows for view, rows in before.items() if view != "audit.fills")
    assert [] == await audit(db.engine, settle_s=0)
    told = await story(db.engine, ORDER_ID)
    assert ([], True) == (told["questions"], bool(told["history"] and told["holds"]))
    assert any(span.text.startswith("archived ") for line in explain(told).header for span in line)


async def test_an_audit_sees_what_is_wrong_with_an_archived_order(db: OrderDatabase) -> None:
    """A fill, a hold, a version or a name that was tampered with in the archive is found there."""
    tampering = {
        "I4": "UPDATE orders.archive SET fee = fee + 1",
        "I7": "UPDATE orders.archive SET version = version + 1",
        "I2": "UPDATE balances.holds_archive SET captured = captured - 1",
    }
    await live(db, "SETTLED")
    await db.execute("DELETE FROM orders.outbox")
    await archived(db)
    for invariant, statement in tampering.items():
        await db.execute(statement)
        assert invariant in {finding.invariant for finding in await audit(db.engine, settle_s=0)}


async def test_erasing_a_user_reaches_the_archive(db: OrderDatabase) -> None:
    """Personal data are erased in the archive, too; the ledger stays, and a second time changes nothing."""
    await live(db, "SETTLED")
    order_id = UUID(int=1)
    await db.tell(of(invalid(reason="quantity: 'my secret'", client_order_id="my own"), order_id))
    await db.execute("UPDATE orders.orders SET traceparent = 'my trace'")
    await age(db)
    await archived(db)
    await db.execute("DELETE FROM orders.outbox")
    told = await erase(db.engine, "alice", dry_run=True)
    assert ([], 2, 0) == (told.in_the_way, told.rows["orders.archive"], told.rows["orders.orders"])
    await erase(db.engine, "alice")
    [old] = await db.rows("SELECT to_jsonb(a)::text AS it FROM orders.archive AS a WHERE order_id = $1", order_id)
    assert not any(words in old["it"].partition('"history"')[0] for words in ("my own", "my trace"))
    [row] = await db.rows("SELECT * FROM orders.archive WHERE order_id = $1", order_id)
    assert (None, None, "erased") == (row["client_order_id"], row["traceparent"], row["reason"])
    assert "my secret" not in str(row["progress"])
    assert 0 == (await erase(db.engine, "alice")).rows["orders.archive"]


async def test_only_the_owner_archives(db: OrderDatabase, database: Database) -> None:
    """No service's login may take anything away."""
    await ended(db, 1)
    async with connected(database.url_of("orchestrator")) as engine:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
            await anext(archive.archive(engine, HORIZON_S, 500))
    assert 0 == await number_of(db, "orders.archive")


async def test_a_horizon_that_is_too_short_is_refused(db: OrderDatabase) -> None:
    """No younger order is archived, whoever calls the function."""
    await ended(db, 1)
    for older_than_s in (0.0, HORIZON_S - 1, float("nan")):
        with pytest.raises(WrongRequest, match="at least 30 days, the replay horizon"):
            await anext(archive.archive(db.engine, older_than_s, 500))
    assert 0 == await number_of(db, "orders.archive")


async def test_each_step_says_how_far_it_is(db: OrderDatabase) -> None:
    """Rows so far, and the share of the table that was read: 1 at the end of each part."""
    await ended(db, 1, 2, 3)
    steps = [step async for step in archive.archive(db.engine, HORIZON_S, 2)]
    assert [2, 3] == [step.rows["orders"] for step in steps if step.table == "orders.orders"]
    assert 1.0 == steps[-1].share
