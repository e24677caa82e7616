"""Accounts of users: deposits into the reference balance service, and what the ledger's views show of a user."""

from __future__ import annotations

import uuid
from decimal import InvalidOperation
from typing import TYPE_CHECKING, Any

from contracts.decimals import Money, Quantity
from operations.access.database import rows
from operations.access.errors import Trouble, WrongRequest
from operations.access.words import check_name
from operations.audit.ledger import find_ledger
from participants.balance import store

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


def check_deposit(user: str, asset: str, amount: str, deposit_id: str, ledger_setting: str = "") -> Quantity:
    """Judge a deposit before it is made, and read its amount. Raises `WrongRequest`."""
    if ledger_setting:
        raise WrongRequest(f"the ledger is another service's (LEDGER_VIEWS is {ledger_setting}): deposit there")
    for word, value in (("USER", user), ("ASSET", asset), ("--id", deposit_id)):
        check_name(word, value)
    try:
        return Quantity.parse(amount)
    except (ValueError, InvalidOperation) as error:
        raise WrongRequest(f"AMOUNT {error}") from None


async def deposit(engine: AsyncEngine, user: str, asset: str, amount: Quantity, deposit_id: str) -> bool:
    """Book a deposit; False when this one was booked before. Raises `Trouble` when it was, with other terms."""
    try:
        return await store.deposit(engine, deposit_id, user, asset, Money(amount))
    except ValueError as error:
        raise Trouble(str(error)) from None


def new_deposit_id() -> str:
    """Make an id for a deposit that has none."""
    return str(uuid.uuid4())


async def accounts(engine: AsyncEngine, user: str, ledger_setting: str = "") -> list[dict[str, Any]]:
    """List what a user has of each asset, and what is held for open orders. Raises `Trouble` when that can't be seen.

    `ledger_setting`: as for `audit.ledger.find`.
    """
    ledger = await find_ledger(engine, ledger_setting)
    if ledger.schema is None:
        raise Trouble(f"the accounts can't be seen here: {ledger.hidden}")
    known = f"SELECT asset_id, available, held FROM {ledger.schema}.accounts WHERE user_id = $1"  # noqa: S608
    return await rows(engine, f"{known} ORDER BY asset_id", user)
