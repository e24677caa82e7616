"""Commands of an operator who must explain and repair: inspect, stuck, resume, dead-letters, erase-user."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from order_saga.cli.reach import Trouble, database, out, print_json, rows, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

PANEL: Final = "Operating"
Json = Annotated[bool, typer.Option("--json", help="Print for programs.")]
OrderId = Annotated[str, typer.Argument(help="The order's id.")]
SCHEMAS: Final = ("orders", "balances", "assets")

dead_letters = typer.Typer(no_args_is_help=True, help="Messages that could not be read, kept with their bytes.")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (inspect, stuck, resume):
        app.command(rich_help_panel=PANEL)(command)
    app.command("erase-user", rich_help_panel=PANEL)(erase_user)
    app.add_typer(dead_letters, name="dead-letters", rich_help_panel=PANEL)


# One order ------------------------------------------------------------------------------------------------------------


def inspect(order_id: OrderId, json: Json = False) -> None:
    """Tell an order's whole story: what was asked and answered when, what money moved, and what it waits for."""
    from order_saga.cli.explain import print_story

    story = run(_story(_uuid(order_id)))
    if not story["order"] and not story["claim"]:
        raise Trouble(f"there is no order {order_id}")
    if json:
        print_json(story)
    else:
        print_story(story)


async def _story(order_id: uuid.UUID) -> dict[str, Any]:
    async with database() as engine:
        return await story(engine, order_id)


async def story(engine: AsyncEngine, order_id: uuid.UUID) -> dict[str, Any]:
    """Gather all that the auditors' views know of one order."""
    parts: dict[str, tuple[str, object]] = {
        "order": ("SELECT * FROM audit.orders WHERE order_id = $1", order_id),
        "claim": ("SELECT * FROM audit.claims WHERE order_id = $1", order_id),
        "requests": ("SELECT * FROM audit.requests WHERE order_id = $1 ORDER BY request_id", order_id),
        "history": ("SELECT * FROM audit.history WHERE order_id = $1 ORDER BY seq", order_id),
        # By the ids that these rows have for an order: the ledger's tables are indexed by their own keys.
        "holds": ("SELECT * FROM audit.holds WHERE hold_id = $1", f"{order_id}:reserve"),
        "journal": ("SELECT * FROM audit.journal WHERE entry_id = $1 ORDER BY asset_id, account", f"{order_id}:settle"),
        "fills": ("SELECT * FROM audit.fills WHERE order_id = $1", order_id),
        "events_unsent": ("SELECT * FROM audit.events_unsent WHERE order_id = $1 ORDER BY version", order_id),
    }
    found: dict[str, Any] = {name: await rows(engine, *query) for name, query in parts.items()}
    found["order"] = found["order"][0] if found["order"] else None
    found["claim"] = found["claim"][0] if found["claim"] else None
    return found


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise Trouble(f"'{text}' is not an order id: it must be a UUID", 2) from None


# Many orders ----------------------------------------------------------------------------------------------------------


def stuck(
    older_than: Annotated[float, typer.Option(help="Also orders that have not moved for this many seconds.")] = 60.0,
    json: Json = False,
) -> None:
    """List orders that need a look: parked, overdue, or long without a move, and why. Exit 1 when there is one."""
    from order_saga.cli.explain import why_waiting

    found = run(_stuck(older_than))
    for order in found:
        order["why"] = why_waiting(order, order.pop("asked"))
    if json:
        print_json(found)
    elif found:
        table = Table("order", "user", "phase", "since", "why", title="stuck orders")
        for order in found:
            since = f"{order['updated_at']:%H:%M:%S}"
            table.add_row(str(order["order_id"]), order["user_id"], order["phase"], since, order["why"])
        out.print(table)
    else:
        out.print("[green]no order is stuck[/]")
    if found:
        raise typer.Exit(1)


async def _stuck(older_than_s: float) -> list[dict[str, Any]]:
    statement = """
        SELECT order_id, user_id, phase, status, parked_reason, overdue_since, due_at, updated_at FROM audit.orders
        WHERE parked_reason IS NOT NULL OR overdue_since IS NOT NULL
           OR (due_at IS NOT NULL AND updated_at < clock_timestamp() - make_interval(secs => $1))
        ORDER BY updated_at LIMIT 1000"""
    asked = "SELECT * FROM audit.history WHERE order_id = $1 ORDER BY seq"
    async with database() as engine:
        found = await rows(engine, statement, older_than_s)
        for order in found:
            order["asked"] = await rows(engine, asked, order["order_id"])
    return found


