"""The commands `webhooks`: without one, the process that sends; with one, a user's endpoints, or all that fail.

What a user may do goes by the REST API, as that user; what concerns everybody's endpoints is read from the database.
"""

from __future__ import annotations

import asyncio
import shlex
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from operations.access.errors import OutcomeUnknown, WrongRequest
from operations.access.system import api, database
from operations.cli.options import Json, User, Yes, grouped
from operations.cli.printing import err, out, print_json, print_table
from operations.cli.services import SERVICES

if TYPE_CHECKING:
    from collections.abc import Callable

    from order_client import Client

commands = typer.Typer(
    help="Run the process that sends webhooks (8006), or manage those of a user: see 'order-saga webhooks --help'."
)
Endpoint = Annotated[str, typer.Argument(metavar="WEBHOOK_ID", help="The webhook's id.")]
Types = Annotated[
    list[str] | None, typer.Option("--type", help="Only events of this type, such as order.completed; repeatable.")
]
Text = Annotated[str, typer.Option(help="Your own words.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(commands, name="webhooks", rich_help_panel=SERVICES)


@commands.callback(invoke_without_command=True)
def webhooks(context: typer.Context) -> None:
    """Run the process that sends webhooks (health and metrics on 8006), or manage webhooks by the commands below.

    Example: order-saga webhooks
    """
    if context.invoked_subcommand is None:
        from projections.webhooks.service import run

        raise typer.Exit(run())


@commands.command("list")
def list_all(user: User, json: Json = False) -> None:
    """List a user's webhooks, and how they do.

    Example: order-saga webhooks list --user alice
    """
    found = _ask(user, lambda client: client.list_webhooks())
    if json:
        print_json(found["webhooks"])
        return
    table = Table("webhook", "URL", "state", "waiting", "failing since")
    for one in found["webhooks"]:
        table.add_row(one["endpoint_id"], escape(one["url"]), _state(one), str(one["waiting"]), _since(one))
    print_table(table) if found["webhooks"] else out.print("no webhooks")


@commands.command()
def add(
    url: Annotated[str, typer.Argument(help="Where they go: https, on port 443 or 8443.")],
    user: User,
    event_type: Types = None,
    every_version: Annotated[bool, typer.Option(help="Send each version of an order, not only the newest.")] = False,
    description: Text = "",
    key: Annotated[str, typer.Option(help="An idempotency key: the same makes one webhook.")] = "",
    json: Json = False,
) -> None:
    """Have a URL told of a user's orders. The secret is shown this once.

    Example: order-saga webhooks add https://bot.example/orders --user alice --type order.completed
    """
    from operations.access.rest import check_key

    key = key or str(uuid.uuid4())
    check_key(key)
    wanted: dict[str, Any] = {"event_types": event_type or [], "every_version": every_version}
    wanted |= {"description": description, "idempotency_key": key}
    try:
        made = _ask(user, lambda client: client.create_webhook(url, **wanted))
    except OutcomeUnknown:
        again = shlex.join(["order-saga", "webhooks", "add", url, "--user", user, "--key", key])
        err.print(f"it may be made; type it again with the same options to know: {again} ...", markup=False)
        raise
    print_json(made) if json else _print_secret(made)


@commands.command()
def show(webhook_id: Endpoint, user: User, json: Json = False) -> None:
    """Show a webhook, and how it does.

    Example: order-saga webhooks show WEBHOOK_ID --user alice
    """
    _print_webhook(_ask(user, lambda client: client.read_webhook(_id(webhook_id))), json=json)


@dataclass(frozen=True, slots=True)
class ChangeOptions:
    """What to change; what is not said stays."""

    url: Annotated[str | None, typer.Option(help="Where they go.")] = None
    event_type: Types = None
    all_types: Annotated[bool, typer.Option("--all-types", help="Send events of all types.")] = False
    every_version: Annotated[
        bool | None, typer.Option("--every-version/--newest-version", help="Send each version, or the newest.")
    ] = None
    description: Annotated[str | None, typer.Option(help="Your own words.")] = None
    disable: Annotated[bool, typer.Option("--disable", help="Send nothing until it is enabled.")] = False

    def changes(self) -> dict[str, Any]:
        """Give what is said. Raises `WrongRequest` for nothing, and for what excludes each other."""
        if self.all_types and self.event_type:
            raise WrongRequest("--all-types and --type exclude each other")
        fields: dict[str, Any] = {
            "url": self.url,
            "event_types": [] if self.all_types else self.event_type or None,
            "every_version": self.every_version,
            "description": self.description,
            "state": "DISABLED" if self.disable else None,
        }
        said = {name: value for name, value in fields.items() if value is not None}
        if not said:
            raise WrongRequest("say what to change")
        return said


@commands.command()
@grouped
def change(webhook_id: Endpoint, user: User, options: ChangeOptions, json: Json = False) -> None:
    """Change a webhook; what is not said stays.

    Example: order-saga webhooks change WEBHOOK_ID --user alice --type order.failed
    """
    wanted, changes = _id(webhook_id), options.changes()
    _print_webhook(_ask(user, lambda client: client.change_webhook(wanted, **changes)), json=json)


@commands.command()
def enable(webhook_id: Endpoint, user: User, json: Json = False) -> None:
    """Enable a webhook again: its failures are forgotten, and what waits is sent.

    Example: order-saga webhooks enable WEBHOOK_ID --user alice
    """
    _print_webhook(_ask(user, lambda client: client.change_webhook(_id(webhook_id), state="ACTIVE")), json=json)


@commands.command()
def remove(webhook_id: Endpoint, user: User, yes: Yes = False) -> None:
    """Delete a webhook, and all that is known of what was sent there.

    Example: order-saga webhooks remove WEBHOOK_ID --user alice --yes
    """
    wanted = _id(webhook_id)
    if not yes:
        typer.confirm(f"Delete the webhook {wanted}?", abort=True, err=True)
    _ask(user, lambda client: client.delete_webhook(wanted))
    out.print("deleted")


@commands.command()
def rotate(webhook_id: Endpoint, user: User, json: Json = False) -> None:
    """Replace the secret of a webhook. For 24 hours both sign.

    Example: order-saga webhooks rotate WEBHOOK_ID --user alice
    """
    made = _ask(user, lambda client: client.rotate_webhook_secret(_id(webhook_id)))
    print_json(made) if json else _print_secret(made)


@commands.command()
def ping(webhook_id: Endpoint, user: User, json: Json = False) -> None:
    """Have a ping sent. What becomes of it, 'webhooks deliveries' tells.

    Example: order-saga webhooks ping WEBHOOK_ID --user alice
    """
    _print_delivery(_ask(user, lambda client: client.ping_webhook(_id(webhook_id))), json=json)


@commands.command()
def deliveries(
    webhook_id: Endpoint,
    user: User,
    status: Annotated[str, typer.Option(help="Only these: PENDING, DELIVERED, SUPERSEDED, FAILED, SKIPPED.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100, help="Deliveries of the list.")] = 20,
    json: Json = False,
) -> None:
    """List what was sent to a webhook, newest first, and why it failed.

    Example: order-saga webhooks deliveries WEBHOOK_ID --user alice --status FAILED
    """
    wanted: dict[str, Any] = {"status": status or None, "limit": limit}
    found = _ask(user, lambda client: client.list_webhook_deliveries(_id(webhook_id), **wanted))["deliveries"]
    if json:
        print_json(found)
        return
    table = Table("created", "event", "type", "status", "attempts", "last attempt")
    for one in found:
        created, kind = _time(one["created_at"]), one["event_type"]
        table.add_row(created, one["event_id"], kind, one["status"], str(one["attempts"]), escape(_last(one)))
    print_table(table) if found else out.print("nothing was sent")


@commands.command()
def redeliver(
    webhook_id: Endpoint,
    event_id: Annotated[str, typer.Argument(help="The webhook-id, such as ORDER_ID:v4.")],
    user: User,
    json: Json = False,
) -> None:
    """Have an event sent again, whatever became of it.

    Example: order-saga webhooks redeliver WEBHOOK_ID ORDER_ID:v4 --user alice
    """
    _print_delivery(_ask(user, lambda client: client.redeliver_webhook(_id(webhook_id), event_id)), json=json)


@commands.command()
def recover(
    webhook_id: Endpoint,
    since: Annotated[str, typer.Argument(help="A time with its offset, such as 2026-01-31T12:00:00Z.")],
    user: User,
    json: Json = False,
) -> None:
    """Have a webhook told of all orders that have changed since a time of the last 7 days.

    Example: order-saga webhooks recover WEBHOOK_ID 2026-01-31T12:00:00Z --user alice
    """
    wanted, number = _id(webhook_id), 0
    at: str | None = since
    while at is not None:
        page = _ask(user, _recovery(wanted, at))
        number += page["deliveries"]
        at = page["next_since"]
    print_json({"deliveries": number}) if json else out.print(f"{number} deliveries are to be sent")


@commands.command()
def failing(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Webhooks of the list.")] = 50, json: Json = False
) -> None:
    """List the webhooks of all users that fail or are given up: since when, why, and how much waits. Exit 1 if any.

    Example: order-saga webhooks failing
    """
    from operations.diagnosis.webhooks import list_failing

    async def work() -> list[dict[str, Any]]:
        async with database() as engine:
            return await list_failing(engine, limit)

    found = asyncio.run(work())
    if json:
        print_json(found)
    elif found:
        table = Table("webhook", "user", "kind", "host", "state", "failures", "since", "waiting", "why")
        for one in found:
            why = escape(one["why"] or "")
            since = f"{one['since']:%Y-%m-%d %H:%M}" if one["since"] else ""
            named = map(escape, (one["user_id"], one["kind"], one["host"] or ""))
            counts = str(one["failures_in_row"]), since, str(one["waiting"])
            table.add_row(str(one["endpoint_id"]), *named, one["state"], *counts, why)
        print_table(table)
    else:
        out.print("[green]no webhook fails[/]")
    if found:
        raise typer.Exit(1)


def _ask(user: str, call: Callable[[Client], Any]) -> Any:
    """Call the API as a user who manages webhooks."""
    from operations.access.rest import ask
    from operations.access.tokens import WEBHOOK_SCOPES

    return ask(api(), user, call, WEBHOOK_SCOPES)


def _recovery(webhook_id: uuid.UUID, since: str) -> Callable[[Client], Any]:
    return lambda client: client.recover_webhook(webhook_id, since)


def _id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise WrongRequest("WEBHOOK_ID must be a UUID") from None


def _print_secret(made: dict[str, Any]) -> None:
    out.print(f"webhook [bold]{made['webhook']['endpoint_id']}[/]")
    out.print(
        f"secret {made['secret']}" if made["secret"] else "its secret was shown before; 'rotate' gives another one"
    )
    if made["previous_valid_until"]:
        out.print(f"the secret before signs, too, until {made['previous_valid_until']}")


def _print_webhook(one: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(one)
        return
    out.print(f"webhook [bold]{one['endpoint_id']}[/] of {escape(one['user_id'])}: {_state(one)}")
    versions = "every version" if one["every_version"] else "the newest version"
    out.print(f"{escape(one['url'])} is told of {', '.join(one['event_types']) or 'everything'}, {versions}")
    if one["failures_in_row"]:
        out.print(f"{one['failures_in_row']} attempts in a row failed {_since(one)}".rstrip())
    out.print(f"{one['waiting']} deliveries wait")


def _print_delivery(one: dict[str, Any], *, json: bool) -> None:
    print_json(one) if json else out.print(f"{one['event_id']} is {one['status']}", markup=False)


def _state(one: dict[str, Any]) -> str:
    if one["state"] == "ACTIVE":
        return "ACTIVE"
    return f"[red]DISABLED[/] ({escape(one['disabled_reason'] or '')})"


def _since(one: dict[str, Any]) -> str:
    return f"since {_time(one['failing_since'])}" if one["failing_since"] else ""


def _last(one: dict[str, Any]) -> str:
    """Say what the last attempt came to."""
    if not one["last_attempts"]:
        return one["reason"] or ""
    last = one["last_attempts"][0]
    said = last["error"] or f"{last['status']}"
    return f"{_time(last['at'])}, {last['duration_ms']} ms: {said}"


def _time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}"
