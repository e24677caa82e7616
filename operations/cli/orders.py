"""The command `orders`: a user's orders, as the REST API lists them."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.markup import escape
from rich.table import Table

from operations.cli.reach import check_name, colour_of, err, out, print_json, print_table
from operations.cli.trading import PANEL, Json, User, call


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=PANEL)(orders)


def orders(  # noqa: PLR0913, PLR0917 - each is an option of the command
    user: User = "alice",
    status: Annotated[list[str] | None, typer.Option(help="Only these; may be given several times.")] = None,
    open_: Annotated[
        bool | None, typer.Option("--open/--closed", help="Only those that have not ended, or that have.")
    ] = None,
    asset: Annotated[str, typer.Option(help="Only orders in this asset.")] = "",
    order_type: Annotated[str, typer.Option("--type", help="Only orders of this type: MARKET_BUY, MARKET_SELL.")] = "",
    created_from: Annotated[str, typer.Option("--from", metavar="TIME", help="Such as 2026-01-31T12:00:00Z.")] = "",
    created_to: Annotated[str, typer.Option("--to", metavar="TIME", help="Up to here, this instant excluded.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=200, help="Orders of a page.")] = 50,
    cursor: Annotated[str, typer.Option(help="Of the page before, for the next one.")] = "",
    json: Json = False,
) -> None:
    """List a user's orders, newest first, through the REST API.

    Examples: order-saga orders --user alice --open, or order-saga orders --status FAILED --asset BTC --json
    """
    check_name("--user", user)
    given: dict[str, Any] = {"asset_id": asset, "order_type": order_type, "cursor": cursor, "limit": limit}
    given |= {"created_from": created_from, "created_to": created_to, "status": status or ()}
    given |= {"open": "" if open_ is None else str(open_).lower()}
    query = urlencode({name: value for name, value in given.items() if value}, doseq=True)
    page = call(user, "GET", f"/orders?{query}")
    if json:
        print_json(page)
        return
    if not page["orders"]:
        out.print("no orders")
        return
    table = Table("order", "created", "type", "asset", "quantity", "status", "why", title=f"orders of {user}")
    for order in page["orders"]:
        status_shown = f"[{colour_of(order['status'])}]{order['status']}[/]"
        told = (order["created_at"][:19].replace("T", " "), order["order_type"], order["asset_id"], order["quantity"])
        table.add_row(order["order_id"], *told, status_shown, escape(order["reason_code"] or ""))
    print_table(table)
    if page["has_more"]:
        err.print(f"there are more: --cursor {page['next_cursor']}", markup=False, soft_wrap=True)
