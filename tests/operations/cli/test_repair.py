"""Repairs of many orders: each is done once, noted in the same transaction, and printed as it is done."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from uuid import UUID

import msgspec
import pytest
from structlog.testing import capture_logs

from contracts.codec import decode
from contracts.envelope import Outgoing
from contracts.orders import OrderCancelRequested
from contracts.vocabulary import Side
from tests.operations.cli.support import Terminal, lines
from tests.order_saga.core.sample import approved, cancel, park, reserved, settled
from tests.order_saga.core.test_fold import of
from tests.support.order_database import CLAIM, YESTERDAY

REPAIRS = "SELECT action, item, done_by, result FROM audit.repairs WHERE run_id = $1 ORDER BY item"


async def outbox(db: Terminal) -> list[OrderCancelRequested]:
    """Read the cancels that wait to be sent."""
    payloads = await db.rows("SELECT payload FROM orders.outbox ORDER BY outbox_id")
    messages = [one for row in payloads for one in msgspec.msgpack.decode(row["payload"], type=list[Outgoing])]
    read = [decode(dict(one.headers)["ce_type"].decode(), one.value) for one in messages]
    return [one for one in read if isinstance(one, OrderCancelRequested)]


async def test_resume_by_reason_lets_exactly_those_go_on(db: Terminal) -> None:
    """Only orders whose reason has the text go on; each has its line, its note and its entry in the history."""
    chosen = [await db.begin(number, Side.BUY, park("Numeric overflow")) for number in (1, 2)]
    other = await db.begin(3, Side.BUY, park("a lie"))
    done = await db.cli("resume", "--parked-reason", "numeric", "--by", "ops", "--run", "r1", "--yes")
    assert (0, [f"{one}: goes on" for one in chosen]) == (done.code, done.out.splitlines())
    assert "run r1; if it is broken off: the same command with --run r1" in done.err
    assert done.err.endswith("2 done, 0 not done\n")
    assert [("resume", str(one), "ops", "goes on") for one in chosen] == [
        tuple(row.values()) for row in await db.rows(REPAIRS, "r1")
    ]
    assert ["ops"] == [line["detail"]["requested_by"] for line in await db.history(chosen[0], "resumed")]
    assert [] == await db.history(other, "resumed")
    assert [f"{one}:check" for one in chosen] == await db.scan()


async def test_a_resume_with_a_cancel_sends_its_events(db: Terminal) -> None:
    """A parked order whose cancel came meanwhile ends; its events are in the outbox, due at once."""
    order_id = await db.begin(1, Side.BUY, park(), cancel())
    await db.execute("DELETE FROM orders.outbox")
    assert 0 == (await db.cli("resume", str(order_id))).code
    await asyncio.sleep(0.02)
    assert [3] == [row["version"] for row in await db.rows("SELECT version FROM audit.events_unsent")]
    assert 1 == len(await db.rows("SELECT refs FROM orders.outbox WHERE available_at <= clock_timestamp()"))


async def test_what_can_not_be_done_is_told_item_by_item(db: Terminal) -> None:
    """Not parked, unknown, ended: each has its own words, the others are done, and the exit status is 1."""
    parked, live = await db.begin(1, Side.BUY, park()), await db.begin(2)
    done = await db.begin(3, Side.BUY, approved(), reserved(), settled())
    stranger = UUID(int=9)
    resumed = await db.cli("resume", *map(str, (live, stranger, parked)), "--json")
    items = {line["item"]: (line["done"], line["result"]) for line in lines(resumed)[:-1]}
    expected = {
        str(live): (False, "is not parked"),
        str(stranger): (False, "there is no such order"),
        str(parked): (True, "goes on"),
    }
    assert (1, expected) == (resumed.code, items)
    assert {"done": 1, "not done": 2} == lines(resumed)[-1]["summary"]
    asked = await db.cli("ask-again", str(done))
    assert (1, f"{done}: waits for no answer: it is COMPLETED\n") == (asked.code, asked.out)


async def test_ask_again_chooses_by_whom_an_order_waits_for(db: Terminal) -> None:
    """By participant, phase, user, asset and age, alone or together."""
    buy, sell = await db.begin(1), await db.begin(2, Side.SELL)
    reserving = await db.begin(3, Side.BUY, approved())
    refunding = await db.begin(4, Side.BUY, approved(), cancel())
    everyone = {buy, sell, reserving, refunding}
    filters: dict[tuple[str, ...], set[UUID]] = {
        ("--waiting-for", "balance"): {sell, reserving, refunding},
        ("--waiting-for", "assets"): {buy, sell},
        ("--phase", "REFUNDING"): {refunding},
        ("--user", "alice", "--phase", "RESERVING"): {reserving},
        ("--user", "mallory"): set(),
        ("--asset", "BTC"): everyone,
        ("--asset", "ETH"): set(),
        ("--older-than", "3600"): set(),
        ("--all",): everyone,
    }
    found = {words: await db.cli("ask-again", *words, "--dry-run", "--json") for words in filters}
    assert filters == {words: {UUID(line["item"]) for line in lines(out)[:-1]} for words, out in found.items()}
    assert [] == await db.scan(), "a dry run does nothing"
    assert 0 == (await db.cli("ask-again", "--waiting-for", "balance", "--yes")).code
    assert [f"{sell}:check", f"{sell}:reserve", f"{reserving}:reserve", f"{refunding}:refund"] == sorted(
        await db.scan()
    )
    await db.execute(YESTERDAY)
    old = await db.cli("ask-again", "--older-than", "3600", "--limit", "2", "--dry-run")
    assert 2 == len(old.out.splitlines())


async def test_cancel_sends_what_the_api_would_send(db: Terminal) -> None:
    """An operator's cancel with the order's user, through the outbox; the saga judges whether it is in time."""
    open_one, settling = await db.begin(1), await db.begin(2, Side.BUY, approved(), reserved())
    done = await db.cli("cancel", "--user", "alice", "--by", "ops", "--yes", "--json")
    assert (0, [str(open_one)]) == (done.code, [line["item"] for line in lines(done)[:-1]])
    [sent] = await outbox(db)
    assert (open_one, "alice", "@operator:ops") == (sent.order_id, sent.user_id, sent.requested_by)
    assert sent.requested_at is not None
    assert 0 == (await db.cli("cancel", str(settling))).code, "named by its id it is tried: the saga says too late"
    await db.tell(*await outbox(db))
    states = {row["order_id"]: row["status"] for row in await db.rows("SELECT order_id, status FROM audit.orders")}
    assert {open_one: "CANCELLED", settling: "PROCESSING"} == states


async def test_an_accepted_order_that_nobody_has_seen_can_be_cancelled(db: Terminal) -> None:
    """By its id: the cancel waits for the request, whose user the API knows."""
    await db.execute(CLAIM, UUID(int=5))
    assert 0 == (await db.cli("cancel", str(UUID(int=5)))).code
    assert ["alice"] == [sent.user_id for sent in await outbox(db)]


async def test_a_run_that_was_done_does_nothing_again(db: Terminal) -> None:
    """By id the items say so, by filter they are left out; the limit of a run counts over all of its starts."""
    ids = [await db.begin(number, Side.BUY, park()) for number in (1, 2, 3)]
    for _ in range(2):
        assert 0 == (await db.cli("resume", "--all", "--limit", "2", "--run", "mine", "--yes")).code
    assert 2 == len(await db.rows(REPAIRS, "mine"))
    for one in ids[:2]:
        await db.tell(of(park("again"), one))
    again = await db.cli("resume", *map(str, ids[:2]), "--run", "mine")
    assert (0, [f"{one}: done before" for one in ids[:2]]) == (again.code, again.out.splitlines())
    assert [1, 1, 0] == [len(await db.history(one, "resumed")) for one in ids]
    assert 0 == (await db.cli("resume", "--all", "--yes")).code, "another run is another decision"
    assert [2, 2, 1] == [len(await db.history(one, "resumed")) for one in ids]


async def test_a_run_that_is_killed_goes_on_where_it_stopped(db: Terminal) -> None:
    """SIGKILL in the middle, again and again with the same id: in the end each order was asked again exactly once."""
    ids = [await db.begin(number) for number in range(1, 31)]
    words = ("ask-again", "--waiting-for", "assets", "--run", "r", "--yes", "--json")
    seen: list[str] = []
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "operations.cli", *words, "--rate", "20"),
            env={**os.environ, "DATABASE_URL": db.url},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        seen += [json.loads(await process.stdout.readline())["item"] for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        seen += [json.loads(line)["item"] for line in (await process.communicate())[0].splitlines()]
    last = await db.cli(*words)
    seen += [line["item"] for line in lines(last)[:-1]]
    assert 0 == last.code
    assert {str(one) for one in ids} >= set(seen)
    assert [1] * 30 == [len(await db.history(one, "woken")) for one in ids]
    assert 30 == len(await db.rows(REPAIRS, "r"))


async def test_two_starts_of_one_run_at_the_same_time_share_the_work(db: Terminal) -> None:
    """Each order is repaired once, by one of the two."""
    ids = [await db.begin(number, Side.BUY, park()) for number in range(1, 21)]
    starts = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "operations.cli", "resume", "--all", "--run", "r", "--yes"),
            env={**os.environ, "DATABASE_URL": db.url},
            stdout=asyncio.subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [0, 0] == [await one.wait() for one in starts]
    assert [1] * 20 == [len(await db.history(one, "resumed")) for one in ids]


async def test_a_busy_order_is_waited_for(db: Terminal) -> None:
    """A repair waits for the orchestrator's lock."""
    order_id = await db.begin(1, Side.BUY, park())
    async with db.engine.begin() as busy:
        await busy.exec_driver_sql("SELECT FROM orders.orders FOR UPDATE")
        resumed = asyncio.create_task(db.cli("resume", str(order_id)))
        await asyncio.sleep(1)
    assert (0, f"{order_id}: goes on\n") == (await resumed)[:2]


