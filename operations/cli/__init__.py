"""`order-saga`: the command line. It parses and prints; what it does stands in `operations`, without a terminal.

Heavy modules are imported by the command that needs them, so that `--help` is fast. Exit status: 0 fine, 1 trouble was
found (or met), 2 wrong usage or a wrong setting.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from operations.access.errors import Trouble, WrongRequest
from operations.cli import (
    archive,
    audit,
    cancel_all,
    change,
    check_deploy,
    dead_letters,
    hand_over,
    holds,
    inspect,
    local,
    market,
    notify,
    orders,
    pauses,
    preview,
    recover,
    repair,
    services,
    stuck,
    submit,
    trading,
    watch,
    webhooks,
)
from operations.cli.failures import exit_status, one_line
from operations.cli.printing import out

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Order Saga: trading orders whose money moves exactly once or not at all.\n\n"
    "Begin with [bold]order-saga demo[/] (shows everything, leaves nothing) or [bold]order-saga up[/] (the system on "
    "this machine). Against a running local stack no command needs options; against another system set "
    "[bold]DATABASE_URL[/], [bold]KAFKA_BOOTSTRAP_SERVERS[/], [bold]ORDER_API_URL[/] and [bold]JWT_SECRET[/].",
)
for group in (
    local,
    trading,
    preview,
    submit,
    orders,
    watch,
    cancel_all,
    inspect,
    holds,
    stuck,
    repair,
    change,
    pauses,
    market,
    dead_letters,
    archive,
    audit,
    hand_over,
    recover,
    check_deploy,
    services,
    webhooks,
    notify,
):
    group.register(app)


def _print_version(wanted: bool) -> None:
    from importlib.metadata import version

    if wanted:
        out.print(f"order-saga {version('order-saga')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version, and end.")
    ] = False,
) -> None:
    """Take what stands before a command."""


def main() -> None:
    """Run the command line. A failure of the database, the broker or the API is one line, a stack trace on demand."""
    try:
        _check_text(sys.argv)
        app()
    except Trouble as trouble:
        sys.stderr.write(f"order-saga: {trouble}\n")
        sys.exit(exit_status(trouble))
    except Exception as error:
        if os.environ.get("ORDER_SAGA_DEBUG") or (line := one_line(error)) is None:
            raise
        sys.stderr.write(f"order-saga: {line} (ORDER_SAGA_DEBUG=1 shows where)\n")
        sys.exit(1)


def _check_text(words: list[str]) -> None:
    """Expect UTF-8: other bytes can be neither stored nor printed. Raises `WrongRequest`."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:  # Python writes bytes that it can't read as lone surrogates
            raise WrongRequest(f"{word!a} is not UTF-8") from None
