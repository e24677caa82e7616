"""The orchestrator's statements on orders, their history, fills and archive, and those of operators."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, cast

from operations.retention import archive
from order_saga.core.phases import IDLE
from order_saga.worker import store as orders
from order_saga.worker.tables import legal_moves
from tests.evidence.simulation.database import (
    CHECK_VIOLATION,
    Result,
    Row,
    ServerError,
    Statement,
    Transaction,
    UniqueViolation,
)
from tests.evidence.simulation.statements.values import as_text, columns, is_due, numeric

_LEGAL_MOVES: Final = frozenset(legal_moves())
_TERMINAL: Final = frozenset({"COMPLETED", "CANCELLED", "FAILED"})
_FILL_AMOUNTS: Final = ("quantity", "price", "fee")
_ALL: Final = tuple(column.name for column in orders._ALL)
_READ: Final = _ALL
_NUMERIC: Final = frozenset(column.name for column in orders._ALL if column.cast == "::numeric")


def order_statements() -> dict[str, Statement]:
    """Map the text of every statement to what it does."""
    moving = tuple(column.name for column in (orders._ID, *orders._MOVING))
    amended = tuple(column.name for column in (orders._ID, *orders._AMENDED, *orders._MOVING))
    return {
        orders._TAKE: take,
        orders._ARCHIVED: find_archived,
        orders._INSERT: insert_orders,
        orders._UPDATE: _updates(moving),
        orders._UPDATE_AMENDED: _updates(amended),
        orders._UPDATE_ALL: _updates(_ALL, names=True),
        orders._HISTORY: insert_history,
        orders._FILLS: upsert_fills,
        orders._DUE: due,
        orders._WAKE: wake,
        orders._COUNT_HELD_BACK: count_held_back,
        orders._WAKE_HELD_BACK: wake_held_back,
        orders._PAUSE: pause,
        orders._UNPAUSE: unpause,
        orders._IS_REPAIRED: is_repaired,
        orders._NOTE_REPAIR: note_repair,
        archive._CHOOSE: choose_old,
        archive._MOVE: archive_orders,
    }


async def take(tx: Transaction, order_ids: list[Any], users: list[str], names: list[str], gates_held: bool) -> Result:  # noqa: FBT001 - as the statement has it
    """Lock orders in the order of their ids; tell the time after that, and the rest as it was at the beginning.

    Without gates nothing is locked when one of the orders rests.
    """
    rests_on = {row["asset_id"] for row in (tx.get("resting", one) for one in order_ids) if row is not None}
    pauses = [participant for participant, _ in tx.rows("pauses")]
    archived = [order_id for order_id in order_ids if tx.get("archive", order_id) is not None]
    holders = [_holder(tx, key) for key in columns(users, names)]
    wanted = set(order_ids) if gates_held or not rests_on else set()
    there = sorted(order_id for order_id in wanted if tx.get("orders", order_id) is not None)
    locked = [await tx.lock("orders", order_id) for order_id in there]
    rows = [(*_NOTHING, *(_read(name, row[name]) for name in _READ)) for row in locked if row is not None]
    return Result([*rows, (tx.database.now(), sorted(rests_on), pauses, archived, holders, *(None for _ in _READ))])


_NOTHING: Final = (None,) * 5


async def find_archived(tx: Transaction, order_ids: list[Any]) -> Result:
    """Tell which of these are archived orders."""
    return Result([(order_id,) for order_id in order_ids if tx.get("archive", order_id) is not None])


def _read(name: str, value: Any) -> Any:
    """Read a column as the orchestrator does: amounts as text, with all their places."""
    return as_text(value) if name in _NUMERIC else value


def _holder(tx: Transaction, key: tuple[str, str]) -> Any:
    """Find who holds a client order id."""
    row = tx.get("client_ids", key)
    return _archived_names(tx).get(key) if row is None else row["order_id"]


def _archived_names(tx: Transaction) -> dict[tuple[str, str], Any]:
    """Map the names that archived orders hold to the orders."""
    return {_name(row): row["order_id"] for _, row in tx.rows("archive") if _holds_name(row)}


def _name(order: Row) -> tuple[str, str]:
    return order["user_id"], order["client_order_id"]


async def insert_orders(tx: Transaction, *arrays: list[Any]) -> Result:
    """Insert orders; one that is archived, or whose id or client order id is taken, is left out."""
    done = 0
    for values in columns(*arrays):
        row = _order(_ALL, values)
        _check_order(row)
        if tx.get("archive", row["order_id"]) is not None or not _name_is_free(tx, row):
            continue
        if await tx.insert("orders", row["order_id"], row):
            if await _claim_client_id(tx, row):
                done += 1
            else:
                tx.put("orders", row["order_id"], None)
    return Result(written=done)


def _updates(changing: tuple[str, ...], *, names: bool = False) -> Statement:
    """Make an update of these columns; `names`: it may give an order its client order id."""

    async def update(tx: Transaction, *arrays: list[Any]) -> Result:
        written = 0
        for values in columns(*arrays):
            changes = _order(changing, values)
            before = await tx.lock("orders", changes["order_id"])
            if before is None:
                continue
            row = {**before, **changes}
            if names and not _name_is_free(tx, row):
                continue
            if not await _claim_client_id(tx, row):
                raise UniqueViolation(orders.CLIENT_ID_INDEX)
            _check_order(row)
            tx.put("orders", row["order_id"], row)
            written += 1
        return Result(written=written)

    return update


def _order(names: tuple[str, ...], values: tuple[Any, ...]) -> Row:
    return {name: numeric(value) if name in _NUMERIC else value for name, value in zip(names, values, strict=True)}


def _name_is_free(tx: Transaction, row: Row) -> bool:
    """Tell whether no archived order holds the client order id of a new one."""
    return not _holds_name(row) or _name(row) not in _archived_names(tx)


def _holds_name(row: Row) -> bool:
    """Tell whether an order holds its client order id: a duplicate only bears it."""
    return row["client_order_id"] is not None and row["reason_code"] != "DUPLICATE_CLIENT_ORDER_ID"


async def _claim_client_id(tx: Transaction, row: Row) -> bool:
    """Keep the unique index of client order ids."""
    if not _holds_name(row):
        return True
    key, entry = (row["user_id"], row["client_order_id"]), {"order_id": row["order_id"]}
    return tx.get("client_ids", key) == entry or await tx.insert("client_ids", key, entry)


def _check_order(row: Row) -> None:
    wakeable = (
        row["phase"] in {"NEW", *_TERMINAL, *IDLE} or row["parked_reason"] is not None or row["due_at"] is not None
    )
    reason = (row["reason_code"] is not None) == (row["status"] in {"CANCELLED", "FAILED"})
    if not (wakeable and reason and (row["phase"] == "NEW") == (row["version"] == 0)):
        raise ServerError(CHECK_VIOLATION, f"orders: {row['order_id']} violates a check")


async def insert_history(tx: Transaction, *arrays: Any) -> Result:
    """Insert a chapter for each order."""
    *rows, at = arrays
    for order_id, seq, version_from, version_to, moves, entries in columns(*rows):
        told = moves.split(",") if moves else []
        if len(told) != version_to - version_from or not _LEGAL_MOVES.issuperset(told):
            raise ServerError(CHECK_VIOLATION, f"history: {order_id} goes {moves} from version {version_from}")
        row = {"at": at, "version_from": version_from, "version_to": version_to, "moves": told, "entries": entries}
        if not await tx.insert("history", (order_id, seq), row):
            raise UniqueViolation("history_pkey")
    return Result(written=len(rows[0]))


async def upsert_fills(tx: Transaction, *arrays: list[Any]) -> Result:
    """Insert fills; of one that is there only `busted` changes."""
    for fill_id, order_id, quantity, price, fee, busted in columns(*arrays):
        row = {
            "order_id": order_id,
            "quantity": numeric(quantity),
            "price": numeric(price),
            "fee": numeric(fee),
            "busted": busted,
        }
        if not await tx.insert("fills", fill_id, row):
            known = await tx.lock("fills", fill_id)
            tx.put("fills", fill_id, {**cast("Row", known), "busted": busted})
    return Result(written=len(arrays[0]))


async def due(tx: Transaction, most: int, back_s: float) -> Result:
    """Lock orders that are due and not locked, the longest-waiting first."""
    now = tx.database.now()
    waiting = sorted(
        (row["due_at"], order_id)
        for order_id, row in tx.rows("orders")
        if row["due_at"] is not None and row["parked_reason"] is None and is_due(row["due_at"], now, back_s)
    )
    free = [order_id for _, order_id in waiting if tx.is_free("orders", order_id)][:most]
    for order_id in free:
        await tx.lock("orders", order_id)
    return Result([(order_id,) for order_id in free])


async def wake(tx: Transaction, phases: list[str], most: int) -> Result:
    """Make orders due that wait in these phases, unless they are due within a moment anyway."""
    soon = tx.database.now() + timedelta(seconds=5)
    return await _wake(tx, most, lambda row: row["phase"] in phases and row["due_at"] > soon)


async def count_held_back(tx: Transaction) -> Result:
    """Count orders that wait for a participant that was paused."""
    held_back = [order_id for order_id, row in tx.rows("orders") if _could_wake(row) and _is_held_back(tx, row)]
    return Result([(len(held_back),)])


async def wake_held_back(tx: Transaction, most: int) -> Result:
    """Make orders due that wait for a participant that was paused."""
    return await _wake(tx, most, lambda row: _is_held_back(tx, row))


def _is_held_back(tx: Transaction, row: Row) -> bool:
    return row["due_at"] > tx.database.now() and '"held_back":true' in row["progress"]


def _could_wake(row: Row) -> bool:
    return row["due_at"] is not None and row["parked_reason"] is None


async def _wake(tx: Transaction, most: int, is_meant: Callable[[Row], bool]) -> Result:
    now = tx.database.now()
    waiting = sorted(
        (row["due_at"], order_id) for order_id, row in tx.rows("orders") if _could_wake(row) and is_meant(row)
    )
    free = [order_id for _, order_id in waiting if tx.is_free("orders", order_id)][:most]
    for order_id in free:
        row = cast("Row", await tx.lock("orders", order_id))
        tx.put("orders", order_id, {**row, "due_at": now})
    return Result(written=len(free))


async def pause(tx: Transaction, participant: str, paused_by: str, reason: str) -> Result:
    """Record that a participant is paused."""
    done = await tx.insert("pauses", str(participant), {"paused_by": paused_by, "reason": reason})
    return Result(written=int(done))


async def unpause(tx: Transaction, participant: str) -> Result:
    """Forget that."""
    there = tx.get("pauses", str(participant)) is not None and await tx.lock("pauses", str(participant)) is not None
    if there:
        tx.put("pauses", str(participant), None)
    return Result(written=int(there))


async def is_repaired(tx: Transaction, run_id: str, action: str, item: str) -> Result:
    """Count the repairs that a run recorded for an item."""
    return Result([(int(tx.get("repairs", (run_id, action, item)) is not None),)])


async def note_repair(tx: Transaction, run_id: str, action: str, item: str, done_by: str, result: str) -> Result:
    """Record what a run did to an item."""
    if not await tx.insert("repairs", (run_id, action, str(item)), {"done_by": done_by, "result": result}):
        raise UniqueViolation("repairs_pkey")
    return Result(written=1)


async def choose_old(tx: Transaction, older_than_s: float, _first: str, _end: str, most: int) -> Result:
    """Lock orders that ended so long ago and are not locked; here every table has one page."""
    before = tx.database.now() - timedelta(seconds=older_than_s)
    old = [
        order_id
        for order_id, row in tx.rows("orders")
        if row["phase"] in _TERMINAL and row["parked_reason"] is None and row["updated_at"] < before
    ]
    free = [order_id for order_id in sorted(old) if tx.is_free("orders", order_id)][:most]
    for order_id in free:
        await tx.lock("orders", order_id)
    return Result([(order_id,) for order_id in free])


async def archive_orders(tx: Transaction, order_ids: list[Any]) -> Result:
    """Put each of these orders into one row, with its history and fills."""
    there = [(order_id, order) for order_id in order_ids if (order := tx.get("orders", order_id)) is not None]
    for order_id, order in there:
        told = sorted((key, row) for key, row in tx.rows("history") if key[0] == order_id)
        filled = [(key, row) for key, row in tx.rows("fills") if row["order_id"] == order_id]
        documents = {
            "history": json.dumps(
                [{**row, "seq": key[1], "at": row["at"].isoformat(), "entries": json.loads(row["entries"])}
                 for key, row in told]
            ),
            "fills": json.dumps(
                [{"fill_id": key, "busted": row["busted"], **{name: str(row[name]) for name in _FILL_AMOUNTS}}
                 for key, row in filled]
            ),
        }  # fmt: skip
        if order["reason_code"] != "DUPLICATE_CLIENT_ORDER_ID" and _name(order) in _archived_names(tx):
            raise UniqueViolation("archive_client_order_id")
        await tx.insert("archive", order_id, {**order, **documents})
        for table, keys in (("history", told), ("fills", filled)):
            for key, _ in keys:
                tx.put(table, key, None)
        if tx.get("client_ids", _name(order)) == {"order_id": order_id}:
            await tx.lock("client_ids", _name(order))
            tx.put("client_ids", _name(order), None)
        tx.put("orders", order_id, None)
    return Result(written=len(there))
