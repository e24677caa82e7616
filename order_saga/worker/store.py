"""The orchestrator's only SQL: lock the sagas of a batch, write what it decided. One statement a table, arrays in.

Rows are locked in id order, so that two members that work on the same orders can't deadlock. Nothing here decides.
"""

from __future__ import annotations

from functools import cache
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg
from sqlalchemy import text

from contracts.codec import decoder, encode
from contracts.decimals import Exact, Money, Price, Quantity, format_decimal
from contracts.terms import Terms
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode, Word
from order_saga.core.phases import IDLE
from order_saga.core.saga import Participant, Phase, Progress, Saga
from saga_kit.runtime.database import FEW_AT_A_TIME, PATIENTLY
from saga_kit.runtime.errors import Contention

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

    from order_saga.core.fold import Folded, HistoryRow
    from order_saga.core.saga import Fill
    from saga_kit.runtime.transactions import Transaction


CLIENT_ID_INDEX: Final = "orders_client_order_id"
_EXTRA: Final = 5
"""Columns of `_TAKE` before those of an order."""


class _Column(NamedTuple):
    """How one column is written and read. It has the name of the saga's field."""

    name: str
    sent_as: str
    """The element type of the array that is sent."""
    write: Callable[[Any], Any] | None = None
    """Makes what is sent of a field, if it is not sent as it is; None stays null."""
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
    return _Column(name, sent_as)


def _word(name: str, kind: type[Word]) -> _Column:
    return _Column(name, "text", None, _Members(kind).__getitem__)


def _amount(name: str, parse: Callable[[str], Any]) -> _Column:
    return _Column(name, "text", format_decimal, parse, "::numeric")


_ID: Final = _plain("order_id", "uuid")
_ASKED_FOR: Final = (
    _plain("user_id", "text"),
    _plain("asset_id", "text"),
    _word("order_type", OrderType),
    _amount("quantity", Quantity.parse),
    _amount("price", Price.parse),
    _plain("slippage_bps", "int"),
    _plain("client_order_id", "text"),
    _Column("terms", "text", lambda terms: encode(terms).decode(), decoder(Terms).decode),
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
    _Column("progress", "text", lambda progress: encode(progress).decode(), decoder(Progress).decode, "::text"),
    _plain("due_at", "timestamptz"),
    _plain("overdue_since", "timestamptz"),
    _plain("parked_reason", "text"),
    _plain("history_seq", "int"),
    _plain("updated_at", "timestamptz"),
)
_AMENDED: Final = tuple(column for column in _ASKED_FOR if column.name in {"quantity", "slippage_bps", "terms"})
"""What an amend changes of what was asked for."""
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
    return f"""
    INSERT INTO orders.orders ({names}) SELECT {values} FROM {_rows(columns)}
    WHERE new.order_id <> ALL(ARRAY({_ARCHIVED})) AND {_NAME_IS_FREE} ON CONFLICT DO NOTHING"""  # noqa: S608 - our own names


def _update(columns: Sequence[_Column], also: str = "") -> str:
    changes = ", ".join(f"{column.name} = new.{column.name}{column.cast}" for column in columns)
    rows = _rows((_ID, *columns))
    return f"UPDATE orders.orders AS old SET {changes} FROM {rows} WHERE old.order_id = new.order_id{also}"  # noqa: S608


_ARCHIVED: Final = "SELECT order_id FROM orders.archive WHERE order_id = ANY($1::uuid[])"
_HOLDS_NAME: Final = """
        named.user_id = new.user_id AND named.client_order_id = new.client_order_id
            AND named.client_order_id IS NOT NULL AND named.reason_code IS DISTINCT FROM 'DUPLICATE_CLIENT_ORDER_ID'"""
