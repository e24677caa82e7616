"""The command `orders`: a user's orders, as the REST API lists them."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from operations.access.system import api
from operations.cli.options import TRADING, Json, User
from operations.cli.printing import err, out, print_json, print_table, status_colour


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=TRADING)(orders)


def orders(  # noqa: PLR0913, PLR0917 - each is an option of the command
    user: User = "alice",
    status: Annotated[list[str] | None, typer.Option(help="Only these; may be given several times.")] = None,
    open_: Annotated[
        bool | None, typer.Option("--open/--closed", help="Only those that have not ended, or that have.")
    ] = None,
    asset: Annotated[str, typer.Option(help="Only orders in this asset.")] = "",
    order_type: Annotated[str, typer.Option("--type", help="Only orders of this type, such as LIMIT_BUY.")] = "",
    created_from: Annotated[str, typer.Option("--from", metavar="TIME", help="Such as 2026-01-31T12:00:00Z.")] = "",
    created_to: Annotated[str, typer.Option("--to", metavar="TIME", help="Up to here, this instant excluded.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=200, help="Orders of a page.")] = 50,
    cursor: Annotated[str, typer.Option(help="Of the page before, for the next one.")] = "",
    json: Json = False,
) -> None:
    """List a user's orders, newest first, through the REST API. The level is the price that an order waits for.

    Examples: order-saga orders --user alice --open, or order-saga orders --status FAILED --asset BTC --json
    """
    from operations.access import rest
    from operations.access.words import check_name

    check_name("--user", user)
    filters: dict[str, Any] = {"asset_id": asset, "order_type": order_type, "cursor": cursor, "limit": limit}
    filters |= {"created_from": created_from, "created_to": created_to, "status": status or ()}
    filters |= {"open": "" if open_ is None else str(open_).lower()}
    page = rest.orders(api(), user, **filters)
    if json:
        print_json(page)
    else:
        _print_page(page, user)


def _print_page(page: dict[str, Any], user: str) -> None:
    from operations.access.conditions import level_or_trail

    if not page["orders"]:
        out.print("no orders")
        return
    table = Table("order", "created", "type", "level", "asset", "quantity", "status", "why", title=f"orders of {user}")
    for order in page["orders"]:
        created = order["created_at"][:19].replace("T", " ")
        status = f"[{status_colour(order['status'])}]{order['status']}[/]"
        status += ", on hold" if order.get("on_hold") else ""
        what = order["order_type"], level_or_trail(order), order["asset_id"], order["quantity"]
        table.add_row(order["order_id"], created, *what, status, escape(order["reason_code"] or ""))
    print_table(table)
    if page["has_more"]:
        err.print(f"there are more: --cursor {page['next_cursor']}", markup=False, soft_wrap=True)
