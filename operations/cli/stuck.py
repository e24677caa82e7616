"""The command `stuck`: print what does not move, and why."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from operations.access.errors import Trouble
from operations.access.system import database, kafka_settings
from operations.cli.options import OPERATING, finite
from operations.cli.printing import JsonArray, err, out, print_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.diagnosis.stuck import Group, Item


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=OPERATING)(stuck)


def stuck(
    older_than: Annotated[
        float, typer.Option(min=0, callback=finite, help="Also orders that have not moved for this many seconds.")
    ] = 60.0,
    details: Annotated[bool, typer.Option(help="List every order, too, the oldest first.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print every order for programs.")] = False,
) -> None:
    """Say what needs a look and why: parked, overdue or long without a move; accepted and not seen; events not sent.

    Grouped by cause, the one with the oldest order first. A pause is named as long as it lasts, and what it holds back
    is listed, however young it is. Orders that rest until a price fires them are counted apart; what a tick fired and
    nobody carries out is listed. Named, too: assets with orders that rest and a price that nobody has confirmed for a
    minute; locks on our tables and open transactions in our topics that are somebody else's; deliveries to webhooks,
    addresses and browsers that nobody sends or signs. Exit 1 when there is anything. Endpoints of users that fail are
    counted apart.

    Examples: order-saga stuck --details, or order-saga stuck --older-than 600 --json
    """
    groups, held, (resting, on_hold), failing = asyncio.run(_look(older_than, details=details, json=json))
    if not json:
        _print_groups(groups)
    if resting:
        (err if json else out).print(f"{resting} orders rest until a price fires them: these are not stuck")
    if on_hold:
        (err if json else out).print(f"{on_hold} orders are on hold: order-saga release ... lets them rest again")
    if failing:
        (err if json else out).print(failing, markup=False, soft_wrap=True)
    if groups or held:
        raise typer.Exit(1)


async def _look(
    older_than_s: float, *, details: bool, json: bool
) -> tuple[dict[str, Group], bool, tuple[int, int], str | None]:
    """Print what is stuck; return it by cause, how many orders rest and are on hold, and which endpoints fail.

    Between them stands whether a feed is silent, users are not told, or another session or producer holds what our
    services need.
    """
    from operations.diagnosis import webhooks
    from operations.diagnosis.stuck import count, count_resting, find, silent_feeds
    from operations.diagnosis.why import describe_pause
    from operations.repair import pauses

    groups: dict[str, Group] = {}
    async with database() as engine:
        silent = await silent_feeds(engine)
        _complain(silent)
        told = await webhooks.look(engine, older_than_s)
        _complain(told.trouble)
        held = await _held(engine) or bool(silent or told.trouble)
        paused = await pauses.current(engine)
        _complain(map(describe_pause, paused.values()))
        with JsonArray() if json else nullcontext() as array:
            async for item in find(engine, older_than_s, paused):
                count(groups, item)
                if array is not None:
                    array.add(item.row)
                elif details:
                    _print_item(item)
        resting = await count_resting(engine)
    return groups, held, resting, told.failing


async def _held(engine: AsyncEngine) -> bool:
    from operations.diagnosis.locks import held_partitions, held_rows

    lines = (await held_rows(engine)).lines
    try:
        settings = kafka_settings()
    except Trouble:
        pass  # a command that looks at the database needs no broker's address
    else:
        partitions = await held_partitions(settings)
        if partitions.unasked:
            err.print(partitions.unasked, markup=False)
        lines += partitions.lines
    _complain(lines)
    return bool(lines)


def _complain(lines: Iterable[str]) -> None:
    for line in lines:
        err.print(line, markup=False, soft_wrap=True)


def _print_item(item: Item) -> None:
    kind = "" if item.row["kind"] == "order" else f" ({item.row['kind']})"
    out.print(f"{item.row['order_id']}{kind}  {escape(item.row['why'])}")


def _print_groups(groups: dict[str, Group]) -> None:
    from operations.access.words import time_of_day

    if not groups:
        out.print("[green]no order is stuck[/]")
        return
    table = Table("cause", "orders", "overdue", "oldest since", "oldest order", "what to do", title="stuck")
    for name, group in groups.items():
        numbers = str(group.orders), str(group.overdue or "")
        table.add_row(escape(name), *numbers, time_of_day(group.oldest), group.oldest_id, escape(group.advice))
    print_table(table)
