"""Stores records that can't be handled, byte for byte, until a person replays or discards them.

The partition goes on. A dead letter is written in the transaction of its batch. A redelivered record makes no second
one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.envelope import first_appended
from saga_kit.messaging.batch import Record
from saga_kit.messaging.fetch_limits import NOT_WHOLE, LostRecord, size_of
from saga_kit.messaging.outbox import QUEUE_STORAGE
from saga_kit.messaging.publisher import Publisher, RawMessage
from saga_kit.runtime.errors import classify, describe
from saga_kit.runtime.transactions import Transaction, begin

Note = Callable[[Transaction], Awaitable[None]]

REASON_MAX: Final = 500
PAGE_MAX: Final = 500
PREVIEW_BYTES: Final = 1024
"""Bytes of a value, and of a key, that a list shows; `get` returns them whole."""
PREVIEW_HEADERS_BYTES: Final = 8192
"""A list leaves out headers whose JSON is longer."""
STATEMENT_BYTES_MAX: Final = 2 * 1024 * 1024
"""Bytes of the dead letters that one statement writes."""
_PLACE: Final = "dead_letter_id, topic, partition, record_offset, record_timestamp"
_FATE: Final = "reason, received_at, replayed_at, discarded_at, octet_length(value) AS value_bytes"
_WHOLE: Final = f"{_PLACE}, key, headers, value, {_FATE}"
_PREVIEW: Final = f"""{_PLACE}, substring(key FROM 1 FOR {PREVIEW_BYTES}) AS key,
    CASE WHEN octet_length(headers::text) <= {PREVIEW_HEADERS_BYTES} THEN headers ELSE '[]' END AS headers,
    substring(value FROM 1 FOR {PREVIEW_BYTES}) AS value, {_FATE}"""
OPEN: Final = "replayed_at IS NULL AND discarded_at IS NULL"
STATES: Final = {
    "open": OPEN,
    "replayed": "replayed_at IS NOT NULL",
    "discarded": "discarded_at IS NOT NULL",
    "closed": "(replayed_at IS NOT NULL OR discarded_at IS NOT NULL)",
}
"""The states of a dead letter, and the SQL condition for each."""


class DeadLetter(NamedTuple):
    """A record that could not be handled, and what became of it. `record_timestamp` is epoch milliseconds."""

    dead_letter_id: int
    topic: str
    partition: int
    record_offset: int
    record_timestamp: int
    key: bytes | None
    headers: list[tuple[str, bytes | None]]
    value: bytes | None
    reason: str
    received_at: datetime
    replayed_at: datetime | None
    discarded_at: datetime | None
    value_bytes: int | None = None
    """Length of the stored value, of which a list shows only the beginning."""

    @property
    def is_open(self) -> bool:
        """Whether it was neither replayed nor discarded."""
        return self.replayed_at is None and self.discarded_at is None

    @property
    def is_whole(self) -> bool:
        """Whether its bytes are those of the record; if not, it can't be published again."""
        return not self.reason.startswith(NOT_WHOLE)


def dead_letters_table(metadata: MetaData, schema: str) -> Table:
    """Describe `<schema>.dead_letters`; `topic` holds the record's topic with the prefix."""
    return Table(
        "dead_letters",
        metadata,
        Column("dead_letter_id", BigInteger, Identity(always=True), primary_key=True),
        Column("topic", Text, nullable=False),
        Column("partition", Integer, nullable=False),
        Column("record_offset", BigInteger, nullable=False),
        Column("record_timestamp", BigInteger, nullable=False),
        Column("key", LargeBinary),
        # [[name, base64 of the value or null], ...]; json and not jsonb, which refuses a NUL in a name.
        Column("headers", JSON, nullable=False),
        Column("value", LargeBinary),
        Column("reason", Text, nullable=False),
        Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("replayed_at", DateTime(timezone=True)),
        Column("discarded_at", DateTime(timezone=True)),
        # The time is part of it: a topic that is deleted and created again counts its offsets from 0.
        UniqueConstraint("topic", "partition", "record_offset", "record_timestamp", name="dead_letters_record"),
        Index(
            "dead_letters_open",
            "dead_letter_id",
            postgresql_where=text("replayed_at IS NULL AND discarded_at IS NULL"),
        ),
        schema=schema,
        postgresql_with=QUEUE_STORAGE,
    )


