"""The orchestrator's only SQL: lock the sagas of a batch, write what it decided. One statement a table, arrays in.

Rows are locked in id order, so that two members that work on the same orders can't deadlock. Nothing here decides.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from contracts.codec import decoder, encode
from contracts.decimals import Exact, Money, Price, Quantity, format_decimal
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode
from order_saga.core.saga import Participant, Phase, Progress, Saga
from saga_kit.runtime.database import PATIENTLY
from saga_kit.runtime.errors import Contention

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from order_saga.core.fold import Folded, HistoryRow
    from order_saga.core.saga import Fill


CLIENT_ID_INDEX: Final = "orders_client_order_id"


class _Column(NamedTuple):
    """How one column is written: the array's element type, a cast when it differs, and the value of a saga."""

    name: str
    sent_as: str
    value: Callable[[Saga], Any]
    cast: str = ""


def _amount(name: str) -> _Column:
    read = attrgetter(name)
    return _Column(name, "text", lambda saga: _written(read(saga)), "::numeric")


def _written(value: Decimal | None) -> str | None:
    return None if value is None else format_decimal(value)


def _plain(name: str, sent_as: str) -> _Column:
    return _Column(name, sent_as, attrgetter(name))


_ID: Final = _plain("order_id", "uuid")
_ASKED_FOR: Final = (
    _plain("user_id", "text"),
    _plain("asset_id", "text"),
    _plain("order_type", "text"),
    _amount("quantity"),
    _amount("price"),
    _plain("slippage_bps", "int"),
    _plain("client_order_id", "text"),
    _plain("traceparent", "text"),
    _plain("created_at", "timestamptz"),
)
_MOVING: Final = (
    _plain("phase", "text"),
    _plain("status", "text"),
    _plain("version", "int"),
    _plain("reason_code", "text"),
    _plain("reason", "text"),
    _plain("cancel_requested", "bool"),
    _amount("filled_quantity"),
    _amount("average_price"),
    _amount("fee"),
    _Column("progress", "text", lambda saga: encode(saga.progress).decode(), "::jsonb"),
    _plain("due_at", "timestamptz"),
    _plain("overdue_since", "timestamptz"),
    _plain("parked_reason", "text"),
    _plain("history_seq", "int"),
    _plain("updated_at", "timestamptz"),
)
_ALL: Final = (_ID, *_ASKED_FOR, *_MOVING)


def _rows(columns: Sequence[_Column]) -> str:
    arrays = ", ".join(f"${number}::{column.sent_as}[]" for number, column in enumerate(columns, 1))
    return f"unnest({arrays}) AS new({', '.join(column.name for column in columns)})"


def _insert(columns: Sequence[_Column]) -> str:
    names = ", ".join(column.name for column in columns)
    values = ", ".join(f"new.{column.name}{column.cast}" for column in columns)
    return f"INSERT INTO orders.orders ({names}) SELECT {values} FROM {_rows(columns)} ON CONFLICT DO NOTHING"  # noqa: S608 - our own names


def _update(columns: Sequence[_Column]) -> str:
    changes = ", ".join(f"{column.name} = new.{column.name}{column.cast}" for column in columns)
    rows = _rows((_ID, *columns))
    return f"UPDATE orders.orders AS old SET {changes} FROM {rows} WHERE old.order_id = new.order_id"  # noqa: S608


_INSERT: Final = _insert(_ALL)
_UPDATE: Final = _update(_MOVING)
_UPDATE_ALL: Final = _update((*_ASKED_FOR, *_MOVING))
_NOW: Final = """
    SELECT clock_timestamp(), ARRAY(SELECT participant FROM orders.pauses),
        ARRAY(SELECT order_id FROM orders.archive WHERE order_id = ANY($1::uuid[]))"""
_COLUMNS: Final = ", ".join(f"{column.name}::text" if column.cast else column.name for column in _ALL)
_LOCK: Final = f"""
    SELECT {_COLUMNS}
    FROM orders.orders WHERE order_id = ANY($1::uuid[]) ORDER BY order_id FOR UPDATE"""  # noqa: S608 - our own names
