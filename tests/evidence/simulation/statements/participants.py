"""The statements of the balance service, its holds and its journal, and of the asset service."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple, cast

from participants.assets.store import LISTINGS
from participants.balance import store as balances
from saga_kit.participant.holds import Holds
from tests.evidence.simulation.database import (
    CHECK_VIOLATION,
    Result,
    Row,
    ServerError,
    Statement,
    Transaction,
    UniqueViolation,
)
from tests.evidence.simulation.statements.values import columns, numeric


def participant_statements() -> dict[str, Statement]:
    """Map the text of every statement to what it does."""
    holds: Any = Holds("balances")
    return {
        balances.MAKE_ACCOUNTS: make_accounts,
        balances.LOCK_ACCOUNTS: lock_accounts,
        balances.OWNERS: owners,
        balances.WRITE_ACCOUNTS: write_accounts,
        balances.ADD_ENTRIES: add_entries,
        LISTINGS: listings,
        holds._lock_sql: lock_holds,
        holds._insert_sql: insert_holds,
        holds._update_sql: update_holds,
        holds._archive_sql: archive_holds,
    }


class _Hold(NamedTuple):
    hold_id: str
    saga_id: str
    owner: str
    unit: str
    amount: Decimal
    state: str
    captured: Decimal
    refunded: Decimal
    reason_code: str | None
    reason: str | None
    revision: int
    asked: Decimal | None
    adjust_code: str | None
    adjust_reason: str | None


def _has_account(tx: Transaction, user_id: str) -> bool:
    return any(key[0] == user_id for key, _ in tx.rows("accounts"))


async def make_accounts(tx: Transaction, users: list[str], assets: list[str]) -> Result:
    """Make empty accounts for users who have one already."""
    made = [
        await tx.insert("accounts", key, {"available": numeric("0"), "held": numeric("0")})
        for key in sorted(set(columns(users, assets)))
        if _has_account(tx, key[0])
    ]
    return Result(written=sum(made))


async def lock_accounts(tx: Transaction, users: list[str], assets: list[str]) -> Result:
    """Lock accounts in the order of user and asset."""
    there = sorted(key for key in set(columns(users, assets)) if tx.get("accounts", key) is not None)
    rows = [(key, cast("Row", await tx.lock("accounts", key))) for key in there]
    return Result([(*key, row["available"], row["held"]) for key, row in rows])


async def owners(tx: Transaction, users: list[str]) -> Result:
    """List those users who have an account."""
    return Result([(user_id,) for user_id in sorted(set(users)) if _has_account(tx, user_id)])


async def write_accounts(tx: Transaction, *arrays: list[Any]) -> Result:
    """Write what accounts hold."""
    written = 0
    for user_id, asset_id, available, held in columns(*arrays):
        row = {"available": numeric(available), "held": numeric(held)}
        if await tx.lock("accounts", (user_id, asset_id)) is None:
            continue
        if min(Decimal(available), Decimal(held)) < 0:
            raise ServerError(CHECK_VIOLATION, f"accounts: {user_id} {asset_id} {available} {held}")
        tx.put("accounts", (user_id, asset_id), row)
        written += 1
    return Result(written=written)


async def add_entries(tx: Transaction, *arrays: list[Any]) -> Result:
    """Insert journal entries."""
    for entry_id, order_id, *legs in columns(*arrays):
        accounts, asset_ids, texts = map(_elements, legs)
        amounts = [cast("Decimal", numeric(text)) for text in texts]
        keys = list(zip(asset_ids, accounts, strict=True))
        sums = [sum(gain for asset, gain in zip(asset_ids, amounts, strict=True) if asset == one) for one in asset_ids]
        if any(sums) or not all(amounts) or keys != sorted(set(keys)) or not keys:
            raise ServerError(CHECK_VIOLATION, f"journal: {entry_id} {keys} {texts}")
        row = {"order_id": order_id, "accounts": accounts, "asset_ids": asset_ids, "amounts": amounts}
        if not await tx.insert("journal", entry_id, row):
            raise UniqueViolation("journal_pkey")
    return Result(written=len(arrays[0]))


def _elements(array: str) -> list[str]:
    """Read the text of an array of names or amounts."""
    return array.removeprefix('{"').removesuffix('"}').split('","')


async def lock_holds(tx: Transaction, hold_ids: list[str]) -> Result:
    """Lock holds in the order of their ids; those archived when the statement began are included."""
    there = sorted(hold_id for hold_id in set(hold_ids) if tx.get("holds", hold_id) is not None)
    past = [(hold_id, tx.get("holds_archive", hold_id)) for hold_id in sorted(set(hold_ids) - set(there))]
    rows = [(hold_id, await tx.lock("holds", hold_id)) for hold_id in there]
    return Result(
        [
            _Hold(hold_id, **{name: _trimmed(value) for name, value in row.items()})
            for hold_id, row in (*rows, *past)
            if row is not None
        ]
    )


def _trimmed(value: Any) -> Any:
    return value.normalize() + 0 if isinstance(value, Decimal) else value


async def insert_holds(tx: Transaction, *arrays: list[Any]) -> Result:
    """Insert holds; one that is there already, or archived, is left out."""
    rows = dict(_hold(values) for values in columns(*arrays))
    new = {hold_id: row for hold_id, row in rows.items() if tx.get("holds_archive", hold_id) is None}
    done = [await tx.insert("holds", hold_id, row) for hold_id, row in new.items()]
    return Result(written=sum(done))


async def archive_holds(tx: Transaction, _older_than_s: float, _first: str, _end: str, most: int) -> Result:
    """Archive holds that have ended and are not locked; their age is not simulated."""
    ended = sorted(hold_id for hold_id, row in tx.rows("holds") if row["state"] != "HELD")
    free = [hold_id for hold_id in ended if tx.is_free("holds", hold_id)][:most]
    for hold_id in free:
        row = cast("Row", await tx.lock("holds", hold_id))
        await tx.insert("holds_archive", hold_id, row)
        tx.put("holds", hold_id, None)
    return Result(written=len(free))


async def update_holds(tx: Transaction, *arrays: list[Any]) -> Result:
    """Write the states and amounts of holds."""
    written = 0
    for hold_id, row in (_hold(values) for values in columns(*arrays)):
        before = await tx.lock("holds", hold_id)
        if before is not None:
            kept = {name: before[name] for name in ("saga_id", "owner", "unit")}
            tx.put("holds", hold_id, {**row, **kept})
            written += 1
    return Result(written=written)


def _hold(values: Iterable[Any]) -> tuple[str, Row]:
    hold_id, saga_id, owner, unit, amount, captured, refunded, state, reason_code, reason, *adjustment = values
    revision, asked, adjust_code, adjust_reason = adjustment
    row = {
        "saga_id": saga_id,
        "owner": owner,
        "unit": unit,
        "amount": numeric(amount),
        "state": state,
        "captured": numeric(captured),
        "refunded": numeric(refunded),
        "reason_code": reason_code,
        "reason": reason,
        "revision": revision,
        "asked": numeric(asked),
        "adjust_code": adjust_code,
        "adjust_reason": adjust_reason,
    }
    _check_hold(hold_id, row)
    return hold_id, row


def _check_hold(hold_id: str, row: Row) -> None:
    ends = {"SETTLED": (row["captured"] + row["refunded"], row["amount"]), "REFUNDED": (row["refunded"], row["amount"])}
    total, expected = ends.get(row["state"], (row["captured"] + row["refunded"], 0))
    numbered = row["revision"] >= 0 and (row["revision"] == 0) == (row["asked"] is None)
    if total != expected or min(row["amount"], row["captured"], row["refunded"]) < 0 or not numbered:
        raise ServerError(CHECK_VIOLATION, f"holds: {hold_id} violates a check")


async def listings(tx: Transaction, asset_ids: list[str]) -> Result:
    """Read assets with their prices; the world stores both as one row, as the statement returns them."""
    now = tx.database.now()
    rows = ((asset_id, tx.get("assets", asset_id)) for asset_id in sorted(set(asset_ids)))
    return Result([(asset_id, *row["rules"], now, None, *row["price"]) for asset_id, row in rows if row is not None])
