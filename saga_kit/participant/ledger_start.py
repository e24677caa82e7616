"""Stores when a ledger began to answer. Older commands are another ledger's: executed again, they move money twice.

A service that replaces another one reads the commands' topic from its beginning, and its holds are empty. So each
schema has one row with the time at which its ledger began, by its database's clock. The time is null for a ledger that
answers every command: one that ran before this table, or took over all holds of the ledger before it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy import Boolean, CheckConstraint, Column, DateTime, MetaData, Table, Text, text

from saga_kit.runtime.errors import CannotStart

if TYPE_CHECKING:
    from saga_kit.messaging.batch import Received
    from saga_kit.runtime.transactions import Transaction

log: Final = structlog.get_logger(__name__)


def ledger_start_table(metadata: MetaData, schema: str) -> Table:
    """Describe `<schema>.ledger_start`, of at most one row; the service writes it at its first start.

    With `closed_at` and `successor` the ledger was handed over, and nobody may write to it any more.
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

    async def read(self, tx: Transaction) -> datetime | None:
        """Return when this ledger began; None when it answers every command. At the first start, store that it is now.

        Raises `CannotStart` for a ledger that was handed over, and for an empty one without the table. A ledger that is
        older than the table has holds, and answers every command.
        """
        known: Any = await tx.fetchrow(self._known_sql)
        if not known["has_table"]:
            if not known["has_holds"]:
                raise CannotStart(
                    f"the table {self._schema}.ledger_start is missing (saga_kit.ledger_start_table describes it)"
                )
            log.warning("no start of the ledger is written down, every command is executed", schema=self._schema)
            return None
        row: Any = await tx.fetchrow(self._read_sql)
        if row is None:
            await tx.execute(self._begin_sql)
            row = await tx.fetchrow(self._read_sql)
        began_at: datetime | None
        began_at, closed_at, successor = row
        if closed_at is not None:
            raise CannotStart(f"the ledger {self._schema} was handed over to {successor} at {closed_at}")
        return began_at


def made_at(received: Received[Any]) -> datetime | None:
    """Return when a message was made: its own time or the broker's, the earlier one; None when neither is known."""
    times = [] if received.envelope is None else [received.envelope.time]
    if received.record is not None and received.record.timestamp > 0:
        times.append(datetime.fromtimestamp(received.record.timestamp / 1000, UTC))
    return min(times, default=None)
