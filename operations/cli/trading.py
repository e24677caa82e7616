"""The commands `token`, `deposit` and `accounts`: what a person who trades needs."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from rich.table import Table

from operations.access.errors import Trouble
from operations.access.system import database, ledger_setting, signer
from operations.cli.options import TRADING, Json, User
from operations.cli.printing import out, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (token, deposit, accounts):
        app.command(rich_help_panel=TRADING)(command)


def token(
    user: User,
    scope: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    ttl: Annotated[int, typer.Option(min=1, help="Seconds that it is good for.")] = 3600,
) -> None:
    """Print a signed token for the REST API of the local stack."""
    from operations.access.tokens import SCOPES
    from operations.access.words import check_name

    check_name("--user", user)
    out.print(signer().sign(user, scope or SCOPES, ttl), soft_wrap=True)


def deposit(
    user: Annotated[str, typer.Argument(help="Whose account.")],
    asset: Annotated[str, typer.Argument(help="USD, BTC, ...")],
    quantity: Annotated[str, typer.Argument(metavar="AMOUNT", help="How much, such as 100.50.")],
    deposit_id: Annotated[str, typer.Option("--id", help="The same id counts once. Default: a new one.")] = "",
) -> None:
    """Book a deposit into an account of the reference balance service."""
    from operations.access.accounts import check_deposit, new_deposit_id
    from operations.access.accounts import deposit as book

    deposit_id = deposit_id or new_deposit_id()
    amount = check_deposit(user, asset, quantity, deposit_id, ledger_setting())

    async def work() -> bool:
        async with database() as engine:
            return await book(engine, user, asset, amount, deposit_id)

    booked = asyncio.run(work())
    out.print(f"{user}: {quantity} {asset} deposited" if booked else f"{user}: this deposit was booked before")


def accounts(user: Annotated[str, typer.Argument(help="Whose accounts.")], json: Json = False) -> None:
    """Show what a user has, and what is held for open orders. Exit 1 when there is no account."""
    from operations.access.accounts import accounts as look
    from operations.access.words import check_name

    check_name("USER", user)

    async def work() -> list[dict[str, Any]]:
        async with database() as engine:
            return await look(engine, user, ledger_setting())

    found = asyncio.run(work())
    if json:
        print_json(found)
    elif not found:
        ours = "" if ledger_setting() else f"; make one with 'order-saga deposit {user} USD 1000'"
        raise Trouble(f"{user} has no account{ours}")
    else:
        _print_accounts(user, found)


def _print_accounts(user: str, found: list[dict[str, Any]]) -> None:
    from operations.access.words import amount

    table = Table("asset", "available", "held", title=f"accounts of {user}")
    for row in found:
        held = amount(row["held"])
        table.add_row(row["asset_id"], amount(row["available"]), f"[yellow]{held}[/]" if row["held"] else held)
    print_table(table)
