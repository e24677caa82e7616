"""Orders that are amended, suspended and released, on PostgreSQL: their rows follow their terms in force."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from msgspec import structs

from contracts.amends import OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested
from contracts.balance import BalanceAdjusted
from contracts.decimals import Money, Price, Quantity
from contracts.vocabulary import HoldState, OrderType, TimeInForce
from order_saga.core.saga import ExpiryDue
from order_saga.worker import resting_store
from saga_kit.runtime.transactions import begin
from tests.order_saga.core.sample import approved, park, request, requested, resume
from tests.order_saga.core.test_fold import of
from tests.order_saga.worker.test_market import FIRE, MARK, ONE, clock, phase, resting_row, rests
from tests.support.order_database import OrderDatabase

ORDER: Final = "SELECT quantity, slippage_bps, terms, version FROM orders.orders"
SHOWN: Final = "SELECT * FROM api.orders"


def amend(order_id: UUID, amend_id: str = "first", **changes: Any) -> OrderAmendRequested:
    """Ask to change alice's order."""
    return OrderAmendRequested(order_id, "alice", "alice", amend_id, **changes)


async def recheck(db: OrderDatabase, order_id: UUID, number: int = 1, **changes: Any) -> list[str]:
    """Have the asset service approve an amend; return the ids of the commands that follow."""
    command_id = f"{order_id}:check.{number}"
    return await db.tell(of(approved(command_id=command_id, quoted_at=await clock(db), **changes), order_id))


async def shown(db: OrderDatabase) -> dict[str, Any]:
    """Return the only order as the API reads it."""
    [row] = await db.rows(SHOWN)
    return row


async def test_a_change_of_time_is_put_in_force_at_once(db: OrderDatabase) -> None:
    """The row expires by the new time, keeps its place, and has the new revision that a tick must know."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    before, until = await resting_row(db), await clock(db) + timedelta(hours=1)
    assert await db.tell(amend(order_id, time_in_force=TimeInForce.GTD, expires_at=until)) == []
    row = await resting_row(db)
    assert {**before, "expires_at": until, "revision": 2} == row
    order = await shown(db)
    assert (until, "GTD", 2, "APPLIED") == (
        order["expires_at"], order["time_in_force"], order["revision"], order["amend"]["state"],
    )  # fmt: skip


async def test_an_amend_is_asked_about_and_then_rewrites_the_row(db: OrderDatabase) -> None:
    """Until it is approved the old level is live; then the order waits for the new one, from the mark on."""
    await db.execute(MARK, 9, "50500", 0.0)
    order_id = await rests(db, OrderType.LIMIT_SELL)
    assert await db.tell(amend(order_id, limit_price=Price("52000"))) == [f"{order_id}:check.1"]
    assert await phase(db) == "AMENDING"
    row = await resting_row(db)
    assert (51000, True, 1) == (row["up_price"], row["live"], row["revision"])
    await db.execute("UPDATE orders.marks SET sequence = 12")
    assert await recheck(db, order_id) == []
    row = await resting_row(db)
    assert (52000, True, 2, 12) == (row["up_price"], row["live"], row["revision"], row["from_sequence"])
    assert await phase(db) == "WORKING"


async def test_more_money_is_held_before_the_new_terms_count(db: OrderDatabase) -> None:
    """A larger buy asks for the difference first, and only its answer changes what is stored of the request."""
    order_id = await rests(db, OrderType.LIMIT_BUY)
    await db.tell(amend(order_id, quantity=Quantity("0.02")))
    assert await recheck(db, order_id) == [f"{order_id}:adjust.1"]
    assert await phase(db) == "RAISING"
    [order] = await db.rows(ORDER)
    assert float(order["quantity"]) == 0.01
    await db.tell(_adjusted(order_id, 1, "980.98"))
    [order] = await db.rows(ORDER)
    assert float(order["quantity"]) == 0.02
    assert await phase(db) == "WORKING"
    assert float((await shown(db))["held_amount"]) == 980.98


async def test_less_money_goes_back_after_the_new_terms_count(db: OrderDatabase) -> None:
    """A smaller buy is smaller at once, and then lowers its hold; meanwhile a tick may fire it."""
    order_id = await rests(db, OrderType.LIMIT_BUY)
    await db.tell(amend(order_id, quantity=Quantity("0.005")))
    assert await recheck(db, order_id) == [f"{order_id}:adjust.1"]
    assert await phase(db) == "LOWERING"
    row, order = await resting_row(db), await shown(db)
    assert (True, 2, 7) == (row["live"], row["revision"], row["from_sequence"])
    assert (0.005, 490.49) == (float(order["quantity"]), float(order["held_amount"]))
    await db.tell(_adjusted(order_id, 1, "245.25"))
    assert await phase(db) == "WORKING"


@pytest.mark.parametrize("order_type", [OrderType.TRAILING_STOP_SELL, OrderType.TRAILING_STOP_BUY])
async def test_an_amended_trail_keeps_its_watermark_and_is_known_to_ticks(
    db: OrderDatabase, order_type: OrderType
) -> None:
    """Ticks look for the new trail as old as the order is, and the order's best price stays."""
    order_id = await rests(db, order_type)
    change: dict[str, Any] = {"trail_bps": 200} if order_type is OrderType.TRAILING_STOP_SELL else {
        "trail_amount": Price("700")
    }  # fmt: skip
    await db.execute(MARK, 8, "50200" if "trail_bps" in change else "49800", 0.0)
    await db.execute("DELETE FROM orders.peaks")  # the mark is the best price, and a step without a row
    await db.tell(amend(order_id, **change))
    if await recheck(db, order_id):
        await db.tell(_adjusted(order_id, 1, "509.52"))
    row = await resting_row(db)
    assert (7, 2) == (row["from_sequence"], row["revision"])
    assert {"trail_bps": row["trail_bps"]} == change or {"trail_amount": row["trail_amount"]} == change
    trails = await db.rows("SELECT trail, oldest FROM orders.trails ORDER BY trail")
    assert len(trails) == 2
    assert {trail["oldest"] for trail in trails} == {7}
    assert (await shown(db))["watermark"] == Price("50200" if "trail_bps" in change else "49800")


