"""Archiving beside a running system: whatever is repeated afterwards, nothing begins again and no money moves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any, Final
from uuid import UUID

import pytest
from msgspec import structs
from sqlalchemy.exc import DBAPIError

from contracts.assets import AssetApproved
from contracts.examples import example
from contracts.topics import ASSETS_REPLIES, BALANCE_COMMANDS, BALANCE_REPLIES, ORDERS_REQUESTS
from contracts.vocabulary import Side
from operations import archive
from operations.audit import audit
from operations.erase import erase
from order_saga.core.saga import Requested
from order_saga.worker import store
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.metrics import SagaMetrics
from order_saga.worker.process import SagaHandler
from saga_kit.participant.holds import Holds
from tests.operations.cli.support import Terminal
from tests.order_saga.core.sample import approved, cancel, invalid, not_approved, park, requested, reserved, settled
from tests.order_saga.core.test_fold import of
from tests.participants.support import Balance, received, reserve, somebody_waits
from tests.support.infrastructure import Database

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
"""How an order and its hold may end: what the orchestrator hears, what balance is asked, what the user has."""
TO_ORDERS: Final = [
    message.__name__ for topic in (ORDERS_REQUESTS, BALANCE_REPLIES, ASSETS_REPLIES) for message in topic.messages
]
TO_BALANCE: Final = [message.__name__ for message in BALANCE_COMMANDS.messages]


async def fresh(db: Terminal, name: str, orders: SagaHandler) -> Any:
    """Let a message come by the wire as if it were new."""
    [row] = await db.rows("SELECT clock_timestamp() AS now")
    one = received(orders, example(name))
    if isinstance(one.message, Requested):
        request = structs.replace(one.message.request, requested_at=None)
        one = structs.replace(one, message=structs.replace(one.message, request=request, sent_at=row["now"]))
    if isinstance(one.message, AssetApproved):
        one = structs.replace(one, message=structs.replace(one.message, quoted_at=row["now"]))
    return one


async def live(db: Terminal, ending: str) -> Balance:
    """Let the example's order begin and end, its hold likewise; both are as old as the horizon then."""
    told, asked, has = ENDINGS[ending]
    orders, balance = orchestrator(), Balance(db.engine)
    await balance.deposit("alice", USD=has)
    for name in ("OrderRequested", *told):
        async with db.engine.begin() as tx:
            await orders.handle(tx, [await fresh(db, name, orders)])
    for name in asked:
        await balance.handle(example(name))
    await age(db)
    return balance


def orchestrator() -> SagaHandler:
    """Make the handler."""
    return SagaHandler(time_scale=1.0, metrics=SagaMetrics(), breaker=CircuitBreaker())


async def age(db: Terminal) -> None:
    """Make everything that there is a month older."""
    for table in ("orders.orders", "balances.holds"):
        await db.execute(LONG_AGO.format(table=table))


async def ended(db: Terminal, *numbers: int) -> list[UUID]:
    """Complete some orders, long ago."""
    ids = [await db.begin(number, Side.BUY, approved(), reserved(), settled()) for number in numbers]
    await age(db)
    return ids


async def content(db: Terminal, *left_out: str) -> dict[str, list[Any]]:
    """Read every row of every table of the orchestrator and of the balance service."""
    tables = await db.rows(
        """SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
        WHERE schemaname IN ('orders', 'balances') ORDER BY 1"""
    )
    names = [row["name"] for row in tables if row["name"] not in left_out]
    return {name: await db.rows(f"SELECT * FROM {name} AS one ORDER BY one::text") for name in names}


async def number_of(db: Terminal, table: str) -> int:
    """Count rows."""
    [row] = await db.rows(f"SELECT count(*) AS number FROM {table}")
    return int(row["number"])


async def shown(db: Terminal) -> dict[str, list[Any]]:
    """Read what the views show."""
    return {view: await db.rows(statement) for view, statement in SHOWN.items()}


# Never again ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
async def test_no_message_moves_an_archived_order(db: Terminal, ending: str) -> None:
    """Every message that the orchestrator takes, as new as can be: no row changes, nothing is said, it is counted."""
    await live(db, ending)
    assert 0 == (await db.cli("archive", "--yes")).code
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


