"""Commands that start a service, and those that prepare what services need."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from operations.access.errors import Trouble, WrongRequest
from operations.access.system import (
    database_url,
    kafka_settings,
    login_passwords,
    login_prefix,
    time_scale,
    topic_prefix,
)
from operations.cli.options import TopicFormat
from operations.cli.printing import err, out, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICES = "Services (settings come from the environment)"
SETUP = "Setting up"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for service in (orchestrator, api, balance, assets):
        app.command(rich_help_panel=SERVICES)(service)
    app.command(rich_help_panel=SETUP)(migrate)
    app.command(rich_help_panel=SETUP)(topics)
    app.command(rich_help_panel=SETUP)(acls)
    app.command("sample-data", rich_help_panel=SETUP)(sample_data)
    app.command(rich_help_panel=SETUP)(settings)


def orchestrator() -> None:
    """Run the saga orchestrator (health and metrics on 8001)."""
    from order_saga.worker.app import run as service

    _serve(service)


def api() -> None:
    """Run the REST API (8000)."""
    from order_api.process import run as service

    _serve(service)


def balance() -> None:
    """Run the reference balance service (health and metrics on 8002)."""
    from participants.balance.service import run as service

    _serve(service)


def assets() -> None:
    """Run the reference asset service (health and metrics on 8003)."""
    from participants.assets.service import run as service

    _serve(service)


def _serve(service: Callable[[], int]) -> None:
    raise typer.Exit(service())


def migrate(
    revision: Annotated[str, typer.Option(help="Go to this revision, up or down; 'base' removes everything.")] = "head",
) -> None:
    """Bring the database to the newest schema, with a login for each service.

    DATABASE_URL is the owner's, who needs CREATEROLE and CREATE on the database. A login is made or updated for each of
    ORCHESTRATOR_DB_PASSWORD, API_DB_PASSWORD, BALANCE_DB_PASSWORD, ASSETS_DB_PASSWORD, WEBHOOKS_DB_PASSWORD and
    AUDITOR_DB_PASSWORD that is set; its name begins with DB_LOGIN_PREFIX (order_saga_). All of it is done, or nothing.
    """
    from operations.deployment import schema

    moved = schema.migrate(database_url(), revision, login_passwords(), login_prefix())
    out.print(f"schema: {moved.before or 'nothing'} -> {moved.after or 'nothing'}")
    if moved.logins:
        out.print(f"logins: {', '.join(moved.logins)}")


def topics(
    replication: Annotated[
        int, typer.Option(min=1, help="Copies of each new topic; 3 where more than one broker runs.")
    ] = 1,
    check: Annotated[bool, typer.Option(help="Only look; create nothing.")] = False,
    print_as: Annotated[
        TopicFormat | None,
        typer.Option("--print", help="Only print the list, as JSON or as commands of kafka-topics.sh; ask no broker."),
    ] = None,
) -> None:
    """Create the topics that are missing, and check those that are there. Exit 1 when one is not as it should be.

    Where somebody else creates topics, --print gives the list to apply, and --check says whether it was.
    """
    if print_as is not None:
        from operations.deployment.topic_list import as_commands, as_json, topic_list

        write = as_json if print_as is TopicFormat.JSON else as_commands
        typer.echo(write(topic_list(topic_prefix(), replication)))
        return
    from operations.deployment.topics import VISIBLE_WITHIN_S, ensure

    found = asyncio.run(ensure(kafka_settings(), replication=replication, check_only=check))
    for line in found.refused:
        out.print(line, markup=False)
    if found.late:
        names = ", ".join(found.late)
        raise Trouble(f"the cluster has accepted {names} and does not have them {VISIBLE_WITHIN_S:.0f} s later")
    if found.unseen:
        err.print(found.unseen, markup=False)
    for line in found.partitions:
        out.print(line, markup=False)
    for line in found.wrong:
        err.print(f"[red]{escape(line)}[/]")
    if found.wrong:
        raise Trouble(f"{len(found.wrong)} topics are not as they should be")


def acls(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Lines of 'login may what...'.")],
) -> None:
    """Give the broker's logins the rights that FILE lists (see deploy/acls.txt); doing it twice changes nothing."""
    from operations.deployment.acls import grant, read, summary

    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise WrongRequest(f"{file} is not UTF-8: {error}") from None
    settings = kafka_settings()
    rights = read(text)
    asyncio.run(grant(settings, rights))
    for line in summary(rights):
        out.print(line)


def sample_data() -> None:
    """Load the sample assets, users and deposits of the local stack; doing it twice changes nothing.

    ORDER_SAGA_TIME_SCALE must be the orchestrator's, so that the asset SLOW is too slow for its patience.
    """
    from operations.demo.samples import load_samples

    scale, url = time_scale(), database_url()
    asyncio.run(load_samples({"balance": url, "assets": url}, scale))
    out.print("sample data: loaded")


def settings() -> None:
    """Show every environment variable that the services read, with its default."""
    from operations.access.settings import settings as all_settings

    table = Table("variable", "read by", "default", "meaning")
    for setting in all_settings():
        table.add_row(*map(escape, setting))
    print_table(table)