async def test_a_trail_that_the_market_meets_already_is_refused(db: OrderDatabase) -> None:
    """The best price since the order rests comes from the steps, not from where the order began."""
    order_id = await rests(db, OrderType.TRAILING_STOP_SELL)
    await db.execute(MARK, 9, "50700", 0.0)
    await db.execute("UPDATE orders.peaks SET upto = 8, price = 51000")
    await db.tell(amend(order_id, trail_bps=50))
    await recheck(db, order_id)
    order = await shown(db)
    assert (1, "REFUSED", "WOULD_TRIGGER_IMMEDIATELY") == (
        order["revision"], order["amend"]["state"], order["amend"]["reason_code"],
    )  # fmt: skip


async def test_a_suspended_order_fires_at_no_tick_and_still_expires(db: OrderDatabase) -> None:
    """Its row is not live, so no tick finds it; the scanner of expiries does."""
    until = await clock(db) + timedelta(hours=1)
    order_id = await rests(db, OrderType.LIMIT_SELL, time_in_force=TimeInForce.GTD, expires_at=until)
    await db.tell(OrderHoldRequested(order_id, "alice", "alice"))
    row = await resting_row(db)
    assert (False, True) == (row["live"], row["suspended"])
    assert (await shown(db))["on_hold"]
    await db.execute("UPDATE orders.resting SET expires_at = expires_at - interval '1 day'")
    await db.execute(
        "UPDATE orders.orders SET terms = jsonb_set(terms::jsonb, '{expires_at}', to_jsonb($1::text))::text",
        (until - timedelta(days=1)).isoformat(),
    )
    async with begin(db.engine) as tx:
        assert await resting_store.expired(tx, 10) == [order_id]
    assert await db.tell(ExpiryDue(order_id)) == [f"{order_id}:refund"]


async def test_a_released_order_rests_from_the_mark_on(db: OrderDatabase) -> None:
    """Its release is a new acceptance: ticks of before do not count, and its place in the queue is the last one."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    before = await resting_row(db)
    await db.tell(OrderHoldRequested(order_id, "alice", "alice"))
    await db.execute(MARK, 30, "50900", 0.0)
    await db.tell(OrderReleaseRequested(order_id, "alice", "alice"))
    row = await resting_row(db)
    assert (True, False, 30) == (row["live"], row["suspended"], row["from_sequence"])
    assert row["entered_at"] > before["entered_at"]


async def test_a_parked_order_that_is_on_hold_does_not_expire(db: OrderDatabase) -> None:
    """It waits for an operator; when it is resumed it is still on hold."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    await db.tell(OrderHoldRequested(order_id, "alice", "alice"))
    await db.tell(of(park(), order_id))
    row = await resting_row(db)
    assert (False, False) == (row["live"], row["suspended"])
    await db.tell(of(resume(), order_id))
    row = await resting_row(db)
    assert (False, True) == (row["live"], row["suspended"])