async def _handled(db: Terminal, orders: SagaHandler, name: str) -> Any:
    message = await fresh(db, name, orders)  # before there is a transaction: the engine has two connections
    async with db.engine.begin() as tx:
        return await orders.handle(tx, [message])


@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_archived_hold_answers_as_it_ended_and_moves_nothing(db: Terminal, ending: str) -> None:
    """Every command says what it said before, with the reply's own id; no account, no hold and no line changes."""
    balance = await live(db, ending)
    expected = await balance.handle(*map(example, TO_BALANCE))
    assert 0 == (await db.cli("archive", "--yes")).code
    assert 0 == await number_of(db, "balances.holds")
    before = await content(db, "balances.outbox")
    assert expected == await balance.handle(*map(example, TO_BALANCE))
    assert before == await content(db, "balances.outbox")
    assert {ending} == {reply.hold_state for reply in expected}  # type: ignore[attr-defined]


async def test_another_amount_under_an_archived_hold_s_name_is_a_conflict(db: Terminal) -> None:
    """As under a hold that is at hand."""
    balance = await live(db, "SETTLED")
    await db.cli("archive", "--yes")
    [reply] = await balance.handle(structs.replace(example("ReserveBalance"), user_id="bob"))
    assert "HOLD_CONFLICT" == reply.reason_code  # type: ignore[attr-defined]
    assert 0 == await number_of(db, "balances.holds")


async def test_a_client_order_id_is_its_order_s_for_good(db: Terminal) -> None:
    """A new order with an archived order's name is a duplicate of it; another user's is not."""
    orders = orchestrator()
    await live(db, "SETTLED")
    await db.cli("archive", "--yes")
    for number, user in ((1, "alice"), (2, "bob")):
        one = await fresh(db, "OrderRequested", orders)
        request = structs.replace(one.message.request, order_id=UUID(int=number), user_id=user)
        await db.tell(structs.replace(one.message, request=request))
    rows = await db.rows("SELECT user_id, reason_code, reason FROM orders.orders ORDER BY 1")
    duplicate = ("alice", "DUPLICATE_CLIENT_ORDER_ID", f"order {ORDER_ID} has this client order id")
    assert [duplicate, ("bob", None, None)] == [tuple(row.values()) for row in rows]


async def test_the_rest_of_a_batch_is_done(db: Terminal) -> None:
    """Between messages of archived orders others are as they are anywhere; an operator is told why nothing happens."""
    [old] = await ended(db, 1)
    await db.cli("archive", "--yes")
    new = UUID(int=2)
    [now] = [row["now"] for row in await db.rows("SELECT clock_timestamp() AS now")]
    request = structs.replace(requested(), sent_at=now)
    asked = await db.tell(of(cancel(), old), of(request, old), of(request, new), of(settled(), old))
    assert [f"{new}:check"] == asked
    told = await db.cli("resume", str(old))
    assert (1, f"{old}: it has ended and is archived\n") == (told.code, told.out)


# Beside others --------------------------------------------------------------------------------------------------------


async def test_what_is_in_work_is_left_for_the_next_run(db: Terminal) -> None:
    """Nobody waits for an order that a batch has locked, nor for a hold; the next run finds them."""
    ids = await ended(db, 1, 2, 3)
    balance = await live(db, "SETTLED")
    async with db.engine.begin() as busy:
        await store.lock(busy, [ids[1]])
        await Holds("balances").lock(busy, [f"{ORDER_ID}:reserve"])
        assert "3 orders and 0 holds archived\n" == (await db.cli("archive", "--yes")).out
    assert "1 orders and 1 holds archived\n" == (await db.cli("archive", "--yes")).out
    assert "0 orders and 0 holds archived\n" == (await db.cli("archive", "--yes")).out
    assert [] == await balance.faults()


