"""The command `watch`: what happens to a user's orders, or to one of them, while it happens.

What is told goes to stdout, a line each; what is said about the stream itself goes to stderr.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.markup import escape

from operations.access.system import api
from operations.cli.options import TRADING, User
from operations.cli.printing import describe_order, err, out, print_json_line, status_colour

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOLD = {"OrderStatusChanged": "order", "OrderVersion": "version", "PriceChanged": "price", "AccountChanged": "account"}
"""Items that are data, by the names of the events of the API."""


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=TRADING)(watch)


def watch(
    order_id: Annotated[UUID | None, typer.Argument(help="One order, to its end. Default: all of the user's.")] = None,
    user: User = "alice",
    prices: Annotated[str, typer.Option(help="Show these prices, too, with commas between: BTC,ETH.")] = "",
    everybody: Annotated[bool, typer.Option("--all", help="The orders of all users, as an operator.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A JSON line for each event.")] = False,
) -> None:
    """Show what happens to orders while it happens, until Ctrl-C: first those that are open, then each change.

    It comes back by itself after whatever breaks the stream, and says on stderr what may be missing then. With an
    order it ends when that has: exit 0 when it is completed, 1 when not.

    Examples: order-saga watch --user alice --prices BTC,ETH, or order-saga watch --json
    """
    from operations.access import rest
    from operations.access.errors import WrongRequest
    from operations.access.words import check_name

    check_name("--user", user)
    if order_id is not None and (prices or everybody):
        raise WrongRequest("an order is watched alone: leave out --prices and --all")
    assets = [one for one in prices.split(",") if one]
    with rest.followed(api(), user, order_id, prices=assets, everybody=everybody) as items:
        status = _show(items, json=json, everybody=everybody)
    if order_id is not None and status != "COMPLETED":
        raise typer.Exit(1)


def _show(items: Iterator[Any], *, json: bool, everybody: bool) -> str:
    """Show items until there are no more, or Ctrl-C; return the status that was told last."""
    status = ""
    try:
        for item in items:
            status = str(getattr(item, "status", status))
            if json:
                _print_json(item)
            else:
                _print(item, everybody=everybody)
    except KeyboardInterrupt:
        err.print("stopped", style="dim")
    return status


def _print_json(item: Any) -> None:
    from operations.access.rest import shown

    name = type(item).__name__
    if name in _TOLD:
        print_json_line({"event": _TOLD[name], **shown(item)})
    else:
        _tell(item)


def _print(item: Any, *, everybody: bool) -> None:
    from operations.access.rest import shown

    match type(item).__name__:
        case "OrderStatusChanged":
            found = shown(item)
            order = found["order"]
            whose = f"{escape(order['user_id'])} " if everybody else ""
            what = f"{order['order_type']} {order['quantity']} {order['asset_id']}"
            out.print(f"{_time(found['occurred_at'])} {order['order_id']} {whose}{what} {describe_order(order)}")
        case "OrderVersion":
            found, status = shown(item), str(item.status)
            was = f"[{status_colour(status)}]{status}[/]"
            out.print(f"{_time(found['occurred_at'])} {item.order_id} [dim]version {item.version}[/] {was}")
        case "PriceChanged":
            price = shown(item)["price"]
            closed = "" if price["trading"] == "OPEN" else f" [yellow]{price['trading']}[/]"
            out.print(f"{_time(price['as_of'])} [bold]{escape(price['asset_id'])}[/] {price['price']}{closed}")
        case _:
            _tell(item)


def _tell(item: Any) -> None:
    """Say how the stream is; that it lives is nothing to tell."""
    match type(item).__name__:
        case "SnapshotEnd":
            err.print("live", style="dim")
        case "Interrupted":
            err.print(f"interrupted: {item.why}; coming back", style="yellow", markup=False)
        case "Gap":
            since = f" since {item.since:%Y-%m-%dT%H:%M:%SZ}" if item.since else ""
            err.print(
                f"events may be missing{since}: list the orders (order-saga orders)", style="yellow", markup=False
            )
        case "DisabledWebhook":
            words = f"webhook {item.data.endpoint_id} is disabled: {item.data.reason}"
            err.print(words, style="yellow", markup=False, soft_wrap=True)
        case _:
            pass


def _time(text: str) -> str:
    return f"[dim]{text[:19].replace('T', ' ')}[/]"
