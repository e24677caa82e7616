"""The commands `inspect`, about one order, and `erase-user`, about one user."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from operations.access.system import database, ledger_setting
from operations.cli.options import OPERATING, Json
from operations.cli.printing import out, print_json, print_table, status_colour

if TYPE_CHECKING:
    from collections.abc import Iterable

    from operations.diagnosis.explain import Line, Posting, Span, TimelineEntry
    from operations.retention.erase import Erasure

_STYLES: Final = {
    "strong": "bold",
    "faint": "dim",
    "strong faint": "bold dim",
    "warning": "yellow",
    "strong warning": "bold yellow",
    "alarm": "bold red",
}


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel=OPERATING)(inspect)
    app.command("erase-user", rich_help_panel=OPERATING)(erase_user)


def inspect(order_id: Annotated[str, typer.Argument(help="The order's id.")], json: Json = False) -> None:
    """Tell an order's whole story: what was asked and answered when, what money moved, and what it waits for.

    Examples: order-saga inspect ORDER_ID, or order-saga inspect ORDER_ID --json
    """
    from operations.access import words
    from operations.diagnosis.story import story

    wanted = words.order_id(order_id)

    async def work() -> dict[str, Any]:
        async with database() as engine:
            return await story(engine, wanted, ledger_setting())

    found = asyncio.run(work())
    if json:
        print_json(found)
    else:
        print_story(found)


def print_story(story: dict[str, Any]) -> None:
    """Print an order's header, timeline and money."""
    from operations.diagnosis.explain import explain

    explained = explain(story)
    _print_lines(explained.header)
    if explained.timeline is not None:
        _print_timeline(explained.timeline)
    _print_lines(explained.money)
    if explained.journal:
        _print_journal(explained.journal)
    _print_lines(explained.unsent)


def _print_lines(lines: Iterable[Line]) -> None:
    for line in lines:
        out.print(_marked_up(line))


def _marked_up(line: Line) -> str:
    return "".join(map(_span, line))


def _span(span: Span) -> str:
    style = f"bold {status_colour(span.text)}" if span.tone == "status" else _STYLES.get(span.tone)
    return f"[{style}]{escape(span.text)}[/]" if style else escape(span.text)


def _print_timeline(timeline: list[TimelineEntry]) -> None:
    table = Table("#", "at", "after", "what happened", title="timeline", title_justify="left")
    for entry in timeline:
        at, after = f"{entry.at:%H:%M:%S.%f}"[:-3], f"+{entry.after_s:.3f} s"
        table.add_row(str(entry.seq), at, after, _marked_up(entry.what))
    print_table(table)


def _print_journal(journal: list[Posting]) -> None:
    table = Table("entry", "account", "asset", "amount", title="journal", title_justify="left")
    table.columns[3].justify = "right"
    for posting in journal:
        table.add_row(*map(escape, posting))
    print_table(table)


def erase_user(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    dry_run: Annotated[bool, typer.Option(help="Say what would be erased, and erase nothing.")] = False,
    json: Json = False,
) -> None:
    """Erase what could tell who a user is, and keep the ledger: see docs/privacy.md. DATABASE_URL is the owner's.

    Everything or nothing: exit 1, with the reasons, while the user has an open order, and for a user whom nobody knows.
    Doing it twice changes nothing.

    Examples: order-saga erase-user alice --dry-run, or order-saga erase-user alice
    """
    from operations.access.words import check_name
    from operations.retention.erase import erase

    check_name("USER", user)

    async def work() -> Erasure:
        async with database() as engine:
            return await erase(engine, user, dry_run=dry_run)

    done = asyncio.run(work())
    if json:
        print_json({"user_id": user, "dry_run": dry_run, "rows": done.rows, "in_the_way": done.in_the_way})
    elif done.in_the_way:
        out.print("[red]nothing is erased:[/]")
        for line in done.in_the_way:
            out.print(f"  {line}", markup=False)
    else:
        for table, rows_erased in done.rows.items():
            out.print(f"{table}: {rows_erased} rows {'to erase' if dry_run else 'erased'}")
    if done.in_the_way:
        raise typer.Exit(1)