@pytest.mark.parametrize("name", ["OrderRequested", "OrderCancelRequested", "BalanceReserved"])
async def test_a_batch_that_waits_for_the_archive_finds_the_order_there(db: Terminal, name: str) -> None:
    """It asks for the row while that is being moved, gets none, and begins no other."""
    await live(db, "REFUSED")
    orders = orchestrator()
    async with asyncio.TaskGroup() as group, db.engine.begin() as moving:
        assert 1 == await archive.move(moving, ("(0,0)", "(9,0)"), 0.0, 10)
        waits = group.create_task(_handled(db, orders, name))
        await somebody_waits(db.engine)
        assert not waits.done()
    effects = waits.result()
    assert ([], [], []) == (effects.messages, effects.outbox, effects.dead_letters)
    assert 0 == await number_of(db, "orders.orders")


@pytest.mark.parametrize("name", TO_BALANCE)
async def test_a_command_that_waits_for_the_archive_finds_the_hold_there(db: Terminal, name: str) -> None:
    """Its first try finds the hold in neither table and may write nothing; the second answers."""
    balance = await live(db, "SETTLED")
    expected = await balance.handle(example(name))
    before = await content(db, "balances.outbox", "balances.holds", "balances.holds_archive")
    async with asyncio.TaskGroup() as group, db.engine.begin() as moving:
        assert 1 == await Holds("balances").archive(moving, ("(0,0)", "(9,0)"), 0.0, 10)
        waits = group.create_task(balance.handle(example(name)))
        await somebody_waits(db.engine)
        assert not waits.done()
    assert expected == waits.result()
    assert 1 == balance.retries
    assert before == await content(db, "balances.outbox", "balances.holds", "balances.holds_archive")


async def test_two_runs_share_the_work(db: Terminal) -> None:
    """Each order goes once, whoever comes first."""
    await ended(db, *range(1, 41))
    runs = [await _begun(db, "--batch", "3", "--json") for _ in range(2)]
    assert 40 == sum([json.loads((await one.communicate())[0])["rows"]["orders"] for one in runs])
    assert 40 == await number_of(db, "orders.archive")


