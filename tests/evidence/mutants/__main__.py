"""`python -m tests.evidence.mutants`: applies each deliberate defect and runs the tests that must catch it."""

from __future__ import annotations

import os
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.evidence import record as evidence
from tests.evidence.mutants.mutant import Mutant
from tests.evidence.mutants.run import Verdict, failing, hunt, stale
from tests.evidence.mutants.table import MUTANTS

out = Console(highlight=False, soft_wrap=True)
WHAT: Final = """Each mutant is one deliberate defect in the protocol, applied in a copy of the sources. The tests
that state the property must fail; before, they all pass without any mutant."""


def main(
    only: Annotated[str, typer.Option(help="Only mutants whose name or file contains this.")] = "",
    processes: Annotated[int, typer.Option(min=1, help="How many at once.")] = os.cpu_count() or 1,
    record: Annotated[
        bool, typer.Option("--record", help="Write the record that docs/evidence.md is made of.")
    ] = False,
    tested: Annotated[
        bool,
        typer.Option("--tested", help="All tests have passed on this code: do not run the killers without a mutant."),
    ] = False,
    list_them: Annotated[bool, typer.Option("--list", help="Say what they are, and try none.")] = False,
) -> None:
    """Try every mutant of tests/evidence/mutants/table.py. Exit 1 when one survives, is stale, or a killer fails alone.

    PostgreSQL and Kafka are started once, or those are used that DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS name.
    """
    if tested and record:
        raise typer.BadParameter("a record says that the killers pass without a mutant: leave out --tested")
    mutants = [mutant for mutant in MUTANTS if only in mutant.name or only in mutant.file]
    if list_them:
        out.print(_table([Verdict(mutant, "; ".join(mutant.killers), 0.0) for mutant in mutants]))
        return
    if wrong := stale(mutants):
        out.print("\n".join(wrong), style="red", markup=False)
        raise typer.Exit(1)
    log = evidence.Run("mutants", "Mutants", WHAT, "make mutants")
    killers = list(dict.fromkeys(killer for mutant in mutants for killer in mutant.killers))
    if not tested and (trouble := failing(killers)):
        out.print(trouble, markup=False)
        out.print("[red]a killer fails without any mutant: it would catch everything[/]")
        raise typer.Exit(1)
    verdicts = _hunt(mutants, processes)
    survivors = [verdict.mutant.name for verdict in verdicts if verdict.caught_by is None]
    out.print(_table(verdicts))
    out.print(f"{len(verdicts)} mutants, {len(survivors) or 'no'} survivors")
    if record:
        evidence.write(_record(log, verdicts, survivors))
    raise typer.Exit(1 if survivors else 0)


def _hunt(mutants: list[Mutant], processes: int) -> list[Verdict]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("mutants", total=len(mutants))

        def told(verdict: Verdict) -> None:
            progress.advance(task)
            if verdict.caught_by is None:
                progress.console.print(f"[red]survived: {verdict.mutant.name}[/]")

        return hunt(mutants, processes, told)


def _table(verdicts: list[Verdict]) -> Table:
    table = Table("mutant", "what it breaks", "caught by", "s", title="mutants")
    for mutant, caught_by, seconds in verdicts:
        table.add_row(mutant.name, mutant.why, caught_by or "[red]nobody[/]", f"{seconds:.1f}")
    return table


def _record(log: evidence.Run, verdicts: list[Verdict], survivors: list[str]) -> evidence.Record:
    rows = [
        [mutant.name, mutant.why, mutant.file, f"`{caught_by}`" if caught_by else "nobody", f"{seconds:.1f}"]
        for mutant, caught_by, seconds in verdicts
    ]
    counts: dict[str, int | float | str] = {"mutants": len(verdicts), "caught": len(verdicts) - len(survivors)}
    tables = [evidence.Table("Mutants", ["mutant", "what it breaks", "in", "caught by", "seconds"], rows)]
    return log.record(counts, tables=tables, found=[f"survived: {name}" for name in survivors])


if __name__ == "__main__":
    typer.run(main)
