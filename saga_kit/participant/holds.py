"""The holds of one schema: its two tables, and the only SQL on them.

Holds are locked in the order of their ids. A hold that ended long ago may be archived; it still answers as it ended.
Tables of before adjustments lack `ADJUSTMENT`, the last columns; their holds are at revision 0, and stay there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, MetaData, Numeric, Table, Text, func, text

from contracts.decimals import PLACES_MAX, exact_text
from contracts.vocabulary import HoldState
from saga_kit.participant.barrier import Hold
from saga_kit.runtime.transactions import Transaction

log: Final = structlog.get_logger(__name__)

ENDED: Final = (HoldState.SETTLED, HoldState.REFUNDED, HoldState.REFUSED, HoldState.TOMBSTONE)
"""The final states: no command moves anything any more."""
ADJUSTMENT: Final = ("revision", "asked", "adjust_code", "adjust_reason")
"""The columns of a hold's newest adjustment. They came later, so older tables get them behind all others."""


def holds_table(metadata: MetaData, schema: str) -> Table:
    """Describe `<schema>.holds`. The CHECKs are the net under `apply`; `Holds.archive` takes out what is old."""
    return Table(
        "holds",
        metadata,
        *_columns_of_holds(),
        CheckConstraint(f"state IN ({_quoted(HoldState)})", name="holds_state"),
        CheckConstraint("amount >= 0 AND captured >= 0 AND refunded >= 0", name="holds_not_negative"),
        CheckConstraint("captured + refunded <= amount", name="holds_within_amount"),
        CheckConstraint("amount > 0 OR state IN ('REFUSED', 'TOMBSTONE')", name="holds_something"),
        CheckConstraint(
            "CASE state WHEN 'SETTLED' THEN captured + refunded = amount"
            " WHEN 'REFUNDED' THEN captured = 0 AND refunded = amount ELSE captured = 0 AND refunded = 0 END",
            name="holds_end_once",
        ),
        CheckConstraint("state <> 'REFUSED' OR reason_code IS NOT NULL", name="holds_refused_why"),
        CheckConstraint("revision >= 0 AND (revision = 0) = (asked IS NULL)", name="holds_revision"),
        schema=schema,
        postgresql_with={"fillfactor": 80},  # a hold is updated once or a few times, on the same page
    )


def holds_archive_table(metadata: MetaData, schema: str) -> Table:
    """Describe `<schema>.holds_archive`: holds that ended long ago, for good. A service needs it beside its holds."""
    return Table(
        "holds_archive",
        metadata,
        *_columns_of_holds(),
        CheckConstraint(f"state IN ({_quoted(ENDED)})", name="holds_archive_ended"),
        schema=schema,
    )


def _columns_of_holds() -> list[Column[Any]]:
    amount = Numeric(38, PLACES_MAX)
    return [
        Column("hold_id", Text, primary_key=True),
        Column("saga_id", Text, nullable=False),
        Column("owner", Text, nullable=False),
        Column("unit", Text, nullable=False),
        Column("amount", amount, nullable=False),
        Column("captured", amount, nullable=False),
        Column("refunded", amount, nullable=False),
        Column("state", Text, nullable=False),
        Column("reason_code", Text),
        Column("reason", Text),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("revision", BigInteger, nullable=False, server_default=text("0")),
        Column("asked", amount),
        Column("adjust_code", Text),
        Column("adjust_reason", Text),
    ]


def _quoted(states: Iterable[HoldState]) -> str:
    return ", ".join(repr(state.value) for state in states)


_NAMES: Final = (
    *("hold_id", "saga_id", "owner", "unit", "amount", "captured", "refunded", "state", "reason_code", "reason"),
)
_MOVING: Final = {"amount", "captured", "refunded", "state", "reason_code", "reason", *ADJUSTMENT}
"""What a command changes."""


