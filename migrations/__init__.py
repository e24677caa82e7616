"""The database's one history. It is run from here, as the database's owner: alembic needs no alembic.ini and no folder.

A run is one transaction: all of it or nothing. Two at the same instant take turns, and the second finds its work done.
These functions start an event loop of their own; call them from where none is running.
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

from migrations.logins import PREFIX, check_groups, check_logins, create_logins, put_logins, until_alone
from migrations.owner import VERSIONS, transaction

__all__ = ["PREFIX", "check", "create_logins", "current", "downgrade", "known", "upgrade"]

TURN_S: Final = 120
"""How long one run waits for another."""
LOCK_TIMEOUT_S: Final = 5
"""How long a command may wait for a lock, while everybody who comes after it waits too."""
TURN: Final = 5_406_977_023_113
"""A number of our own among the advisory locks of a database."""
_alembic = threading.Lock()
"""Alembic keeps what it works on in a global of its own: one run at a time in a process, whatever the databases."""


def upgrade(
    database_url: str, revision: str = "head", logins: Mapping[str, str] | None = None, prefix: str = PREFIX
) -> None:
    """Bring the database up to a revision, and make the login of each service in `logins` with its password.

    Raises what alembic and SQLAlchemy raise, and `ValueError` for a role that is somebody else's, with nothing changed.
    """
    check_logins(logins or {}, prefix)
    _run(database_url, lambda config: command.upgrade(config, revision), logins or {}, prefix)


def downgrade(database_url: str, revision: str) -> None:
    """Take the database down to a revision (`-1`: the one before, `base`: nothing). What later ones hold is lost."""
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
    """Raise alembic's `CommandError` when the rooms' tables and the database differ in what alembic can see."""
    _run(database_url, command.check)


def _run(
    database_url: str, work: Callable[[Config], None], logins: Mapping[str, str] | None = None, prefix: str = PREFIX
) -> None:
    asyncio.run(until_alone(lambda: _take_turn(database_url, work, logins or {}, prefix)))


async def _take_turn(database_url: str, work: Callable[[Config], None], logins: Mapping[str, str], prefix: str) -> None:
    async with transaction(database_url) as connection:
        await check_groups(connection)
        if (await connection.exec_driver_sql("SHOW search_path")).scalar_one() == VERSIONS:
            await connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {VERSIONS}")
        await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{TURN_S}s'")
        await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({TURN})")
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
