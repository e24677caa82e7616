"""The command `archive`: move orders and holds that ended long ago out of the way."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated, Final

import typer

from operations.access.errors import Trouble
from operations.access.system import database
from operations.cli.options import OPERATING, Json, Yes, finite
from operations.cli.printing import err, out, print_json
from operations.cli.running import ask

HORIZON_DAYS: Final = 30.0
BATCH: Final = 500
DAY_S: Final = 86_400


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=OPERATING)(archive)


def archive(
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", callback=finite, help="What ended so long ago.")
    ] = HORIZON_DAYS,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows in one transaction, at most.")] = BATCH,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be archived, and do nothing.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Archive orders and holds that ended before the replay horizon: whatever is repeated, they are never done again.

    They are read as before, by the API, by auditors and by 'inspect'. It works in small transactions while the system
    runs, and rests between them; Ctrl-C stops it, the next run goes on. DATABASE_URL is the owner's. Exit 1 when it
    was stopped.

    Examples: order-saga archive --dry-run, or order-saga archive --older-than 90 --yes
    """
    from operations.retention.archive import check_horizon

    check_horizon(older_than)
    rows = {"orders": 0, "holds": 0}
    stopped = False
    try:
        if dry_run or not yes:
            found = asyncio.run(_count(older_than))
            if dry_run:
                rows = found
            else:
                ask("archive " + _in_words(found))
        if not dry_run:
            asyncio.run(_archive(older_than, batch, rows))
    except KeyboardInterrupt:
        stopped = True
    if json:
        print_json({"older_than_days": older_than, "dry_run": dry_run, "stopped": stopped, "rows": rows})
    else:
        out.print(f"{_in_words(rows)} {'to archive' if dry_run else 'archived'}", markup=False)
    if stopped:
        raise Trouble("stopped before the end; the next run goes on")


def _in_words(rows: dict[str, int]) -> str:
    from operations.access.words import counts

    return counts(rows, between=" and ")


async def _count(older_than_days: float) -> dict[str, int]:
    from operations.retention.archive import count_old

    async with database() as engine:
        return await count_old(engine, older_than_days * DAY_S)


async def _archive(older_than_days: float, batch: int, rows: dict[str, int]) -> None:
    """Move everything, and count it in `rows`, which is right whenever this is stopped."""
    from operations.retention.archive import archive

    with err.status("archiving ...") as status:
        async with database() as engine, aclosing(archive(engine, older_than_days * DAY_S, batch)) as steps:
            async for step in steps:
                rows.update(step.rows)
                status.update(f"archiving ... {_in_words(rows)}; {step.share:.0%} of {step.table} read")
