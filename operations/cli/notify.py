"""The commands `notify`: try operators' channels, make the keys for push, and see what a user was told."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from operations.access.errors import Trouble, WrongRequest
from operations.access.system import api, notify_urls
from operations.cli.options import OPERATING, Json, User
from operations.cli.printing import out, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add this group."""
    group = typer.Typer(no_args_is_help=True, help="Channels of operators, keys for push, what users were told.")
    group.command("test")(test)
    group.command("keys")(keys)
    group.command("log")(log)
    app.add_typer(group, name="notify", rich_help_panel=OPERATING)


def test() -> None:
    """Send a test to each channel of NOTIFY_URLS. Exit 1 when one did not take it.

    NOTIFY_URLS has URLs for Apprise with blanks between; it needs order-saga[notify]. The webhook process tells these
    channels of orders that are parked or overdue, of dead letters, and of endpoints that it gives up, and order-saga
    audit --watch of findings.

    Example: NOTIFY_URLS="ntfy://ntfy.example/orders" order-saga notify test
    """
    from saga_kit.runtime.operators import send_test

    if not (urls := notify_urls()):
        raise Trouble("NOTIFY_URLS names no channel, so nobody is told of anything")
    try:
        sent = send_test(urls)
    except ValueError as error:
        raise WrongRequest(f"NOTIFY_URLS {error}") from None
    if not sent:
        raise Trouble("a channel did not take it: the log above says which")
    out.print("[green]every channel took it[/]")


def keys(json: Json = False) -> None:
    """Make a pair of keys that push services know this system by (VAPID). It is printed as settings, and kept nowhere.

    NOTIFY_VAPID_KEY is the private key, a secret of the webhook process; API_NOTIFY_PUSH_KEY is the public one, for the
    API, which browsers subscribe with. Another pair ends all subscriptions: browsers must subscribe anew.

    Example: order-saga notify keys
    """
    from projections.webhooks.pushing import new_vapid_key, public_key_of

    private = new_vapid_key()
    pair = {"NOTIFY_VAPID_KEY": private, "API_NOTIFY_PUSH_KEY": public_key_of(private)}
    if json:
        print_json(pair)
    else:
        out.print("\n".join(f"{name}={value}" for name, value in pair.items()), markup=False, soft_wrap=True)


def log(
    user: User,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Lines, the newest first.")] = 25,
    json: Json = False,
) -> None:
    """Show what a user was told by any channel, webhooks too, and why not.

    Example: order-saga notify log --user alice
    """
    from operations.access.rest import ask
    from operations.access.tokens import WEBHOOK_SCOPES
    from operations.access.words import full_time

    found = ask(api(), user, lambda client: client.list_notifications(limit=limit), WEBHOOK_SCOPES)["notifications"]
    if json:
        print_json(found)
        return
    table = Table("created", "channel", "event", "type", "status", "attempts", "why not")
    for one in found:
        created, why = full_time(datetime.fromisoformat(one["created_at"])), escape(one["reason"] or "")
        event = one["event_id"], one["event_type"], one["status"], str(one["attempts"])
        table.add_row(created, one["channel"], *event, why)
    print_table(table) if found else out.print("nothing was told")
