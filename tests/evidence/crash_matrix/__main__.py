"""`make crash-matrix`: kill every service at every crash point, with every type of message."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.evidence import record as evidence
from tests.evidence.crash_matrix import matrix
from tests.evidence.crash_matrix.arena import Outcome
from tests.evidence.crash_matrix.cells import RULES, Cell, all_cells, chosen
from tests.support.infrastructure import Session

out = Console(soft_wrap=True)

WHAT = (
    "Real processes on real servers. In each cell a service's process kills itself with SIGKILL at that crash point, "
    "while it handles a message of that type. It is started again; then every order must have ended, every version "
    "must have been published without a gap, every account must add up to the cent, and the audit must find nothing."
)


def main(
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Play only cells whose names fit, such as 'balance:*:SettleBalance'. May be given again."),
    ] = None,
    systems: Annotated[int, typer.Option(help="How many systems play side by side.", min=1)] = 4,
    names: Annotated[bool, typer.Option("--list", help="Print the cells and the reasons for the others.")] = False,
    logs: Annotated[
        Path | None, typer.Option(help="Keep the systems' folders here, with a log of each process.")
    ] = None,
    record: Annotated[bool, typer.Option(help="Keep the record of this run for docs/evidence.md.")] = False,
) -> None:
    """Kill every service at every crash point, with every type of message; check everything after each death.

    A cell is a service, a crash point (saga_kit/runtime/crash_points.py) and the type of a message that the service
    handles there: orchestrator:batch-committed:AssetApproved. Exit 0 only when every cell was hit and survived.
    """
    cells = all_cells() if only is None else chosen(only)
    if names:
        out.print("\n".join(cell.name for cell in cells), highlight=False)
        for rule in RULES:
            out.print(f"not in the matrix: {rule.reason}", style="dim", highlight=False)
        return
    if not cells:
        out.print("no cell has such a name; --list shows them all", style="red")
        raise typer.Exit(2)
    session = Session()
    if session.broker_kind != "apache":
        out.print(f"this needs Apache Kafka: {session.docker_trouble}", style="red")
        raise typer.Exit(2)
    try:
        with tempfile.TemporaryDirectory(prefix="crash-matrix-") as folder:
            outcomes = _play(session, cells, logs or Path(folder), systems=systems, record=record)
    finally:
        session.close()
    matrix.show(out, outcomes)
    for line in matrix.found(outcomes):
        out.print(line, style="red", highlight=False, markup=False)
    survived = len(outcomes) - len(matrix.found(outcomes))
    out.print(f"{survived} of {len(outcomes)} cells were hit and survived", highlight=False)
    raise typer.Exit(0 if survived == len(outcomes) else 1)


def _play(session: Session, cells: Sequence[Cell], folder: Path, *, systems: int, record: bool) -> list[Outcome]:
    run_ = evidence.Run("crash-matrix", "The crash-point matrix", WHAT, "make crash-matrix")
    servers, began = session.start(), time.monotonic()
    out.print(f"{len(cells)} cells; {session.describe()}", highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task("", total=len(cells))

        def tell(played: Sequence[Outcome]) -> None:
            progress.update(task, advance=len(played), description=played[0].cell.name)
            for one in played:
                if one.trouble is not None or not out.is_terminal:
                    progress.console.print(_line(one), highlight=False, markup=False)

        outcomes = asyncio.run(matrix.run(servers, cells, folder, systems=systems, tell=tell))
    if record:
        out.print(f"recorded in {evidence.write(matrix.record(run_, outcomes, began))}", highlight=False)
    return outcomes


def _line(one: Outcome) -> str:
    symbol = matrix.SURVIVED if one.hit and one.trouble is None else matrix.BROKEN
    return f"{symbol} {one.cell.name} {one.seconds:.1f} s {one.trouble or ''}"


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
