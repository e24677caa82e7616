"""`check-deploy` finds what this version could not handle, before a deploy, and reports nothing else."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import structs

import migrations
from contracts.codec import encode, outgoing
from contracts.envelope import Envelope, Outgoing, write_headers
from contracts.vocabulary import OrderType, Side
from operations.deployment.rehearsal import obstacle
from order_saga.core.saga import Incoming, Participant
from saga_kit.messaging.outbox import Outbox, OutboxMessage
from saga_kit.runtime.transactions import begin
from tests.operations.cli.support import Terminal
from tests.order_saga.core.invariants import NOBODY
from tests.order_saga.core.sample import NOW, Story, approved, cancel, park, requested, reserved, timer
from tests.order_saga.worker.test_market import rests
from tests.support.order_database import CLAIM

STORIES: list[tuple[Side, tuple[Incoming, ...]]] = [
    (side, told)
    for side in Side
    for told in ((), (approved(),), (approved(), reserved()), (reserved(),), (approved(), cancel()), (park(),))
]


async def checked(db: Terminal) -> dict[str, Any]:
    """Run the check; its exit status is 1 exactly when it found something."""
    output = await db.cli("check-deploy", "--json")
    report: dict[str, Any] = json.loads(output.out)
    found = bool(report["problems"] or report["schema"]["missing"] or report["schema"]["unknown"])
    assert int(found) == output.code
    return report


@pytest.mark.parametrize(("side", "told"), STORIES)
def test_whatever_this_code_stores_it_can_handle(side: Side, told: tuple[Incoming, ...]) -> None:
    """No state that an order can reach is reported, with or without a pause."""
    for paused in (NOBODY, frozenset(Participant)):
        story = Story()
        story.paused = paused
        for message in (requested(side), *told, timer()):
            assert obstacle(story.tell(message).wait(2).saga, story.now) is None


async def test_a_system_of_this_version_passes(db: Terminal) -> None:
    """Orders in every phase, a cancel without its request, a pause, unsent events, accepted requests: all counted."""
    for number, (side, told) in enumerate(STORIES, 1):
        await db.begin(number, side, *told)
    await db.tell(cancel())
    await db.cli("pause", "balance", "--reason", "x")
    await db.begin(99, Side.SELL)
    await db.execute(CLAIM, UUID(int=7 * 10**6))
    await db.execute("UPDATE api.claims SET request = $1", encode(requested().request))
    report = await checked(db)
    assert {"revision": migrations.known()[-1], "missing": [], "unknown": []} == report["schema"]
    assert [] == report["problems"]
    assert (len(STORIES) + 2, 1) == (report["looked_at"]["orders"], report["looked_at"]["claims"])
    assert report["looked_at"]["messages"] >= len(STORIES)
    words = await db.cli("check-deploy")
    assert (0, True) == (words.code, "all of them can be handled" in words.out)


PROGRESS = "UPDATE orders.orders SET progress = $2::text::jsonb WHERE order_id = $1"
OPEN = '"asked_at": "2026-01-01T00:00:00Z", "due_at": "2026-01-01T00:00:00Z"'
STRANGE: dict[str, tuple[str, str]] = {
    "a step of the future": (f'{{"questions": [{{"step": "insure", {OPEN}}}]}}', "can't be loaded: ValidationError"),
    "a question without its time": ('{"questions": [{"step": "check"}]}', "can't be loaded: ValidationError"),
    "no question at all": ("{}", "it waits for nothing in phase SETTLING"),
    "a question of another phase": (
        f'{{"questions": [{{"step": "check", {OPEN}}}]}}',
        "phase SETTLING does not ask check",
    ),
    "a settlement without its quote": (
        *(f'{{"questions": [{{"step": "settle", {OPEN}}}]}}', "TimerDue in phase SETTLING: AssertionError"),
    ),
}


@pytest.mark.parametrize("shape", STRANGE)
async def test_a_strange_order_is_named_with_its_reason(db: Terminal, shape: str) -> None:
    """Good orders beside it pass; equal reasons are counted together, with examples."""
    progress, reason = STRANGE[shape]
    await db.begin(1)
    strange = [await db.begin(number, Side.BUY, approved(), reserved()) for number in range(2, 7)]
    for order_id in strange:
        await db.execute(PROGRESS, order_id, progress)
    report = await checked(db)
    [problem] = report["problems"]
    assert ("orders", 5, 6) == (problem["what"], problem["count"], report["looked_at"]["orders"])
    assert problem["reason"].startswith(reason)
    assert 3 == len(set(problem["examples"]) & {str(one) for one in strange})
    told = await db.cli("check-deploy")
    assert reason in told.out


async def test_a_phase_of_the_future_is_named(db: Terminal) -> None:
    """An order in a phase that only a later version knows is reported."""
    order_id = await db.begin(1)
    await db.execute("ALTER TABLE orders.orders DROP CONSTRAINT orders_phase_shows_status")
    await db.execute("UPDATE orders.orders SET phase = 'SUSPENDED'")
    [problem] = (await checked(db))["problems"]
    assert ("can't be loaded: ValueError: 'SUSPENDED' is not a valid Phase", [str(order_id)]) == (
        problem["reason"],
        problem["examples"],
    )


async def test_a_message_that_nobody_could_read_is_named(db: Terminal) -> None:
    """In any outbox: an unknown type, a body that breaks a rule of this version, bytes that are no messages."""
    unknown = Outgoing(
        *("balance.replies", "key", "id-1", b"{}", write_headers(Envelope("id-1", "BalanceBlessed", "test", NOW)))
    )
    good = outgoing(approved(), message_id="id-2", source="test", time=NOW)
    broken = structs.replace(good, id="id-3", value=b'{"order_id": 1}')
    async with begin(db.engine) as tx:
        Outbox("balances").write(tx, [OutboxMessage("a", unknown), OutboxMessage("b", good)])
        Outbox("assets").write(tx, [OutboxMessage("c", broken)])
    await db.execute(
        "INSERT INTO orders.outbox (due_at, available_at, refs, payload) VALUES (now(), now(), '{}', $1)",
        msgspec.msgpack.encode("older"),
    )
    problems = {problem["examples"][0]: problem["reason"] for problem in (await checked(db))["problems"]}
    assert {"orders/1", "balances/1 id-1", "assets/1 id-3"} == set(problems)
    assert "BalanceBlessed" in problems["balances/1 id-1"]
    assert problems["orders/1"].startswith("can't be unpacked")


async def test_a_schema_that_is_behind_or_ahead_is_told(db: Terminal) -> None:
    """Missing revisions and an unknown one are named; the orders are checked all the same."""
    await db.begin(1)
    await asyncio.to_thread(migrations.downgrade, db.url, "0002")
    behind = await checked(db)
    missing = migrations.known()[2:]
    assert ({"revision": "0002", "missing": missing, "unknown": []}, []) == (behind["schema"], behind["problems"])
    assert 1 == behind["looked_at"]["orders"]
    assert "'order-saga migrate' first" in (await db.cli("check-deploy")).out
    await db.execute("UPDATE public.alembic_version SET version_num = '9999'")
    assert {"revision": "9999", "missing": [], "unknown": ["9999"]} == (await checked(db))["schema"]
    await db.execute("ALTER TABLE orders.orders DROP COLUMN traceparent")
    [problem] = (await checked(db))["problems"]
    assert "traceparent" in problem["reason"]


async def test_a_rollback_is_told_what_the_older_version_does_not_know(db: Terminal) -> None:
    """Exit 0 while there are market orders alone; else what becomes of the others."""
    await db.begin(1)
    known = await db.cli("check-deploy", "--rollback-to", "0.2.0")
    assert (0, "0.2.0 knows every order\n") == (known.code, known.out)

    await rests(db, OrderType.LIMIT_SELL, 2)
    unknown = await db.cli("check-deploy", "--rollback-to", "0.2.0")
    assert 1 == unknown.code
    assert "it would stand still" in " ".join(unknown.out.split())
    as_json = await db.cli("check-deploy", "--rollback-to", "0.2.0", "--json")
    assert (1, [1]) == (as_json.code, [one["orders"] for one in json.loads(as_json.out)])

    wrong = await db.cli("check-deploy", "--rollback-to", "0.1.0")
    assert 2 == wrong.code
    assert "a released version from 0.2.0 on is needed" in " ".join(wrong.err.split())
