"""The command `hand-over`: close the reference service's ledger, so that another balance service can take over."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from operations.cli.reach import Trouble, database, out, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

PANEL: Final = "Operating"
LOCK_TIMEOUT_S: Final = 10
"""How long it waits for the batch that the reference service works on."""

KNOWN: Final = "SELECT closed_at, successor FROM balances.ledger_start"
# As a server that must not write says it: a service takes it for an outage and waits, so nothing is lost or refused.
REFUSE: Final = """
CREATE OR REPLACE FUNCTION balances.handed_over() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction', MESSAGE = (
        SELECT format('the ledger of the reference balance service was handed over to %s at %s', successor, closed_at)
        FROM balances.ledger_start);
END $$
"""
# Only what moves money: archiving and erasing go on. Making a trigger waits for whoever writes, and keeps others out.
TRIGGERS: Final = (
    (
        "CREATE TRIGGER handed_over BEFORE INSERT OR UPDATE OF available, held ON balances.accounts"
        " FOR EACH STATEMENT EXECUTE FUNCTION balances.handed_over()"
    ),
    (
        "CREATE TRIGGER handed_over BEFORE INSERT OR UPDATE OF state, captured, refunded ON balances.holds"
        " FOR EACH STATEMENT EXECUTE FUNCTION balances.handed_over()"
    ),
    (
        "CREATE TRIGGER handed_over BEFORE INSERT ON balances.journal"
        " FOR EACH STATEMENT EXECUTE FUNCTION balances.handed_over()"
    ),
)
CLOSE: Final = "UPDATE balances.ledger_start SET closed_at = clock_timestamp(), successor = $1 RETURNING closed_at"
CONTENT: Final = """
SELECT (SELECT count(*) FROM balances.accounts) AS accounts,
    (SELECT count(*) FROM balances.holds WHERE state = 'HELD') AS held"""


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("hand-over", rich_help_panel=PANEL)(hand_over)


def hand_over(
    successor: Annotated[str, typer.Argument(help="What takes over; whoever meets the closed ledger is told.")],
) -> None:
    """Close the reference balance service's ledger for good. DATABASE_URL is the owner's.

    From then on no money of it moves, and the service does not start again: see docs/own-balance-service.md. Exit 1
    when it was handed over before.
    """
    if re.fullmatch(r"[A-Za-z0-9 ._:-]{1,64}", successor) is None:
        raise Trouble("SUCCESSOR must be 1 to 64 letters, digits, spaces and . _ : -", 2)

    async def work() -> tuple[int, int]:
        async with database() as engine:
            return await close(engine, successor)

    accounts, held = run(work())
    out.print(f"the ledger is closed: {accounts} accounts, {held} active holds for {successor} to take over")


async def close(engine: AsyncEngine, successor: str) -> tuple[int, int]:
    """Close the ledger in one transaction; return how many accounts and active holds it has. Raises `Trouble`."""
    async with engine.begin() as tx:
        await tx.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        await tx.exec_driver_sql(REFUSE)
        known = (await tx.exec_driver_sql(KNOWN)).one()
        if known.closed_at is not None:
            raise Trouble(f"the ledger was handed over to {known.successor} at {known.closed_at:%Y-%m-%d %H:%M:%S}")
        for trigger in TRIGGERS:
            await tx.exec_driver_sql(trigger)
        await tx.exec_driver_sql(CLOSE, (successor,))
        content = (await tx.exec_driver_sql(CONTENT)).one()
    return int(content.accounts), int(content.held)