def resume(
    order_id: OrderId, by: Annotated[str, typer.Option(help="Who says so; kept in the history.")] = "operator"
) -> None:
    """Let a parked order go on: its open questions are asked again."""
    if not run(_resume(_uuid(order_id), by)):
        raise Trouble(f"order {order_id} is not parked")
    out.print(f"order {order_id} goes on")


async def _resume(order_id: uuid.UUID, by: str) -> bool:
    from order_saga.resume import resume as resume_order

    async with database() as engine:
        return await resume_order(engine, order_id, by)


# Dead letters ---------------------------------------------------------------------------------------------------------


@dead_letters.command("list")
def list_dead_letters(json: Json = False) -> None:
    """List what has been neither replayed nor discarded. Exit 1 when there is any."""
    found = run(_dead_letters())
    if json:
        print_json(found)
    elif found:
        table = Table("id", "topic", "partition", "offset", "received", "reason", title="dead letters")
        for row in found:
            place = (row["topic"], str(row["partition"]), str(row["record_offset"]))
            table.add_row(row["id"], *place, f"{row['received_at']:%Y-%m-%d %H:%M:%S}", escape(row["reason"]))
        out.print(table)
    else:
        out.print("[green]no dead letters[/]")
    if found:
        raise typer.Exit(1)


async def _dead_letters() -> list[dict[str, Any]]:
    from order_saga.cli.letters import readable
    from saga_kit.dead_letters import DeadLetters

    async with database() as engine:
        return [
            {"id": f"{schema}/{letter.dead_letter_id}", **readable(letter)}
            for schema in SCHEMAS
            for letter in await DeadLetters(schema).page(engine)
        ]


Letter = Annotated[str, typer.Argument(metavar="ID", help="As 'list' shows it: orders/17.")]


@dead_letters.command("show")
def show_dead_letter(letter: Letter) -> None:
    """Show one with its headers and its bytes (as text where they are UTF-8, else base64)."""
    from order_saga.cli.letters import show

    print_json(_on_letter(letter, show))


@dead_letters.command("replay")
def replay_dead_letter(letter: Letter) -> None:
    """Publish its bytes again where they came from, and mark it as replayed."""
    from order_saga.cli.letters import replay

    _on_letter(letter, replay)
    out.print(f"{letter}: replayed")


@dead_letters.command("discard")
def discard_dead_letter(letter: Letter) -> None:
    """Mark it as not needed; its bytes stay."""
    from order_saga.cli.letters import discard

    _on_letter(letter, discard)
    out.print(f"{letter}: discarded")


def _on_letter(letter: str, act: Callable[[AsyncEngine, str, int], Awaitable[Any]]) -> Any:
    schema, _, number = letter.partition("/")
    if schema not in SCHEMAS or not number.isdigit():
        raise Trouble(f"'{letter}' is not a dead letter's id; 'order-saga dead-letters list' shows them", 2)

    async def work() -> Any:
        async with database() as engine:
            return await act(engine, schema, int(number))

    return run(work())


# The whole ------------------------------------------------------------------------------------------------------------


def erase_user(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    dry_run: Annotated[bool, typer.Option(help="Say what would be erased, and erase nothing.")] = False,
    json: Json = False,
) -> None:
    """Erase what could tell who a user is, and keep the ledger: see docs/privacy.md. DATABASE_URL is the owner's.

    Everything or nothing: exit 1, with the reasons, while the user has an open order. Doing it twice changes nothing.
    """
    import re

    from contracts.vocabulary import NAME_PATTERN, NAME_RULE
    from order_saga.cli.erase import erase

    if re.fullmatch(NAME_PATTERN, user) is None:
        raise Trouble(f"a user's id is {NAME_RULE}", 2)

    async def work() -> Any:
        async with database() as engine:
            return await erase(engine, user, dry_run=dry_run)

    done = run(work())
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
