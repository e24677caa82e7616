"""`python -m tests.evidence.simulation`: runs histories, and explains one that fails."""

from __future__ import annotations

import random
import time
from typing import Annotated, Final

import typer
from msgspec import structs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.evidence import record as evidence
from tests.evidence.simulation.draw import draw
from tests.evidence.simulation.run import Tally, add, be_quiet, run, run_many
from tests.evidence.simulation.scenario import NODES, Scenario
from tests.evidence.simulation.shrink import shrink

FAILURES_MAX: Final = 5
"""The run stops after so many failing histories."""
out = Console(highlight=False, soft_wrap=True)
WHAT: Final = """The real core, batches, outbox, relay, timers, participants' barrier and ledger, run as two
orchestrators, two balance services and one asset service on a simulated PostgreSQL and Kafka with a clock of their own.
Messages are lost, doubled, late and out of order; batches are cut anywhere; processes die at every crash point and
anywhere else, freeze, and work on the same records after a rebalance; commits and publishes have unknown outcomes;
the database and the broker are away, or the database only reads; somebody else holds a row locked; clocks jump;
participants refuse, are slow, silent or paused; users repeat, contradict and cancel at every moment. Ticks come late,
twice, never, backward, stale and in halts, and meet orders of every type that rest, cancels and expiries. Orders are
amended, suspended and released by users, operators and strangers at every moment: when a tick, a cancel or another
change comes, before they are there and after they ended, while participants are silent, slow and dead. After every
commit and at the end I1 to I13 are judged by rules of their own, what ticks do by an oracle that judges each alone,
that what is held pays for the terms in force, and that every amend ends; every order must end once faults stop."""


def main(
    histories: Annotated[int, typer.Option(help="How many.")] = 10_000,
    seed: Annotated[int | None, typer.Option(help="The first history's seed; one after the other from there.")] = None,
    processes: Annotated[int | None, typer.Option(help="Instead of one for each processor.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write the record that docs/evidence.md is made of.")
    ] = False,
) -> None:
    """Simulate histories of the whole system, each from a seed, with faults of every kind. Exit 1: one broke a rule.

    [bold]--histories 1 --seed N[/] runs one history again and prints it in words.
    """
    be_quiet()
    first = random.SystemRandom().randrange(10**12) if seed is None else seed
    if histories == 1:
        raise typer.Exit(_tell(draw(first)))
    began, log = (
        time.monotonic(),
        evidence.Run("simulation", "Simulated histories", WHAT, f"make simulate N={histories} SEED={first}"),
    )
    tally = _run(first, histories, processes)
    seconds = time.monotonic() - began
    _show(tally, seconds)
    if record:
        evidence.write(
            log.record(*_counts(first, tally, seconds), found=[f"seed {s}: {f[0]}" for s, f in tally.failed.items()])
        )
    for failed in list(tally.failed)[:1]:
        _explain(failed)
    raise typer.Exit(1 if tally.failed else 0)


def _run(first: int, histories: int, processes: int | None) -> Tally:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    parts: list[Tally] = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"histories from seed {first}", total=histories)
        for part in run_many(first, histories, processes):
            parts.append(part)
            progress.advance(task, part.histories)
            if sum(len(one.failed) for one in parts) >= FAILURES_MAX:
                break
    return add(parts)


def _counts(first: int, tally: Tally, seconds: float) -> tuple[dict[str, int | float | str]]:
    orders = sum(tally.ends.values())
    return (
        {
            "histories": tally.histories,
            "seeds": f"{first} to {first + tally.histories - 1}",
            "orders": orders,
            "broken": len(tally.failed),
            "histories a second": round(tally.histories / seconds, 1),
            "simulated hours": round(tally.lasted_s / 3600, 1),
            "longest time to the last end after faults stopped, s": round(tally.ended_after_s, 1),
            **{f"fault: {name}": count for name, count in sorted(tally.seen.items(), key=str)},
            **{f"orders {end}": count for end, count in sorted(tally.ends.items())},
        },
    )


def _show(tally: Tally, seconds: float) -> None:
    table = Table(
        "", "", title=f"{tally.histories:,} histories in {seconds:.0f} s", title_justify="left", show_header=False
    )
    for name, count in _counts(0, tally, seconds)[0].items():
        if name != "seeds":
            table.add_row(str(name), f"{count:,}" if not isinstance(count, str) else count)
    out.print(table)
    for seed, faults in tally.failed.items():
        out.print(f"[red]seed {seed}[/]: {faults[0]}", markup=True)
        out.print(f"  again: make simulate N=1 SEED={seed}")
    out.print(
        "[red]broken[/]" if tally.failed else "[green]I1 to I13 hold in every history, and every order has ended[/]"
    )


def _explain(seed: int) -> None:
    out.print(f"\nmaking the history of seed {seed} smaller ...")
    _tell(shrink(draw(seed)))


def _tell(scenario: Scenario) -> int:
    outcome = run(scenario, traced=True)
    out.print(f"[bold]seed {scenario.seed}[/], processes {', '.join(NODES)}")
    for order in scenario.orders:
        out.print(f"  order {_plain(structs.asdict(order))}", markup=False)
    for fault in scenario.faults:
        out.print(f"  fault {_plain(structs.asdict(fault))}", markup=False)
    out.print(f"  chances {_plain(structs.asdict(scenario.rates))}", markup=False)
    for line in outcome.history:
        out.print(f"{line.at_s:10.4f}  {line.who:15} {line.what}", markup=False)
    for fault_found in outcome.faults:
        out.print(f"[red]{fault_found}[/]")
    out.print(
        f"again: make simulate N=1 SEED={scenario.seed}" if outcome.faults else "[green]nothing was found wrong[/]"
    )
    return 1 if outcome.faults else 0


def _plain(fields: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items() if value not in (None, (), 0, 0.0, False, ""))


if __name__ == "__main__":
    typer.run(main)
