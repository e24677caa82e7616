"""The orchestrator's only SQL: lock the sagas of a batch, write what it decided. One statement a table, arrays in.

Rows are locked in id order, so that two members that work on the same orders can't deadlock. Nothing here decides.
"""

from __future__ import annotations

from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from contracts.codec import decoder, encode
from contracts.decimals import Exact, Money, Price, Quantity, format_decimal
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode, Word
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
    """How one column is written and read. It has the name of the saga's field."""

    name: str
    sent_as: str
    """The element type of the array that is sent."""
    value: Callable[[Saga], Any]
    parse: Callable[[Any], Any] | None = None
    """Makes a field of what the database returns, if it is not one already; null stays None."""
    cast: str = ""
    """From the type that is sent to the column's; the column is then read as text."""


class _Members(dict[str, Any]):
    """The members of an enum by their values: a look-up costs a fifth of a call of the enum."""

    def __init__(self, kind: type[Word]) -> None:
        super().__init__({str(member): member for member in kind})
        self._kind = kind

    def __missing__(self, word: str) -> Any:
        return self._kind(word)


def _plain(name: str, sent_as: str) -> _Column:
    return _Column(name, sent_as, attrgetter(name))


def _word(name: str, kind: type[Word]) -> _Column:
    return _Column(name, "text", attrgetter(name), _Members(kind).__getitem__)


def _amount(name: str, parse: Callable[[str], Any]) -> _Column:
    read = attrgetter(name)
    return _Column(name, "text", lambda saga: _written(read(saga)), parse, "::numeric")


def _written(value: Decimal | None) -> str | None:
    return None if value is None else format_decimal(value)


_ID: Final = _plain("order_id", "uuid")
_ASKED_FOR: Final = (
    _plain("user_id", "text"),
    _plain("asset_id", "text"),
    _word("order_type", OrderType),
    _amount("quantity", Quantity.parse),
    _amount("price", Price.parse),
    _plain("slippage_bps", "int"),
    _plain("client_order_id", "text"),
    _plain("traceparent", "text"),
    _plain("created_at", "timestamptz"),
)
_MOVING: Final = (
    _word("phase", Phase),
    _word("status", OrderStatus),
    _plain("version", "int"),
    _word("reason_code", ReasonCode),
    _plain("reason", "text"),
    _plain("cancel_requested", "bool"),
    _amount("filled_quantity", Money.parse),
    _amount("average_price", Exact.parse),
    _amount("fee", Money.parse),
    _Column("progress", "text", lambda saga: encode(saga.progress).decode(), decoder(Progress).decode, "::jsonb"),
    _plain("due_at", "timestamptz"),
    _plain("overdue_since", "timestamptz"),
    _plain("parked_reason", "text"),
    _plain("history_seq", "int"),
    _plain("updated_at", "timestamptz"),
)
_ALL: Final = (_ID, *_ASKED_FOR, *_MOVING)
_BY_FIELD: Final = itemgetter(*([column.name for column in _ALL].index(name) for name in Saga.__struct_fields__))
"""Sorts a row, which is in the order of `_ALL`, by the fields of a saga."""
_PARSED: Final = tuple((place, column.parse) for place, column in enumerate(_ALL) if column.parse is not None)


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


async def now(
    tx: AsyncConnection, unknown: Iterable[UUID] = ()
) -> tuple[datetime, frozenset[Participant], frozenset[UUID]]:
    """Read the database's clock, by which all deadlines go, who is paused, and which ids are archived orders.

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
    fields = list(row)
    for place, parse in _PARSED:
        if fields[place] is not None:
            fields[place] = parse(fields[place])
    return Saga(*_BY_FIELD(fields))


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
