"""Long pressure runs: each participant is away for a long time under load; then a flood of unreadable messages comes.

In an outage the participant's processes are frozen, or killed and left dead. The memory of every process must not grow;
orders must wait or end as the table of phases says; the participant must get a few probes instead of a storm of
questions; orders that do not need it must stay quick; the backlog must drain at full speed. In the flood every message
must become a dead letter with its bytes, and orders must stay quick. The independent checker of chaos judges every
order at the end. It needs a Docker engine.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.evidence import record as evidence
from tests.evidence.pressure.flood import flood
from tests.evidence.pressure.outage import Plan, outage
from tests.support.infrastructure import own_broker, own_postgres
from tests.support.servers import KAFKA_IMAGE, POSTGRES_IMAGE

RATE = 25.0
Seen = dict[str, tuple[Mapping[str, int | float | str], list[str]]]
out = Console(highlight=False, soft_wrap=True)


async def run(wanted: argparse.Namespace, folder: Path) -> Seen:
    """Run all wanted outages and the flood one after the other, each on servers of its own."""
    seen: Seen = {}
    async with own_broker() as kafka, own_postgres() as postgres:
        for participant in wanted.participants:
            for how in wanted.how:
                name = f"{participant}, {how}"
                out.print(f"{name}: away for {wanted.minutes:g} minutes at {wanted.rate:g} orders a second ...")
                plan = Plan(participant, how, wanted.minutes * 60, wanted.rate, wanted.burst)
                result = await outage(postgres, kafka, folder / name.replace(", ", "-"), plan)
                seen[name] = result.figures, result.found
                _show(name, *seen[name])
        if wanted.flood:
            out.print(f"flood: {wanted.flood} unreadable messages on each topic ...")
            plan = Plan("balance", "freeze", 0, wanted.rate)
            each, unparsable = wanted.flood, wanted.unparsable
            flooded = await flood(postgres, kafka, folder / "flood", plan, each=each, unparsable=unparsable)
            seen["flood"] = flooded.figures, flooded.found
            _show("flood", *seen["flood"])
    return seen


def main() -> int:
    """Run from the command line; return the exit status: 0 when nothing was found, 1 when something was."""
    wanted = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no container is left
    folder = Path(tempfile.mkdtemp(prefix="order-saga-pressure-"))
    timed = evidence.Run("pressure", "Pressure", " ".join((__doc__ or "").split("\n\n")[1].split()), _command(wanted))
    seen = asyncio.run(run(wanted, folder))
    found = [f"{name}: {one}" for name, (_, findings) in seen.items() for one in findings]
    if wanted.record:
        tables = [
            evidence.Table(name, ["figure", ""], [[key, str(value)] for key, value in figures.items()])
            for name, (figures, _) in seen.items()
        ]
        counts: dict[str, int | float | str] = {"runs": len(seen), "findings": len(found)}
        record = timed.record(counts, servers=f"{KAFKA_IMAGE}, {POSTGRES_IMAGE}", tables=tables, found=found)
        out.print(f"recorded in {evidence.write(record)}")
    if found:
        out.print(f"{len(found)} findings; logs: {folder}", style="bold red")
        return 1
    out.print("everything stayed within its bounds", style="bold green")
    return 0


def _show(name: str, figures: Mapping[str, int | float | str], found: list[str]) -> None:
    table = Table("figure", "", title=name, title_justify="left")
    for key, value in figures.items():
        table.add_row(key, str(value))
    out.print(table)
    for one in found[:20]:
        out.print(one, style="red", markup=False)


def _command(wanted: argparse.Namespace) -> str:
    numbers = f"--minutes {wanted.minutes:g} --rate {wanted.rate:g} --burst {wanted.burst} --flood {wanted.flood}"
    who = f"--participants {' '.join(wanted.participants)} --how {' '.join(wanted.how)}"
    return f"python -m tests.evidence.pressure {numbers} {who}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.evidence.pressure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long each participant is away (60)")
    parser.add_argument("--rate", type=float, default=RATE, help=f"orders a second ({RATE:g})")
    parser.add_argument("--burst", type=int, default=0, help="further orders at once when it has left (0)")
    parser.add_argument("--participants", nargs="*", default=["balance", "assets"], choices=["balance", "assets"])
    parser.add_argument("--how", nargs="+", default=["freeze", "kill"], choices=["freeze", "kill"])
    parser.add_argument("--flood", type=int, default=2_000, help="unreadable messages on each of five topics (2000)")
    parser.add_argument("--unparsable", type=int, default=24, help="of a kind that the library can't parse, each (24)")
    parser.add_argument("--record", action="store_true", help="write the run's record to docs/evidence/")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
