"""`amend`, `hold` and `release` as an operator: sent once in a run, by id or filter; inspect tells of them in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import structs

from contracts.amends import OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested
from contracts.assets import AssetRefusal
from contracts.codec import decode
from contracts.decimals import Price
from contracts.envelope import Outgoing
from contracts.vocabulary import OrderType, TimeInForce
from tests.operations.cli.support import Terminal
from tests.order_saga.core.sample import not_approved
from tests.order_saga.core.test_fold import of
from tests.order_saga.worker.test_market import rests

CHANGES = (OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested)


async def sent(db: Terminal) -> list[Any]:
    """Read the changes that wait to be sent, each with its topic and its key."""
    payloads = await db.rows("SELECT payload FROM orders.outbox ORDER BY outbox_id")
    messages = [one for row in payloads for one in msgspec.msgpack.decode(row["payload"], type=list[Outgoing])]
    read = [(one, decode(dict(one.headers)["ce_type"].decode(), one.value)) for one in messages]
    changes = [(one, message) for one, message in read if isinstance(message, CHANGES)]
    assert [("orders.changes", str(message.order_id)) for _, message in changes] == [
        (one.topic, one.key) for one, _ in changes
    ]
    return [message for _, message in changes]


async def test_a_run_holds_many_orders_by_filter_and_each_once(db: Terminal) -> None:
    """Only those that rest and fit; a dry run sends nothing, the same run again does nothing twice, a new one does."""
    ids = [await rests(db, OrderType.LIMIT_SELL, number) for number in (1, 2)]
    await rests(db, OrderType.TRAILING_STOP_SELL, 3)
    await db.begin(4)
    words = ("hold", "--type", "LIMIT_SELL", "--reason", "wrong price", "--by", "ann", "--run", "r1")

    looked = await db.cli(*words, "--dry-run")
    assert (0, [f"{one}: would be done" for one in ids]) == (looked.code, looked.out.splitlines())
    assert [] == await sent(db)
    first, again = await db.cli(*words, "--yes"), await db.cli(*words, "--yes")

    assert (0, [f"{one}: hold sent" for one in ids]) == (first.code, first.out.splitlines())
    assert (0, "") == (again.code, again.out)
    expected = [(one, "alice", "@operator:ann", "wrong price") for one in ids]
    held = await sent(db)
    assert expected == [(one.order_id, one.user_id, one.requested_by, one.reason) for one in held]
    assert 2 == len((await db.cli("hold", "--type", "LIMIT_SELL", "--yes")).out.splitlines())


async def test_a_release_by_filter_finds_what_is_on_hold(db: Terminal) -> None:
    """And inspect says who holds it, since when and why; stuck counts it apart."""
    held, _ = await rests(db, OrderType.LIMIT_SELL, 1), await rests(db, OrderType.LIMIT_SELL, 2)
    await db.cli("hold", str(held), "--reason", "wrong price", "--by", "ann")
    await db.tell(*await sent(db))
    said = (await db.cli("inspect", str(held))).out
    assert "on hold since " in said
    assert " by @operator:ann: wrong price" in said
    assert "would rest: fires at a price >= 51,000" in said
    assert "put on hold by @operator:ann: reason wrong price" in said
    stuck = (await db.cli("stuck")).out
    assert "1 orders rest until a price fires them" in stuck
    assert "1 orders are on hold" in stuck

    done = await db.cli("release", "--asset", "BTC", "--yes")

    assert (0, f"{held}: release sent\n") == (done.code, done.out)
    *_, release = await sent(db)
    await db.tell(release)
    assert "released by @operator:operator" in (await db.cli("inspect", str(held))).out


async def test_an_amend_is_named_by_its_run(db: Terminal) -> None:
    """Sent again by the same run it is the same amend; its fields are what the options say."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    words = ("amend", str(order_id), "--limit-price", "52000.50", "--expires-at", "+2h", "--run", "r7")
    first, again = await db.cli(*words), await db.cli(*words)

    assert (0, f"{order_id}: amend sent\n") == (first.code, first.out)
    assert (0, f"{order_id}: done before\n") == (again.code, again.out)
    [amend] = await sent(db)
    assert ("run:r7", "@operator:operator", Price("52000.50"), TimeInForce.GTD) == (
        *(amend.amend_id, amend.requested_by, amend.limit_price, amend.time_in_force),
    )
    assert timedelta(hours=1) < amend.expires_at - datetime.now(UTC) < timedelta(hours=3)


async def test_inspect_says_what_became_of_an_amend(db: Terminal) -> None:
    """Under way and what it waits for; refused and why; in force."""
    order_id = await rests(db, OrderType.LIMIT_SELL)

    async def told_after(*messages: Any) -> str:
        await db.tell(*messages)
        return (await db.cli("inspect", str(order_id))).out

    amend = OrderAmendRequested(order_id, "alice", "alice", "first", limit_price=Price(52_000))
    said = await told_after(amend)
    assert "amend first (limit price 52000) is under way: the asset service is asked about the new terms" in said
    assert "asks assets: are the new terms allowed?" in said
    refusal = structs.replace(not_approved(AssetRefusal.INVALID_TICK), command_id=f"{order_id}:check.1")
    said = await told_after(of(refusal, order_id))
    assert "amend first (limit price 52000) was refused, INVALID_TICK" in said
    assert "amend first is refused, INVALID_TICK" in said
    later = OrderAmendRequested(
        order_id, "alice", "alice", "second", time_in_force=TimeInForce.GTD, expires_at=datetime.now(UTC) + _AN_HOUR
    )
    said = await told_after(later)
    assert "is in force: revision 2" in said
    assert "amended: the terms 2 are in force" in said


_AN_HOUR = timedelta(hours=1)
WRONG: list[tuple[list[str], str]] = [
    (["amend", str(UUID(int=1))], "what is to be changed?"),
    (["amend", "--limit-price", "5"], "which ones?"),
    (["amend", str(UUID(int=1)), "--limit-price", "-5"], "limit_price"),
    (["amend", str(UUID(int=1)), "--trail-bps", "7"], "trail_bps"),
    (["amend", str(UUID(int=1)), "--limit-price", "5", "--key", "k"], "--key goes with --as"),
    (["amend", str(UUID(int=1)), "--limit-price", "5", "--as", "alice", "--asset", "BTC"], "no filter"),
    (["hold", str(UUID(int=1)), "--as", "alice", "--reason", "x"], "--reason is an operator's"),
    (["hold", "--as", "alice"], "which ones?"),
    (["release", "--all", "--as", "alice"], "no filter"),
    (["hold", "--asset", "BTC"], "say --yes"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
async def test_a_wrong_request_is_said_before_anything_is_sent(db: Terminal, words: list[str], said: str) -> None:
    """Exit 2, and nothing waits to be sent."""
    done = await db.cli(*words, JWT_SECRET="x" * 40, ORDER_API_URL="http://127.0.0.1:1")

    assert 2 == done.code, done
    assert said in done.err
    assert [] == await sent(db)
