"""`make bench`: throughput, latency and cost of the system, as ratios to peers that are measured in the same run.

A run measures one scenario, `loop` unless another is named; `all` measures them one after the other. Ratios can be
compared between machines; absolute figures hold for this machine at this moment. Nothing else should run on it
meanwhile. An interrupted run leaves nothing behind. The last line is one JSON object: the records by scenario name.

  make bench                                      the whole loop; on Apache Kafka where it, or Docker, is at hand
  make bench ARGS="rate --broker kafka"           on Apache Kafka: KAFKA_BOOTSTRAP_SERVERS, else a container
  make bench ARGS="growth --orders 10000000"      with another size; a size that the scenario does not use is an error
  make bench ARGS="all --record" && make docs     write the records and generate docs/performance.md and docs/scaling.md
  make bench ARGS="all --quick"                   a smoke test with a few orders, whose figures mean nothing
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from os import environ
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from local_stack.errors import StackError
from tests.bench.ground import BrokerChoice, Ground, ground
from tests.bench.load import LoadError
from tests.bench.page import RECORDS, SCENARIOS, figure, machine
from tests.bench.peers import PeerError
from tests.bench.scenario import BenchError, Options, Scenario, spreads
from tests.evidence import record as evidence
from tests.support.project import ROOT
from tests.support.servers import docker_trouble

out = Console(highlight=False, soft_wrap=True)
WRONG: Final = (PeerError, LoadError)
"""Errors of a peer or the load: they are printed in one line, with exit status 1."""
EXPECTED: Final = (*WRONG, BenchError, StackError, OSError, TimeoutError)
"""All errors that are printed in one line."""
ROUNDS_MIN: Final = 3
SIZES: Final = {
    "rounds": (int, "rounds that count; one more warms up"),
    "seconds": (float, "how long each contender works in a round"),
    "minutes": (float, "how long a steady load lasts"),
    "orders": (int, "orders that wait (recovery), lie in the tables (growth), or rest (ticks, ratchet, crash)"),
    "ticks": (int, "ticks that wait"),
    "in_flight": (int, "orders that may be open at once"),
    "in_flight_slow": (int, "the same, for naive and dbos"),
    "accounts": (int, "accounts of the balance service"),
    "connections": (int, "clients of the REST API at once"),
}


def main() -> int:
    """Run from the command line; return the exit status: 1 when something was found wrong, 2 when it can't be run."""
    wanted = _arguments()
    try:
        records = uvloop.run(_until_told(_run_all(wanted)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        out.print("stopped; nothing is left")
        return 130
    except Exception as error:
        if not isinstance(first := _first(error), EXPECTED):
            raise
        out.print(f"make bench: {' '.join(str(first).split()) or type(first).__name__}", style="red", markup=False)
        return 1 if isinstance(first, WRONG) else 2
    sys.stdout.write(json.dumps({name: msgspec.to_builtins(record) for name, record in records.items()}) + "\n")
    return int(any(record.found for record in records.values()))


async def _until_told(work: Coroutine[Any, Any, dict[str, evidence.Record]]) -> dict[str, evidence.Record]:
    """Let SIGINT and SIGTERM cancel the work, so that it stops everything that it started."""
    task = asyncio.ensure_future(work)
    for wish in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(wish, task.cancel)
    return await task


async def _run_all(wanted: argparse.Namespace) -> dict[str, evidence.Record]:
    """Measure each scenario on servers of its own; in a smoke test, scenarios with the same first system share them."""
    records = {}
    options = {scenario: options_of(scenario, wanted) for scenario in _chosen(wanted)}
    for group in _groups([*options], sharing=wanted.quick):
        async with _ground_for(wanted.broker, *group) as one:
            for scenario in group:
                records[scenario.name] = await _run(scenario, options[scenario], one, wanted)
    return records


def _groups(scenarios: Sequence[Scenario], *, sharing: bool) -> list[list[Scenario]]:
    groups: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        groups.setdefault(scenario.systems[0] if sharing else scenario.name, []).append(scenario)
    return list(groups.values())


@asynccontextmanager
async def _ground_for(kind: BrokerChoice, *scenarios: Scenario) -> AsyncIterator[Ground]:
    """Start servers, with a temporary folder that is removed at the end."""
    names = dict.fromkeys(name for scenario in scenarios for name in scenario.systems)
    topics = [topic for scenario in scenarios for topic in scenario.topics]
    with tempfile.TemporaryDirectory(prefix="order-saga-bench-") as folder:
        async with ground(Path(folder), kind, list(names), out, topics=topics) as one:
            yield one


async def _run(scenario: Scenario, options: Options, one: Ground, wanted: argparse.Namespace) -> evidence.Record:
    long = "a smoke test" if wanted.quick else f"about {scenario.takes}"
    out.print(f"\n[bold]{scenario.name}: {scenario.title}[/] ({long})")
    name = f"{scenario.name}-{one.broker_kind}"
    timed = evidence.Run(name, scenario.title, scenario.what, command(scenario, options, one.broker_kind))
    outcome = await scenario.measure(one, options)
    record = timed.record(
        outcome.counts,
        servers=f"{machine()}, {one.versions}",
        tables=outcome.tables,
        found=outcome.found,
        figures=spreads(outcome.figures),
    )
    _show(record, scenario, quick=wanted.quick)
    if wanted.record:
        path = evidence.write(record, RECORDS).relative_to(ROOT)
        out.print(f"recorded in {path}; `make docs` makes the pages")
    return record


def options_of(scenario: Scenario, wanted: argparse.Namespace) -> Options:
    """Return the scenario's options with the wanted changes; raises `BenchError` for one that it does not use."""
    wishes = {name: value for name in SIZES if (value := getattr(wanted, name)) is not None}
    if wanted.scenario != "all" and (useless := wishes.keys() - set(scenario.sizes)):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(useless))
        raise BenchError(f"{scenario.name} has no use for {flags}; it heeds {', '.join(scenario.sizes)}")
    heeded = {name: value for name, value in wishes.items() if name in scenario.sizes}
    return replace(scenario.quick if wanted.quick else scenario.full, **heeded)


def command(scenario: Scenario, options: Options, kind: BrokerChoice) -> str:
    """Return the command that repeats a run."""
    sizes = {name: getattr(options, name) for name in scenario.sizes}
    changed = {name: value for name, value in sizes.items() if value != getattr(scenario.full, name)}
    words = [scenario.name, f"--broker {kind}", *(f"--{n.replace('_', '-')} {v:g}" for n, v in changed.items())]
    return f'make bench ARGS="{" ".join(words)}"'


def _show(record: evidence.Record, scenario: Scenario, *, quick: bool) -> None:
    for group, figures in record.figures.items():
        table = Table(group, "median", "least", "most", title_justify="left")
        for name, one in figures.items():
            table.add_row(name, *(figure(value) for value in (one.median, one.least, one.most)))
        out.print(table)
    for name, count in record.counts.items():
        out.print(f"{name}: {evidence.figure(count)}", markup=False)
    for target in () if quick else scenario.targets:
        met = target.met(record.figures)
        word, style = {True: ("met", "green"), False: ("missed", "yellow"), None: ("not measured", "dim")}[met]
        out.print(
            f"{word}: {target.words} ({target.figure} {target.bound} {target.limit:g})", style=style, markup=False
        )
    for fault in record.found:
        out.print(f"WRONG: {fault}", style="bold red", markup=False)
    out.print(f"[dim]{record.duration_s:.0f} s[/]")


def _first(error: BaseException) -> BaseException:
    """Return the first error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _chosen(wanted: argparse.Namespace) -> list[Scenario]:
    """Return the scenarios to be measured; raises `BenchError` when there is none."""
    if wanted.record and wanted.quick:
        raise BenchError("--quick measures nothing that is worth a record")
    if wanted.record and (wanted.rounds or ROUNDS_MIN) < ROUNDS_MIN:
        raise BenchError(f"a record is of {ROUNDS_MIN} rounds at least")
    scenarios = [scenario for scenario in SCENARIOS if wanted.scenario in {scenario.name, "all"}]
    fit = [scenario for scenario in scenarios if wanted.broker == "kafka" or not scenario.needs_kafka]
    for scenario in scenarios:
        if scenario not in fit:
            out.print(f"{scenario.name} needs --broker kafka: {scenario.needs_kafka}", style="yellow")
    if not fit:
        raise BenchError("nothing to measure on the embedded broker")
    here = [scenario for scenario in fit if not (why := scenario.why_absent()) or _say_absent(scenario, why)]
    if not here:
        raise BenchError("nothing to measure here")
    return here


def _say_absent(scenario: Scenario, why: str) -> bool:
    out.print(f"{scenario.name} is left out: {why}", style="yellow")
    return False


def _arguments() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, epilog=_list(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="?", default="loop", choices=[*names, "all"], metavar="SCENARIO")
    parser.add_argument(
        "--broker", choices=["embedded", "kafka"], help="by default Apache Kafka where it, or Docker, is at hand"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test of a few orders")
    parser.add_argument("--record", action="store_true", help="keep the record in docs/performance/")
    for name, (kind, words) in SIZES.items():
        who = ", ".join(one.name for one in SCENARIOS if name in one.sizes)
        parser.add_argument(f"--{name.replace('_', '-')}", type=_positive(kind), metavar="N", help=f"{words} ({who})")
    wanted = parser.parse_args()
    wanted.broker = wanted.broker or _at_hand()
    return wanted


def _at_hand() -> BrokerChoice:
    """Choose Apache Kafka where one is named or can be started."""
    return "kafka" if environ.get("KAFKA_BOOTSTRAP_SERVERS") or docker_trouble() is None else "embedded"


def _positive(kind: type) -> Any:
    def read(text: str) -> Any:
        if (value := kind(text)) <= 0:
            raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
        return value

    read.__name__ = kind.__name__  # for argparse's words about what can't be read
    return read


def _list() -> str:
    lines = ["scenarios, and about how long they take:"]
    for scenario in SCENARIOS:
        needs = f" Needs --broker kafka: {scenario.needs_kafka}." if scenario.needs_kafka else ""
        lines.append(f"  {scenario.name:9} {scenario.title} ({scenario.takes})")
        lines += textwrap.wrap(scenario.what + needs, 110, initial_indent=" " * 12, subsequent_indent=" " * 12)
        defaults: Mapping[str, Any] = {name: getattr(scenario.full, name) for name in scenario.sizes}
        lines.append(" " * 12 + " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in defaults.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
