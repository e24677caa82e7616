# ruff: noqa: ARG001
"""The commands `recover`: what an operator runs when PostgreSQL or Kafka stands at an earlier time than the other."""

from __future__ import annotations

from typing import Annotated

import typer

from operations.access.errors import Trouble
from operations.cli.options import OPERATING, By, DryRun, Json, Yes, finite

commands = typer.Typer(
    no_args_is_help=True, help="After a restore: bring the database and Kafka to one state (docs/backup.md)."
)
Since = Annotated[str, typer.Option(metavar="TIME", help="From when on, such as 2026-01-31T12:00:00Z.")]
Rate = Annotated[float, typer.Option(min=0.01, callback=finite, help="Orders a second, at most.")]
RunId = Annotated[str, typer.Option("--run", help="The id of a run that was broken off: go on with it.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(commands, name="recover", rich_help_panel=OPERATING)


@commands.command("database")
def database(
    since: Since = "",
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Go on although topics no longer have all since then.")
    ] = False,
    dry_run: DryRun = False,
    rate: Rate = 1_000.0,
    run_id: RunId = "",
    by: By = "operator",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Bring a restored database to what Kafka has told already. Run it after the restore, before any service starts.

    Orders that orders.events has told more about than the database knows are brought forward, each in one decision of
    its saga; then the services' consumer groups go back to that time, so that they handle again what the database has
    forgotten. Without --since it is an hour before the newest thing that the database knows. DATABASE_URL is the
    owner's. Exit 1 when an order could not be brought forward.

    Examples: order-saga recover database --dry-run, or order-saga recover database --since 2026-01-31T12:00:00Z --yes
    """
    raise Trouble("not here yet")


@commands.command("kafka")
def kafka(
    since: Since,
    dry_run: DryRun = False,
    rate: Rate = 1_000.0,
    run_id: RunId = "",
    by: By = "operator",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Tell Kafka again what it has lost: it stands at an earlier time than the database. No service may run meanwhile.

    The consumer groups go back to that time, or to the end of a topic that has become shorter; the newest version of
    each order that changed since, and of each service's hold, is told again. Exit 1 when one could not be.

    Example: order-saga recover kafka --since 2026-01-31T12:00:00Z --yes
    """
    raise Trouble("not here yet")
