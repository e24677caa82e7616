"""A look and its checks: rows, conditions on them, and words for a row that meets one, written as one query.

A look is one statement, so it reads each table once, in one snapshot of all services' tables. One snapshot is enough,
because a service acts on another one's work only after that one's commit. So when an order shows a settlement, its hold
is settled in the same snapshot (the balance service commits before it answers); and no command is sent for an order
that is not stored. A hold may be ahead of its order: no check reports that. A look whose findings may be messages in
flight is marked `in_flight`.

The client sorts and hashes nothing. The server hashes a page and sorts its versions within `work_mem`, and beyond that
in temporary files.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Check(NamedTuple):
    """What breaks an invariant: a condition on a row, and an expression that describes such a row in words."""

    invariant: str
    name: str
    broken: str
    what: str
    of_ledger: bool = False
    """It needs the ledger's views, so it is left out where these can't be read."""
    of_reference: bool = False
    """It needs more than those three views: only the reference service's ledger has it."""


class AuditLook(NamedTuple):
    """Rows to look at, and the checks of each. `key`: the order id or null, and columns that identify a row.

    With `by_order`, `{orders}`, `{holds}` and `{journal}` stand for the orders that are looked at: see `statement`.
    """

    key: tuple[str, ...]
    rows: str
    checks: tuple[Check, ...]
    by_order: bool = True
    in_flight: bool = False
    """While a message is in flight a row may meet a check: it is a finding only when it stays so."""


PAGE: Final = {
    "orders": "order_id BETWEEN $1 AND $2",
    "holds": "order_id BETWEEN $1 AND $2 AND hold_id = order_id || ':reserve'",
    "journal": "order_id BETWEEN $1 AND $2 AND entry_id = order_id || ':settle'",
}
"""The orders of a range of ids, $1 to $2: hashed and scanned."""
ONE: Final = {
    "orders": "order_id = $1",
    "holds": "hold_id = $1::uuid || ':reserve'",
    "journal": "entry_id = $1::uuid || ':settle'",
}
"""One order, $1: by the primary keys."""


def statement(look: AuditLook, scope: dict[str, str], findings_max: int) -> str:
    """Write a look as one query for a check's number, the words and the key; at most so many rows of each check."""
    rows = look.rows.format(**scope) if look.by_order else look.rows
    words = ", ".join(f"CASE WHEN {check.broken} THEN {check.what} END" for check in look.checks)
    broken = " OR ".join(f"({check.broken})" for check in look.checks)
    return f"""
        SELECT * FROM (
            SELECT found.number, row_number() OVER (PARTITION BY found.number) AS nth, found.what, {", ".join(look.key)}
            FROM {rows}
            CROSS JOIN LATERAL unnest(ARRAY[{words}]::text[]) WITH ORDINALITY AS found (what, number)
            WHERE ({broken}) AND found.what IS NOT NULL) AS found
        WHERE nth <= {findings_max}"""  # noqa: S608 - the checks are our own
