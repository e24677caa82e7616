"""The command `stuck`: what does not move, and why. One query, read row by row: any number of orders, little memory."""

from __future__ import annotations

import json as json_module
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer
from rich.markup import escape
from rich.table import Table

from operations.cli.reach import database, err, finite, out, plain, print_table, rows, run, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

CAUSES_MAX: Final = 40
"""Causes that are told apart; further ones (each parked for a reason of its own) are counted together."""
EVENT_AGE_S: Final = 30.0
"""The relay's own time for an event; one that is older is not on its way."""

PAUSES: Final = "SELECT participant, paused_by, reason, paused_at FROM audit.pauses"
STUCK: Final = """
    SELECT 'order' AS kind, o.order_id, o.user_id, o.asset_id, o.phase, o.status, o.updated_at AS since, o.due_at,
        o.overdue_since, o.parked_reason, CAST(NULL AS integer) AS version,
        (SELECT jsonb_agg(jsonb_build_object('step', q.step, 'participant', q.participant, 'asked_at', q.asked_at,
                    'due_at', q.due_at, 'attempts', q.attempts, 'sent', q.sent, 'held_back', q.held_back))
            FROM audit.questions AS q WHERE q.order_id = o.order_id AND q.answer = 'OPEN') AS questions
    FROM audit.orders AS o
    WHERE o.parked_reason IS NOT NULL OR o.overdue_since IS NOT NULL
        OR (o.due_at IS NOT NULL AND o.updated_at < clock_timestamp() - make_interval(secs => :older_than_s))
        OR (o.due_at IS NOT NULL AND EXISTS (SELECT FROM audit.pauses) AND EXISTS (
            SELECT FROM audit.questions AS q WHERE q.order_id = o.order_id AND q.answer = 'OPEN' AND q.held_back))
    UNION ALL
    SELECT 'claim', c.order_id, c.user_id, NULL, NULL, NULL, c.created_at, NULL, NULL, NULL, NULL, NULL
    FROM audit.claims AS c
    WHERE NOT c.settled AND c.created_at < clock_timestamp() - make_interval(secs => :older_than_s)
        AND NOT EXISTS (SELECT FROM audit.orders AS o WHERE o.order_id = c.order_id)
    UNION ALL
    SELECT 'event', e.order_id, NULL, NULL, NULL, NULL, e.created_at, NULL, NULL, NULL, e.version, NULL
    FROM audit.events_unsent AS e
    WHERE e.created_at < clock_timestamp() - make_interval(secs => greatest(:older_than_s, :event_age_s))
    ORDER BY since"""


class Group(NamedTuple):
    """Everything that one cause keeps from moving; the oldest comes first."""

    advice: str
    orders: int
    overdue: int
    oldest: datetime
    oldest_id: str


class Item(NamedTuple):
    """One thing that does not move."""

    row: dict[str, Any]
    cause: str
    advice: str


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Operating")(stuck)


def stuck(
    older_than: Annotated[
        float, typer.Option(min=0, callback=finite, help="Also orders that have not moved for this many seconds.")
    ] = 60.0,
    details: Annotated[bool, typer.Option(help="List every order, too, the oldest first.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print every order for programs.")] = False,
) -> None:
    """Say what needs a look and why: parked, overdue or long without a move; accepted and not seen; events not sent.

    Grouped by cause, the one with the oldest order first. A pause is named as long as it lasts, and what it holds back
    is listed, however young it is. Locks on our tables and open transactions in our topics that are somebody else's are
    named, too. Exit 1 when there is anything.

    Examples: order-saga stuck --details, or order-saga stuck --older-than 600 --json
    """
    groups, held = run(_tell(older_than, details=details, json=json))
    if not json:
        _print_groups(groups)
    if groups or held:
        raise typer.Exit(1)


async def _tell(older_than_s: float, *, details: bool, json: bool) -> tuple[dict[str, Group], bool]:
    """Print what is stuck; return it by cause, and whether somebody else holds what our services need."""
    groups: dict[str, Group] = {}
    held = await _held()
    first = True
    async for item in _items(older_than_s):
        _count(groups, item)
        if json:
            sys.stdout.write(("[" if first else ",") + "\n" + json_module.dumps(item.row, default=plain))
        elif details:
            kind = "" if item.row["kind"] == "order" else f" ({item.row['kind']})"
            out.print(f"{item.row['order_id']}{kind}  {escape(item.row['why'])}")
        first = False
    if json:
        sys.stdout.write("[]\n" if first else "\n]\n")
    return groups, held


async def _held() -> bool:
    from operations.locks import held_partitions, held_rows

    async with database() as engine:
        found = [*await held_rows(engine), *await held_partitions()]
    for line in found:
        err.print(line, markup=False, soft_wrap=True)
    return bool(found)


async def _items(older_than_s: float) -> AsyncIterator[Item]:
    from operations.why import cause, told_pause, why

    async with database() as engine:
        pauses = {row["participant"]: row for row in await rows(engine, PAUSES)}
        for pause in pauses.values():
            err.print(told_pause(pause), markup=False, soft_wrap=True)
        async for row in stream(engine, STUCK, older_than_s=older_than_s, event_age_s=EVENT_AGE_S):
            found = cause(row, pauses)
            row["cause"], row["why"] = found.name, why(row, pauses)
            yield Item(row, found.name, found.advice)


def _count(groups: dict[str, Group], item: Item) -> None:
    name = item.cause if item.cause in groups or len(groups) < CAUSES_MAX else "parked: further reasons"
    overdue = item.row["overdue_since"] is not None
    known = groups.get(name)
    if known is None:
        groups[name] = Group(item.advice, 1, overdue, item.row["since"], str(item.row["order_id"]))
    else:
        groups[name] = known._replace(orders=known.orders + 1, overdue=known.overdue + overdue)


def _print_groups(groups: dict[str, Group]) -> None:
    from operations.why import moment

    if not groups:
        out.print("[green]no order is stuck[/]")
        return
    table = Table("cause", "orders", "overdue", "oldest since", "oldest order", "what to do", title="stuck")
    for name, group in groups.items():
        numbers = str(group.orders), str(group.overdue or "")
        table.add_row(escape(name), *numbers, moment(group.oldest), group.oldest_id, escape(group.advice))
    print_table(table)
