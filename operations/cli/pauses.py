"""The commands `pause`, `unpause` and `pauses`: have nobody ask a participant that is worked on, and end that again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from operations.cli import runs
from operations.cli.reach import Trouble, database, err, out, print_json, rows, run
from operations.cli.stuck import PAUSES
from operations.why import told_pause as told

if TYPE_CHECKING:
    from order_saga.core.saga import Participant

PANEL: Final = "Operating"
Who = Annotated[str, typer.Argument(metavar="PARTICIPANT", help="balance or assets.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (pause, unpause, pauses):
        app.command(rich_help_panel=PANEL)(command)


def pause(
    participant: Who,
    reason: Annotated[str, typer.Option(help="Why; orders and 'stuck' tell it.")],
    by: runs.By = "operator",
) -> None:
    """Ask a participant nothing from now on: orders that need it wait, and nothing times out against it.

    See docs/operating.md. Exit 1 when it is paused already.
    """
    from operations.pauses import pause as begin

    who, named = _participant(participant), runs.name_run("", by)

    async def work() -> None:
        async with database() as engine:
            if not await begin(engine, who, named, reason):
                [known] = await rows(engine, "SELECT * FROM audit.pauses WHERE participant = $1", who)
                since = f"{known['paused_at']:%Y-%m-%d %H:%M:%S}"
                raise Trouble(f"{who} is paused since {since} by {known['paused_by']}: {known['reason']}")

    run(work())
    out.print(f"{who} is paused; 'order-saga unpause {who}' ends it")


def unpause(participant: Who, by: runs.By = "operator") -> None:
    """Ask a participant again, and wake the orders that waited. Doing it twice does no harm."""
    from operations.pauses import unpause as end
    from operations.pauses import wake

    who, named = _participant(participant), runs.name_run("", by)

    async def work() -> tuple[bool, int]:
        async with database() as engine:
            return await end(engine, who, named), await wake(engine)

    with err.status("waking orders ..."):
        ended, woken = run(work())
    out.print(f"{who} {'is asked again' if ended else 'was not paused'}, {woken} orders woken")


def pauses(json: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False) -> None:
    """List the participants that are paused: who is asked nothing, since when, by whom and why."""

    async def work() -> list[dict[str, Any]]:
        async with database() as engine:
            return await rows(engine, f"{PAUSES} ORDER BY participant")

    found = run(work())
    if json:
        print_json(found)
    else:
        for row in found:
            out.print(told(row), markup=False)
        if not found:
            out.print("[green]nobody is paused[/]")


def _participant(name: str) -> Participant:
    from order_saga.core.saga import Participant

    try:
        return Participant(name)
    except ValueError:
        raise Trouble(f"'{name}' is no participant: {', '.join(sorted(Participant))}", 2) from None
