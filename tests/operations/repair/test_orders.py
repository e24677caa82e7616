"""Repairs as values: a result for each order, named or found by filter, once in a run."""

from __future__ import annotations

from uuid import UUID

import pytest

from contracts.vocabulary import Side
from operations.access.errors import WrongRequest
from operations.repair.order_filter import OrderFilter, check, count
from operations.repair.orders import repair
from operations.repair.runs import ItemResult, Pace, Run
from tests.order_saga.core.sample import park
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


async def test_a_claim_can_be_cancelled_before_it_is_an_order(db: OrderDatabase) -> None:
    """Its user is known from the API's table."""
    await db.execute(CLAIM, UUID(int=5))
    [sent] = await results(db, "cancel", [UUID(int=5)])
    assert (True, "cancel sent") == (sent.done, sent.result)


def test_a_filter_names_what_exists() -> None:
    """A phase or a participant that does not exist would match nothing: it is a wrong request."""
    check(OrderFilter(phase="REFUNDING", waiting_for="balance"))
    for wrong in (OrderFilter(phase="LOST"), OrderFilter(waiting_for="kafka")):
        with pytest.raises(WrongRequest, match="must be one of"):
            check(wrong)