_HISTORY: Final = """
    INSERT INTO orders.history (order_id, seq, at, version_from, version_to, moves, entries)
    SELECT order_id, seq, $7, version_from, version_to, string_to_array(moves, ','), entries::jsonb
    FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::text[], $6::text[])
      AS new(order_id, seq, version_from, version_to, moves, entries)"""
_FILLS: Final = """
    INSERT INTO orders.fills (fill_id, order_id, quantity, price, fee, busted)
    SELECT fill_id, order_id, quantity::numeric, price::numeric, fee::numeric, busted
    FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bool[])
      AS new(fill_id, order_id, quantity, price, fee, busted)
    ON CONFLICT (fill_id) DO UPDATE SET busted = excluded.busted"""
_CLIENT_IDS: Final = """
    SELECT user_id, client_order_id, order_id
    FROM (SELECT user_id, client_order_id, order_id, reason_code FROM orders.orders
          UNION ALL SELECT user_id, client_order_id, order_id, reason_code FROM orders.archive) AS named
    JOIN unnest($1::text[], $2::text[]) AS new(user_id, client_order_id) USING (user_id, client_order_id)
    WHERE client_order_id IS NOT NULL AND reason_code IS DISTINCT FROM 'DUPLICATE_CLIENT_ORDER_ID'"""
# statement_timestamp(), unlike clock_timestamp(), may be looked up in the index of due orders.
_DUE: Final = """
    SELECT order_id FROM orders.orders WHERE due_at <= statement_timestamp() AND parked_reason IS NULL
        AND due_at > statement_timestamp() - make_interval(secs => $2)
    ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED"""
_WAKE: Final = """
    UPDATE orders.orders SET due_at = clock_timestamp()
    WHERE order_id IN (SELECT order_id FROM orders.orders
                       WHERE phase = ANY($1::text[]) AND due_at > statement_timestamp() + interval '5 s'
                       AND parked_reason IS NULL ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED)"""
_HELD_BACK: Final = """
    due_at > clock_timestamp() AND parked_reason IS NULL AND progress @? '$.questions[*] ? (@.held_back == true)'"""
_COUNT_HELD_BACK: Final = f"SELECT count(*) FROM orders.orders WHERE {_HELD_BACK}"  # noqa: S608 - our own words
_WAKE_HELD_BACK: Final = f"""
    UPDATE orders.orders SET due_at = clock_timestamp()
    WHERE order_id IN (SELECT order_id FROM orders.orders WHERE {_HELD_BACK}
                       ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)"""  # noqa: S608 - the same
_PAUSE: Final = """
    INSERT INTO orders.pauses (participant, paused_by, reason) VALUES ($1, $2, $3)
    ON CONFLICT (participant) DO NOTHING"""
_UNPAUSE: Final = "DELETE FROM orders.pauses WHERE participant = $1"
_IN_FLIGHT: Final = f"""
    SELECT {_COLUMNS} FROM orders.orders
    WHERE due_at IS NOT NULL OR parked_reason IS NOT NULL OR phase = 'NEW'"""  # noqa: S608 - our own names
_IS_REPAIRED: Final = "SELECT count(*) FROM orders.repairs WHERE run_id = $1 AND action = $2 AND item = $3"
_NOTE_REPAIR: Final = "INSERT INTO orders.repairs (run_id, action, item, done_by, result) VALUES ($1, $2, $3, $4, $5)"
_COUNTS: Final = """
    SELECT phase, count(*), count(parked_reason), count(overdue_since) FROM orders.orders
    WHERE due_at IS NOT NULL OR parked_reason IS NOT NULL GROUP BY phase"""
_read_progress: Final = decoder(Progress).decode
_PHASES: Final = {str(phase): phase for phase in Phase}
_STATUSES: Final = {str(status): status for status in OrderStatus}
_ORDER_TYPES: Final = {str(order_type): order_type for order_type in OrderType}


async def now(
    tx: AsyncConnection, unknown: Iterable[UUID] = ()
) -> tuple[datetime, frozenset[Participant], frozenset[UUID]]:
    """Read the database's clock, the only one that knows deadlines, who is paused, and which ids are archived orders.

    Call it after locking, with the ids that `lock` did not find: what was archived meanwhile is seen here.
    """
    row: Any = (await tx.exec_driver_sql(_NOW, (list(unknown),))).one()
    return row[0], frozenset(map(Participant, row[1])), frozenset(row[2])


