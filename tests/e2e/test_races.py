"""Races: a cancel against the fill, a cancel against a late success, the end of an order against its active hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import pytest

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import CANCELLED, COMPLETED, HOLDINGS, mixed, sell
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader, cancel_of, request_of
from tests.e2e.wire import message

pytestmark = pytest.mark.asyncio(loop_scope="package")

ENDED_WHILE_HELD = """
    SELECT o.order_id, o.status, h.state FROM audit.orders o JOIN audit.holds h USING (order_id)
    WHERE o.status IN ('COMPLETED', 'CANCELLED', 'FAILED') AND h.state = 'HELD'"""


async def test_a_success_that_comes_after_the_cancel_is_refunded(system: System, trader: Trader) -> None:
    """Named test 3: a reservation that succeeds while its order is cancelled is recorded as late and refunded."""
    await system.endow(["late"], {"BTC": "1"})
    wanted = [sell("late", "BTC", "0.01", ends=CANCELLED) for _ in range(30)]
    ids = [one.order_id for one in wanted]
    with system.paused("balance"):
        await trader.produce(*wanted)
        # Cancels have a topic of their own: one that overtook its request would end an order that asked for nothing.
        await _all_in_phase(system, ids, "VALIDATING")
        await system.producer.send(*(cancel_of(one) for one in wanted))
        await _all_in_phase(system, ids, "REFUNDING")
    assert dict.fromkeys(ids, CANCELLED) == await trader.ended(ids)
    ignored = """
        SELECT count(DISTINCT order_id) FROM audit.history WHERE order_id = ANY($1::uuid[])
        AND kind = 'ignored' AND name = 'BalanceReserved' AND detail->>'why' = 'late'"""
    assert len(ids) == (await system.rows(ignored, ids))[0]["count"]
    assert {"REFUNDED": len(ids)} == await _holds(system, ids)
    await assert_all_is_well(system, trader)


async def test_a_cancel_and_the_fill_have_one_winner(system: System, trader: Trader) -> None:
    """Named test 4: of a cancel and a fill, the first to commit wins, and only the winner's events are published."""
    await system.endow(["racer"], HOLDINGS)
    over = [sell("racer", "ACME", "1") for _ in range(5)]
    await trader.ended(await trader.produce(*over))
    await system.producer.send(*(cancel_of(one) for one in over))
    rng = random.Random(4)  # noqa: S311 - a test's dice must fall alike each time
    wanted = [sell("racer", "ACME", "1", cancel=True) for _ in range(200)]
    request_at = [rng.uniform(0.05, 3.0) for _ in wanted]
    # From shortly before the request to well after the usual end.
    cancel_at = [
        at + rng.uniform(-0.05, 0.05) if number % 2 else at + 0.6 * rng.random() for number, at in enumerate(request_at)
    ]
    await system.producer.send_timed(
        *((at, request_of(one)) for at, one in zip(request_at, wanted, strict=True)),
        *((at, cancel_of(one)) for at, one in zip(cancel_at, wanted, strict=True)),
    )
    trader.note(*wanted)
    ends = await trader.ended([one.order_id for one in (*over, *wanted)])
    assert {COMPLETED, CANCELLED} == set(ends.values())
    assert [] == [fault for order_id, end in ends.items() for fault in _mixed_up(system, order_id, end)]
    by_end = {end: [order_id for order_id in ends if ends[order_id] == end] for end in (COMPLETED, CANCELLED)}
    assert {"SETTLED": len(by_end[COMPLETED])} == await _holds(system, by_end[COMPLETED])
    assert {"HELD", "SETTLED"}.isdisjoint(await _holds(system, by_end[CANCELLED]))
    assert [] == await system.rows("SELECT * FROM audit.fills WHERE order_id = ANY($1::uuid[])", by_end[CANCELLED])
    await assert_all_is_well(system, trader)


async def test_no_order_ends_while_its_hold_is_active(system: System, trader: Trader) -> None:
    """Named test 5: no look at the database finds such an order, under load or while no refund is answered."""
    users = await system.endow([f"patient-{number}" for number in range(5)], HOLDINGS | {"SLOW": "1000"})
    held = [sell(users[0], "SLOW", "5", ends=CANCELLED) for _ in range(30)]
    ids = [one.order_id for one in held]
    async with _never(system, ENDED_WHILE_HELD):
        await trader.produce(*held)
        await eventually(lambda: _count(system, ids, {"HELD": len(ids)}), "all is held")
        with system.paused("balance"):
            await system.producer.send(*(cancel_of(one) for one in held))
            await _all_in_phase(system, ids, "REFUNDING")
            assert {"PENDING"} == {status for order_id in ids for status in system.events.statuses(order_id)}
        others = await trader.trade(list(islice(mixed(users, seed=5), 150)))
        await trader.ended([*ids, *others])
    assert {"REFUNDED": len(ids)} == await _holds(system, ids)
    await assert_all_is_well(system, trader)


