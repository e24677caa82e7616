"""The command `archive`: what a person says and is told; what it does stands in `archive`, and in the kit for holds.

What is moved stays moved, so it may be stopped at any moment and started again: the next run finds the rest.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from operations.cli.reach import Trouble, database, err, finite, out, print_json, run
from operations.cli.runs import ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

DAY_S: Final = 86_400
HORIZON_DAYS: Final = 30.0
BATCH: Final = 500
_FRESH: Final = "ANALYZE orders.archive, balances.holds_archive"
"""Plans that were made while the archives were small are made anew."""


class Part(NamedTuple):
    """One table that is archived: how what is old is counted, and how it is moved from some of the table's pages."""

    table: str
    count_old: Callable[[AsyncConnection], Awaitable[int]]
    move: Callable[[AsyncConnection, tuple[str, str]], Awaitable[int]]


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Operating")(archive)


def archive(
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", callback=finite, help="What ended so long ago.")
    ] = HORIZON_DAYS,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows in one transaction, at most.")] = BATCH,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be archived, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """Archive orders and holds that ended before the replay horizon: whatever is repeated, they are never done again.

    They are read as before, by the API, by auditors and by 'inspect'. It works in small transactions while the system
    runs, and rests between them; Ctrl-C stops it, the next run goes on. DATABASE_URL is the owner's. Exit 1 when it
    was stopped.
    """
    _check_horizon(older_than)
    parts = _parts(older_than * DAY_S, batch)
    rows = dict.fromkeys(parts, 0)
    stopped = False
    try:
        if dry_run or not yes:
            rows = run(_count(parts))
        if not dry_run:
            if not yes:
                ask("archive " + _told(rows))
            rows = dict.fromkeys(parts, 0)
            run(_archive(parts, rows, batch))
    except KeyboardInterrupt:
        stopped = True
    if json:
        print_json({"older_than_days": older_than, "dry_run": dry_run, "stopped": stopped, "rows": rows})
    else:
        out.print(f"{_told(rows)} {'to archive' if dry_run else 'archived'}", markup=False)
    if stopped:
        raise Trouble("stopped before the end; the next run goes on")


def _check_horizon(days: float) -> None:
    from saga_kit.messaging.topic_settings import REPLAY_HORIZON_S

    if not days * DAY_S >= REPLAY_HORIZON_S:  # which no NaN is
        horizon = f"--older-than must be at least {REPLAY_HORIZON_S / DAY_S:g} days, the replay horizon"
        raise Trouble(f"{horizon}: a message that is younger may still come", 2)


def _parts(older_than_s: float, most: int) -> dict[str, Part]:
    from operations import archive as orders
    from participants.balance.tables import SCHEMA
    from saga_kit.participant.holds import Holds

    holds = Holds(SCHEMA)
    return {
        "orders": Part(
            "orders.orders",
            lambda tx: orders.count(tx, older_than_s),
            lambda tx, pages: orders.move(tx, pages, older_than_s, most),
        ),
        "holds": Part(
            f"{SCHEMA}.holds",
            lambda tx: holds.count_old(tx, older_than_s),
            lambda tx, pages: holds.archive(tx, pages, older_than_s, most),
        ),
    }


def _told(rows: dict[str, int]) -> str:
    return " and ".join(f"{number} {name}" for name, number in rows.items())


async def _count(parts: dict[str, Part]) -> dict[str, int]:
    from saga_kit.runtime.database import PATIENTLY

    async with database() as engine, engine.begin() as tx:
        await tx.exec_driver_sql(PATIENTLY)
        return {name: await part.count_old(tx) for name, part in parts.items()}


async def _archive(parts: dict[str, Part], rows: dict[str, int], most: int) -> None:
    """Move everything, and count it in `rows`, which is right whenever this is stopped."""
    from operations.archive import walk
    from saga_kit.runtime.database import PATIENTLY

    with err.status("archiving ...") as status:
        async with database() as engine:
            for name, part in parts.items():
                async with aclosing(walk(engine, part.table, part.move, most=most)) as steps:
                    async for moved, share in steps:
                        rows[name] += moved
                        status.update(f"archiving ... {_told(rows)}; {share:.0%} of {part.table} read")
            async with engine.begin() as tx:
                await tx.exec_driver_sql(PATIENTLY)
                await tx.exec_driver_sql(_FRESH)