"""Whether the order `named` holds the client order id of `new`; written as the unique indexes have it."""
# The unique index knows nothing of a holder that was stored, ended and archived since the batch looked for it. `LIMIT`
# keeps the planner from hashing the whole archive.
_NAME_IS_FREE: Final = f"""
    (new.client_order_id IS NULL OR new.reason_code = 'DUPLICATE_CLIENT_ORDER_ID' OR (
        SELECT named.order_id FROM orders.archive AS named WHERE {_HOLDS_NAME} LIMIT 1) IS NULL)"""  # noqa: S608 - our own words
_INSERT: Final = _insert(_ALL)
_UPDATE: Final = _update(_MOVING)
_UPDATE_AMENDED: Final = _update((*_AMENDED, *_MOVING))
_UPDATE_ALL: Final = _update((*_ASKED_FOR, *_MOVING), f" AND {_NAME_IS_FREE}")
_COLUMNS: Final = ", ".join(f"{column.name}::text" if column.cast else column.name for column in _ALL)
_OF_ARCHIVE: Final = ", ".join(
    {
        "due_at": "NULL::timestamptz", "overdue_since": "NULL::timestamptz", "parked_reason": "NULL::text",
        "progress": "progress::text",
    }.get(column.name, f"{column.name}::text" if column.cast else column.name) for column in _ALL
)  # fmt: skip
_RESTS_ON: Final = "SELECT DISTINCT asset_id FROM orders.resting WHERE order_id = ANY($1::uuid[])"
# The condition names no column, so it is judged once, before any row is locked.
_LOCK: Final = f"""
    SELECT {_COLUMNS}
    FROM orders.orders WHERE order_id = ANY($1::uuid[]) AND ($4::bool OR NOT EXISTS (SELECT FROM rests_on))
    ORDER BY order_id FOR UPDATE"""  # noqa: S608 - our own names
_LOOK_UP: Final = f"""
    SELECT {_COLUMNS} FROM orders.orders WHERE order_id = ANY($1::uuid[])
    UNION ALL SELECT {_OF_ARCHIVE} FROM orders.archive WHERE order_id = ANY($1::uuid[])"""  # noqa: S608 - our own names
_PAUSED: Final = "SELECT participant FROM orders.pauses"
_HOLDERS: Final = f"""
    SELECT (
        SELECT order_id
        FROM (SELECT user_id, client_order_id, order_id, reason_code FROM orders.orders
              UNION ALL SELECT user_id, client_order_id, order_id, reason_code FROM orders.archive) AS named
        WHERE {_HOLDS_NAME} LIMIT 1)
    FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS new(user_id, client_order_id, place)
    ORDER BY place"""  # noqa: S608 - our own words
# The last row comes after all orders are locked, so its clock is read after the last wait for a lock. Everything else
# is as it was when the statement began: `archived` and the insert look again for orders that were archived meanwhile.
_TAKE: Final = f"""
    WITH rests_on AS MATERIALIZED ({_RESTS_ON}), live AS MATERIALIZED ({_LOCK})
    SELECT NULL::timestamptz, NULL::text[], NULL::text[], NULL::uuid[], NULL::uuid[], live.* FROM live
    UNION ALL
    SELECT clock_timestamp(), ARRAY(SELECT asset_id FROM rests_on), ARRAY({_PAUSED}), ARRAY({_ARCHIVED}),
        ARRAY({_HOLDERS}){", NULL" * len(_ALL)}"""  # noqa: S608 - the same
_HISTORY: Final = """
    INSERT INTO orders.history (order_id, seq, at, version_from, version_to, moves, entries)
    SELECT order_id, seq, $7, version_from, version_to, string_to_array(moves, ','), entries
    FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::text[], $6::text[])
      AS new(order_id, seq, version_from, version_to, moves, entries)"""
