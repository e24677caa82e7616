"""Commands about one order or one user: inspect tells all that is known, erase-user takes out what must go."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from operations.cli.reach import Trouble, check_name, database, find_ledger, out, print_json, rows, run
from operations.cli.repair import as_uuid
from operations.cli.stuck import PAUSES

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

PANEL: Final = "Operating"
Json = Annotated[bool, typer.Option("--json", help="Print for programs.")]
OrderId = Annotated[str, typer.Argument(help="The order's id.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel=PANEL)(inspect)
    app.command("erase-user", rich_help_panel=PANEL)(erase_user)


# One order ------------------------------------------------------------------------------------------------------------


def inspect(order_id: OrderId, json: Json = False) -> None:
    """Tell an order's whole story: what was asked and answered when, what money moved, and what it waits for."""
    from operations.cli.explain import print_story

    story = run(_story(as_uuid(order_id)))
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
    ledger = await find_ledger(engine)
    parts: dict[str, tuple[str, object]] = {
        "order": ("SELECT * FROM audit.orders WHERE order_id = $1", order_id),
        "claim": ("SELECT * FROM audit.claims WHERE order_id = $1", order_id),
        "requests": ("SELECT * FROM audit.requests WHERE order_id = $1 ORDER BY request_id", order_id),
        "history": ("SELECT * FROM audit.history WHERE order_id = $1 ORDER BY seq", order_id),
        "fills": ("SELECT * FROM audit.fills WHERE order_id = $1", order_id),
        "questions": ("SELECT * FROM audit.questions WHERE order_id = $1 AND answer = 'OPEN'", order_id),
        "events_unsent": ("SELECT * FROM audit.events_unsent WHERE order_id = $1 ORDER BY version", order_id),
    }
    if ledger.schema is not None:
        # By the ids that these rows have for an order: the ledger's tables are indexed by their own keys.
        holds, journal = f"SELECT * FROM {ledger.schema}.holds", f"SELECT * FROM {ledger.schema}.journal"  # noqa: S608
        parts["holds"] = f"{holds} WHERE hold_id = $1", f"{order_id}:reserve"
        parts["journal"] = f"{journal} WHERE entry_id = $1 ORDER BY asset_id, account", f"{order_id}:settle"
    unseen: dict[str, Any] = {"holds": [], "journal": [], "ledger_unseen": ledger.hidden or None}
    found = unseen | {name: await rows(engine, *query) for name, query in parts.items()}
    found["pauses"] = {row["participant"]: row for row in await rows(engine, PAUSES)}
    found["order"] = found["order"][0] if found["order"] else None
    found["claim"] = found["claim"][0] if found["claim"] else None
    return found


# One user -------------------------------------------------------------------------------------------------------------


def erase_user(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    dry_run: Annotated[bool, typer.Option(help="Say what would be erased, and erase nothing.")] = False,
    json: Json = False,
) -> None:
    """Erase what could tell who a user is, and keep the ledger: see docs/privacy.md. DATABASE_URL is the owner's.

    Everything or nothing: exit 1, with the reasons, while the user has an open order, and for a user whom nobody knows.
    Doing it twice changes nothing.
    """
    from operations.erase import erase, knows

    check_name("USER", user)

    async def work() -> Any:
        async with database() as engine:
            done = await erase(engine, user, dry_run=dry_run)
            if not done.in_the_way and not any(done.rows.values()) and not await knows(engine, user):
                raise Trouble(f"nobody knows a user {user}: no order, no claim, no request and no account")
            return done

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
