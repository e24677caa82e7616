"""Close the reference balance service's ledger for good, so that another service can take over its money."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from operations.access.errors import Trouble, WrongRequest
from operations.access.words import full_time

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

LOCK_TIMEOUT_S: Final = 10
"""How long it waits for a batch that the reference service works on."""

_KNOWN: Final = "SELECT closed_at, successor FROM balances.ledger_start"
# The error code of a server that must not write: a service takes it for an outage and waits, so no order is refused.
_REFUSE: Final = """
CREATE OR REPLACE FUNCTION balances.handed_over() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction', MESSAGE = (
        SELECT format('the ledger of the reference balance service was handed over to %s at %s', successor, closed_at)
        FROM balances.ledger_start);
END $$
"""
# Only what moves money is refused: archiving and erasing go on. Creating a trigger waits for transactions that write to
# the table, and new ones wait for it.
_TRIGGERS: Final = (
    (
        "CREATE TRIGGER handed_over BEFORE INSERT OR UPDATE OF available, held ON balances.accounts"
        " FOR EACH STATEMENT EXECUTE FUNCTION balances.handed_over()"
    ),
    (
        "CREATE TRIGGER handed_over BEFORE INSERT OR UPDATE OF amount, state, captured, refunded ON balances.holds"
        " FOR EACH STATEMENT EXECUTE FUNCTION balances.handed_over()"
    ),
    (
        "CREATE TRIGGER handed_over BEFORE INSERT ON balances.journal"
        " FOR EACH STATEMENT EXECUTE FUNCTION balances.handed_over()"
    ),
)
_CLOSE: Final = "UPDATE balances.ledger_start SET closed_at = clock_timestamp(), successor = $1 RETURNING closed_at"
_CONTENT: Final = """
SELECT (SELECT count(*) FROM balances.accounts) AS accounts,
    (SELECT count(*) FROM balances.holds WHERE state = 'HELD') AS held"""


class HandedOver(NamedTuple):
    """What the closed ledger has: accounts, and holds that are active."""

    accounts: int
    held: int


def check_successor(name: str) -> None:
    """Expect a name that can be shown. Raises `WrongRequest`."""
    if re.fullmatch(r"[A-Za-z0-9 ._:-]{1,64}", name) is None:
        raise WrongRequest("SUCCESSOR must be 1 to 64 letters, digits, spaces and . _ : -")


async def close(engine: AsyncEngine, successor: str) -> HandedOver:
    """Close the ledger in one transaction, as the database's owner.

    Raises `WrongRequest` for a successor's name that can't be, and `Trouble` when the ledger was closed before.
    """
    check_successor(successor)
    async with engine.begin() as tx:
        await tx.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        await tx.exec_driver_sql(_REFUSE)
        known = (await tx.exec_driver_sql(_KNOWN)).one()
        if known.closed_at is not None:
            raise Trouble(f"the ledger was handed over to {known.successor} at {full_time(known.closed_at)}")
        for trigger in _TRIGGERS:
            await tx.exec_driver_sql(trigger)
        await tx.exec_driver_sql(_CLOSE, (successor,))
        content = (await tx.exec_driver_sql(_CONTENT)).one()
    return HandedOver(int(content.accounts), int(content.held))