async def _begun(db: Terminal, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "operations.cli", "archive", "--yes", *words),
        env={**os.environ, "DATABASE_URL": db.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


# Broken off -----------------------------------------------------------------------------------------------------------

SLOWLY: Final = (
    "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END'",
    "CREATE TRIGGER slowly BEFORE INSERT ON orders.archive FOR EACH ROW EXECUTE FUNCTION slowly()",
)
"""A hundred orders take five seconds: the signal comes in the middle, however late the test looks."""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_a_run_that_is_broken_off_leaves_each_order_whole(db: Terminal, how: signal.Signals) -> None:
    """Between two transactions or inside one: an order is here or there with all it has, and the next run goes on."""
    await ended(db, *range(1, 101))
    before = await shown(db)
    for statement in SLOWLY:
        await db.execute(statement)
    process = await _begun(db, "--batch", "1")
    until = time.monotonic() + 30
    while await number_of(db, "orders.archive") < 3 and time.monotonic() < until:
        await asyncio.sleep(0.01)
    process.send_signal(how)
    said = b"".join(await process.communicate()).decode()
    archived = await number_of(db, "orders.archive")
    assert 3 <= archived < 100
    assert _without_archived_at(before) == _without_archived_at(await shown(db))
    if how is signal.SIGINT:
        assert (1, True) == (process.returncode, "stopped before the end; the next run goes on" in said)
        assert f"{archived} orders and 0 holds archived" in said
    last = await db.cli("archive", "--yes")
    assert f"{100 - archived} orders and 0 holds archived\n" == last.out
    assert _without_archived_at(before) == _without_archived_at(await shown(db))


def _without_archived_at(views: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {view: sorted((str({**row, "archived_at": None}) for row in rows), key=str) for view, rows in views.items()}


# What is chosen, and what is shown of it ------------------------------------------------------------------------------


async def test_only_what_ended_before_the_horizon_goes(db: Terminal) -> None:
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
    dry = await db.cli("archive", "--dry-run", "--json")
    expected = {"older_than_days": 30.0, "dry_run": True, "stopped": False, "rows": {"orders": 1, "holds": 1}}
    assert expected == json.loads(dry.out)
    assert (0, "1 orders and 1 holds to archive\n") == (dry.code, (await db.cli("archive", "--dry-run")).out)
    assert 0 == await number_of(db, "orders.archive"), "a dry run does nothing"
    assert "1 orders and 1 holds archived\n" == (await db.cli("archive", "--yes")).out
    assert [old] == [row["order_id"] for row in await db.rows("SELECT order_id FROM orders.archive")]
    left = {row["order_id"] for row in await db.rows("SELECT order_id FROM orders.orders")}
    assert {late, stuck, waiting, stub, young} == left
    assert ["HELD"] == [row["state"] for row in await db.rows("SELECT state FROM balances.holds")]


@pytest.mark.parametrize("days", ["29.99", "0", "-40"])
async def test_nothing_goes_before_the_horizon(db: Terminal, days: str) -> None:
    """A shorter time is wrong usage, and says which is the shortest."""
    await ended(db, 1)
    refused = await db.cli("archive", "--yes", "--older-than", days)
    assert (2, "") == (refused.code, refused.out)
    assert "--older-than must be at least 30 days, the replay horizon" in refused.err
    assert 0 == await number_of(db, "orders.archive")


async def test_a_horizon_that_is_no_number_is_wrong_usage(db: Terminal) -> None:
    """Nothing is compared with it, and nothing goes."""
    await ended(db, 1)
    refused = await db.cli("archive", "--yes", "--older-than", "nan")
    assert (2, "", True) == (refused.code, refused.out, "--older-than" in refused.err)
    assert 0 == await number_of(db, "orders.archive")


async def test_it_asks_where_nobody_has_said_yes(db: Terminal) -> None:
    """Without a person it does nothing."""
    await ended(db, 1)
    asked = await db.cli("archive")
    assert (2, 0) == (asked.code, await number_of(db, "orders.archive"))
    assert "this would archive 1 orders and 0 holds: say --yes, or look first with --dry-run" in asked.err


@pytest.mark.parametrize("ending", ENDINGS)
async def test_readers_see_no_difference(db: Terminal, ending: str) -> None:
    """The API's and the auditors' views show an archived order to the letter; the audit holds before and after."""
    await live(db, ending)
    await db.execute("DELETE FROM orders.outbox")
    before = await shown(db)
    assert [] == await audit(db.engine, settle_s=0)
    assert "1 orders and 1 holds archived\n" == (await db.cli("archive", "--yes")).out
    after = await shown(db)
    assert _without_archived_at(before) == _without_archived_at(after)
    assert all(rows for view, rows in before.items() if view != "audit.fills")
    assert [] == await audit(db.engine, settle_s=0)
    story = json.loads((await db.cli("inspect", str(ORDER_ID), "--json")).out)
    assert ([], True) == (story["questions"], bool(story["history"] and story["holds"]))
    assert "archived" in (await db.cli("inspect", str(ORDER_ID))).out


async def test_an_audit_sees_what_is_wrong_with_an_archived_order(db: Terminal) -> None:
    """A fill, a hold, a version or a name that was tampered with in the archive is found there."""
    tampering = {
        "I4": "UPDATE orders.archive SET fee = fee + 1",
        "I7": "UPDATE orders.archive SET version = version + 1",
        "I2": "UPDATE balances.holds_archive SET captured = captured - 1",
    }
    await live(db, "SETTLED")
    await db.execute("DELETE FROM orders.outbox")
    await db.cli("archive", "--yes")
    for invariant, statement in tampering.items():
        await db.execute(statement)
        assert invariant in {finding.invariant for finding in await audit(db.engine, settle_s=0)}


async def test_erasing_a_user_reaches_the_archive(db: Terminal) -> None:
    """What was said about the person goes from there, too; the books stay, and twice changes nothing."""
    await live(db, "SETTLED")
    order_id = UUID(int=1)
    await db.tell(of(invalid(reason="quantity: 'my secret'", client_order_id="my own"), order_id))
    await db.execute("UPDATE orders.orders SET traceparent = 'my trace'")
    await age(db)
    assert 0 == (await db.cli("archive", "--yes")).code
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


async def test_only_the_owner_archives(db: Terminal, database: Database) -> None:
    """No service's login may take anything away."""
    await ended(db, 1)
    with pytest.raises(DBAPIError, match="permission denied"):
        await db.cli("archive", "--yes", DATABASE_URL=database.url_of("orchestrator"))
    assert 0 == await number_of(db, "orders.archive")
