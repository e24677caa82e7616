"""Pauses as values: who is paused, and an error for what is paused already."""

from __future__ import annotations

import pytest

from operations.access.errors import Trouble, WrongRequest
from operations.repair import pauses
from operations.repair.runs import Run
from order_saga.core.saga import Participant
from tests.support.order_database import OrderDatabase

ANN, BOB = Run("1", "ann"), Run("2", "bob")


async def test_a_participant_is_paused_once(db: OrderDatabase) -> None:
    """The second time says who did it, and why; the end is told once, too."""
    assert {} == await pauses.current(db.engine)
    await pauses.begin(db.engine, Participant.BALANCE, ANN, "new disks")
    [row] = (await pauses.current(db.engine)).values()
    assert ("balance", "ann", "new disks") == (row["participant"], row["paused_by"], row["reason"])
    with pytest.raises(Trouble, match=r"balance is paused since .* by ann: new disks"):
        await pauses.begin(db.engine, Participant.BALANCE, BOB, "another reason")
    assert [True, False] == [await pauses.unpause(db.engine, Participant.BALANCE, BOB) for _ in range(2)]
    assert {} == await pauses.current(db.engine)


async def test_waking_counts_the_orders_that_waited(db: OrderDatabase) -> None:
    """They ask at once, and nobody else does."""
    await pauses.begin(db.engine, Participant.ASSETS, ANN, "x")
    waiting = [await db.begin(number) for number in (1, 2)]
    await pauses.unpause(db.engine, Participant.ASSETS, ANN)
    assert 2 == await pauses.wake(db.engine)
    assert [f"{order_id}:check" for order_id in waiting] == await db.scan()


def test_a_name_that_is_none() -> None:
    """The participants are named."""
    assert Participant.BALANCE == pauses.participant("balance")
    with pytest.raises(WrongRequest, match="'kafka' is no participant: assets, balance"):
        pauses.participant("kafka")
