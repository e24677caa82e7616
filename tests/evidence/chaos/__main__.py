"""`make chaos`: inject faults into a whole system for minutes or hours, and let an independent checker judge it.

A schedule made from the seed kills (-9) and freezes orchestrators, APIs, participants and webhook processes, two of
each. It shuts PostgreSQL down immediately and kills Kafka; it cuts, delays and half-opens their connections; it freezes
whole consumer groups, rolls segments of topics, deletes records that were read, and sets the wall clock of single
processes wrong. It halts assets, publishes old prices again, and freezes the orchestrators until ticks are too old to
fire. Meanwhile orders come by REST and by Kafka; half of them are conditional orders on two assets whose prices walk 50
times a second. Clients follow the orders of every user by server-sent events and WebSockets, and receivers take the
users' webhooks. At the end every accepted order must have ended, no effect may be lost or doubled, every cent must add
up, every version must have been published, and every client must have been told of every end of its own orders. The
same seed makes the same faults; their exact timing depends on the machine. It needs a Docker engine, and for wrong
clocks Debian's package `faketime`.

`make chaos PLAY=all` plays instead what a cluster's controller does: `python -m tests.evidence.chaos.cluster`.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.evidence import record as evidence
from tests.evidence.chaos.arena import clock_library
from tests.evidence.chaos.faults import Done
from tests.evidence.chaos.report import figures, not_done, show, tables
from tests.evidence.chaos.run import run
from tests.evidence.chaos.schedule import kills_of, schedule
from tests.support.servers import KAFKA_IMAGE, POSTGRES_IMAGE

RATE = 24.0
FAR = 2_500


def main() -> int:
    """Run from the command line; return the exit status: 0 when nothing was found, 1 when something was."""
    wanted = _arguments()
    console = Console(highlight=False, soft_wrap=True)
    faults = schedule(wanted.seed, wanted.kills)
    console.print(f"seed {wanted.seed}: {kills_of(faults)} kills, {len(faults)} faults in all")
    for fault in faults:
        console.print(str(fault), markup=False)
    if wanted.dry_run:
        return 0
    if clock_library() is None:
        console.print("no wrong clocks in this run: Debian's package `faketime` is not installed", style="yellow")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no container is left
    folder = Path(tempfile.mkdtemp(prefix="order-saga-chaos-"))
    began = time.monotonic()

    def told(done: Done) -> None:
        outcome = f"NOT DONE: {done.not_done}" if done.not_done else done.met
        at = f"{done.began_at - began:6.1f} s, {done.in_flight:4} in flight"
        console.print(f"{at}: {done.fault}: {outcome}", markup=False)

    command = f"make chaos KILLS={wanted.kills} SEED={wanted.seed}"
    timed = evidence.Run("chaos", "Chaos", _WHAT, command)
    outcome = asyncio.run(
        run(faults, seed=wanted.seed, rate=wanted.rate, far=FAR, folder=folder, console=console, told=told)
    )
    show(outcome, console)
    for line in not_done(outcome):
        console.print(line, style="yellow", markup=False)
    if wanted.record:
        record = timed.record(
            figures(outcome),
            servers=f"{KAFKA_IMAGE}, {POSTGRES_IMAGE}",
            tables=tables(outcome),
            found=[str(finding) for finding in outcome.findings] + not_done(outcome),
        )
        console.print(f"recorded in {evidence.write(record)}")
    if outcome.findings:
        console.print(f"{len(outcome.findings)} findings. Logs and what was submitted: {folder}", style="bold red")
        console.print(f"again: {command}")
        return 1
    console.print("nothing was lost, doubled or off", style="bold green")
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.evidence.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="kills of processes and servers; about 9 s each (100)")
    parser.add_argument("--seed", type=int, default=None, help="which schedule (by chance; it is printed)")
    parser.add_argument("--rate", type=float, default=RATE, help=f"orders a second ({RATE:g})")
    parser.add_argument("--dry-run", action="store_true", help="print the schedule and do nothing")
    parser.add_argument("--record", action="store_true", help="write the run's record to docs/evidence/")
    wanted = parser.parse_args()
    if wanted.kills < 1:
        parser.error("--kills must be at least 1")
    if wanted.seed is None:
        wanted.seed = secrets.randbelow(1_000_000)
    return wanted


_WHAT = """Two orchestrators, two APIs, two webhook processes and two of each participant on Apache Kafka and
PostgreSQL, with steady load by REST and Kafka, while a seeded schedule killed and froze processes and servers, cut,
delayed and half-opened their connections, froze whole groups, rolled segments, set clocks wrong, halted assets and
repeated old prices. Half of the orders waited for prices that walked 50 times a second, with thousands at rest; some
of them were amended, suspended and released meanwhile, by their users, an operator and a stranger. Clients held
streams of every user's orders, and each user had an endpoint for webhooks. An independent checker then compared what
was submitted, what `orders.events` told, what the clients were told and the base tables, and judged every
conditional order tick by tick by what it had read on `assets.prices`.""".replace("\n", " ")

if __name__ == "__main__":
    sys.exit(main())
