"""The engine: bounded pool, bounded waits, sessions that keep the promises. Nothing here knows a table.

A session that can't write is thrown away: one that a server refused a write, with all others of the pool, and one that
began on a read-only server, after a second. So a failover is over for us a moment after it is over.
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
from saga_kit.runtime.errors import CannotStart, ReadOnlyDatabase, sqlstate_of
from saga_kit.runtime.session import SETTINGS, SHARED_SESSIONS, Session, open_session

COMMAND_TIMEOUT_S: Final = 20
"""The driver's own limit, for a server that no longer answers; above the server's, which speaks more clearly."""
PATIENTLY: Final = "SET LOCAL statement_timeout = '10min'"
"""For a statement of an operator's command that reads a whole table."""
PATIENT_COMMAND_TIMEOUT_S: Final = 660
"""The driver's limit where that is used."""
POOL_TIMEOUT_S: Final = 5
READ_ONLY_S: Final = 1.0
"""A session that began on a read-only server serves readers for so long; the next one may find another server."""
BY_KEY: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""Plans for statements that name their rows by a key of an index, whatever a young table's statistics make of it.

A plan is kept for as long as its connection lives, and one that was made while a table was empty reads all of it.
"""
READ_ONLY_TRANSACTION: Final = "25006"
_SESSION_ENDED: Final = frozenset({"25P03", "25P04", "57P01", "57P02", "57P03", "57P04", "57P05"})
"""The server ends the session, or all of them; beside these, class 08 tells of a connection that is broken."""
_FOR_GOOD: Final = frozenset({"28000", "28P01", "3D000", "42501"})
"""Who logs in, with what, to which database: trying again changes nothing about that."""
POOLER_TRIES: Final = 10
_STATEMENT_POOLING: Final = "not allowed in statement pooling mode"
"""How PgBouncer refuses to begin a transaction at all; it has no SQLSTATE for it."""


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

    `by_key`: each of its statements finds its rows by an index, as a service's do; an audit's do not. Whoever uses
    `PATIENTLY` needs `PATIENT_COMMAND_TIMEOUT_S`. `settings` of the session come before the usual ones. With a
    `pool_size` of 0 each connection is made for its user.
    """
    ours = {
        "application_name": application_name,
        **given_settings(url),
        **SETTINGS,
        **(BY_KEY if by_key else {}),
        **(settings or {}),
    }

    async def connect() -> Session:
        return await open_session(url, ours, command_timeout_s=command_timeout_s)

    pool: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": POOL_TIMEOUT_S,
        "pool_use_lifo": True,  # the connection that has just worked has its plans and caches at hand
        "pool_recycle": 1800,
    }
    engine = create_async_engine(
        url,
        async_creator=connect,
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # an error's text goes into logs, and they hold what people sent
        **(pool if pool_size else {"poolclass": NullPool}),
    )
    event.listen(engine.sync_engine, "connect", _note_the_end)
    event.listen(engine.sync_engine, "checkout", _end_what_cannot_write)
    event.listen(engine.sync_engine, "handle_error", _throw_away)
    return engine


async def ping(engine: AsyncEngine) -> None:
    """Ask the database whether it could take a write now; raises what the driver raises, and `ReadOnlyDatabase`."""
    async with engine.connect() as connection:
        row: Any = (await connection.exec_driver_sql(_COULD_WRITE)).one()
    if row.read_only == "on":
        cause = "it is a standby" if row.standby else "default_transaction_read_only is on"
        raise ReadOnlyDatabase(f"the database takes no writes: {cause}")


_COULD_WRITE: Final = "SELECT current_setting('transaction_read_only') AS read_only, pg_is_in_recovery() AS standby"


async def check_sessions(engine: AsyncEngine) -> str | None:
    """Make sure that a session is ours alone; raises `CannotStart` where a pooler shares it among clients.

    Session settings, prepared statements and what a client may hold on to need a session of its own. Returns None, as
    what `wait_for` asks.
    """
    async with engine.connect() as one:
        if not await _pooled(one):
            return None
        for _ in range(POOLER_TRIES):
            await one.rollback()
            before = await _backend(one)
            await one.rollback()
            async with engine.connect() as other:
                # It stays in its transaction, so that a pooler can't give its session to anybody else meanwhile.
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
    """Say in one line what trying again to connect would not change; None for what may pass."""
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    while cause is not None:
        if isinstance(cause, CannotStart):
            return str(cause)
        if _STATEMENT_POOLING in str(cause):
            return SHARED_SESSIONS
        if isinstance(cause, asyncpg.ClientConfigurationError | ssl.SSLCertVerificationError):
            return f"the database can't be connected to: {_first_line(cause)}"
        if sqlstate_of(cause) in _FOR_GOOD:
            return f"the database says: {_first_line(cause)}"
        cause = cause.__cause__
    return None


def is_unknown_host(error: BaseException) -> bool:
    """Tell whether the name of the database's host is not known: for a moment while things start, or for good."""
    return isinstance(error, socket.gaierror)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rpartition("'>: ")[2]


def _note_the_end(connection: Any, record: Any) -> None:
    session: Session = connection.driver_connection
    record.info["ends_at"] = time.monotonic() + READ_ONLY_S if session.read_only else None


def _end_what_cannot_write(_connection: Any, record: Any, _proxy: Any) -> None:
    ends_at = record.info.get("ends_at")
    if ends_at is not None and time.monotonic() > ends_at:
        raise DisconnectionError("the session began on a server that took no writes")


def _throw_away(context: Any) -> None:
    """Have the pool drop its sessions when the server ends them, or refuses to write in one of them."""
    sqlstate = sqlstate_of(context.original_exception) or ""
    if sqlstate == READ_ONLY_TRANSACTION or sqlstate in _SESSION_ENDED or sqlstate[:2] == "08":
        context.is_disconnect = True
