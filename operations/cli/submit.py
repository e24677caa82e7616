"""The command `submit`: an order that is submitted once, however often the command is typed.

The request has an idempotency key, and the command that repeats it is printed before anything is sent. Whoever does not
know the outcome types that command and gets the same order.
"""

from __future__ import annotations

import shlex
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from operations.access.errors import OutcomeUnknown
from operations.access.system import api
from operations.cli.options import TRADING, Json, User, finite
from operations.cli.printing import describe_order, err, out, print_json

if TYPE_CHECKING:
    from operations.access.rest import Api


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=TRADING)(submit)


def submit(  # noqa: PLR0913, PLR0917 - each is an option of the command
    order_type: Annotated[str, typer.Argument(help="MARKET_BUY or MARKET_SELL.")],
    asset: Annotated[str, typer.Argument(help="What to trade.")],
    quantity: Annotated[str, typer.Argument(help="How much.")],
    user: User = "alice",
    price: Annotated[str | None, typer.Option(help="The price that you saw; refused when the quote is worse.")] = None,
    slippage_bps: Annotated[int | None, typer.Option(help="By how much it may be worse, in 1/10,000.")] = None,
    client_order_id: Annotated[
        str | None, typer.Option(help="Your own id; the same id never makes two orders.")
    ] = None,
    key: Annotated[
        str, typer.Option(help="The idempotency key: the same key is the same order. Default: a new one.")
    ] = "",
    wait: Annotated[
        float, typer.Option(min=0, callback=finite, help="Seconds to wait for the end; 0 returns at once.")
    ] = 30.0,
    json: Json = False,
) -> None:
    """Submit an order through the REST API, and say how it ended. Exit 1 when it did not complete.

    Before it sends anything it prints the command that can be typed again, whatever happens: the order is the same one.

    Examples: order-saga submit MARKET_BUY BTC 0.01 --user alice, or with the price that you saw and a limit of 0.5 %:
    order-saga submit MARKET_SELL ACME 3 --user bob --price 20 --slippage-bps 50
    """
    from operations.access.rest import check_key, wait_for_end
    from operations.access.words import check_name

    check_name("--user", user)
    key = key or str(uuid.uuid4())
    check_key(key)
    body: dict[str, Any] = {"order_type": order_type, "asset_id": asset, "quantity": quantity, "price": price}
    body |= {"slippage_bps": slippage_bps, "client_order_id": client_order_id}
    given = {name: value for name, value in body.items() if value is not None}
    again = _again(given, user, key, wait)
    err.print(f"to do this again, with no second order: {again}", markup=False, soft_wrap=True)
    target = api()
    order = _submitted(target, given, user, key, again)
    err.print(f"order {order['order_id']} is accepted", markup=False, soft_wrap=True)
    order = wait_for_end(target, user, order, wait)
    if json:
        print_json(order)
    else:
        out.print(f"order {order['order_id']}: {describe_order(order)}")
        out.print(f"[dim]order-saga inspect {order['order_id']}[/]")
    if wait and order["status"] != "COMPLETED":
        raise typer.Exit(1)


def _again(given: dict[str, Any], user: str, key: str, wait_s: float) -> str:
    """Write the command that asks for the same order."""
    options: dict[str, Any] = {
        name: given[name] for name in ("price", "slippage_bps", "client_order_id") if name in given
    }
    options |= {"user": user, "wait": f"{wait_s:g}", "key": key}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    asked = [given[name] for name in ("order_type", "asset_id", "quantity")]
    return shlex.join(["order-saga", "submit", *words, "--", *asked])


def _submitted(target: Api, given: dict[str, Any], user: str, key: str, again: str) -> dict[str, Any]:
    """Submit the order; say how to learn the outcome of a request that may or may not have arrived."""
    from operations.access.rest import submit as send

    try:
        return send(target, user, given, key)
    except OutcomeUnknown as trouble:
        unknown = f"{trouble}; whether there is an order is not known, so type: {again}"
        raise OutcomeUnknown(unknown) from None
