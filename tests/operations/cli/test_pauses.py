"""Pauses on the real tables: the next batch asks nothing, and the end of the pause wakes the orders that waited."""

from __future__ import annotations

import asyncio
import time

import pytest

from contracts.vocabulary import Side
from operations.repair import pauses
from tests.operations.cli.support import Terminal
from tests.order_saga.core.sample import approved, cancel
from tests.order_saga.core.test_fold import of

WAITING = "SELECT order_id FROM audit.questions WHERE held_back ORDER BY order_id"


async def test_orders_wait_while_balance_is_paused_and_are_woken_at_the_end(db: Terminal) -> None:
    """New orders ask nothing, old ones do not ask again, and both say so; afterwards all ask at once."""
    old = await db.begin(1, Side.BUY, approved())
    paused = await db.cli("pause", "balance", "--reason", "new disks", "--by", "ops")
    assert (0, "balance is paused; 'order-saga unpause balance' ends it\n") == (paused.code, paused.out)
    new = await db.begin(2, Side.SELL)
    await db.execute("UPDATE orders.orders SET due_at = now() WHERE order_id = $1", old)
    assert [] == await db.scan()
    for order_id in (old, new):
        [line] = await db.history(order_id, "waits")
        assert ("balance", {"why": "paused"}) == (line["name"], line["detail"])
    story = await db.cli("inspect", str(new))
    assert "waits: balance paused" in story.out
    assert "held back because balance is paused since" in story.out
    assert ": new disks (ops), not asked yet, looks again at" in story.out

    ended = await db.cli("unpause", "balance", "--by", "ops")
    assert (0, "balance is asked again, 2 orders woken\n") == (ended.code, ended.out)
    assert [f"{old}:reserve", f"{new}:check", f"{new}:reserve"] == await db.scan()
    assert [] == await db.rows(WAITING)
    trail = await db.rows("SELECT action, item, done_by, result FROM audit.repairs ORDER BY at")
    assert [("pause", "balance", "ops", "new disks"), ("unpause", "balance", "ops", "asked again")] == [
        tuple(row.values()) for row in trail
    ]


async def test_a_cancel_during_the_pause_ends_what_was_never_asked(db: Terminal) -> None:
    """The tables know that a question was never sent, so the order ends without an answer."""
    await db.cli("pause", "balance", "--reason", "x")
    order_id = await db.begin(1, Side.SELL)
    assert [] == await db.tell(of(cancel(), order_id))
    [order] = await db.rows("SELECT status, phase FROM audit.orders")
    assert {"status": "CANCELLED", "phase": "CANCELLED"} == order


async def test_a_multitude_is_woken_a_page_at_a_time(db: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders that are woken pass the admission limit, so they must not all ask at once."""
    monkeypatch.setattr(pauses, "WAKE_MAX", 1)
    monkeypatch.setattr(pauses, "WAKE_EVERY_S", 0.5)
    monkeypatch.setattr(pauses, "BETWEEN_PASSES_S", 0.0)
    await db.cli("pause", "balance", "--reason", "x")
    for number in (1, 2, 3):
        await db.begin(number, Side.SELL)
    began = time.monotonic()
    assert "3 orders woken" in (await db.cli("unpause", "balance")).out
    assert time.monotonic() - began >= 3 * 0.5


async def test_waking_ends_although_another_pause_makes_all_wait_again(
    db: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orders that wait again at once are not woken twice, although every page is full."""
    monkeypatch.setattr(pauses, "WAKE_MAX", 1)
    monkeypatch.setattr(pauses, "WAKE_EVERY_S", 0.2)
    monkeypatch.setattr(pauses, "PASSES_MAX", 1)
    for who in ("assets", "balance"):
        await db.cli("pause", who, "--reason", "x")
    for number in (1, 2, 3):
        await db.begin(number)
    waking = asyncio.create_task(db.cli("unpause", "assets"))
    async with asyncio.timeout(90):
        while not waking.done():
            assert [] == await db.scan()
            await asyncio.wait({waking}, timeout=0.01)
    assert "3 orders woken" in (await waking).out


async def test_pausing_twice_says_who_did_it_and_unpausing_twice_does_no_harm(db: Terminal) -> None:
    """A second pause is exit 1, a second unpause exit 0, an unknown name exit 2."""
    await db.cli("pause", "assets", "--reason", "a new feed", "--by", "ann")
    again = await db.cli("pause", "assets", "--reason", "another", "--by", "bob")
    assert (1, True) == (again.code, again.err.endswith("by ann: a new feed\n"))
    assert (0, "assets is asked again, 0 orders woken\n") == (await db.cli("unpause", "assets"))[:2]
    assert (0, "assets was not paused, 0 orders woken\n") == (await db.cli("unpause", "assets"))[:2]
    wrong = await db.cli("pause", "kafka", "--reason", "x")
    assert (2, "order-saga: 'kafka' is no participant: assets, balance\n") == (wrong.code, wrong.err)
    assert 2 == (await db.cli("pause", "assets")).code


async def test_who_is_woken_in_vain_waits_on(db: Terminal) -> None:
    """An order that is woken while the other participant is paused waits again; a locked order is left out."""
    for who in ("assets", "balance"):
        await db.cli("pause", who, "--reason", "x")
    order_id = await db.begin(1)
    async with db.engine.begin() as busy:
        await busy.exec_driver_sql("SELECT FROM orders.orders FOR UPDATE")
        assert "0 orders woken" in (await db.cli("unpause", "assets")).out
    assert "1 orders woken" in (await db.cli("unpause", "assets")).out
    assert [] == await db.scan()
    assert 1 == len(await db.rows(WAITING))
    assert 1 == len(await db.history(order_id, "waits")), "told once"
    await db.cli("unpause", "balance")
    assert [f"{order_id}:check"] == await db.scan()