async def test_a_cancel_that_overtakes_its_request_wins(system: System, trader: Trader) -> None:
    """An early cancel is invisible until the request comes; then the order is PENDING, CANCELLED, and holds nothing."""
    wanted = sell("alice", "ACME", "1", ends=CANCELLED)
    await system.producer.send(cancel_of(wanted))
    stub = "SELECT phase FROM orders.orders WHERE order_id = $1::uuid"
    await eventually(lambda: _is(system.owner_rows(stub, wanted.order_id), [("NEW",)]), "the cancel is remembered")
    assert [] == await system.rows("SELECT * FROM audit.orders WHERE order_id = $1::uuid", wanted.order_id)
    await trader.produce(wanted)
    assert {wanted.order_id: CANCELLED} == await trader.ended([wanted.order_id])
    assert ["PENDING", "CANCELLED"] == system.events.statuses(wanted.order_id)
    assert {} == await _holds(system, [wanted.order_id])


async def test_nobody_but_the_owner_cancels(system: System, trader: Trader) -> None:
    """A cancel by another user is recorded in the history, and the order goes on."""
    wanted = sell("alice", "ACME", "1")
    another_users = {"order_id": wanted.order_id, "user_id": "mallory", "requested_by": "mallory"}
    await system.producer.send(
        request_of(wanted),
        cancel_of(wanted, by="mallory"),
        message("orders.requests", wanted.order_id, "OrderCancelRequested", another_users),
    )
    trader.note(wanted)
    assert {wanted.order_id: COMPLETED} == await trader.ended([wanted.order_id])
    why = "SELECT detail->>'why' FROM audit.history WHERE order_id = $1::uuid AND name = 'OrderCancelRequested'"
    both = [("not_allowed",)] * 2
    # Cancels are read beside the requests, so the order may have ended first.
    await eventually(lambda: _is(system.rows(why, wanted.order_id), both), "both cancels are recorded")


def _mixed_up(system: System, order_id: str, end: str) -> list[str]:
    """List the events of an order that belong to the other end."""
    told = system.events.of(order_id)
    statuses = [event["status"] for event in told]
    if end == COMPLETED:
        wrong = statuses != ["PENDING", "CONFIRMED", "PROCESSING", "COMPLETED"]
        wrong |= any(event["order"]["cancel_requested"] for event in told)
    else:
        wrong = set(statuses) != {"PENDING", "CANCELLED"} or statuses.count("CANCELLED") != 1
        wrong |= not told[-1]["order"]["cancel_requested"] or told[-1]["order"]["filled_quantity"] != "0"
    return [f"{order_id}: {statuses}"] if wrong else []


@asynccontextmanager
async def _never(system: System, statement: str) -> AsyncIterator[None]:
    """Repeat a query while the block runs; fail if it ever returned a row."""
    found: list[dict[str, Any]] = []
    done = asyncio.Event()

    async def look() -> None:
        while not done.is_set():
            found.extend(dict(row) for row in await system.rows(statement))
            await asyncio.sleep(0.01)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        done.set()
        await looking
        assert [] == found


async def _all_in_phase(system: System, ids: list[str], phase: str) -> None:
    statement = "SELECT DISTINCT phase, count(*) FROM audit.orders WHERE order_id = ANY($1::uuid[]) GROUP BY phase"
    await eventually(lambda: _is(system.rows(statement, ids), [(phase, len(ids))]), f"{len(ids)} orders are {phase}")


async def _count(system: System, ids: list[str], wanted: dict[str, int]) -> bool:
    return wanted == await _holds(system, ids)


async def _holds(system: System, ids: Iterable[str]) -> dict[str, int]:
    statement = "SELECT state, count(*) FROM audit.holds WHERE order_id = ANY($1::uuid[]) GROUP BY state"
    return {row["state"]: row["count"] for row in await system.rows(statement, list(ids))}


async def _is(query: Any, rows: list[tuple[Any, ...]]) -> bool:
    return rows == [tuple(row) for row in await query]
