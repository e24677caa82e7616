"""The command `submit`: an order that is submitted once, however often the command is typed.

The request has an idempotency key, and the command that repeats it is printed before anything is sent: whatever breaks
off, and whoever does not know the outcome, types that command and gets the same order.
"""

from __future__ import annotations

import math
import re
import shlex
import time
import uuid
from typing import Annotated, Any, Final

import typer

from operations.cli.reach import Trouble, check_name, err, finite, out, print_json
from operations.cli.trading import ENDED, PANEL, Json, User, call, told

KEY_RULE: Final = "--key must be 1 to 255 visible ASCII characters"


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=PANEL)(submit)


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
    check_name("--user", user)
    key = key or str(uuid.uuid4())
    if re.fullmatch(r"[\x21-\x7e]{1,255}", key) is None:
        raise Trouble(KEY_RULE, 2)
    body: dict[str, Any] = {"order_type": order_type, "asset_id": asset, "quantity": quantity, "price": price}
    body |= {"slippage_bps": slippage_bps, "client_order_id": client_order_id}
    given = {name: value for name, value in body.items() if value is not None}
    again = _again(given, user, key, wait)
    err.print(f"to do this again, with no second order: {again}", markup=False, soft_wrap=True)
    order = _submitted(given, user, key, again)
    err.print(f"order {order['order_id']} is accepted", markup=False, soft_wrap=True)
    order = _ended(order, user, time.monotonic() + wait)
    if json:
        print_json(order)
    else:
        out.print(f"order {order['order_id']}: {told(order)}")
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


def _submitted(given: dict[str, Any], user: str, key: str, again: str) -> dict[str, Any]:
    """Submit the order; say how to learn the outcome of a request that may or may not have arrived."""
    try:
        return call(user, "POST", "/orders", given, **{"Idempotency-Key": key})
    except Trouble as trouble:
        if not trouble.unknown:
            raise
        raise Trouble(f"{trouble}; whether there is an order is not known, so type: {again}") from None


def _ended(order: dict[str, Any], user: str, deadline: float) -> dict[str, Any]:
    while order["status"] not in ENDED and (left_s := deadline - time.monotonic()) > 0:
        wait = {"Prefer": f"wait={math.ceil(left_s)}"}  # the API waits at most 30 s in one request
        order = call(user, "GET", f"/orders/{order['order_id']}", None, **wait)
        if order["status"] not in ENDED:
            time.sleep(0.1)  # it does not wait for us while too many wait already
    return order
