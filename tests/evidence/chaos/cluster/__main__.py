"""`make chaos PLAY=all`: what a cluster's controller does, played with real processes under load.

`rolling-upgrade` replaces every process of every kind, as the chart does it: the new one is ready before the old one
leaves. `scale` takes orchestrators and balance services from 2 to 6 at once, and back one by one. `node-loss` kills one
process of each kind at one moment, and brings others in their place later. `frozen-node` stops one of each kind for
longer than its group waits, and lets them go on. After each, every order must have ended, no effect may be lost or
doubled, and no order may have taken longer than stated.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table as Shown

from saga_kit.runtime.settings import KitSettings
from tests.evidence import record as evidence
from tests.evidence.chaos.cluster.bounds import Plan, plans
from tests.evidence.chaos.cluster.play import Played, play, stage
from tests.support.infrastructure import Session

SESSION_S: Final = float(KitSettings.model_fields["kafka_session_timeout_s"].default)
ALL: Final = tuple(plans(SESSION_S))
COLUMNS: Final = (
    *("upheaval", "of what", "took", "orders", "p50", "p99", "longest", "at most", "without it: p50", "p99"),
    *("longest", "requests without a good answer"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, print, write the record if asked; return 1 when something was not as stated."""
    asked = _arguments(arguments)
    console = Console(highlight=False, soft_wrap=True)
    names = list(ALL) if asked.play == "all" else [asked.play]
    command = f'make chaos PLAY={asked.play} ARGS="--rounds {asked.rounds} --rate {asked.rate:g}"'
    run = evidence.Run("upheavals", "Processes come and go", _WHAT, command)
    session = Session()
    try:
        found = asyncio.run(_play(session, names, asked, console))
        servers = session.describe().rpartition(",")[0]
    finally:
        session.close()
    table = evidence.Table("How long orders took", list(COLUMNS), [_row(name, plan, one) for name, plan, one in found])
    wrong = [f"{name}: {line}" for name, plan, one in found for line in one.breaches(plan)]
    console.print(_shown(table))
    for line in wrong:
        console.print(line, style="red", markup=False)
    if asked.record:
        counts: dict[str, int | float | str] = {
            "plays": len(found),
            "orders": sum(len(one.calm_s) + len(one.during_s) for _, _, one in found),
            "session of a consumer group, s": asked.session,
        }
        evidence.write(run.record(counts, servers=servers, tables=[table], found=wrong))
    return 1 if wrong else 0


async def _play(
    session: Session, names: Sequence[str], asked: argparse.Namespace, console: Console
) -> list[tuple[str, Plan, Played]]:
    servers = session.start()
    known = plans(asked.session, every_s=asked.pause)
    found = []
    with tempfile.TemporaryDirectory(prefix="order-saga-cluster-") as folder:
        async with stage(servers.postgres, servers.broker, Path(folder), session_s=asked.session) as one:
            for name in [name for _ in range(asked.rounds) for name in names]:
                console.print(f"{name}: {known[name].what} ...", markup=False)
                found.append((name, known[name], await play(one, known[name], calm_s=asked.calm, rate=asked.rate)))
                console.print(str(found[-1][2].figures()), markup=False)
    return found


def _row(name: str, plan: Plan, one: Played) -> list[str]:
    figures = one.figures()
    times = [
        f"{figures[f'{word} {when}, s']:g} s"
        for when in ("during it", "without it")
        for word in ("p50", "p99", "longest")
    ]
    took, orders, missed = (figures[what] for what in ("took, s", "orders during it", "requests without a good answer"))
    return [name, plan.what, f"{took:g} s", str(orders), *times[:3], f"{plan.longest_s:g} s", *times[3:], str(missed)]


def _shown(table: evidence.Table) -> Shown:
    """Show a play in a column, since all figures of one in a line do not fit a terminal."""
    shown = Shown("", *(row[0] for row in table.rows), title=table.title, title_justify="left")
    for name, *figures in list(zip(table.columns, *table.rows, strict=True))[2:]:
        shown.add_row(name, *figures)
    return shown


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.evidence.chaos.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("play", nargs="?", choices=(*ALL, "all"), default="all", help="which one (all)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is played (1)")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second (20)")
    parser.add_argument("--calm", type=float, default=20.0, help="seconds of load before each (20)")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds after each step of scaling (5)")
    parser.add_argument("--session", type=float, default=SESSION_S, help=f"of a consumer group, in s ({SESSION_S:g})")
    parser.add_argument("--record", action="store_true", help="write the record to docs/evidence/")
    return parser.parse_args(arguments)


_WHAT: Final = """What a cluster's controller does, with real processes on Apache Kafka and PostgreSQL, two of each
kind, under steady load by REST and Kafka, with streams and webhooks. A Service before the API passes each new
connection to one of the ready processes, and leaves open ones where they are. How processes are started and ended is
read from the chart's manifest; one starts at a time. A time is that of an order that does not wait for a price, from
its acceptance until its end was read on `orders.events`. After each play the checker of chaos judged everything:
nothing may be lost, doubled or off, and no order may have timed out.""".replace("\n", " ")

if __name__ == "__main__":
    sys.exit(main())
