"""What a person who trades needs: a token, money, and how the REST API is called and its answers are told."""

from __future__ import annotations

import time
import uuid
from decimal import InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from operations.cli.reach import (
    Trouble,
    amount,
    check_name,
    colour_of,
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
    for command in (token, deposit, accounts):
        app.command(rich_help_panel=PANEL)(command)


def token(
    user: User,
    scope: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    ttl: Annotated[int, typer.Option(min=1, help="Seconds that it is good for.")] = 3600,
) -> None:
    """Print a signed token for the REST API of the local stack."""
    check_name("--user", user)
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

    deposit_id = deposit_id or str(uuid.uuid4())
    for word, value in (("USER", user), ("ASSET", asset), ("--id", deposit_id)):
        check_name(word, value)
    amount_given = _positive(quantity)

    async def work() -> bool:
        async with database() as engine:
            return await book(engine, deposit_id, user, asset, amount_given)

    try:
        booked = run(work())
    except ValueError as error:
        raise Trouble(str(error)) from None
    out.print(f"{user}: {quantity} {asset} deposited" if booked else f"{user}: this deposit was booked before")


def _positive(text: str) -> Any:
    from contracts.decimals import Quantity

    try:
        return Quantity.parse(text)
    except (ValueError, InvalidOperation) as error:
        raise Trouble(f"AMOUNT {error}", 2) from None


def accounts(user: Annotated[str, typer.Argument(help="Whose accounts.")], json: Json = False) -> None:
    """Show what a user has, and what is held for open orders. Exit 1 when there is no account."""
    check_name("USER", user)

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


ENDED: Final = frozenset({"COMPLETED", "CANCELLED", "FAILED"})


def told(order: dict[str, Any]) -> str:
    """Say in a line how an order stands."""
    status = order["status"]
    line = f"[{colour_of(status)}]{status}[/]"
    if order.get("average_price"):
        line += f" {order['filled_quantity']} {order['asset_id']} at {order['average_price']}, fee {order['fee']}"
    if order.get("reason_code"):
        line += f" {order['reason_code']}" + (f" ({order['reason']})" if order.get("reason") else "")
    return line


def call(user: str, method: str, path: str, body: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    """Call the REST API as a user; a problem becomes one line. After some the outcome is `unknown`."""
    import httpx

    authorization = {"Authorization": f"Bearer {sign(user)}"}
    address = setting("ORDER_API_URL", "api").rstrip("/")
    try:
        answer = httpx.request(method, address + path, json=body, headers=authorization | headers, timeout=40)
    except httpx.InvalidURL as error:
        raise Trouble(f"ORDER_API_URL is '{address}', which is no address: {error}", 2) from None
    except httpx.UnsupportedProtocol:
        raise Trouble(f"ORDER_API_URL is '{address}'; it must begin with http:// or https://", 2) from None
    except httpx.HTTPError as error:
        told = str(error) or type(error).__name__
        raise Trouble(f"the API at {address} can't be reached: {told}", unknown=True) from None
    if answer.is_error:
        status = 2 if answer.status_code in _ASK_OTHERWISE else 1
        raise Trouble(_problem(answer), status, unknown=answer.is_server_error)
    try:
        data = answer.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise Trouble(f"what answers at {address} is not the API: it sent {answer.headers.get('content-type')}")
    return data


_ASK_OTHERWISE: Final = frozenset({400, 413, 415, 422})
"""The statuses of a request that breaks a rule."""


def _problem(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return f"the API answered {answer.status_code}"
    errors = "; ".join(f"{each.get('field')}: {each.get('rule')}" for each in problem.get("errors", []))
    return f"{problem.get('title', answer.status_code)}: {errors or problem.get('detail', '')}"
