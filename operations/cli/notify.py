"""The command `notify test`: see whether operators' channels work."""

from __future__ import annotations

import typer

from operations.access.errors import Trouble, WrongRequest
from operations.access.system import notify_urls
from operations.cli.options import OPERATING
from operations.cli.printing import out


def register(app: typer.Typer) -> None:
    """Add this group."""
    group = typer.Typer(no_args_is_help=True, help="The channels by which operators are told: NOTIFY_URLS.")
    group.command("test")(test)
    app.add_typer(group, name="notify", rich_help_panel=OPERATING)


def test() -> None:
    """Send a test to each channel of NOTIFY_URLS. Exit 1 when one did not take it.

    NOTIFY_URLS has URLs for Apprise with blanks between; it needs order-saga[notify]. The webhook process tells these
    channels of endpoints that it gives up, and order-saga audit --watch of findings.

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
