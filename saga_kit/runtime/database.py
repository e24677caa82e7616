"""Makes the engine: a bounded pool, bounded waits, sessions that keep the promises. Nothing here knows a table.

A session that can't write is closed. When a server refuses a write, the whole pool is closed. A session that began on a
read-only server is closed after a second. So the services recover a moment after a failover.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

import asyncpg
from sqlalchemy import URL, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from saga_kit.runtime.dsn import given_settings
from saga_kit.runtime.errors import CannotStart, ReadOnlyDatabase, message_of, sqlstate_of
from saga_kit.runtime.session import SETTINGS, SHARED_SESSIONS, Session, open_session

COMMAND_TIMEOUT_S: Final = 20
"""The driver's limit, for a server that no longer answers. It is above the server's own, whose error says more."""
PATIENTLY: Final = "SET LOCAL statement_timeout = '10min'"
"""For a statement of an operator's command that reads a whole table."""
FEW_AT_A_TIME: Final = {"max_row_buffer": 100}
"""For a query that is read row by row: whoever takes long over each row must not seem idle in its transaction."""
PATIENT_COMMAND_TIMEOUT_S: Final = 660
"""The driver's limit for such a statement."""
POOL_TIMEOUT_S: Final = 5
RECYCLE_S: Final = 1800
"""A session is closed after so long, so that a server that was replaced behind its address gets none that is older."""
READ_ONLY_S: Final = 1.0
"""A session that began on a read-only server serves readers for so long; the next one may reach another server."""
BY_KEY: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""Settings that make statements find rows by an index, whatever the statistics of a young table say.

A connection reuses its plans for as long as it lives. A plan made while a table was empty would read the whole table.
"""
READ_ONLY_TRANSACTION: Final = "25006"
_SESSION_ENDED: Final = frozenset({"25P03", "25P04", "57P01", "57P02", "57P03", "57P04", "57P05"})
"""SQLSTATEs with which a server ends sessions; class 08, a broken connection, counts too."""
_FOR_GOOD: Final = frozenset({"28000", "28P01", "3D000", "42501"})
"""SQLSTATEs of a wrong login, password or database: trying again does not help."""
POOLER_TRIES: Final = 10
_STATEMENT_POOLING: Final = "not allowed in statement pooling mode"
"""PgBouncer's message when it refuses every transaction; it has no SQLSTATE."""


def create_engine(
    url: URL,
    *,
    application_name: str,
    pool_size: int = 5,
    by_key: bool = False,
    command_timeout_s: int = COMMAND_TIMEOUT_S,
    settings: Mapping[str, str] | None = None,
) -> AsyncEngine:
    """Make an engine whose every wait ends: for a connection, a lock, a statement, or a transaction left open.

    `by_key`: all its statements find rows by an index, as a service's do and an audit's do not. Statements under
    `PATIENTLY` need `PATIENT_COMMAND_TIMEOUT_S`. `settings` of the session override the usual ones. With a `pool_size`
    of 0 nothing is pooled.
    """
    ours = {**settings_of(url, application_name, by_key=by_key), **(settings or {})}

    async def connect() -> Session:
        return await open_session(url, ours, command_timeout_s=command_timeout_s)

    pool: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": POOL_TIMEOUT_S,
        "pool_use_lifo": True,  # the last used connection has its plans and caches ready
        "pool_recycle": RECYCLE_S,
    }
    engine = create_async_engine(
        url,
        async_creator=connect,
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # an error's text goes into logs, and they hold what people sent
        **(pool if pool_size else {"poolclass": NullPool}),
    )
    event.listen(engine.sync_engine, "connect", _note_read_only)
    event.listen(engine.sync_engine, "checkout", _close_read_only)
    event.listen(engine.sync_engine, "handle_error", _close_all_after)
    return engine


def settings_of(url: URL, application_name: str, *, by_key: bool) -> dict[str, str]:
    """Return the settings of a session; ours outrank those that the URL gives. `by_key`: see `create_engine`."""
    return {
        "application_name": application_name,
        **given_settings(url),
        **SETTINGS,
        **(BY_KEY if by_key else {}),
    }


async def ping(engine: AsyncEngine) -> None:
    """Ask the database whether it takes writes now. Raises what the driver raises, and `ReadOnlyDatabase`."""
    async with engine.connect() as connection:
        row: Any = (await connection.exec_driver_sql(_COULD_WRITE)).one()
    if row.read_only == "on":
        cause = "it is a standby" if row.standby else "default_transaction_read_only is on"
        raise ReadOnlyDatabase(f"the database takes no writes: {cause}")


_COULD_WRITE: Final = "SELECT current_setting('transaction_read_only') AS read_only, pg_is_in_recovery() AS standby"


async def check_sessions(engine: AsyncEngine) -> str | None:
    """Check that a session is ours alone. Raises `CannotStart` where a pooler shares it among clients.

    Settings, prepared statements and locks need a session of their own. Returns None, as `wait_for` expects.
    """
    async with engine.connect() as one:
        if not await _pooled(one):
            return None
        for _ in range(POOLER_TRIES):
            await one.rollback()
            before = await _backend(one)
            await one.rollback()
            async with engine.connect() as other:
                # It stays in its transaction, so that a pooler can't give its session to another client meanwhile.
                if await _backend(other) == before or await _backend(one) != before:
                    raise CannotStart(SHARED_SESSIONS)
    return None


async def _pooled(connection: Any) -> bool:
    raw = await connection.get_raw_connection()
    session: Session = raw.driver_connection
    return session.pooled


async def _backend(connection: Any) -> int:
    number: int = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
    return number


def final_cause(error: BaseException) -> str | None:
    """Return in one line a cause that another try does not change; None for one that may pass."""
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    while cause is not None:
        if isinstance(cause, CannotStart):
            return str(cause)
        if _STATEMENT_POOLING in str(cause):
            return SHARED_SESSIONS
        if isinstance(cause, asyncpg.ClientConfigurationError | ssl.SSLCertVerificationError):
            return f"the database can't be connected to: {message_of(cause)}"
        if sqlstate_of(cause) in _FOR_GOOD:
            return f"the database says: {message_of(cause)}"
        cause = cause.__cause__
    return None


def is_unknown_host(error: BaseException) -> bool:
    """Tell whether the name of the database's host is unknown: while things start, or for good."""
    return isinstance(error, socket.gaierror)


def _note_read_only(connection: Any, record: Any) -> None:
    session: Session = connection.driver_connection
    record.info["ends_at"] = time.monotonic() + READ_ONLY_S if session.read_only else None


def _close_read_only(_connection: Any, record: Any, _proxy: Any) -> None:
    ends_at = record.info.get("ends_at")
    if ends_at is not None and time.monotonic() > ends_at:
        raise DisconnectionError("the session began on a server that took no writes")


def _close_all_after(context: Any) -> None:
    if ends_sessions(context.original_exception):
        context.is_disconnect = True


def ends_sessions(error: BaseException | None) -> bool:
    """Tell whether a pool must close its sessions: the server ends them, refuses a write in one, or gives no answer."""
    if isinstance(error, TimeoutError):
        return True
    sqlstate = sqlstate_of(error) or ""
    return sqlstate == READ_ONLY_TRANSACTION or sqlstate in _SESSION_ENDED or sqlstate[:2] == "08"
