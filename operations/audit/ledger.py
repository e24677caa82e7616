"""Where the ledger's views are: in the auditors' schema, in another team's balance service's, or nowhere.

Three views are the contract, wherever they stand: `holds`, `accounts` and `journal`, with the columns below. A ledger
that can't be read is reported as such: its absence must not look like missing money.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from operations.access.errors import WrongRequest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

OWN: Final = "audit"
"""The schema of the reference service's views."""
NONE: Final = "none"
VIEWS: Final = {
    "holds": ("hold_id", "order_id", "user_id", "asset_id", "amount", "captured", "refunded", "state"),
    "accounts": ("user_id", "asset_id", "available", "held"),
    "journal": ("entry_id", "order_id", "account", "asset_id", "amount", "created_at"),
}
_NAME: Final = r"[a-z_][a-z0-9_]{0,62}"
_CLOSED: Final = "SELECT closed_at, successor FROM audit.ledger WHERE closed_at IS NOT NULL"
_KNOWN: Final = "SELECT to_regclass('audit.ledger') IS NOT NULL"  # a database of before that view has one ledger
_COLUMNS: Final = """
    SELECT relation.relname AS view, attribute.attname AS name
    FROM pg_class AS relation JOIN pg_attribute AS attribute ON attribute.attrelid = relation.oid
    WHERE relation.relnamespace = to_regnamespace($1) AND relation.relname = ANY ($2::text[]) AND attribute.attnum > 0
        AND has_schema_privilege(relation.relnamespace, 'USAGE') AND has_table_privilege(relation.oid, 'SELECT')"""


class LedgerViews(NamedTuple):
    """The schema of the ledger's views; None, and why, when it can't be seen."""

    schema: str | None
    hidden: str = ""


async def find_ledger(engine: AsyncEngine, setting: str) -> LedgerViews:
    """Find the ledger, on a connection of its own; else as `find`."""
    async with engine.connect() as connection:
        return await find(connection, setting)


async def find(connection: AsyncConnection, setting: str) -> LedgerViews:
    """Find the ledger. `setting`: the schema of its views, `none`, or nothing for the reference service's.

    Raises `WrongRequest` for a name that can't be a schema's.
    """
    if setting == NONE:
        return LedgerViews(None, "LEDGER_VIEWS is none")
    if setting in {"", OWN}:
        return await _reference(connection)
    if re.fullmatch(_NAME, setting) is None:
        raise WrongRequest("LEDGER_VIEWS must be the name of a schema (lower case letters, digits, _), or none")
    rows: Any = await connection.exec_driver_sql(_COLUMNS, (setting, list(VIEWS)))
    there = {(row.view, row.name) for row in rows}
    for view, columns in VIEWS.items():
        missing = [column for column in columns if (view, column) not in there]
        if len(missing) == len(columns):
            return LedgerViews(None, f"LEDGER_VIEWS: there is no view {setting}.{view} that this login may read")
        if missing:
            return LedgerViews(None, f"LEDGER_VIEWS: the view {setting}.{view} has no column {missing[0]}")
    return LedgerViews(setting)


async def _reference(connection: AsyncConnection) -> LedgerViews:
    if not (await connection.exec_driver_sql(_KNOWN)).scalar_one():
        return LedgerViews(OWN)
    closed: Any = (await connection.exec_driver_sql(_CLOSED)).one_or_none()
    if closed is None:
        return LedgerViews(OWN)
    since = f"{closed.closed_at:%Y-%m-%d %H:%M:%S}"
    return LedgerViews(
        None, f"it was handed over to {closed.successor} at {since}, LEDGER_VIEWS must name its views' schema"
    )