_AMOUNTS: Final = attrgetter("quantity", "price", "fee")
_FILLS: Final = """
    INSERT INTO orders.fills (fill_id, order_id, quantity, price, fee, busted)
    SELECT fill_id, order_id, quantity::numeric, price::numeric, fee::numeric, busted
    FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bool[])
      AS new(fill_id, order_id, quantity, price, fee, busted)
    ON CONFLICT (fill_id) DO UPDATE SET busted = excluded.busted"""
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
    due_at > clock_timestamp() AND parked_reason IS NULL
    AND progress::jsonb @? '$.questions[*] ? (@.held_back == true)'"""
_COUNT_HELD_BACK: Final = f"SELECT count(*) FROM orders.orders WHERE {_HELD_BACK}"  # noqa: S608 - our own words
_WAKE_HELD_BACK: Final = f"""
    UPDATE orders.orders SET due_at = clock_timestamp()
    WHERE order_id IN (SELECT order_id FROM orders.orders WHERE {_HELD_BACK}
                       ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)"""  # noqa: S608 - the same
_PAUSE: Final = """
    INSERT INTO orders.pauses (participant, paused_by, reason) VALUES ($1, $2, $3)
    ON CONFLICT (participant) DO NOTHING"""
_UNPAUSE: Final = "DELETE FROM orders.pauses WHERE participant = $1"
# It is asked of a database that may lack the newest column, which this version would add: it is null then.
_IN_FLIGHT_COLUMNS: Final = _COLUMNS.replace(" terms,", " to_jsonb(one) ->> 'terms',")
# What tells one order that rests from another for the code: its type, and which fields its documents have.
_KEYS: Final = "ARRAY(SELECT key FROM jsonb_object_keys({document}) AS key ORDER BY key)"
_SHAPE: Final = ", ".join(
    (
        "order_type", "cancel_requested", "to_jsonb(one) ->> 'terms' LIKE '%time_in_force%'",
        *(
            _KEYS.format(document=document)
            for document in (
                "(to_jsonb(one) ->> 'terms')::jsonb", "progress::jsonb", "coalesce(progress::jsonb -> 'quote', '{}')",
                "coalesce(progress::jsonb -> 'rest', '{}')", "coalesce(progress::jsonb -> 'hold', '{}')",
            )
        ),
    )
)  # fmt: skip
_IN_FLIGHT: Final = f"""
    SELECT {_IN_FLIGHT_COLUMNS} FROM orders.orders AS one
    WHERE due_at IS NOT NULL OR parked_reason IS NOT NULL OR phase = 'NEW' OR order_id IN (
        SELECT min(order_id::text)::uuid FROM orders.orders AS one
        WHERE phase IN ({", ".join(f"'{phase}'" for phase in sorted(IDLE))}) AND due_at IS NULL
            AND parked_reason IS NULL
        GROUP BY {_SHAPE})"""  # noqa: S608 - our own names
_IS_REPAIRED: Final = "SELECT count(*) FROM orders.repairs WHERE run_id = $1 AND action = $2 AND item = $3"
_NOTE_REPAIR: Final = "INSERT INTO orders.repairs (run_id, action, item, done_by, result) VALUES ($1, $2, $3, $4, $5)"
_COUNTS: Final = """
    SELECT phase, count(*), count(parked_reason), count(overdue_since) FROM orders.orders
    WHERE due_at IS NOT NULL OR parked_reason IS NOT NULL GROUP BY phase"""


class Taken(NamedTuple):
    """What a batch works on. `now` is the database's clock, by which all deadlines go, after the last lock."""

    known: dict[UUID, Saga]
    """The orders that exist, locked."""
    now: datetime
    rests_on: frozenset[str]
    """The assets on which any of the orders rests, or may rest soon; whoever locks such an order holds their gates."""
    paused: frozenset[Participant]
    archived: frozenset[UUID]
    """Which of the ids are archived orders."""
    holders: dict[tuple[str, str], UUID]
    """The order that holds each pair of user and client order id, where there is one."""


