"""The whole run: rounds on several systems at a time, a table of the outcomes for each service, and the record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from local_stack.errors import StackError
from tests.e2e.system import Servers
from tests.evidence import record as evidence
from tests.evidence.crash_matrix.arena import Outcome, arena
from tests.evidence.crash_matrix.cells import POINTS, RULES, SERVICES, Cell, messages, rounds, why_not

SURVIVED, BROKEN, MISSED, CANNOT = "●", "✗", "?", "·"
LEGEND: Final = f"{SURVIVED} hit and survived   {BROKEN} found broken   {MISSED} never hit   {CANNOT} cannot happen"
SYSTEMS_BROKEN_MAX: Final = 5
"""After so many broken systems the run stops."""

Tell = Callable[[Sequence[Outcome]], None]


async def run(servers: Servers, cells: Sequence[Cell], folder: Path, *, systems: int, tell: Tell) -> list[Outcome]:
    """Run all cells, with the logs of each system in `folder`; `tell` gets the outcomes of each round.

    A fault is in the outcomes and never raises an exception.
    """
    waiting = rounds(cells)[::-1]
    outcomes: list[Outcome] = []
    broken: list[str] = []

    async def one_system(folder: Path) -> None:
        async with arena(servers, folder) as here:
            while waiting:
                played = await here.play(waiting.pop())
                outcomes.extend(played)
                tell(played)
                if trouble := played[0].trouble:
                    broken.append(trouble)
                    return
            if left := await here.close():
                outcomes[-1] = outcomes[-1]._replace(trouble=f"at the end of its system: {left}")
                tell(outcomes[-1:])

    async def systems_in_turn(number: int) -> None:
        while waiting and len(broken) <= SYSTEMS_BROKEN_MAX:
            try:
                await one_system(folder / f"{number}-{len(broken)}")
            except (StackError, OSError, RuntimeError) as error:  # it did not even start
                broken.append(str(error))

    async with asyncio.TaskGroup() as group:
        for number in range(min(systems, len(waiting))):
            group.create_task(systems_in_turn(number))
    played = {outcome.cell for outcome in outcomes}
    unplayed = [cell for cell in cells if cell not in played]
    return [*outcomes, *(Outcome(cell, hit=False, trouble=f"never played: {broken}", seconds=0.0) for cell in unplayed)]


def found(outcomes: Sequence[Outcome]) -> list[str]:
    """List what was wrong, a line for each cell, with the command that repeats it."""
    return [f"{one.cell.name}: {_wrong(one)} ({command(one.cell)})" for one in outcomes if _wrong(one)]


def command(*cells: Cell) -> str:
    """Write the command that repeats cells."""
    return f"""make crash-matrix ARGS="{" ".join(f"--only '{cell.name}'" for cell in cells)}\""""


def show(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print a table for each service, with a row for each crash point and a column for each message type."""
    for service in SERVICES:
        symbols = _symbols(outcomes, service)
        if symbols:
            console.print(_table(service, symbols))
    console.print(LEGEND, highlight=False)


def record(run_: evidence.Run, outcomes: Sequence[Outcome], began: float) -> evidence.Record:
    """Make the record of a full run."""
    troubles = found(outcomes)
    tables = [
        evidence.Table(
            f"The {service}: where it died, and under which message",
            ["point", *messages(service)],
            [[point.value, *(symbols.get((point, message), "") for message in messages(service))] for point in POINTS],
        )
        for service in SERVICES
        if (symbols := _symbols(outcomes, service))
    ]
    reasons = evidence.Table("What cannot happen, and why", ["points", "why"], [*_reasons()])
    hit = sum(one.hit for one in outcomes)
    counts: dict[str, int | float | str] = {
        "cells": len(outcomes),
        "processes killed": hit,
        "survived": sum(not _wrong(one) for one in outcomes),
        "points": len({one.cell.point for one in outcomes}),
        "types of messages": len({one.cell.message for one in outcomes}),
        "cells a minute": round(hit / max(1.0, time.monotonic() - began) * 60, 1),
    }
    return run_.record(counts, servers="Apache Kafka, PostgreSQL 18", tables=[*tables, reasons], found=troubles)


def _wrong(one: Outcome) -> str | None:
    return one.trouble or (None if one.hit else "never hit")


def _symbols(outcomes: Sequence[Outcome], service: str) -> Mapping[tuple[StrEnum, str], str]:
    """Map each crash point and message type of a service to the symbol of its outcome, impossible cells included."""
    played = {
        (one.cell.point, one.cell.message): (MISSED if not one.hit else BROKEN if one.trouble else SURVIVED)
        for one in outcomes
        if one.cell.service == service
    }
    if not played:
        return {}
    every = (Cell(service, point, message) for point in POINTS for message in messages(service))
    return {(cell.point, cell.message): CANNOT for cell in every if why_not(cell)} | played


def _table(service: str, symbols: Mapping[tuple[StrEnum, str], str]) -> Table:
    table = Table("", title=f"{service}: where it died")
    for message in messages(service):
        table.add_column("\n".join(message), justify="center")  # upright: there are many
    for point in POINTS:
        table.add_row(point.value, *(_coloured(symbols.get((point, message), "")) for message in messages(service)))
    return table


def _coloured(symbol: str) -> str:
    colour = {SURVIVED: "green", BROKEN: "bold red", MISSED: "yellow", CANNOT: "dim"}.get(symbol)
    return f"[{colour}]{symbol}[/]" if colour else symbol


def _reasons() -> Iterator[list[str]]:
    for rule in RULES:
        yield [", ".join(point.value for point in POINTS if point in rule.points), rule.reason]
