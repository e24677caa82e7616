"""The commands `pause`, `unpause` and `pauses`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from operations.access.system import database
from operations.cli.options import OPERATING, By, Json
from operations.cli.printing import err, out, print_json

Who = Annotated[str, typer.Argument(metavar="PARTICIPANT", help="balance or assets.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (pause, unpause, pauses):
        app.command(rich_help_panel=OPERATING)(command)


def pause(
    participant: Who,
    reason: Annotated[str, typer.Option(help="Why; orders and 'stuck' tell it.")],
    by: By = "operator",
) -> None:
    """Ask a participant nothing from now on: orders that need it wait, and nothing times out against it.

    See docs/operating.md. Exit 1 when it is paused already.

    Example: order-saga pause balance --reason "new disks" --by ann
    """
    from operations.repair.pauses import begin
    from operations.repair.pauses import participant as read
    from operations.repair.runs import name_run

    who, run = read(participant), name_run("", by)

    async def work() -> None:
        async with database() as engine:
            await begin(engine, who, run, reason)

    asyncio.run(work())
    out.print(f"{who} is paused; 'order-saga unpause {who}' ends it")


def unpause(participant: Who, by: By = "operator") -> None:
    """Ask a participant again, and wake the orders that waited. Doing it twice does no harm.

    Example: order-saga unpause balance --by ann
    """
    from operations.repair.pauses import participant as read
    from operations.repair.pauses import unpause as end
    from operations.repair.pauses import wake
    from operations.repair.runs import name_run

    who, run = read(participant), name_run("", by)

    async def work() -> tuple[bool, int]:
        async with database() as engine:
            return await end(engine, who, run), await wake(engine)

    with err.status("waking orders ..."):
        ended, woken = asyncio.run(work())
    out.print(f"{who} {'is asked again' if ended else 'was not paused'}, {woken} orders woken")


def pauses(json: Json = False) -> None:
    """List the participants that are paused: who is asked nothing, since when, by whom and why."""
    from operations.diagnosis.why import describe_pause
    from operations.repair.pauses import current

    async def work() -> list[dict[str, Any]]:
        async with database() as engine:
            return list((await current(engine)).values())

    found = asyncio.run(work())
    if json:
        print_json(found)
    else:
        for row in found:
            out.print(describe_pause(row), markup=False)
        if not found:
            out.print("[green]nobody is paused[/]")
