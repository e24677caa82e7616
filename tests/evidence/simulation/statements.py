"""The product's SQL statements as Python functions on the simulated database, one for each, found by the SQL text.

A statement that changes in the product and not here is unknown and fails at once. `test_same_as_postgres.py` runs the
same work on PostgreSQL and compares the results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple, cast

from contracts.decimals import PLACES_MAX
from operations.retention import archive
from order_saga.worker import store as orders
from order_saga.worker.tables import legal_moves
from participants.assets.store import LISTINGS
from participants.balance import store as balances
from saga_kit.messaging.batch import SHORT_LOCK_TIMEOUT
from saga_kit.messaging.locked_rows import LOCK_TIMEOUT_MS
from saga_kit.messaging.outbox import Outbox, Relay
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

SCHEMAS: Final = ("orders", "balances", "assets")
PLACES: Final = Decimal(1).scaleb(-18)
_LEGAL_MOVES: Final = frozenset(legal_moves())
_TERMINAL: Final = frozenset({"COMPLETED", "CANCELLED", "FAILED"})
_FILL_AMOUNTS: Final = ("quantity", "price", "fee")


def statements() -> dict[str, Statement]:
    """Map the text of every statement that the simulation can run to what it does."""
    known: dict[str, Statement] = {
        SHORT_LOCK_TIMEOUT: hurry,
        **_orders(),
        balances.MAKE_ACCOUNTS: make_accounts,
        balances.LOCK_ACCOUNTS: lock_accounts,
        balances.OWNERS: owners,
        balances.WRITE_ACCOUNTS: write_accounts,
        balances.ADD_ENTRIES: add_entries,
        LISTINGS: listings,
    }
    for schema in SCHEMAS:
        known |= _outbox(schema)
    holds: Any = Holds("balances")
    return known | {
        holds._lock_sql: lock_holds,
        holds._insert_sql: insert_holds,
        holds._update_sql: update_holds,
        holds._archive_sql: archive_holds,
    }


async def hurry(tx: Transaction) -> Result:
    """Wait for no lock longer than a moment."""
    tx.lock_timeout_s = LOCK_TIMEOUT_MS / 1000
    return Result()


def numeric(text: str | None) -> Decimal | None:
    """Store a number as a column of `numeric(38,18)` does."""
    return None if text is None else Decimal(text).quantize(PLACES)


def _columns(*arrays: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    return zip(*arrays, strict=True)


# The orchestrator's ---------------------------------------------------------------------------------------------------

_ALL: Final = tuple(column.name for column in orders._ALL)
_READ: Final = _ALL
_NUMERIC: Final = frozenset(column.name for column in orders._ALL if column.cast == "::numeric")


def _orders() -> dict[str, Statement]:
    moving = tuple(column.name for column in (orders._ID, *orders._MOVING))
    return {
        orders._TAKE: take,
        orders._ARCHIVED: find_archived,
        orders._INSERT: insert_orders,
        orders._UPDATE: _updates(moving),
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


async def take(tx: Transaction, order_ids: list[Any], users: list[str], names: list[str]) -> Result:
    """Lock orders in the order of their ids; tell the time after that, and the rest as it was at the beginning."""
    pauses = [participant for participant, _ in tx.rows("pauses")]
    archived = [order_id for order_id in order_ids if tx.get("archive", order_id) is not None]
    holders = [_holder(tx, key) for key in _columns(users, names)]
    there = sorted(order_id for order_id in set(order_ids) if tx.get("orders", order_id) is not None)
    locked = [await tx.lock("orders", order_id) for order_id in there]
    rows = [(*_NOTHING, *(_read(name, row[name]) for name in _READ)) for row in locked if row is not None]
    return Result([*rows, (tx.database.now(), pauses, archived, holders, *(None for _ in _READ))])


_NOTHING: Final = (None,) * 4


async def find_archived(tx: Transaction, order_ids: list[Any]) -> Result:
    """Tell which of these are archived orders."""
    return Result([(order_id,) for order_id in order_ids if tx.get("archive", order_id) is not None])


def _read(name: str, value: Any) -> Any:
    """Read a column as the orchestrator does: amounts as text, with all their places."""
    return value if value is None or name not in _NUMERIC else f"{value:.{PLACES_MAX}f}"


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
    for values in _columns(*arrays):
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


def _updates(columns: tuple[str, ...], *, names: bool = False) -> Statement:
    """Make an update of these columns; `names`: it may give an order its client order id."""

    async def update(tx: Transaction, *arrays: list[Any]) -> Result:
        written = 0
        for values in _columns(*arrays):
            changes = _order(columns, values)
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
    wakeable = row["phase"] in {"NEW", *_TERMINAL} or row["parked_reason"] is not None or row["due_at"] is not None
    reason = (row["reason_code"] is not None) == (row["status"] in {"CANCELLED", "FAILED"})
    if not (wakeable and reason and (row["phase"] == "NEW") == (row["version"] == 0)):
        raise ServerError(CHECK_VIOLATION, f"orders: {row['order_id']} violates a check")


async def insert_history(tx: Transaction, *arrays: Any) -> Result:
    """Insert a chapter for each order."""
    *columns, at = arrays
    for order_id, seq, version_from, version_to, moves, entries in _columns(*columns):
        told = moves.split(",") if moves else []
        if len(told) != version_to - version_from or not _LEGAL_MOVES.issuperset(told):
            raise ServerError(CHECK_VIOLATION, f"history: {order_id} goes {moves} from version {version_from}")
        row = {"at": at, "version_from": version_from, "version_to": version_to, "moves": told, "entries": entries}
        if not await tx.insert("history", (order_id, seq), row):
            raise UniqueViolation("history_pkey")
    return Result(written=len(columns[0]))


async def upsert_fills(tx: Transaction, *arrays: list[Any]) -> Result:
    """Insert fills; of one that is there only `busted` changes."""
    for fill_id, order_id, quantity, price, fee, busted in _columns(*arrays):
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
        if row["due_at"] is not None and row["parked_reason"] is None and _is_due(row["due_at"], now, back_s)
    )
    free = [order_id for _, order_id in waiting if tx.is_free("orders", order_id)][:most]
    for order_id in free:
        await tx.lock("orders", order_id)
    return Result([(order_id,) for order_id in free])


def _is_due(at: datetime, now: datetime, back_s: float) -> bool:
    return now - timedelta(seconds=back_s) < at <= now


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


# The outbox's, of each schema -----------------------------------------------------------------------------------------


def _outbox(schema: str) -> dict[str, Statement]:
    table = f"{schema}.outbox"
    outbox: Any = Outbox(schema)
    relay: Any = Relay(cast("Any", None), schema, outbox, cast("Any", None))

    async def insert(tx: Transaction, due_s: float, available_s: float, refs: list[str], payload: bytes) -> Result:
        outbox_id, now = tx.database.next_serial(table), tx.database.now()
        row = {
            "due_at": now + timedelta(seconds=due_s),
            "available_at": now + timedelta(seconds=available_s),
            "refs": refs,
            "payload": payload,
        }
        await tx.insert(table, outbox_id, row)
        return Result([(outbox_id,)], written=1)

    async def delete(tx: Transaction, ids: list[int]) -> Result:
        deleted = 0
        for outbox_id in (one for one in ids if tx.get(table, one) is not None and tx.is_free(table, one)):
            if await tx.lock(table, outbox_id) is not None:
                tx.put(table, outbox_id, None)
                deleted += 1
        return Result(written=deleted)

    async def claim(tx: Transaction, lease_s: float, most: int, back_s: float) -> Result:
        now = tx.database.now()
        waiting = sorted(
            (row["available_at"], key) for key, row in tx.rows(table) if _is_due(row["available_at"], now, back_s)
        )
        free = [outbox_id for _, outbox_id in waiting if tx.is_free(table, outbox_id)][:most]
        return Result([await _lease(tx, table, outbox_id, lease_s) for outbox_id in free])

    async def release(tx: Transaction, wait_s: float, ids: list[int]) -> Result:
        released = 0
        for outbox_id in ids:
            if tx.get(table, outbox_id) is not None and await tx.lock(table, outbox_id) is not None:
                await _lease(tx, table, outbox_id, wait_s)
                released += 1
        return Result(written=released)

    return {
        outbox._insert_sql: insert,
        outbox._delete_sql: delete,
        relay._claim_sql: claim,
        relay._release_sql: release,
    }


async def _lease(tx: Transaction, table: str, outbox_id: int, seconds: float) -> tuple[int, bytes]:
    row = cast("Row", await tx.lock(table, outbox_id))
    tx.put(table, outbox_id, {**row, "available_at": tx.database.now() + timedelta(seconds=seconds)})
    return outbox_id, row["payload"]


# The balance service's ------------------------------------------------------------------------------------------------


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


def _has_account(tx: Transaction, user_id: str) -> bool:
    return any(key[0] == user_id for key, _ in tx.rows("accounts"))


async def make_accounts(tx: Transaction, users: list[str], assets: list[str]) -> Result:
    """Make empty accounts for users who have one already."""
    made = [
        await tx.insert("accounts", key, {"available": numeric("0"), "held": numeric("0")})
        for key in sorted(set(_columns(users, assets)))
        if _has_account(tx, key[0])
    ]
    return Result(written=sum(made))


async def lock_accounts(tx: Transaction, users: list[str], assets: list[str]) -> Result:
    """Lock accounts in the order of user and asset."""
    there = sorted(key for key in set(_columns(users, assets)) if tx.get("accounts", key) is not None)
    rows = [(key, cast("Row", await tx.lock("accounts", key))) for key in there]
    return Result([(*key, row["available"], row["held"]) for key, row in rows])


async def owners(tx: Transaction, users: list[str]) -> Result:
    """List those users who have an account."""
    return Result([(user_id,) for user_id in sorted(set(users)) if _has_account(tx, user_id)])


async def write_accounts(tx: Transaction, *arrays: list[Any]) -> Result:
    """Write what accounts hold."""
    written = 0
    for user_id, asset_id, available, held in _columns(*arrays):
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
    for entry_id, order_id, *legs in _columns(*arrays):
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
    rows = dict(_hold(values) for values in _columns(*arrays))
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
    """Write the states of holds."""
    written = 0
    for hold_id, row in (_hold(values) for values in _columns(*arrays)):
        before = await tx.lock("holds", hold_id)
        if before is not None:
            kept = {name: before[name] for name in ("saga_id", "owner", "unit", "amount")}
            tx.put("holds", hold_id, {**row, **kept})
            written += 1
    return Result(written=written)


def _hold(values: Iterable[Any]) -> tuple[str, Row]:
    hold_id, saga_id, owner, unit, amount, captured, refunded, state, reason_code, reason = values
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
    }
    _check_hold(hold_id, row)
    return hold_id, row


def _check_hold(hold_id: str, row: Row) -> None:
    ends = {"SETTLED": (row["captured"] + row["refunded"], row["amount"]), "REFUNDED": (row["refunded"], row["amount"])}
    total, expected = ends.get(row["state"], (row["captured"] + row["refunded"], 0))
    if total != expected or min(row["amount"], row["captured"], row["refunded"]) < 0:
        raise ServerError(CHECK_VIOLATION, f"holds: {hold_id} violates a check")


# The asset service's --------------------------------------------------------------------------------------------------


async def listings(tx: Transaction, asset_ids: list[str]) -> Result:
    """Read assets with their prices; the world stores both as one row, as the statement returns them."""
    now = tx.database.now()
    rows = ((asset_id, tx.get("assets", asset_id)) for asset_id in sorted(set(asset_ids)))
    return Result([(asset_id, *row["rules"], now, *row["price"]) for asset_id, row in rows if row is not None])