class Holds:
    """The holds of one schema, the archived ones included."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._columns_sql = f"""
            SELECT count(*) FROM pg_attribute WHERE attname = ANY($1::text[])
                AND attrelid IN ('{schema}.holds'::regclass, '{schema}.holds_archive'::regclass)"""  # noqa: S608
        self._write_statements(adjustable=True)

    def _write_statements(self, *, adjustable: bool) -> None:
        schema, names = self._schema, (*_NAMES, *ADJUSTMENT)
        read = """hold_id, saga_id, owner, unit, trim_scale(amount) AS amount, state, trim_scale(captured) AS captured,
            trim_scale(refunded) AS refunded, reason_code, reason"""
        read += ", revision, trim_scale(asked) AS asked, adjust_code, adjust_reason" if adjustable else ""
        rows = """unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]::numeric[], $6::text[]::numeric[],
            $7::text[]::numeric[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::text[]::numeric[],
            $13::text[], $14::text[])"""
        stored = names if adjustable else _NAMES
        every, columns, moving = ", ".join(names), ", ".join(stored), [name for name in stored if name in _MOVING]
        # A hold that is archived while this waits for its lock is found in neither table; the insert looks again.
        self._lock_sql = f"""
            WITH live AS (
                SELECT {read} FROM {schema}.holds WHERE hold_id = ANY($1::text[]) ORDER BY hold_id FOR UPDATE)
            SELECT * FROM live UNION ALL
            SELECT {read} FROM {schema}.holds_archive
            WHERE hold_id = ANY(ARRAY(SELECT unnest($1::text[]) EXCEPT SELECT hold_id FROM live))"""  # noqa: S608 - our own name
        self._insert_sql = f"""
            INSERT INTO {schema}.holds ({columns}) SELECT {columns} FROM {rows} AS new ({every})
            WHERE hold_id <> ALL(ARRAY(SELECT hold_id FROM {schema}.holds_archive WHERE hold_id = ANY($1::text[])))
            ON CONFLICT (hold_id) DO NOTHING"""  # noqa: S608
        self._update_sql = f"""
            UPDATE {schema}.holds AS hold
            SET {", ".join(f"{name} = new.{name}" for name in moving)}, updated_at = clock_timestamp()
            FROM {rows} AS new ({every}) WHERE hold.hold_id = new.hold_id"""  # noqa: S608 - our own name
        old = f"""
            FROM {schema}.holds WHERE state IN ({_quoted(ENDED)})
                AND updated_at < clock_timestamp() - make_interval(secs => $1)"""
        self._count_sql = f"SELECT count(*) {old}"
        whole = f"{columns}, created_at, updated_at"
        self._archive_sql = f"""
            WITH old AS (
                SELECT hold_id {old} AND ctid >= $2::text::tid AND ctid < $3::text::tid
                ORDER BY hold_id LIMIT $4 FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM {schema}.holds WHERE hold_id = ANY(ARRAY(SELECT hold_id FROM old)) RETURNING {whole})
            INSERT INTO {schema}.holds_archive ({whole}) SELECT {whole} FROM gone"""  # noqa: S608 - our own name

    async def prepare(self, tx: Transaction) -> bool:
        """Tell whether the tables have the columns `ADJUSTMENT`; if not, go on without them.

        A service does so at its start. Without it, they are expected to be there.
        """
        adjustable = int(await tx.fetchval(self._columns_sql, list(ADJUSTMENT))) == 2 * len(ADJUSTMENT)
        if not adjustable:
            log.warning("the tables of holds lack the columns of adjustments: they are refused", schema=self._schema)
        self._write_statements(adjustable=adjustable)
        return adjustable

    async def archive(self, tx: Transaction, pages: tuple[str, str], older_than_s: float, most: int) -> int:
        """Move holds of these pages that ended so long ago to the archive; return how many.

        `pages` is a range of PostgreSQL's row addresses without its end. Locked holds are left where they are.
        """
        return await tx.execute(self._archive_sql, older_than_s, *pages, most)

    async def count_old(self, tx: Transaction, older_than_s: float) -> int:
        """Count the holds that could be archived."""
        return int(await tx.fetchval(self._count_sql, older_than_s))

    async def lock(self, tx: Transaction, hold_ids: Collection[str]) -> dict[str, Hold]:
        """Lock and load the holds that exist, and load the archived ones."""
        rows = await tx.fetch(self._lock_sql, sorted(hold_ids))
        return {
            hold_id: Hold(hold_id, saga_id, owner, unit, amount, HoldState(state), *rest)
            for hold_id, saga_id, owner, unit, amount, state, *rest in rows
        }

    def save(self, tx: Transaction, known: Mapping[str, Hold], holds: Mapping[str, Hold]) -> None:
        """Have the new and changed holds written, each once.

        The flush raises `Contention` when another transaction has made a new one, or archived an old one, meanwhile:
        there was no row to lock.
        """
        changed = [hold for _, hold in sorted(holds.items()) if known.get(hold.hold_id) is not hold]
        if new := [hold for hold in changed if hold.hold_id not in known]:
            otherwise = "another transaction has just made, or archived, one of this batch's holds"
            tx.write(self._insert_sql, *_arrays(new), rows=len(new), otherwise=otherwise)
        if old := [hold for hold in changed if hold.hold_id in known]:
            tx.write(self._update_sql, *_arrays(old), rows=len(old))


def _arrays(holds: Sequence[Hold]) -> tuple[list[str | int | None], ...]:
    return (
        [hold.hold_id for hold in holds],
        [hold.saga_id for hold in holds],
        [hold.owner for hold in holds],
        [hold.unit for hold in holds],
        [exact_text(hold.amount) for hold in holds],
        [exact_text(hold.captured) for hold in holds],
        [exact_text(hold.refunded) for hold in holds],
        [hold.state for hold in holds],
        [hold.reason_code for hold in holds],
        [hold.reason for hold in holds],
        [hold.revision for hold in holds],
        [None if hold.asked is None else exact_text(hold.asked) for hold in holds],
        [hold.adjust_code for hold in holds],
        [hold.adjust_reason for hold in holds],
    )