async def take(
    tx: Transaction, order_ids: Iterable[UUID], names: Sequence[tuple[str, str]] = (), *, gates_held: bool = False
) -> Taken:
    """Lock and load orders in id order, and read whatever else a batch must know, in one statement.

    `names`: pairs of user and client order id that new requests bear. Without `gates_held` nothing is locked and
    `known` is empty when any of the orders rests: the gates come before any row (`market.open_batch`).
    """
    users, client_ids = [user for user, _ in names], [client_id for _, client_id in names]
    *locked, last = await tx.fetch(_TAKE, list(order_ids), users, client_ids, gates_held)
    now, rests_on, paused, archived, holders = last[:_EXTRA]
    return Taken(
        {row[_EXTRA]: read(row[_EXTRA:]) for row in locked},
        now,
        frozenset(rests_on),
        frozenset(map(Participant, paused)),
        frozenset(archived),
        {name: order_id for name, order_id in zip(names, holders, strict=True) if order_id is not None},
    )


async def look_up(tx: Transaction, order_ids: Iterable[UUID]) -> list[Saga]:
    """Read orders, archived ones too; nothing is locked."""
    return [read(row) for row in await tx.fetch(_LOOK_UP, list(order_ids))]


async def archived(tx: Transaction, order_ids: Iterable[UUID]) -> frozenset[UUID]:
    """Tell which of these are archived orders, those included that were archived while `take` waited for their lock."""
    return frozenset(row[0] for row in await tx.fetch(_ARCHIVED, list(order_ids)))


async def paused(tx: Transaction) -> frozenset[Participant]:
    """Tell who is paused."""
    return frozenset(Participant(row[0]) for row in await tx.fetch(_PAUSED))


def read(row: Sequence[Any]) -> Saga:
    """Make a saga of a row. Raises `ValueError` or `msgspec.ValidationError` for one that this code does not know."""
    fields = list(row)
    for place, parse in _PARSED:
        if fields[place] is not None:
            fields[place] = parse(fields[place])
    return Saga(*_BY_FIELD(fields))


def save(tx: Transaction, known: Mapping[UUID, Saga], folded: Folded, at: datetime) -> None:
    """Have every touched saga written once, with its history and fills. The flush raises `Contention`."""
    touched = sorted(folded.sagas.values(), key=attrgetter("order_id.int"))
    _create(tx, [saga for saga in touched if saga.order_id not in known])
    stubs = [saga for saga in touched if saga.order_id in known and known[saga.order_id].phase is Phase.NEW]
    _change(tx, _UPDATE_ALL, (_ID, *_ASKED_FOR, *_MOVING), stubs)
    moved = [saga for saga in touched if saga.order_id in known and known[saga.order_id].phase is not Phase.NEW]
    amended: list[Saga] = []
    others: list[Saga] = []
    for saga in moved:
        same_terms = saga.progress.revision == known[saga.order_id].progress.revision
        (others if same_terms else amended).append(saga)
    _change(tx, _UPDATE_AMENDED, (_ID, *_AMENDED, *_MOVING), amended)
    _change(tx, _UPDATE, (_ID, *_MOVING), others)
    _write_history(tx, [row for row in folded.history.values() if row.entries], at)
    _write_fills(tx, list(folded.fills.values()))


async def due(tx: Transaction, most: int, back_s: float) -> list[UUID]:
    """List orders whose time has come within `back_s`, those first that waited longest; ones in work are left out."""
    return [row[0] for row in await tx.fetch(_DUE, most, back_s)]


async def wake(tx: Transaction, phases: Sequence[Phase], most: int) -> int:
    """Make orders that wait in these phases due at once; returns how many.

    Those that are due within 5 s come by themselves: among them are all that were asked a moment ago.
    """
    return await tx.execute(_WAKE, list(phases), most)


async def held_back(tx: Transaction) -> int:
    """Count the orders that wait for a paused participant, but for those that are due already."""
    return int(await tx.fetchval(_COUNT_HELD_BACK))


async def wake_held_back(tx: Transaction, most: int) -> int:
    """Make orders that wait for a paused participant due at once; returns how many. Ones in work are left out."""
    return await tx.execute(_WAKE_HELD_BACK, most)