async def lock(tx: AsyncConnection, order_ids: Iterable[UUID]) -> dict[UUID, Saga]:
    """Lock and load the sagas that exist, in id order."""
    rows: Any = await tx.exec_driver_sql(_LOCK, (list(order_ids),))
    return {row[0]: read(row) for row in rows}


def read(row: Sequence[Any]) -> Saga:
    """Make a saga of a row. Raises `ValueError` or `msgspec.ValidationError` for one that this code does not know."""
    return _saga(*row)


async def client_ids(tx: AsyncConnection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], UUID]:
    """Find the orders that hold these (user, client order id) pairs."""
    if not wanted:
        return {}
    users, names = zip(*wanted, strict=True)
    rows: Any = await tx.exec_driver_sql(_CLIENT_IDS, (list(users), list(names)))
    return {(user_id, client_order_id): order_id for user_id, client_order_id, order_id in rows}


async def save(tx: AsyncConnection, known: Mapping[UUID, Saga], folded: Folded, at: datetime) -> None:
    """Write every touched saga once, with its history and fills. Raises `Contention`."""
    touched = sorted(folded.sagas.values(), key=attrgetter("order_id.int"))
    await _create(tx, [saga for saga in touched if saga.order_id not in known])
    stubs = [saga for saga in touched if saga.order_id in known and known[saga.order_id].phase is Phase.NEW]
    await _change(tx, _UPDATE_ALL, (_ID, *_ASKED_FOR, *_MOVING), stubs)
    moved = [saga for saga in touched if saga.order_id in known and known[saga.order_id].phase is not Phase.NEW]
    await _change(tx, _UPDATE, (_ID, *_MOVING), moved)
    await _write_history(tx, [row for row in folded.history.values() if row.entries], at)
    await _write_fills(tx, list(folded.fills.values()))


async def due(tx: AsyncConnection, most: int, back_s: float) -> list[UUID]:
    """List orders whose time has come within `back_s`, those first that waited longest; ones in work are left out."""
    return list((await tx.exec_driver_sql(_DUE, (most, back_s))).scalars())


async def wake(tx: AsyncConnection, phases: Sequence[Phase], most: int) -> int:
    """Make orders that wait in these phases due at once; returns how many.

    Those that are due within 5 s come by themselves: among them are all that were asked a moment ago.
    """
    return (await tx.exec_driver_sql(_WAKE, (list(phases), most))).rowcount


async def held_back(tx: AsyncConnection) -> int:
    """Count the orders that wait for a paused participant, but for those that are due already."""
    count: int = (await tx.exec_driver_sql(_COUNT_HELD_BACK)).scalar_one()
    return count


async def wake_held_back(tx: AsyncConnection, most: int) -> int:
    """Make orders that wait for a paused participant due at once; returns how many. Ones in work are left out."""
    return (await tx.exec_driver_sql(_WAKE_HELD_BACK, (most,))).rowcount


async def pause(tx: AsyncConnection, participant: Participant, paused_by: str, reason: str) -> bool:
    """Have nobody ask a participant from the next batch on; False when it was paused already."""
    return (await tx.exec_driver_sql(_PAUSE, (participant, paused_by, reason))).rowcount == 1


async def unpause(tx: AsyncConnection, participant: Participant) -> bool:
    """Let a participant be asked again; False when it was not paused."""
    return (await tx.exec_driver_sql(_UNPAUSE, (participant,))).rowcount == 1


async def in_flight(engine: AsyncEngine) -> AsyncIterator[Sequence[Any]]:
    """Read the row of every order that has not ended, for `read`, one by one; nothing is locked."""
    async with engine.connect() as connection:
        await connection.exec_driver_sql(PATIENTLY)
        async for row in await connection.stream(text(_IN_FLIGHT)):
            yield row


async def is_repaired(tx: AsyncConnection, run_id: str, action: str, item: str) -> bool:
    """Tell whether a run has done this to an item."""
    return bool((await tx.exec_driver_sql(_IS_REPAIRED, (run_id, action, item))).scalar_one())


