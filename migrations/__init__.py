"""The database's one history of revisions, run as the database's owner. Alembic needs no alembic.ini for it.

A run is one transaction: all of it or nothing. Two runs at the same time wait for each other by a lock, and the second
finds its work done. These functions start an event loop of their own; call them from where none is running.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from migrations.logins import PREFIX, check_groups, check_logins, create_logins, put_logins, retry_races
from migrations.owner import VERSIONS, transaction

__all__ = ["PREFIX", "check", "create_logins", "current", "downgrade", "known", "upgrade"]

WAIT_S: Final = 120
"""How long one run waits for another."""
LOCK_TIMEOUT_S: Final = 5
"""How long a statement may wait for a table's lock: later statements of all services wait behind it."""
LOCK: Final = 5_406_977_023_113
"""The advisory lock of a run: a number that no other program should use."""
_alembic = threading.Lock()
"""Alembic has its state in a global, so a process does one run at a time, whatever the databases."""


def upgrade(
    database_url: str, revision: str = "head", logins: Mapping[str, str] | None = None, prefix: str = PREFIX
) -> None:
    """Bring the database up to a revision, and make the login of each service in `logins` with its password.

    Raises what alembic and SQLAlchemy raise, and `ValueError` for a role that is not ours, with nothing changed.
    """
    check_logins(logins or {}, prefix)
    _run(database_url, lambda config: command.upgrade(config, revision), logins or {}, prefix)


def downgrade(database_url: str, revision: str) -> None:
    """Take the database down to a revision (`-1`: the one before, `base`: nothing); what later ones store is lost."""
    _run(database_url, lambda config: command.downgrade(config, revision))


def current(database_url: str) -> str | None:
    """Name the revision that the database is at; None when it has none of ours."""

    async def ask() -> str | None:
        async with transaction(database_url) as connection:
            return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())

    return asyncio.run(ask())


def known() -> list[str]:
    """List the revisions that this code knows, the oldest first."""
    script = ScriptDirectory(str(Path(__file__).parent))
    return [revision.revision for revision in script.walk_revisions()][::-1]


def check(database_url: str) -> None:
    """Raise alembic's `CommandError` when the `tables` modules and the database differ in what alembic compares."""
    _run(database_url, command.check)


def _run(
    database_url: str, work: Callable[[Config], None], logins: Mapping[str, str] | None = None, prefix: str = PREFIX
) -> None:
    asyncio.run(retry_races(lambda: _run_alone(database_url, work, logins or {}, prefix)))


async def _run_alone(database_url: str, work: Callable[[Config], None], logins: Mapping[str, str], prefix: str) -> None:
    async with transaction(database_url) as connection:
        await check_groups(connection)
        if (await connection.exec_driver_sql("SHOW search_path")).scalar_one() == VERSIONS:
            await connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {VERSIONS}")
        await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{WAIT_S}s'")
        await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        with _alembic:
            await connection.run_sync(lambda sync: work(_config(sync)))
        if logins:
            await put_logins(connection, logins, prefix)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