class DeadLetters:
    """The dead letters of one schema."""

    def __init__(self, schema: str) -> None:
        self._table = f"{schema}.dead_letters"

    async def write(self, tx: Transaction, rejected: Sequence[tuple[Record, str]]) -> None:
        """Store records and the reasons why they can't be handled, in parts of `STATEMENT_BYTES_MAX`.

        When the database refuses a record, only its place and the reason are stored. Raises infrastructure errors.
        """
        for part in _in_parts(rejected):
            await self._write_or_halve(tx, part)

    async def _write_or_halve(self, tx: Transaction, rejected: Sequence[tuple[Record, str]]) -> None:
        try:
            async with tx.savepoint():
                await self._write(tx, rejected)
        except Exception as error:
            if classify(error) != "poison":
                raise
            middle = len(rejected) // 2
            if middle:
                await self._write_or_halve(tx, rejected[:middle])
                await self._write_or_halve(tx, rejected[middle:])
            else:
                record, reason = rejected[0]
                why = f"{NOT_WHOLE}it can't be stored ({describe(error)}): {reason}"
                place = LostRecord(record.topic, record.partition, record.offset, why, record.timestamp)
                await self._write(tx, [(place, why)])

    async def _write(self, tx: Transaction, rejected: Sequence[tuple[Record, str]]) -> None:
        records = [record for record, _ in rejected]
        await tx.execute(
            f"""
            INSERT INTO {self._table}
                (topic, partition, record_offset, record_timestamp, key, headers, value, reason)
            SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::bytea[], $6::json[],
                $7::bytea[], $8::text[])
            ON CONFLICT ON CONSTRAINT dead_letters_record DO NOTHING""",  # noqa: S608 - the schema's name is our own
            [record.topic for record in records],
            [record.partition for record in records],
            [record.offset for record in records],
            [record.timestamp for record in records],
            [record.key for record in records],
            [_pack_headers(record.headers) for record in records],
            [record.value for record in records],
            [clean(reason) for _, reason in rejected],
        )

    async def page(
        self, engine: AsyncEngine, *, after: int = 0, limit: int = 100, closed: bool = False, state: str = ""
    ) -> list[DeadLetter]:
        """List dead letters by id, after `after`; replayed and discarded ones too when `closed`.

        `state` selects those of `STATES[state]` instead. Keys and values are cut to `PREVIEW_BYTES`, and long headers
        are left out.
        """
        condition = f"AND {STATES[state]}" if state else "" if closed else f"AND {OPEN}"
        async with engine.connect() as connection:
            rows = await connection.exec_driver_sql(
                f"SELECT {_PREVIEW} FROM {self._table} WHERE dead_letter_id > $1 {condition}"  # noqa: S608 - the same
                " ORDER BY dead_letter_id LIMIT $2",
                (after, min(limit, PAGE_MAX)),
            )
            return [_read(row) for row in rows]

    async def get(self, engine: AsyncEngine, dead_letter_id: int) -> DeadLetter | None:
        """Return one dead letter, whole; None when there is no such."""
        async with engine.connect() as connection:
            rows = await connection.exec_driver_sql(
                f"SELECT {_WHOLE} FROM {self._table} WHERE dead_letter_id = $1",  # noqa: S608 - the same
                (dead_letter_id,),
            )
            return next((_read(row) for row in rows), None)

    async def replay(
        self, engine: AsyncEngine, publisher: Publisher, dead_letter_id: int, *, note: Note | None = None
    ) -> bool:
        """Publish the record again, as it was; False when it is not open, not whole, or was not sent.

        One header is added, with the time at which the broker first had the record: a replay makes no order and no
        price younger. A record that fails again becomes another dead letter, since it has another offset then. `note`
        writes more in the transaction that closes the dead letter. After a crash before that transaction the dead
        letter is still open, and a second replay publishes it once more.
        """
        letter = await self.get(engine, dead_letter_id)
        if letter is None or not letter.is_open or not letter.is_whole:
            return False
        headers = [*letter.headers, *first_appended(letter.record_timestamp, letter.headers)]
        if not await publisher.publish_raw([RawMessage(letter.topic, letter.key, letter.value, headers)]):
            return False
        return await self._close(engine, dead_letter_id, "replayed_at", note)

    async def discard(self, engine: AsyncEngine, dead_letter_id: int, *, note: Note | None = None) -> bool:
        """Close a dead letter; its bytes stay. False when it is not open. `note`: as for `replay`."""
        return await self._close(engine, dead_letter_id, "discarded_at", note)

    async def purge(
        self, engine: AsyncEngine, dead_letter_id: int, *, state: str = "closed", note: Note | None = None
    ) -> bool:
        """Delete a dead letter with its bytes; False when there is none in this state. `note`: as for `replay`."""
        async with begin(engine) as tx:
            sql = f"DELETE FROM {self._table} WHERE dead_letter_id = $1 AND {STATES[state]}"  # noqa: S608 - the same
            purged = await tx.execute(sql, dead_letter_id) == 1
            if purged and note is not None:
                await note(tx)
            return purged

    async def _close(self, engine: AsyncEngine, dead_letter_id: int, column: str, note: Note | None) -> bool:
        async with begin(engine) as tx:
            sql = f"UPDATE {self._table} SET {column} = clock_timestamp() WHERE dead_letter_id = $1 AND {OPEN}"  # noqa: S608
            closed = await tx.execute(sql, dead_letter_id) == 1
            if closed and note is not None:
                await note(tx)
            return closed


def _in_parts(rejected: Sequence[tuple[Record, str]]) -> Iterator[Sequence[tuple[Record, str]]]:
    begin = size = 0
    for number, (record, _) in enumerate(rejected):
        own = size_of(record)
        if size + own > STATEMENT_BYTES_MAX and number > begin:
            yield rejected[begin:number]
            begin, size = number, 0
        size += own
    if rejected:
        yield rejected[begin:]


def clean(reason: str) -> str:
    """Make a reason that fits a text column: no NUL, at most `REASON_MAX` characters."""
    return reason.replace("\0", "")[:REASON_MAX]


def _pack_headers(headers: Sequence[tuple[str, bytes | None]]) -> str:
    return json.dumps([[name, None if value is None else base64.b64encode(value).decode()] for name, value in headers])


def _unpack_headers(packed: Any) -> list[tuple[str, bytes | None]]:
    pairs = json.loads(packed) if isinstance(packed, str) else packed
    return [(name, None if value is None else base64.b64decode(value)) for name, value in pairs]


def _read(row: Row[Any]) -> DeadLetter:
    fields = row._asdict()
    return DeadLetter(**{**fields, "headers": _unpack_headers(fields["headers"])})
