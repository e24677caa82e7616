"""Commands of a person who trades: a token, money, orders."""

from __future__ import annotations

import math
import time
import uuid
from decimal import InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from order_saga.cli.reach import (
    Trouble,
    amount,
    database,
    find_ledger,
    jwt_secret,
    ledger_setting,
    out,
    print_json,
    print_table,
    rows,
    run,
    setting,
)

if TYPE_CHECKING:
    import httpx

PANEL: Final = "Trading"
SCOPES: Final = ("orders:read", "orders:write")
Json = Annotated[bool, typer.Option("--json", help="Print for programs.")]
User = Annotated[str, typer.Option("--user", "-u", help="Who acts.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (token, deposit, accounts, submit):
        app.command(rich_help_panel=PANEL)(command)


def token(
    user: User,
    scope: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    ttl: Annotated[int, typer.Option(min=1, help="Seconds that it is good for.")] = 3600,
) -> None:
    """Print a signed token for the REST API of the local stack."""
    out.print(sign(user, scope or SCOPES, ttl), soft_wrap=True)


def sign(user: str, scopes: list[str] | tuple[str, ...] = SCOPES, ttl_s: int = 3600, secret: str = "") -> str:
    """Sign a token (HS256) with this secret, or with that of the stack that is found."""
    import os

    import jwt

    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": user,
        "scope": " ".join(scopes),
        "iat": now,
        "exp": now + ttl_s,
        "jti": str(uuid.uuid4()),
    }
    for claim, variable in (("iss", "JWT_ISSUER"), ("aud", "JWT_AUDIENCE")):
        if variable in os.environ:
            claims[claim] = os.environ[variable]
    return jwt.encode(claims, secret or jwt_secret(), algorithm="HS256")


def deposit(
    user: Annotated[str, typer.Argument(help="Whose account.")],
    asset: Annotated[str, typer.Argument(help="USD, BTC, ...")],
    quantity: Annotated[str, typer.Argument(metavar="AMOUNT", help="How much, such as 100.50.")],
    deposit_id: Annotated[str, typer.Option("--id", help="The same id counts once. Default: a new one.")] = "",
) -> None:
    """Book a deposit into an account of the reference balance service."""
    from participants.balance.store import deposit as book

    if elsewhere := ledger_setting():
        raise Trouble(f"the ledger is another service's (LEDGER_VIEWS is {elsewhere}): deposit there", 2)

    async def work() -> bool:
        async with database() as engine:
            return await book(engine, deposit_id or str(uuid.uuid4()), user, asset, _positive(quantity))

    booked = run(work())
    out.print(f"{user}: {quantity} {asset} deposited" if booked else f"{user}: this deposit was booked before")


def _positive(text: str) -> Any:
    from contracts.decimals import Quantity

    try:
        return Quantity.parse(text)
    except (ValueError, InvalidOperation) as error:
        raise Trouble(f"AMOUNT {error}", 2) from None


def accounts(user: Annotated[str, typer.Argument(help="Whose accounts.")], json: Json = False) -> None:
    """Show what a user has, and what is held for open orders."""

    async def work() -> list[dict[str, Any]]:
        async with database() as engine:
            ledger = await find_ledger(engine)
            if ledger.schema is None:
                raise Trouble(f"the accounts can't be seen here: {ledger.hidden}")
            known = f"SELECT asset_id, available, held FROM {ledger.schema}.accounts WHERE user_id = $1"  # noqa: S608
            return await rows(engine, f"{known} ORDER BY asset_id", user)

    found = run(work())
    if json:
        print_json(found)
    elif not found:
        ours = "" if ledger_setting() else f"; make one with 'order-saga deposit {user} USD 1000'"
        raise Trouble(f"{user} has no account{ours}")
    else:
        table = Table("asset", *(column for column in ("available", "held")), title=f"accounts of {user}")
        for row in found:
            held = amount(row["held"])
            table.add_row(row["asset_id"], amount(row["available"]), f"[yellow]{held}[/]" if row["held"] else held)
        print_table(table)


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
    wait: Annotated[float, typer.Option(help="Seconds to wait for the end; 0 returns at once.")] = 30.0,
    json: Json = False,
) -> None:
    """Submit an order through the REST API, and say how it ended. Exit 1 when it did not complete."""
    body: dict[str, Any] = {"order_type": order_type, "asset_id": asset, "quantity": quantity, "price": price}
    body |= {"slippage_bps": slippage_bps, "client_order_id": client_order_id}
    deadline = time.monotonic() + wait
    given = {name: value for name, value in body.items() if value is not None}
    order = call(user, "POST", "/orders", given, **_until(deadline))
    while order["status"] not in ENDED and time.monotonic() < deadline:
        time.sleep(0.1)  # the API waits for us, unless too many wait already
        order = call(user, "GET", f"/orders/{order['order_id']}", None, **_until(deadline))
    if json:
        print_json(order)
    else:
        out.print(f"order {order['order_id']}: {told(order)}")
        out.print(f"[dim]order-saga inspect {order['order_id']}[/]")
    if wait and order["status"] != "COMPLETED":
        raise typer.Exit(1)


def _until(deadline: float) -> dict[str, str]:
    """Prefer to wait until then; the API waits at most 30 s in one request."""
    left_s = math.ceil(deadline - time.monotonic())
    return {"Prefer": f"wait={left_s}"} if left_s > 0 else {}


ENDED: Final = frozenset({"COMPLETED", "CANCELLED", "FAILED"})
COLOURS: Final = {"COMPLETED": "green", "FAILED": "red", "CANCELLED": "yellow"}


def told(order: dict[str, Any]) -> str:
    """Say in a line how an order stands."""
    status = order["status"]
    line = f"[{COLOURS.get(status, 'cyan')}]{status}[/]"
    if order.get("average_price"):
        line += f" {order['filled_quantity']} {order['asset_id']} at {order['average_price']}, fee {order['fee']}"
    if order.get("reason_code"):
        line += f" {order['reason_code']}" + (f" ({order['reason']})" if order.get("reason") else "")
    return line


def call(user: str, method: str, path: str, body: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    """Call the REST API as a user; a problem becomes one line."""
    import httpx

    authorization = {"Authorization": f"Bearer {sign(user)}"}
    answer = httpx.request(
        method, setting("ORDER_API_URL", "api") + path, json=body, headers=authorization | headers, timeout=40
    )
    if answer.is_error:
        raise Trouble(_problem(answer))
    data: dict[str, Any] = answer.json()
    return data


def _problem(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
    except ValueError:
        return f"the API answered {answer.status_code}"
    errors = "; ".join(f"{each.get('field')}: {each.get('rule')}" for each in problem.get("errors", []))
    return f"{problem.get('title', answer.status_code)}: {errors or problem.get('detail', '')}"