async def pause(tx: Transaction, participant: Participant, paused_by: str, reason: str) -> bool:
    """Have nobody ask a participant from the next batch on; False when it was paused already."""
    return await tx.execute(_PAUSE, participant, paused_by, reason) == 1


async def unpause(tx: Transaction, participant: Participant) -> bool:
    """Let a participant be asked again; False when it was not paused."""
    return await tx.execute(_UNPAUSE, participant) == 1


async def in_flight(engine: AsyncEngine) -> AsyncIterator[Sequence[Any]]:
    """Read the row of every order that has not ended, for `read`, one by one; nothing is locked.

    Of orders that rest, which may be a million, it reads one of each shape: the code can't tell the others apart.
    """
    async with engine.connect() as connection:
        await connection.exec_driver_sql(PATIENTLY)
        async for row in await connection.stream(text(_IN_FLIGHT), execution_options=FEW_AT_A_TIME):
            yield row


async def is_repaired(tx: Transaction, run_id: str, action: str, item: str) -> bool:
    """Tell whether a run has done this to an item."""
    return bool(await tx.fetchval(_IS_REPAIRED, run_id, action, item))


async def note_repair(tx: Transaction, run_id: str, action: str, item: str, done_by: str, result: str) -> None:
    """Write down what a run did to an item. Raises `Contention` when the same run does it twice at the same time."""
    try:
        await tx.execute(_NOTE_REPAIR, run_id, action, item, done_by, result)
    except asyncpg.UniqueViolationError as error:
        raise Contention(f"run {run_id} is at work on {item} this instant") from error


async def counts(tx: Transaction) -> tuple[dict[str, int], int, int]:
    """Count the orders that have not ended by phase, the parked ones and the overdue ones."""
    rows = await tx.fetch(_COUNTS)
    return {row[0]: row[1] for row in rows}, sum(row[2] for row in rows), sum(row[3] for row in rows)


def _create(tx: Transaction, sagas: Sequence[Saga]) -> None:
    if sagas:
        otherwise = "another member created, or archived, one of these orders, or the holder of its name, this instant"
        tx.write(_INSERT, *_arrays(_ALL, sagas), rows=len(sagas), otherwise=otherwise)


def _change(tx: Transaction, statement: str, columns: tuple[_Column, ...], sagas: Sequence[Saga]) -> None:
    if sagas:
        otherwise = "another member stored, or archived, the same client order id this instant"
        arrays = _arrays(columns, sagas)
        tx.write(statement, *arrays, rows=len(sagas), otherwise=otherwise, unique=CLIENT_ID_INDEX)


def _write_history(tx: Transaction, rows: Sequence[HistoryRow], at: datetime) -> None:
    if rows:
        arrays = zip(
            *(
                (c.order_id, c.seq, c.version_from, c.version_to, ",".join(c.moves), encode(c.entries).decode())
                for c in rows
            ),
            strict=True,
        )
        tx.write(_HISTORY, *map(list, arrays), at, rows=len(rows))


def _write_fills(tx: Transaction, fills: Sequence[Fill]) -> None:
    if fills:
        amounts = ([format_decimal(amount) for amount in column] for column in zip(*map(_AMOUNTS, fills), strict=True))
        ids, orders = [fill.fill_id for fill in fills], [fill.order_id for fill in fills]
        tx.write(_FILLS, ids, orders, *amounts, [fill.busted for fill in fills], rows=len(fills))


def _arrays(columns: tuple[_Column, ...], sagas: Iterable[Saga]) -> tuple[list[Any], ...]:
    """Turn sagas into one array a column."""
    fields = _fields(columns)
    return tuple(
        list(values) if (write := column.write) is None else [None if one is None else write(one) for one in values]
        for column, values in zip(columns, zip(*map(fields, sagas), strict=True), strict=True)
    )


@cache
def _fields(columns: tuple[_Column, ...]) -> Callable[[Saga], tuple[Any, ...]]:
    return attrgetter(*(column.name for column in columns))
