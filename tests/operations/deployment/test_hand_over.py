"""Handing the ledger over, as a value: what is to be taken over, once."""

from __future__ import annotations

import pytest

from contracts.decimals import Money
from operations.access.errors import Trouble, WrongRequest
from operations.deployment.hand_over import HandedOver, close
from participants.balance.store import deposit
from tests.support.order_database import OrderDatabase


async def test_a_ledger_is_closed_once(db: OrderDatabase) -> None:
    """The second time says to whom it went, and changes nothing."""
    await deposit(db.engine, "one", "alice", "USD", Money(100))
    assert HandedOver(accounts=1, held=0) == await close(db.engine, "wallet")
    with pytest.raises(Trouble, match="was handed over to wallet at "):
        await close(db.engine, "purse")
    assert [{"successor": "wallet"}] == await db.rows("SELECT successor FROM audit.ledger")


async def test_a_successor_has_a_name_that_can_be_shown(db: OrderDatabase) -> None:
    """Otherwise nothing is closed."""
    for name in ("", "a'b", "x" * 65):
        with pytest.raises(WrongRequest, match="SUCCESSOR must be 1 to 64"):
            await close(db.engine, name)
    assert [{"successor": None}] == await db.rows("SELECT successor FROM audit.ledger")
