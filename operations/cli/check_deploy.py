"""The command `check-deploy`: try whether this version could go on with what the live system has in flight."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from operations.access.system import database_url, webhooks_keys
from operations.cli.options import OPERATING, Json
from operations.cli.printing import err, out, print_json, print_table

if TYPE_CHECKING:
    from operations.deployment.check_deploy import DeployProblem, DeployReport, SchemaState
    from operations.deployment.rollback import Unknown

RollbackTo = Annotated[
    str, typer.Option("--rollback-to", metavar="VERSION", help="Could this released version go on instead?")
]
PROGRESS_S: Final = 2.0


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("check-deploy", rich_help_panel=OPERATING)(check_deploy)


def check_deploy(rollback_to: RollbackTo = "", json: Json = False) -> None:
    """Try whether this version could go on with everything that is in flight. Run it before a deploy.

    Each order is loaded and told whatever may come next, each message in an outbox is decoded, the secret of each
    webhook is opened with WEBHOOKS_KEYS, the schema's revision is compared; nothing is changed. Of orders that rest,
    one of each shape is tried. Exit 1 when anything could not be handled.

    With --rollback-to it counts instead the orders that an older version would not know: of types, phases and reasons
    that came after it. Exit 1 when there are any.

    Examples: order-saga check-deploy, or order-saga check-deploy --rollback-to 0.2.0
    """
    from operations.deployment.check_deploy import check
    from operations.deployment.rollback import check_rollback

    if rollback_to:
        _end_rollback(rollback_to, asyncio.run(check_rollback(database_url(), rollback_to)), json=json)
        return
    report = asyncio.run(check(database_url(), _Progress(), webhooks_keys=webhooks_keys()))
    if json:
        print_json(
            {
                "schema": report.schema._asdict(),
                "looked_at": report.looked_at,
                "problems": [asdict(problem) for problem in report.problems],
            }
        )
    else:
        _print(report)
    if not report.passes:
        raise typer.Exit(1)


def _end_rollback(version: str, found: list[Unknown], *, json: bool) -> None:
    """Print what a rollback would meet; exit 1 when there is anything."""
    if json:
        print_json([one._asdict() for one in found])
    elif found:
        table = Table("orders", "what they are to it", "such as", title=f"not known to {version}")
        for one in found:
            table.add_row(str(one.orders), one.meaning, one.example)
        print_table(table)
    else:
        out.print(f"[green]{escape(version)} knows every order[/]")
    if found:
        raise typer.Exit(1)


class _Progress:
    """Prints now and then what was looked at so far."""

    def __init__(self) -> None:
        self._printed_at = time.monotonic()

    def __call__(self, looked_at: dict[str, int]) -> None:
        from operations.access.words import counts

        if time.monotonic() - self._printed_at > PROGRESS_S:
            self._printed_at = time.monotonic()
            err.print(counts(looked_at))


def _print(report: DeployReport) -> None:
    from operations.access.words import counts

    _print_schema(report.schema)
    out.print(f"looked at {counts(report.looked_at)}")
    if report.problems:
        _print_problems(report.problems)
    else:
        out.print("[green]all of them can be handled[/]")


def _print_schema(schema: SchemaState) -> None:
    out.print(f"schema: {schema.revision or 'nothing'}")
    if schema.missing:
        out.print(f"[red]this version needs {', '.join(schema.missing)}: 'order-saga migrate' first[/]")
    if schema.unknown:
        out.print(f"[red]this version does not know {', '.join(schema.unknown)}: it is older than the database[/]")


def _print_problems(problems: list[DeployProblem]) -> None:
    table = Table("what", "how many", "why this version can't handle them", "such as", title="check-deploy")
    for one in problems:
        table.add_row(one.what, str(one.count), escape(one.reason), escape("\n".join(one.examples)))
    print_table(table)
