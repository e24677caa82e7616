"""Repairs as values: a result for each order, named or found by filter, once in a run."""

from __future__ import annotations

from uuid import UUID

import pytest

from contracts.vocabulary import OrderType, Side
from operations.access.errors import WrongRequest
from operations.repair.order_filter import OrderFilter, check, count
from operations.repair.orders import repair
from operations.repair.runs import ItemResult, Pace, Run
from tests.order_saga.core.sample import park
from tests.order_saga.core.test_fold import of
from tests.order_saga.worker.test_market import MARK, phase, resting_row, rests
from tests.support.order_database import CLAIM, OrderDatabase

RUN = Run("r", "ops")
FAST = Pace()


async def results(
    db: OrderDatabase,
    action: str,
    chosen: list[UUID] | OrderFilter,
    pace: Pace = FAST,
    run: Run = RUN,
) -> list[ItemResult]:
    """Do all of it."""
    return [one async for one in repair(db.engine, action, chosen, run, pace)]


async def test_each_order_that_is_named_has_its_result(db: OrderDatabase) -> None:
    """In their order: what is done, what is refused and why, and what no table knows."""
    parked, live, unknown = await db.begin(1, Side.BUY, park()), await db.begin(2), UUID(int=9)
    expected = [
        ItemResult(str(live), done=False, result="is not parked"),
        ItemResult(str(unknown), done=False, result="there is no such order"),
        ItemResult(str(parked), done=True, result="goes on"),
    ]
    assert expected == await results(db, "resume", [live, unknown, parked])
    assert [ItemResult(str(parked), done=True, result="done before")] == await results(db, "resume", [parked])
    assert [f"{parked}:check"] == await db.scan()


async def test_a_filter_finds_what_the_repair_is_about(db: OrderDatabase) -> None:
    """Counted as it will be done; a dry run does nothing; a limit counts over all starts of a run."""
    ids = [await db.begin(number, Side.BUY, park("Numeric overflow")) for number in (1, 2, 3)]
    await db.begin(4)
    wanted = OrderFilter(parked_reason="overflow")
    assert 3 == await count(db.engine, "resume", wanted, RUN.run_id)
    assert 3 == len(await results(db, "resume", wanted, Pace(dry_run=True)))
    for expected in (2, 0):
        assert expected == len(await results(db, "resume", wanted, Pace(limit=2)))
    assert 1 == await count(db.engine, "resume", wanted, RUN.run_id)
    assert [str(ids[2])] == [one.item for one in await results(db, "resume", wanted, run=Run("another", "ops"))]


async def test_orders_that_rest_are_found_by_asset_and_type(db: OrderDatabase) -> None:
    """They are not due, and a cancel by filter finds them all the same; asking again has nothing to ask."""
    wanted = OrderFilter(asset="BTC", order_type="LIMIT_SELL")
    limit = await rests(db, OrderType.LIMIT_SELL, 1)
    await rests(db, OrderType.TRAILING_STOP_SELL, 2)
    assert 0 == await count(db.engine, "ask-again", wanted, RUN.run_id)
    [sent] = await results(db, "cancel", wanted)
    assert (str(limit), True, "cancel sent") == (sent.item, sent.done, sent.result)


async def test_a_resting_order_that_was_parked_rests_again(db: OrderDatabase) -> None:
    """While it is parked no tick can fire it; resumed, it enters the market as it is now."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    await db.tell(of(park("a lie"), order_id))
    assert not (await resting_row(db))["live"]
    await db.execute(MARK, 11, "50500", 0.0)
    assert [ItemResult(str(order_id), done=True, result="goes on")] == await results(db, "resume", [order_id])
    row = await resting_row(db)
    assert (True, 11) == (row["live"], row["from_sequence"])
    assert "WORKING" == await phase(db)


async def test_a_parked_order_that_the_market_has_reached_is_filled_by_the_resume(db: OrderDatabase) -> None:
    """At the last price that was judged, and its row is gone."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    await db.tell(of(park("a lie"), order_id))
    await db.execute(MARK, 11, "52000", 0.0)
    assert [ItemResult(str(order_id), done=True, result="goes on")] == await results(db, "resume", [order_id])
    assert ("SETTLING", []) == (await phase(db), await db.rows("SELECT order_id FROM orders.resting"))


async def test_a_claim_can_be_cancelled_before_it_is_an_order(db: OrderDatabase) -> None:
    """Its user is known from the API's table."""
    await db.execute(CLAIM, UUID(int=5))
    [sent] = await results(db, "cancel", [UUID(int=5)])
    assert (True, "cancel sent") == (sent.done, sent.result)


def test_a_filter_names_what_exists() -> None:
    """A phase or a participant that does not exist would match nothing: it is a wrong request."""
    check(OrderFilter(phase="REFUNDING", waiting_for="balance"))
    for wrong in (OrderFilter(phase="LOST"), OrderFilter(waiting_for="kafka"), OrderFilter(order_type="STOP")):
        with pytest.raises(WrongRequest, match="must be one of"):
            check(wrong)
