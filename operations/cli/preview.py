"""The command `preview`: what would become of an order, through the REST API, without making it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from operations.access.system import api
from operations.cli.options import TRADING, Json, User, grouped
from operations.cli.printing import out, print_json
from operations.cli.submit import TermOptions


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=TRADING)(preview)


@grouped
def preview(
    order_type: Annotated[str, typer.Argument(help="As for `submit`.")],
    asset: Annotated[str, typer.Argument(help="What to trade.")],
    quantity: Annotated[str, typer.Argument(help="How much.")],
    *,
    user: User = "alice",
    terms: TermOptions,
    price: Annotated[str | None, typer.Option(help="MARKET only: the price that you saw.")] = None,
    slippage_bps: Annotated[int | None, typer.Option(help="By how much it may be worse, in 1/10,000.")] = None,
    json: Json = False,
) -> None:
    """Say what an order would hold, cost and bring if it were submitted now. Exit 1 when it would be refused.

    The balance is not looked at. Nothing is stored.

    Examples: order-saga preview MARKET_BUY BTC 0.01, or order-saga preview LIMIT_BUY BTC 0.1 --limit-price 48000
    """
    from operations.access import rest
    from operations.access.words import check_name

    check_name("--user", user)
    asked: dict[str, Any] = {"order_type": order_type, "asset_id": asset, "quantity": quantity, "price": price}
    asked |= {"slippage_bps": slippage_bps} | terms.fields(order_type)
    found = rest.preview(api(), user, {name: value for name, value in asked.items() if value is not None})
    if json:
        print_json(found)
    else:
        for line in _lines(found):
            out.print(line, markup=False, soft_wrap=True)
    if found["refusals"]:
        raise typer.Exit(1)


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"refused: {one['reason_code']}: {one['reason']}" for one in found["refusals"]]
    if found["quote"] is not None:
        quote = found["quote"]
        lines.append(f"quote {quote['price']} {quote['cash_asset_id']}, {quote['age_ms']} ms old")
    if found["held_amount"] is not None:
        lines.append(f"it would hold {found['held_amount']} {found['held_asset_id']}")
    if found["price"] is not None:
        what = {"PROCESSING": "it would fill at once at", "CONFIRMED": "it would rest; at"}.get(found["status"], "at")
        brings = f"it brings {found['credit']} {found['credit_asset_id']}"
        lines.append(f"{what} {found['price']}: {brings} for a fee of {found['fee']} {found['fee_asset_id']}")
    return [*lines, f"not checked: {', '.join(found['not_checked'])}"]
