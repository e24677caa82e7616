"""Commands that start a service, and those that prepare what services need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from operations.cli.reach import Trouble, err, finite, kafka_settings, naming, out, run, setting

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
    from order_api.app import run as service

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
    ORCHESTRATOR_DB_PASSWORD, API_DB_PASSWORD, BALANCE_DB_PASSWORD, ASSETS_DB_PASSWORD and AUDITOR_DB_PASSWORD that is
    set; its name begins with DB_LOGIN_PREFIX (order_saga_). All of it is done, or nothing.
    """
    import os

    from alembic.util import CommandError

    from migrations import PREFIX, current, downgrade, upgrade

    url = setting("DATABASE_URL", "database_url")
    prefix = os.environ.get("DB_LOGIN_PREFIX", PREFIX)
    names = ("orchestrator", "api", "balance", "assets", "auditor")
    logins = {name: os.environ[variable] for name in names if (variable := f"{name.upper()}_DB_PASSWORD") in os.environ}
    try:
        with naming(url):
            before = current(url)
            if revision == "head" or before is None or revision > before:
                upgrade(url, revision, logins if revision == "head" else {}, prefix)
            else:
                downgrade(url, revision)
    except ValueError as error:
        raise Trouble(f"nothing was changed: {error}", 2) from None
    except CommandError as error:
        raise Trouble(f"nothing was changed: --revision is {revision!r}: {error}", 2) from None
    out.print(f"schema: {before or 'nothing'} -> {current(url) or 'nothing'}")
    if logins and revision == "head":
        out.print(f"logins: {', '.join(prefix + name for name in logins)}")


def topics(
    replication: Annotated[
        int, typer.Option(min=1, help="Copies of each new topic; 3 where more than one broker runs.")
    ] = 1,
    check: Annotated[bool, typer.Option(help="Only look; create nothing.")] = False,
) -> None:
    """Create the topics that are missing, and check those that are there. Exit 1 when one is not as it should be."""
    from operations.topics import ensure

    wrong = run(ensure(kafka_settings(), replication=replication, check_only=check))
    for line in wrong:
        err.print(f"[red]{line}[/]")
    if wrong:
        raise Trouble(f"{len(wrong)} topics are not as they should be")


def acls(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Lines of 'login may what...'.")],
) -> None:
    """Give the broker's logins the rights that FILE lists (see deploy/acls.txt); doing it twice changes nothing."""
    from operations.acls import grant, read

    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise Trouble(f"{file} is not UTF-8: {error}", 2) from None
    run(grant(kafka_settings(), read(text)))


def sample_data() -> None:
    """Load the sample assets, users and deposits of the local stack; doing it twice changes nothing.

    ORDER_SAGA_TIME_SCALE must be the orchestrator's, so that the asset SLOW is too slow for its patience.
    """
    import os

    from operations.demo.samples import load_samples

    text = os.environ.get("ORDER_SAGA_TIME_SCALE", "1")
    try:
        time_scale = finite(float(text))
    except (ValueError, typer.BadParameter):
        raise Trouble(f"ORDER_SAGA_TIME_SCALE is {text!r}; it must be a number", 2) from None

    url = setting("DATABASE_URL", "database_url")
    run(load_samples({"balance": url, "assets": url}, time_scale))
    out.print("sample data: loaded")


def settings() -> None:
    """Show every environment variable that the services read, with its default."""
    from operations.cli.settings import print_settings

    print_settings()