@pytest.mark.parametrize(
    "change",
    [
        OrderAmendRequested(ONE, "alice", "alice", "first", limit_price=Price("52000")),
        OrderHoldRequested(ONE, "alice", "alice"),
    ],
    ids=["amend", "hold"],
)
async def test_a_fire_that_was_committed_comes_before_a_change(db: OrderDatabase, change: Any) -> None:
    """The order fills at its tick by its old terms; the change is too late, and told in the history alone."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    await db.execute(FIRE, order_id, "51000")
    assert await db.tell(change) == [f"{order_id}:settle"]
    assert await phase(db) == "SETTLING"
    [ignored] = await db.history(order_id, "ignored")
    assert ignored["detail"]["why"] == "too_late"


async def test_a_fire_that_was_committed_ends_an_open_amend(db: OrderDatabase) -> None:
    """Whatever comes next for the order, the answer about the amend included, finds it fired by its old terms."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    await db.tell(amend(order_id, limit_price=Price("52000")))
    await db.execute(FIRE, order_id, "51000")
    assert await recheck(db, order_id) == [f"{order_id}:settle"]
    order = await shown(db)
    assert ("PROCESSING", 1, "TOO_LATE") == (order["status"], order["revision"], order["amend"]["reason_code"])


async def test_a_repeated_request_is_known_after_an_amend(db: OrderDatabase) -> None:
    """What the order was asked with is compared, not what it has become."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    asked = structs.replace(request(), order_type=OrderType.LIMIT_SELL, price=None, limit_price=Price("51000"))
    await db.tell(amend(order_id, quantity=Quantity("0.005")))
    await recheck(db, order_id)
    await db.tell(of(structs.replace(requested(), request=asked), order_id))
    await db.tell(
        of(structs.replace(requested(), request=structs.replace(asked, quantity=Quantity("0.005"))), order_id)
    )
    told = [line["detail"]["why"] for line in await db.history(order_id, "ignored")]
    assert told == ["duplicate", "conflict"]


async def test_after_a_reset_of_the_feed_an_amended_order_counts_by_the_new_numbers(db: OrderDatabase) -> None:
    """Its quote has a number of before, which must not pass for a newer price than the mark."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    await db.execute(MARK, 2, "50100", 0.0)
    await db.execute("UPDATE orders.resting SET from_sequence = 1")
    await db.tell(amend(order_id, limit_price=Price("52000")))
    await recheck(db, order_id, sequence=2)
    assert (await resting_row(db))["from_sequence"] == 2
    await db.tell(OrderHoldRequested(order_id, "alice", "alice"))
    await db.execute("UPDATE orders.marks SET sequence = 3")
    await db.tell(OrderReleaseRequested(order_id, "alice", "alice"))
    assert (await resting_row(db))["from_sequence"] == 3


async def test_after_a_reset_of_the_feed_a_resumed_order_counts_by_the_new_numbers(db: OrderDatabase) -> None:
    """An order that was parked meanwhile enters the market at the mark, whatever number its quote had."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    await db.tell(of(park(), order_id))
    await db.execute(MARK, 2, "50100", 0.0)
    await db.execute("UPDATE orders.resting SET from_sequence = 1")
    await db.tell(of(resume(), order_id))
    assert (await resting_row(db))["from_sequence"] == 2


def _adjusted(order_id: UUID, number: int, amount: str) -> BalanceAdjusted:
    hold = f"{order_id}:reserve"
    return BalanceAdjusted(f"{order_id}:adjust.{number}", order_id, hold, HoldState.HELD, number, Money(amount))


async def test_what_becomes_of_changes_is_counted(db: OrderDatabase) -> None:
    """Amends by their outcome, suspensions and releases."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    until = await clock(db) + timedelta(hours=1)
    before = _counts(db)
    await db.tell(amend(order_id, time_in_force=TimeInForce.GTD, expires_at=until))
    await db.tell(amend(order_id, "second", trigger_price=Price("1")))
    await db.tell(OrderHoldRequested(order_id, "alice", "alice"))
    await db.tell(OrderReleaseRequested(order_id, "alice", "alice"))
    counted = {name: number - before.get(name, 0) for name, number in _counts(db).items()}
    assert counted == {"APPLIED": 1, "NOT_AMENDABLE": 1, "held": 1, "released": 1}


def _counts(db: OrderDatabase) -> dict[str, float]:
    metrics = (db.metrics.amends, db.metrics.suspensions)
    samples = [sample for metric in metrics for family in metric.collect() for sample in family.samples]
    return {next(iter(one.labels.values())): one.value for one in samples if one.name.endswith("_total")}
