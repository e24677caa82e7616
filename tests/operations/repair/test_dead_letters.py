"""Dead letters as values: found by filter, closed in a run, told item by item; all ages are by the database's clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta, tzinfo
from typing import Self, TypeVar

import pytest

from operations.access.errors import Trouble, WrongRequest
from operations.access.schemas import CONSUMERS
from operations.repair import dead_letters
from operations.repair.dead_letters import DeadLetterFilter, DeadLetterTables, Id, Work
from operations.repair.runs import ItemResult, Pace, Run
from saga_kit.messaging.dead_letters import DeadLetters
from saga_kit.runtime.transactions import begin
from tests.saga_kit.support import FakeRecord
from tests.support.order_database import OrderDatabase

T = TypeVar("T")
RUN = Run("r", "ops")
OURS = DeadLetterTables(CONSUMERS)


async def write(db: OrderDatabase, schema: str, *reasons: str) -> None:
    """Store dead letters with these reasons."""
    async with begin(db.engine) as tx:
        await DeadLetters(schema).write(tx, [(FakeRecord(offset=n, topic="t"), why) for n, why in enumerate(reasons)])


async def all_of(items: AsyncIterator[T]) -> list[T]:
    """Read to the end."""
    return [item async for item in items]


async def names(db: OrderDatabase, wanted: DeadLetterFilter) -> list[str]:
    """Name the dead letters that match."""
    return [found.name for found in await all_of(dead_letters.matching(db.engine, wanted, OURS))]


class Wrong(datetime):
    """The clock of a host that is a day behind."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        """Tell a time that is not so."""
        return super().now(tz) - timedelta(days=1)


async def test_an_age_is_by_the_clock_that_wrote_it(db: OrderDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is an hour old is so by the database's clock, however wrong the host's is."""
    await write(db, "orders", "young", "old")
    await db.execute(
        "UPDATE orders.dead_letters SET received_at = received_at - interval '1 hour' WHERE reason = 'old'"
    )
    monkeypatch.setattr(dead_letters, "datetime", Wrong)
    assert ["orders/2"] == await names(db, DeadLetterFilter(older_than_s=3000))
    assert [] == await names(db, DeadLetterFilter(older_than_s=4000))


async def test_a_run_leaves_alone_what_comes_after_its_first_start(db: OrderDatabase) -> None:
    """However often it is started again; and each result is a value."""
    await write(db, "orders", "x")
    work = Work(db.engine, RUN)
    first = await all_of(dead_letters.close(work, "discard", DeadLetterFilter(), OURS, Pace()))
    assert [ItemResult("orders/1", done=True, result="discarded")] == first
    await write(db, "assets", "x")
    assert [] == await all_of(dead_letters.close(work, "discard", DeadLetterFilter(), OURS, Pace()))
    assert ["assets/1"] == await names(db, DeadLetterFilter())
    dry = dead_letters.close(Work(db.engine, Run("s", "ops")), "discard", DeadLetterFilter(), OURS, Pace(dry_run=True))
    assert [ItemResult("assets/1", done=True, result="would be done")] == await all_of(dry)
    assert ["assets/1"] == await names(db, DeadLetterFilter())


async def test_what_is_named_wrongly_is_an_error(db: OrderDatabase) -> None:
    """A name that can't be is a wrong request, a number that is not there is trouble."""
    assert Id("orders", 17) == dead_letters.parse("orders/17", "")
    assert Id("theirs", 1) == dead_letters.parse("theirs/1", "theirs")
    for text in ("17", "theirs/1", "orders/x", "/5"):
        with pytest.raises(WrongRequest, match="is not a dead letter's id"):
            dead_letters.parse(text, "")
    with pytest.raises(Trouble, match="there is no dead letter orders/9"):
        await all_of(dead_letters.named(db.engine, [Id("orders", 9)]))


async def test_a_ledger_that_shows_no_dead_letters_is_told(db: OrderDatabase) -> None:
    """Ours are found all the same."""
    assert OURS == await dead_letters.tables(db.engine, "")
    seen = await dead_letters.tables(db.engine, "nobodys")
    assert (CONSUMERS, True) == (seen.schemas, "LEDGER_VIEWS is nobodys" in seen.hidden)