async def note_repair(tx: AsyncConnection, run_id: str, action: str, item: str, done_by: str, result: str) -> None:
    """Write down what a run did to an item. Raises `Contention` when the same run does it twice at the same time."""
    try:
        await tx.exec_driver_sql(_NOTE_REPAIR, (run_id, action, item, done_by, result))
    except IntegrityError as error:
        raise Contention(f"run {run_id} is at work on {item} this instant") from error


async def counts(tx: AsyncConnection) -> tuple[dict[str, int], int, int]:
    """Count the orders that have not ended by phase, the parked ones and the overdue ones."""
    rows: Any = (await tx.exec_driver_sql(_COUNTS)).all()
    return {row[0]: row[1] for row in rows}, sum(row[2] for row in rows), sum(row[3] for row in rows)


async def _create(tx: AsyncConnection, sagas: Sequence[Saga]) -> None:
    if sagas:
        result = await tx.exec_driver_sql(_INSERT, _arrays(_ALL, sagas))
        if result.rowcount != len(sagas):
            raise Contention("another member created one of these orders this instant")


async def _change(tx: AsyncConnection, statement: str, columns: Sequence[_Column], sagas: Sequence[Saga]) -> None:
    if not sagas:
        return
    try:
        await tx.exec_driver_sql(statement, _arrays(columns, sagas))
    except IntegrityError as error:
        if CLIENT_ID_INDEX in str(error):
            raise Contention("another member stored the same client order id this instant") from error
        raise


async def _write_history(tx: AsyncConnection, rows: Sequence[HistoryRow], at: datetime) -> None:
    if rows:
        arrays = zip(
            *(
                (c.order_id, c.seq, c.version_from, c.version_to, ",".join(c.moves), encode(c.entries).decode())
                for c in rows
            ),
            strict=True,
        )
        await tx.exec_driver_sql(_HISTORY, (*map(list, arrays), at))


async def _write_fills(tx: AsyncConnection, fills: Sequence[Fill]) -> None:
    if fills:
        arrays = zip(
            *(
                (f.fill_id, f.order_id, _written(f.quantity), _written(f.price), _written(f.fee), f.busted)
                for f in fills
            ),
            strict=True,
        )
        await tx.exec_driver_sql(_FILLS, tuple(map(list, arrays)))


def _arrays(columns: Sequence[_Column], sagas: Sequence[Saga]) -> tuple[list[Any], ...]:
    return tuple([column.value(saga) for saga in sagas] for column in columns)


def _saga(  # noqa: PLR0913, PLR0917 - one argument a column, in the order of `_ALL`
    order_id: UUID, user_id: str, asset_id: str | None, order_type: str | None, quantity: str | None,
    price: str | None, slippage_bps: int | None, client_order_id: str | None, traceparent: str | None,
    created_at: datetime, phase: str, status: str | None, version: int, reason_code: str | None, reason: str | None,
    cancel_requested: bool,  # noqa: FBT001
    filled_quantity: str, average_price: str | None, fee: str, progress: str,
    due_at: datetime | None, overdue_since: datetime | None, parked_reason: str | None, history_seq: int,
    updated_at: datetime,
) -> Saga:  # fmt: skip
    return Saga(
        order_id=order_id,
        user_id=user_id,
        phase=_PHASES.get(phase) or Phase(phase),
        created_at=created_at,
        updated_at=updated_at,
        asset_id=asset_id,
        order_type=None if order_type is None else _ORDER_TYPES.get(order_type) or OrderType(order_type),
        quantity=None if quantity is None else Quantity.parse(quantity),
        price=None if price is None else Price.parse(price),
        slippage_bps=slippage_bps,
        client_order_id=client_order_id,
        traceparent=traceparent,
        status=None if status is None else _STATUSES.get(status) or OrderStatus(status),
        version=version,
        reason_code=None if reason_code is None else ReasonCode(reason_code),
        reason=reason,
        cancel_requested=cancel_requested,
        filled_quantity=Money.parse(filled_quantity),
        average_price=None if average_price is None else Exact.parse(average_price),
        fee=Money.parse(fee),
        progress=_read_progress(progress),
        due_at=due_at,
        overdue_since=overdue_since,
        parked_reason=parked_reason,
        history_seq=history_seq,
    )
