"""The commands `cancel-all` and `cancel-all-after`: all of a user's open orders, through the REST API.

An operator who cancels for a reason of the operation uses `cancel` with filters: it needs no API, and notes each order.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import typer

from operations.access.errors import OutcomeUnknown
from operations.access.system import api
from operations.cli.options import TRADING, Json, User
from operations.cli.printing import err, out, print_json
from operations.cli.running import ask


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("cancel-all", rich_help_panel=TRADING)(cancel_all)
    app.command("cancel-all-after", rich_help_panel=TRADING)(cancel_all_after)


def cancel_all(
    user: User = "alice",
    asset: Annotated[str, typer.Option(help="Only orders in this asset.")] = "",
    side: Annotated[str, typer.Option(help="Only BUY, or only SELL.")] = "",
    order_type: Annotated[str, typer.Option("--type", help="Only orders of this type, such as LIMIT_BUY.")] = "",
    key: Annotated[str, typer.Option(help="The idempotency key: the same key cancels once. Default: a new one.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many there are, and cancel none.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Cancel all of a user's open orders, or those that fit, through the REST API; each order judges if it still can.

    Exit 1 when not all cancels are asked for yet: they go on by themselves, and the same key tells how far they are.

    Examples: order-saga cancel-all --user alice --dry-run, or order-saga cancel-all --user alice --asset BTC --yes
    """
    from operations.access import rest
    from operations.access.words import check_name

    check_name("--user", user)
    key = key or str(uuid.uuid4())
    rest.check_key(key)
    target, wanted = api(), rest.given(asset_id=asset, side=side.upper(), order_type=order_type)
    if dry_run or not yes:
        number = rest.count_cancelable(target, user, wanted)
        if dry_run:
            print_json({"orders": number}) if json else out.print(f"{number} orders would be cancelled")
            return
        ask(f"cancel {number} orders of {user}")
    try:
        done = rest.cancel_all(target, user, wanted, key)
    except OutcomeUnknown as trouble:
        raise OutcomeUnknown(f"{trouble}; to go on, with no second cancel: --key {key}") from None
    if json:
        print_json(done)
    else:
        out.print(f"{done['orders']} cancels are asked for")
    if done["completed_at"] is None:
        err.print(f"more are to come; to see how far it is: --key {key}", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def cancel_all_after(
    timeout_s: Annotated[
        int | None, typer.Argument(metavar="SECONDS", min=0, help="0 switches it off; left out, it is shown.")
    ] = None,
    user: User = "alice",
    json: Json = False,
) -> None:
    """Have all of a user's open orders cancelled unless this is repeated in time; or show when they will be.

    Examples: order-saga cancel-all-after 60 --user alice, or order-saga cancel-all-after --user alice
    """
    from operations.access import rest
    from operations.access.words import check_name

    check_name("--user", user)
    timer = rest.cancel_timer(api(), user, timeout_s)
    if json:
        print_json(timer)
    else:
        for line in _lines(timer):
            out.print(line, markup=False, soft_wrap=True)


def _lines(timer: dict[str, Any]) -> list[str]:
    user = timer["user_id"]
    runs = timer["fires_at"]
    lines = [f"all open orders of {user} are cancelled at {runs}" if runs else f"no timer of {user} runs"]
    if timer["fired_at"]:
        lines.append(f"it fired at {timer['fired_at']} and has asked for {timer['orders']} cancels")
    return lines
