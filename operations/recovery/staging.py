"""What Kafka has of orders that the restored database does not know, or not so far, in temporary tables.

So any number of orders needs little memory here. The tables are the connection's own, and end with it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from contracts.assets import AssetApproved
from contracts.balance import BalanceCommand, ReserveBalance
from contracts.codec import decode, encode
from contracts.holds import HoldCaptured, HoldPlaced
from contracts.orders import InvalidOrder, OrderRequested, OrderStatusChanged
from contracts.vocabulary import OPERATOR_PREFIX
from order_saga.core.saga import RecoveryRequested, Requested
from order_saga.worker.process import sent_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from operations.recovery.topics import Read

PAGE: Final = 100
_TABLES: Final = (
    "CREATE TEMP TABLE told (order_id uuid, version int, user_id text, body bytea, PRIMARY KEY (order_id, version))",
    """CREATE TEMP TABLE sent (order_id uuid, command_id text, place bigint GENERATED ALWAYS AS IDENTITY, user_id text,
        type text, body bytea, PRIMARY KEY (order_id, command_id))""",
    """CREATE TEMP TABLE asked (order_id uuid PRIMARY KEY, type text, body bytea, sent_at timestamptz,
        traceparent text)""",
    """CREATE TEMP TABLE approved (order_id uuid, place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        body bytea)""",
    "CREATE INDEX ON approved (order_id)",
    "CREATE TEMP TABLE named (order_id uuid PRIMARY KEY)",
    "CREATE TEMP TABLE reserved (order_id uuid PRIMARY KEY, body bytea)",
    "CREATE TEMP TABLE placed (hold_id uuid PRIMARY KEY, expires_at timestamptz)",
    "CREATE TEMP TABLE captured (hold_id uuid PRIMARY KEY, body bytea)",
)
_HAS_LEDGER: Final = "SELECT to_regclass('balances.service_holds') IS NOT NULL"
_ENDED: Final = "('COMPLETED', 'CANCELLED', 'FAILED')"
# The newest record of a version counts; there is another one where an order was brought forward before.
_TELL: Final = """
    INSERT INTO told SELECT new.* FROM unnest($1::uuid[], $2::int[], $3::text[], $4::bytea[])
        AS new (order_id, version, user_id, body)
    LEFT JOIN orders.orders AS one USING (order_id) LEFT JOIN orders.archive AS old USING (order_id)
    WHERE new.version > coalesce(one.version, old.version, 0)
    ON CONFLICT (order_id, version) DO UPDATE SET body = excluded.body"""
_SEND: Final = f"""
    INSERT INTO sent (order_id, command_id, user_id, type, body)
    SELECT new.order_id, command_id, new.user_id, type, body
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[]) WITH ORDINALITY
        AS new (order_id, command_id, user_id, type, body, place)
    LEFT JOIN orders.orders AS one ON one.order_id = new.order_id
    WHERE coalesce(one.status, '') NOT IN {_ENDED}
        AND NOT EXISTS (SELECT FROM orders.archive AS old WHERE old.order_id = new.order_id)
    ORDER BY place ON CONFLICT DO NOTHING"""  # noqa: S608 - our own words
_NAME: Final = ("INSERT INTO named SELECT order_id FROM told UNION SELECT order_id FROM sent", "ANALYZE named")
_ASK: Final = """
    INSERT INTO asked SELECT new.* FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::timestamptz[], $5::text[])
        AS new (order_id, type, body, sent_at, traceparent) JOIN named USING (order_id) ON CONFLICT DO NOTHING"""
_APPROVE: Final = """
    INSERT INTO approved (order_id, body) SELECT new.order_id, body FROM unnest($1::uuid[], $2::bytea[])
        AS new (order_id, body) JOIN named USING (order_id)"""
# An order that has ended without money knows no hold; a ledger that is older may hold some when it reads that again.
_RESERVE: Final = """
    INSERT INTO reserved SELECT new.* FROM unnest($1::uuid[], $2::bytea[]) AS new (order_id, body)
    LEFT JOIN orders.orders AS one ON one.order_id = new.order_id
    LEFT JOIN orders.archive AS old ON old.order_id = new.order_id
    WHERE coalesce(one.status, old.status) IN ('CANCELLED', 'FAILED') ON CONFLICT DO NOTHING"""
_KNOWN_HOLDS: Final = """
    DELETE FROM reserved WHERE EXISTS (
        SELECT FROM (SELECT hold_id FROM balances.holds UNION ALL SELECT hold_id FROM balances.holds_archive) AS known
        WHERE known.hold_id = reserved.order_id || ':reserve')"""
_RESERVED: Final = "SELECT order_id, body FROM reserved WHERE order_id > $1 ORDER BY order_id LIMIT $2"
_PLACE: Final = "INSERT INTO placed SELECT * FROM unnest($1::uuid[], $2::timestamptz[]) ON CONFLICT DO NOTHING"
_CAPTURE: Final = """
    INSERT INTO captured SELECT new.* FROM unnest($1::uuid[], $2::bytea[]) AS new (hold_id, body)
    LEFT JOIN balances.service_holds AS known ON known.hold_id = 'hold:' || new.hold_id
    WHERE known.ended IS DISTINCT FROM 'CAPTURED' ON CONFLICT DO NOTHING"""
_CAPTURED: Final = """
    SELECT captured.hold_id, body, coalesce(known.expires_at, placed.expires_at) AS expires_at
    FROM captured LEFT JOIN placed USING (hold_id)
    LEFT JOIN balances.service_holds AS known ON known.hold_id = 'hold:' || captured.hold_id
    WHERE coalesce(known.expires_at, placed.expires_at) < clock_timestamp() + $3::interval
        AND captured.hold_id > $1 ORDER BY captured.hold_id LIMIT $2"""
_ORDERS: Final = """
    SELECT named.order_id,
        coalesce((SELECT user_id FROM told WHERE order_id = named.order_id LIMIT 1),
            (SELECT user_id FROM sent WHERE order_id = named.order_id LIMIT 1)) AS user_id,
        ARRAY(SELECT body FROM told WHERE order_id = named.order_id ORDER BY version) AS told,
        ARRAY(SELECT type FROM sent WHERE order_id = named.order_id ORDER BY place) AS sent_types,
        ARRAY(SELECT body FROM sent WHERE order_id = named.order_id ORDER BY place) AS sent,
        ARRAY(SELECT body FROM approved WHERE order_id = named.order_id ORDER BY place) AS approved,
        asked.type, asked.body, asked.sent_at, asked.traceparent
    FROM named LEFT JOIN asked USING (order_id)
    WHERE named.order_id > $1 ORDER BY named.order_id LIMIT $2"""


class Staging:
    """The temporary tables of one recovery."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def take_told(self, records: Sequence[Read]) -> None:
        """Keep versions and commands that the database may not know."""
        events = {
            (one.message.order_id, one.message.version): one.message
            for one in records
            if isinstance(one.message, OrderStatusChanged)
        }
        if events:
            rows = [
                (order_id, version, event.order.user_id, encode(event)) for (order_id, version), event in events.items()
            ]
            await self._write(_TELL, rows)
        commands = [one.message for one in records if isinstance(one.message, BalanceCommand)]
        if commands:
            sent = [(one.order_id, one.command_id, one.user_id, type(one).__name__, encode(one)) for one in commands]
            await self._write(_SEND, sent)
            held = [(one.order_id, encode(one)) for one in commands if isinstance(one, ReserveBalance)]
            await self._write(_RESERVE, held)

    async def close_told(self) -> None:
        """Fix which orders are kept, after the last version and command."""
        for statement in _NAME:
            await self._connection.exec_driver_sql(statement)

    async def take_known(self, records: Sequence[Read]) -> None:
        """Keep requests and approvals of orders that are kept already."""
        asked = [
            (one.message.order_id, type(one.message).__name__, one.record.value, sent_at(one.envelope, one.record),
             one.envelope.traceparent)
            for one in records
            if isinstance(one.message, OrderRequested | InvalidOrder)
        ]  # fmt: skip
        if asked:
            await self._write(_ASK, asked)
        approved = [
            (one.message.order_id, encode(one.message)) for one in records if isinstance(one.message, AssetApproved)
        ]
        if approved:
            await self._write(_APPROVE, approved)

    async def pages(self, by: str) -> AsyncIterator[list[RecoveryRequested]]:
        """Give what is kept, in pages of orders; `by` is who asks."""
        last = UUID(int=0)
        while found := (await self._connection.exec_driver_sql(_ORDERS, (last, PAGE))).all():
            yield [_request(row, OPERATOR_PREFIX + by) for row in found]
            last = found[-1].order_id

    async def has_ledger(self) -> bool:
        """Tell whether the reference ledger is in this database."""
        return bool((await self._connection.exec_driver_sql(_HAS_LEDGER)).scalar())

    async def take_holds(self, records: Sequence[Read]) -> None:
        """Keep which services' holds were told as captured, unless the ledger knows, and until when they are held."""
        events = [one.message for one in records]
        await self._write(_PLACE, [(one.hold_id, one.expires_at) for one in events if isinstance(one, HoldPlaced)])
        await self._write(_CAPTURE, [(one.hold_id, encode(one)) for one in events if isinstance(one, HoldCaptured)])

    async def captured(self, within: timedelta) -> AsyncIterator[tuple[HoldCaptured, datetime]]:
        """Give the holds among them whose time is over within so long, with that time."""
        last = UUID(int=0)
        while found := (await self._connection.exec_driver_sql(_CAPTURED, (last, PAGE, within))).all():
            for row in found:
                event = decode(HoldCaptured.__name__, bytes(row.body))
                assert isinstance(event, HoldCaptured)  # noqa: S101 - as it was kept
                yield event, row.expires_at
            last = found[-1].hold_id

    async def unknown_to_the_ledger(self) -> AsyncIterator[list[ReserveBalance]]:
        """Give, in pages, the reservations of orders that ended without money and whose hold the ledger has not."""
        if await self.has_ledger():
            await self._connection.exec_driver_sql(_KNOWN_HOLDS)
        last = UUID(int=0)
        while found := (await self._connection.exec_driver_sql(_RESERVED, (last, PAGE))).all():
            commands = [decode(ReserveBalance.__name__, bytes(row.body)) for row in found]
            yield [one for one in commands if isinstance(one, ReserveBalance)]
            last = found[-1].order_id

    async def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            await self._connection.exec_driver_sql(statement, tuple(map(list, zip(*rows, strict=True))))


@asynccontextmanager
async def staging(engine: AsyncEngine) -> AsyncIterator[Staging]:
    """Make the temporary tables."""
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.exec_driver_sql("SET statement_timeout = '10min'")
        for statement in _TABLES:
            await connection.exec_driver_sql(statement)
        try:
            yield Staging(connection)
        finally:
            await connection.invalidate()  # the tables are gone with it


def _request(row: Any, requested_by: str) -> RecoveryRequested:
    def read(kind: str, body: bytes) -> Any:
        return decode(kind, bytes(body))

    request = None
    if row.body is not None:
        request = Requested(read(OrderRequested.__name__, row.body), row.sent_at, row.traceparent)
    return RecoveryRequested(
        row.order_id,
        row.user_id,
        requested_by,
        tuple(read(OrderStatusChanged.__name__, body) for body in row.told),
        tuple(read(kind, body) for kind, body in zip(row.sent_types, row.sent, strict=True)),
        request,
        tuple(read(AssetApproved.__name__, body) for body in row.approved),
    )
