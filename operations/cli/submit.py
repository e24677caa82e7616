"""The command `submit`: an order that is submitted once, however often the command is typed.

The request has an idempotency key, and the command that repeats it is printed before anything is sent. Whoever does not
know the outcome types that command and gets the same order.
"""

from __future__ import annotations

import shlex
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from operations.access.errors import OutcomeUnknown
from operations.access.system import api
from operations.cli.options import TRADING, Json, User, finite, grouped
from operations.cli.printing import describe_order, err, out, print_json

if TYPE_CHECKING:
    from operations.access.rest import Api


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=TRADING)(submit)


@dataclass(frozen=True, slots=True)
class TermOptions:
    """What a conditional order waits for, by the names of the REST API; None: not said."""

    limit_price: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="The worst price to fill at. LIMIT needs it; a STOP_LOSS or TAKE_PROFIT may have it."
            " Of a BRACKET, which needs it, the price that fires it with a gain.",
        ),
    ] = None
    trigger_price: Annotated[
        str | None,
        typer.Option(help="The price that fires the order. STOP_LOSS, TAKE_PROFIT and BRACKET need it."),
    ] = None
    trail_amount: Annotated[
        str | None, typer.Option(help="How far from its best price a TRAILING_STOP fires, in cash.")
    ] = None
    trail_bps: Annotated[
        int | None,
        typer.Option(help="The same in 1/10,000: 300 is 3 %. A TRAILING_STOP needs one of the two."),
    ] = None
    time_in_force: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="GTC: waits until cancelled. GTD: until --expires-at. DAY: until the session ends. IOC, FOK: at once.",
        ),
    ] = None
    expires_at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            show_default=False,
            help="When it ends unfilled: 2026-01-31T12:00:00Z, or +90s, +30m, +2h, +7d.",
        ),
    ] = None
    queue_when_closed: Annotated[
        bool,
        typer.Option(
            "--queue-when-closed",
            help="Let it begin to wait while the asset is halted or closed. A MARKET order needs --price then.",
        ),
    ] = False

    def fields(self, order_type: str) -> dict[str, Any]:
        """Give what was said, as the REST API wants it. Raises `WrongRequest` for a time that can't be read."""
        from operations.access.words import moment

        given = asdict(self)
        if self.expires_at is not None:
            given["expires_at"] = moment("--expires-at", self.expires_at)
            implied = None if order_type.startswith("MARKET_") else "GTD"
            given["time_in_force"] = self.time_in_force or implied
        return given | {"queue_when_closed": self.queue_when_closed or None}


@grouped
def submit(  # noqa: PLR0913 - each is an option of the command
    order_type: Annotated[str, typer.Argument(help="One of the types above, with _BUY or _SELL behind it.")],
    asset: Annotated[str, typer.Argument(help="What to trade.")],
    quantity: Annotated[str, typer.Argument(help="How much.")],
    *,
    user: User = "alice",
    terms: TermOptions,
    price: Annotated[
        str | None, typer.Option(help="MARKET only: the price that you saw; refused when the quote is worse.")
    ] = None,
    slippage_bps: Annotated[
        int | None,
        typer.Option(help="By how much it may be worse, in 1/10,000; of a BUY stop, by how much above its trigger."),
    ] = None,
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
    """Submit an order through the REST API, and say how it ended, or what it waits for. Exit 1 when it did neither.

    A MARKET order is filled at the quote of the moment. Every other one rests until a price fires it: a LIMIT fills at
    its limit or better; a STOP_LOSS leaves a falling market (a BUY: enters a rising one), a TAKE_PROFIT takes a gain; a
    TRAILING_STOP follows the best price at a distance; a BRACKET has two prices, one for the gain and one for the loss,
    and whichever is reached first fires it. An order that rests is an answer: exit 0. Before it sends
    anything it prints the command that can be typed again, whatever happens: the order is the same one.

    Examples: order-saga submit MARKET_BUY BTC 0.01 --user alice, or with the price that you saw and a limit of 0.5 %:
    order-saga submit MARKET_SELL ACME 3 --user bob --price 20 --slippage-bps 50, or
    order-saga submit LIMIT_BUY BTC 0.1 --limit-price 48000 --expires-at +2h, or
    order-saga submit STOP_LOSS_SELL BTC 0.1 --trigger-price 47500, or
    order-saga submit TRAILING_STOP_SELL BTC 0.1 --trail-bps 300, or
    order-saga submit BRACKET_SELL BTC 0.1 --limit-price 55000 --trigger-price 47500
    """
    from operations.access.conditions import is_resting
    from operations.access.rest import check_key, wait_for_end
    from operations.access.words import check_name

    check_name("--user", user)
    key = key or str(uuid.uuid4())
    check_key(key)
    given: dict[str, Any] = {"order_type": order_type, "asset_id": asset, "quantity": quantity, "price": price}
    given |= {"slippage_bps": slippage_bps, "client_order_id": client_order_id} | terms.fields(order_type)
    given = {name: value for name, value in given.items() if value is not None}
    again = _again(given, user, key, wait)
    err.print(f"to do this again, with no second order: {again}", markup=False, soft_wrap=True)
    target = api()
    order = _submitted(target, given, user, key, again)
    err.print(f"order {order['order_id']} is accepted", markup=False, soft_wrap=True)
    order = wait_for_end(target, user, order, wait)
    _print(order, json=json)
    if wait and order["status"] != "COMPLETED" and not is_resting(order):
        raise typer.Exit(1)


def _print(order: dict[str, Any], *, json: bool) -> None:
    from operations.access.conditions import condition, is_resting, money

    if json:
        print_json(order)
        return
    rests = f"rests: {condition(order)}" if is_resting(order) else ""
    out.print(f"order {order['order_id']}{' ' + rests if rests else ': ' + describe_order(order)}")
    if rests:
        out.print(f"it holds {money(order['held_amount'])} {order['held_asset_id']}")
        out.print(f"[dim]order-saga cancel {order['order_id']} --as {order['user_id']}[/]")
    out.print(f"[dim]order-saga inspect {order['order_id']}[/]")


def _again(given: dict[str, Any], user: str, key: str, wait_s: float) -> str:
    """Write the command that asks for the same order."""
    asked = ("order_type", "asset_id", "quantity")
    options = {name: value for name, value in given.items() if name not in asked}
    options |= {"user": user, "wait": f"{wait_s:g}", "key": key}
    queued = options.pop("queue_when_closed", False)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    words += ["--queue-when-closed"] if queued else []
    return shlex.join(["order-saga", "submit", *words, "--", *(given[name] for name in asked)])


def _submitted(target: Api, given: dict[str, Any], user: str, key: str, again: str) -> dict[str, Any]:
    """Submit the order; say how to learn the outcome of a request that may or may not have arrived."""
    from operations.access.rest import submit as send

    try:
        return send(target, user, given, key)
    except OutcomeUnknown as trouble:
        unknown = f"{trouble}; whether there is an order is not known, so type: {again}"
        raise OutcomeUnknown(unknown) from None
