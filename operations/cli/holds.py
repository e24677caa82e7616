"""The command `holds`: what services hold of users' money, beside the orders."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from operations.access.errors import Trouble, WrongRequest
from operations.access.system import database
from operations.cli.options import OPERATING, Json
from operations.cli.printing import out, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=OPERATING)(holds)


def holds(
    hold_id: Annotated[str, typer.Argument(help="Of one hold: show it with what it moved.")] = "",
    user: Annotated[str, typer.Option(help="Only holds of this user's money.")] = "",
    state: Annotated[str, typer.Option(help="Only these: HELD, CAPTURED, RELEASED, EXPIRED, REFUSED or BURIED.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Holds of the list.")] = 50,
    json: Json = False,
) -> None:
    """List what services hold beside the orders, newest first; or show one hold with its journal entry.

    Of the reference balance service. A hold that is HELD after its time is overdue: its scanner does not run.

    Examples: order-saga holds --state HELD, or order-saga holds HOLD_ID --json
    """
    from operations.access import words
    from operations.diagnosis.holds import STATES

    if user:
        words.check_name("--user", user)
    if state and state not in STATES:
        raise WrongRequest(f"--state must be one of {', '.join(STATES)}")
    if hold_id:
        found = asyncio.run(_one(hold_id))
        print_json(found) if json else _print_one(found)
        return
    listed = asyncio.run(_list(user, state, limit))
    print_json(listed) if json else _print_list(listed)


async def _list(user: str, state: str, limit: int) -> list[dict[str, Any]]:
    from operations.diagnosis.holds import list_holds

    async with database() as engine:
        return await list_holds(engine, user, state, limit)


async def _one(text: str) -> dict[str, Any]:
    from operations.access import words
    from operations.diagnosis.holds import find_hold

    wanted = words.hold_id(text)
    async with database() as engine:
        found = await find_hold(engine, wanted)
    if found is None:
        raise Trouble(f"the ledger knows no hold {wanted} of a service")
    return found


def _print_list(listed: list[dict[str, Any]]) -> None:
    from operations.access.words import amount, full_time

    if not listed:
        out.print("no holds")
        return
    table = Table("hold", "user", "amount", "state", "until", "captured", "why", title="holds of services")
    for hold in listed:
        paid = f"{amount(hold['captured'])} to {hold['captured_to']}" if hold["captured_to"] else ""
        until = full_time(hold["expires_at"]) if hold["expires_at"] else ""
        state = f"[bold red]{hold['state']}, overdue[/]" if hold["overdue"] else hold["state"]
        what = f"{amount(hold['amount'])} {hold['asset_id']}"
        table.add_row(
            str(hold["hold_id"]), *map(escape, (hold["user_id"], what)), state, until, escape(paid),
            escape(hold["reason_code"] or ""),
        )  # fmt: skip
    print_table(table)


def _print_one(hold: dict[str, Any]) -> None:
    from operations.access.words import amount, full_time

    out.print(
        f"hold [bold]{hold['hold_id']}[/]: {amount(hold['amount'])} {escape(hold['asset_id'])} of"
        f" {escape(hold['user_id'])}, [bold]{hold['state']}[/] since {full_time(hold['updated_at'])}"
    )
    if hold["expires_at"]:
        word = "[bold red]overdue: it was to end at[/]" if hold["overdue"] else "until"
        out.print(f"asked for at {full_time(hold['created_at'])}, {word} {full_time(hold['expires_at'])}")
    if hold["captured_to"]:
        paid, returned = amount(hold["captured"]), amount(hold["returned"])
        out.print(f"{paid} were paid to {escape(hold['captured_to'])}, {returned} went back")
    elif hold["returned"]:
        out.print(f"{amount(hold['returned'])} went back")
    if hold["reason_code"]:
        out.print(f"refused: {hold['reason_code']}, {escape(hold['reason'] or '')}")
    if hold["journal"]:
        table = Table("entry", "account", "asset", "amount", title="journal", title_justify="left")
        for line in hold["journal"]:
            table.add_row(*map(escape, (line["entry_id"], line["account"], line["asset_id"], amount(line["amount"]))))
        print_table(table)
