"""The orchestrator's statements on the tables of the market: gates, marks, and rows that wait for a price."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final, cast

from order_saga.core.phases import MAX_TICK_AGE_S
from order_saga.worker import resting_store as resting
from tests.evidence.simulation.database import (
    CHECK_VIOLATION,
    Result,
    Row,
    ServerError,
    Statement,
    Transaction,
    UniqueViolation,
)
from tests.evidence.simulation.statements.values import as_text, columns, numeric

_OPEN: Final = frozenset({"PENDING", "CONFIRMED", "PROCESSING"})
_FIRED_BY: Final = ("fired_sequence", "fired_price", "fired_as_of")
_TICKS_ALONE: Final = (
    "triggered_sequence", "triggered_price", *_FIRED_BY, "fired_watermark", "fired_at", "fired_rank",
)  # fmt: skip
"""Columns that only ticks write."""


def resting_statements() -> dict[str, Statement]:
    """Map the text of every statement to what it does."""
    return {
        resting._SHARE: share_gates,
        resting._LOOK: look,
        resting._INSERT: insert_rows,
        resting._UPDATE: update_rows,
        resting._DELETE: delete_rows,
        resting._TRAILS: insert_trails,
        resting._PEAKS: insert_peaks,
        resting._FIRED: list_fired,
        resting._EXPIRED: list_expired,
        resting._OPEN: count_open,
    }


async def share_gates(tx: Transaction, gate: int, numbers: list[int]) -> Result:
    """Share locks by number, one after the other."""
    for number in numbers:
        await tx.take_number((gate, number), exclusive=False)
    return Result([(None,) for _ in numbers])


async def look(tx: Transaction, asset_ids: list[str], now: datetime, order_ids: list[Any]) -> Result:
    """Read marks, and whether each could fire an order at a time; the news of orders; where these began."""
    there = [(one, row) for one in asset_ids if (row := tx.get("marks", one)) is not None]
    marks = [
        (
            asset_id,
            row["sequence"],
            as_text(row["price"]),
            row["trading"] == "OPEN"
            and now - min(row["appended_at"], row["confirmed_at"]) <= timedelta(seconds=MAX_TICK_AGE_S),
            row["as_of"],
            *(None, None, None, None),
        )
        for asset_id, row in there
    ]
    return Result([*marks, *_news(tx, order_ids), *_begun(tx, order_ids)])


def is_fired(row: Row) -> bool:
    """Tell whether a tick has done something to a row that its order does not show."""
    return row["fired_sequence"] is not None or (row["triggered_sequence"] is not None and not row["told"])


def _news(tx: Transaction, order_ids: list[Any]) -> list[tuple[Any, ...]]:
    rows = [(one, row) for one in order_ids if (row := tx.get("resting", one)) is not None and is_fired(row)]
    return [
        (
            None,
            row["triggered_sequence"],
            as_text(row["triggered_price"]),
            row["told"],
            row["fired_as_of"],
            order_id,
            row["fired_sequence"],
            as_text(row["fired_price"]),
            as_text(row["fired_watermark"]),
        )
        for order_id, row in rows
    ]


def _begun(tx: Transaction, order_ids: list[Any]) -> list[tuple[Any, ...]]:
    rows = [(one, row) for one in order_ids if (row := tx.get("resting", one)) is not None]
    return [
        (row["asset_id"], row["from_sequence"], _watermark(tx, row), None, None, one, None, None, None)
        for one, row in rows
        if row["from_sequence"] is not None and row["fired_sequence"] is None
    ]


def _watermark(tx: Transaction, row: Row) -> Any:
    """Give the price of the first step that an order has not passed; the mark is one, too."""
    if (row["trail_amount"], row["trail_bps"]) == (None, None) or not row["live"]:
        return None
    steps = [
        (upto, step["price"])
        for (asset_id, side, upto), step in tx.rows("peaks")
        if (asset_id, side) == (row["asset_id"], row["side"])
    ]
    if (mark := tx.get("marks", row["asset_id"])) is not None:
        steps.append((mark["sequence"], mark["price"]))
    there = sorted(step for step in steps if step[0] >= row["from_sequence"])
    return as_text(there[0][1]) if there else None


async def insert_rows(tx: Transaction, *arrays: list[Any]) -> Result:
    """Insert rows for orders that may rest."""
    for values in columns(*arrays):
        (
            order_id,
            asset_id,
            side,
            queued,
            amount,
            bps,
            expires_at,
            up,
            down,
            limit,
            *since,
            live,
            suspended,
            told,
            revision,
        ) = values
        row = {
            "asset_id": asset_id,
            "side": side,
            "revision": revision,
            "live": live,
            "suspended": suspended,
            "queued": queued,
            "up_price": numeric(up),
            "down_price": numeric(down),
            "limit_price": numeric(limit),
            "trail_amount": numeric(amount),
            "trail_bps": bps,
            "from_sequence": since[0],
            "entered_at": since[1],
            "expires_at": expires_at,
            "told": told,
            **dict.fromkeys(_TICKS_ALONE),
        }
        check_resting(order_id, row)
        if not await tx.insert("resting", order_id, row):
            raise UniqueViolation("resting_pkey")
    return Result(written=len(arrays[0]))


def check_resting(order_id: Any, row: Row) -> None:
    """Keep the checks of the table."""
    fired = [name for name in _FIRED_BY if row[name] is not None]
    fits = len(fired) in {0, len(_FIRED_BY)} and not (fired and row["fired_sequence"] <= row["from_sequence"])
    triggered = (row["triggered_sequence"] is None) == (row["triggered_price"] is None)
    since = row["from_sequence"] is not None and row["entered_at"] is not None
    if not (fits and triggered and (since or not row["live"])):
        raise ServerError(CHECK_VIOLATION, f"resting: {order_id} violates a check")


async def update_rows(tx: Transaction, *arrays: list[Any]) -> Result:
    """Write what follows the order."""
    written = 0
    for values in columns(*arrays):
        order_id, amount, bps, expires_at, up, down, limit, *since, live, suspended, told, revision, anew = values
        before = await tx.lock("resting", order_id)
        if before is None:
            continue
        row = {
            **before,
            "up_price": numeric(up),
            "down_price": numeric(down),
            "limit_price": numeric(limit),
            "trail_amount": numeric(amount),
            "trail_bps": bps,
            "expires_at": expires_at,
            "from_sequence": since[0] if anew else before["from_sequence"],
            "entered_at": since[1],
            "live": live,
            "suspended": suspended,
            "told": told,
            "revision": revision,
        }
        check_resting(order_id, row)
        tx.put("resting", order_id, row)
        written += 1
    return Result(written=written)


async def delete_rows(tx: Transaction, order_ids: list[Any]) -> Result:
    """Delete rows."""
    written = 0
    for order_id in order_ids:
        if tx.get("resting", order_id) is not None and await tx.lock("resting", order_id) is not None:
            tx.put("resting", order_id, None)
            written += 1
    return Result(written=written)


async def insert_trails(tx: Transaction, *arrays: list[Any]) -> Result:
    """Insert trails, or make their bounds smaller."""
    written = 0
    for asset_id, side, kind, trail, oldest in columns(*arrays):
        key = (asset_id, side, kind, numeric(trail))
        known = tx.get("trails", key)
        if known is not None and known["oldest"] <= oldest:
            continue
        if not await tx.insert("trails", key, {"oldest": oldest}):
            row = cast("Row", await tx.lock("trails", key))
            tx.put("trails", key, {"oldest": min(row["oldest"], oldest)})
        written += 1
    return Result(written=written)


async def insert_peaks(tx: Transaction, *arrays: list[Any]) -> Result:
    """Insert the quotes from which trailing orders rest, unless they are there."""
    done = [
        await tx.insert("peaks", (asset_id, side, upto), {"price": numeric(price), "set_by": upto})
        for asset_id, side, upto, price in columns(*arrays)
    ]
    return Result(written=sum(done))


async def list_fired(tx: Transaction, most: int) -> Result:
    """List rows that a tick has fired or triggered, in the order of the fires."""
    rows = sorted((row["fired_at"], row["fired_rank"], key) for key, row in tx.rows("resting") if is_fired(row))
    return Result([(order_id,) for *_, order_id in rows[:most]])


async def list_expired(tx: Transaction, most: int) -> Result:
    """List rows whose time has come."""
    now = tx.database.now()
    rows = sorted(
        (row["expires_at"], order_id)
        for order_id, row in tx.rows("resting")
        if row["expires_at"] is not None
        and row["expires_at"] <= now
        and row["fired_sequence"] is None
        and (row["live"] or row["suspended"])
    )
    return Result([(order_id,) for _, order_id in rows[:most]])


async def count_open(tx: Transaction, users: list[str], asset_ids: list[str]) -> Result:
    """Count the open conditional orders of each pair."""
    held = [
        (row["user_id"], row["asset_id"])
        for _, row in tx.rows("orders")
        if row["terms"] is not None and row["status"] in _OPEN
    ]
    return Result([(held.count(pair),) for pair in columns(users, asset_ids)])