async def test_a_row_that_this_code_does_not_know_stops_nobody_else(db: Terminal) -> None:
    """Its result says so, and the next order is repaired."""
    strange, parked = await db.begin(1, Side.BUY, park()), await db.begin(2, Side.BUY, park())
    await db.execute("""UPDATE orders.orders SET progress = '{"questions": 1}' WHERE order_id = $1""", strange)
    done = await db.cli("resume", "--all", "--yes", "--json")
    items = {line["item"]: line["done"] for line in lines(done)[:-1]}
    assert (1, {str(strange): False, str(parked): True}) == (done.code, items)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("resume",), "which ones? name them, or give a filter, or --all"),
        (("cancel",), "which ones? name them, or give a filter, or --all"),
        (
            ("ask-again", "--phase", "REFUNDING"),
            "this would ask-again 0 orders: say --yes, or look",
        ),
        (("resume", str(UUID(int=1)), "--user", "alice"), "name them one by one, or say which by filter; not both"),
        (("resume", "no-uuid"), "'no-uuid' is not an order id: it must be a UUID"),
        (("ask-again", "--waiting-for", "kafka"), "--waiting-for must be one of assets, balance"),
        (("cancel", "--phase", "LOST"), "--phase must be one of NEW, VALIDATING"),
        (("cancel", "--all", "--by", "me and you"), "--by must be 1 to 64 of"),
        (("cancel", "--all", "--run", "a b"), "--run must be 1 to 64 of"),
        (("dead-letters", "discard"), "which ones? name them, or give a filter, or --all"),
    ],
)
async def test_a_wrong_request_is_exit_2_and_does_nothing(db: Terminal, words: tuple[str, ...], says: str) -> None:
    """The error is one line that says what would be right."""
    order_id = await db.begin(1)
    output = await db.cli(*words)
    assert (2, "") == (output.code, output.out)
    assert says in output.err
    assert [] == await db.rows("SELECT * FROM audit.repairs")
    assert [] == await db.history(order_id, "woken")


async def test_a_reply_that_can_not_be_true_is_told_at_once(db: Terminal) -> None:
    """The order is parked, and a line of the log says which and why; when it is parked already, nothing is said."""
    with capture_logs() as logged:
        order_id = await db.begin(1)
        lie = of(approved(asset_id="ETH"), order_id)
        await db.tell(lie)
        await db.tell(lie)
    told = [line for line in logged if line["event"] == "an order is parked"]
    assert [("error", str(order_id))] == [(line["log_level"], line["order_id"]) for line in told]
    assert told[0]["reason"].startswith("HOLD_CONFLICT: AssetApproved ")
    assert 1 == len(await db.history(order_id, "parked"))
