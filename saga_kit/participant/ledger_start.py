"""Since when a ledger answers. What was asked before is another ledger's: executed here, it would move money twice.

A service that takes over from another one reads the commands' topic from its beginning, with holds that know nothing
of it. So each schema has one row that says when its ledger began, by its own database's clock. A running service's
start is null: every command is its own. So is that of one that took over all holds of the ledger before.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy import Boolean, CheckConstraint, Column, DateTime, MetaData, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from saga_kit.runtime.errors import CannotStart

if TYPE_CHECKING:
    from saga_kit.messaging.batch import Received

log: Final = structlog.get_logger(__name__)


def ledger_start_table(metadata: MetaData, schema: str) -> Table:
    """Describe `<schema>.ledger_start`, of at most one row. The service writes it when it starts for the first time.

    `closed_at` and `successor`: this ledger was handed over, and nobody may write to it any more.
    """
    return Table(
        "ledger_start",
        metadata,
        Column("only_row", Boolean, primary_key=True, server_default=text("true")),
        Column("began_at", DateTime(timezone=True)),
        Column("closed_at", DateTime(timezone=True)),
        Column("successor", Text),
        CheckConstraint("only_row", name="ledger_start_only_row"),
        CheckConstraint("(closed_at IS NULL) = (successor IS NULL)", name="ledger_start_closed"),
        schema=schema,
    )


class LedgerStart:
    """The row `ledger_start` of one schema."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._known_sql = f"""
            SELECT to_regclass('{schema}.ledger_start') IS NOT NULL AS has_table,
                EXISTS (SELECT FROM {schema}.holds) OR EXISTS (SELECT FROM {schema}.holds_archive) AS has_holds
            """  # noqa: S608 - our own name
        self._read_sql = f"SELECT began_at, closed_at, successor FROM {schema}.ledger_start"  # noqa: S608
        self._begin_sql = f"""
            INSERT INTO {schema}.ledger_start (began_at) VALUES (clock_timestamp()) ON CONFLICT DO NOTHING
            """  # noqa: S608

    async def read(self, tx: AsyncConnection) -> datetime | None:
        """Return when this ledger began, which is now when that was never written down; None: it answers everything.

        Raises `CannotStart` for a ledger that was handed over, and for an empty one without the table. A service of
        before that table, which has holds, answers everything.
        """
        known: Any = (await tx.exec_driver_sql(self._known_sql)).one()
        if not known.has_table:
            if not known.has_holds:
                raise CannotStart(
                    f"the table {self._schema}.ledger_start is missing (saga_kit.participant.ledger_start makes it)"
                )
            log.warning("no start of the ledger is written down, every command is executed", schema=self._schema)
            return None
        row: Any = (await tx.exec_driver_sql(self._read_sql)).one_or_none()
        if row is None:
            await tx.exec_driver_sql(self._begin_sql)
            row = (await tx.exec_driver_sql(self._read_sql)).one()
        if row.closed_at is not None:
            raise CannotStart(f"the ledger {self._schema} was handed over to {row.successor} at {row.closed_at}")
        began_at: datetime | None = row.began_at
        return began_at


def made_at(received: Received[Any]) -> datetime | None:
    """Say when a message was made: by its own time or the broker's, whichever is earlier; None when nobody tells."""
    times = [] if received.envelope is None else [received.envelope.time]
    if received.record is not None and received.record.timestamp > 0:
        times.append(datetime.fromtimestamp(received.record.timestamp / 1000, UTC))
    return min(times, default=None)
