"""Deposits and accounts as values."""

from __future__ import annotations

from decimal import Decimal

import pytest

from operations.access.accounts import accounts, check_deposit, deposit
from operations.access.errors import Trouble, WrongRequest
from tests.support.order_database import OrderDatabase


async def test_a_deposit_counts_once(db: OrderDatabase) -> None:
    """The same id with other terms is an error."""
    amount = check_deposit("alice", "USD", "5", "d-1")
    assert [True, False] == [await deposit(db.engine, "alice", "USD", amount, "d-1") for _ in range(2)]
    with pytest.raises(Trouble, match="already made, with other terms"):
        await deposit(db.engine, "bob", "USD", amount, "d-1")
    assert [{"asset_id": "USD", "available": Decimal(5), "held": Decimal(0)}] == await accounts(db.engine, "alice")
    assert [] == await accounts(db.engine, "bob")


@pytest.mark.parametrize(
    "terms",
    [("a b", "USD", "5", "d"), ("alice", "U D", "5", "d"), ("alice", "USD", "five", "d"), ("alice", "USD", "5", "")],
)
def test_wrong_terms_are_a_wrong_request(terms: tuple[str, str, str, str]) -> None:
    """Before anything is booked."""
    with pytest.raises(WrongRequest):
        check_deposit(*terms)


async def test_accounts_that_can_not_be_seen_are_no_empty_list(db: OrderDatabase) -> None:
    """Nobody may take that for a user without money; a deposit goes to whoever keeps the ledger."""
    with pytest.raises(Trouble, match="can't be seen here: LEDGER_VIEWS is none"):
        await accounts(db.engine, "alice", "none")
    with pytest.raises(WrongRequest, match="deposit there"):
        check_deposit("alice", "USD", "5", "d", "theirs")
