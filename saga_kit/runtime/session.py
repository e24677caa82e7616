"""Opens one PostgreSQL session that keeps the promises, whatever the defaults of server, database and role are.

Each setting that a promise depends on is set for the session and read back: a pooler in between may have dropped it.
What a client can't set is checked. A session on a server that takes no writes is marked: see `database`. Of several
servers, one that was primary once and takes writes again, beside its successor, is passed over (ADR 67).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any, Final

import asyncpg
import structlog
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from saga_kit.runtime.dsn import Address, addresses
from saga_kit.runtime.errors import CannotStart

STATEMENT_TIMEOUT_S: Final = 15
LOCK_TIMEOUT_S: Final = 5
IDLE_IN_TRANSACTION_TIMEOUT_S: Final = 10
"""What a machine that is gone, or frozen, holds locked comes free when its partitions have moved, and no later."""
SERVER_VERSION_MIN: Final = 16
"""The oldest PostgreSQL that the tests run on."""
SETTINGS: Final = {
    "synchronous_commit": "on",  # what is acknowledged is on the disk, and on the synchronous standbys if there are any
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "lock_timeout": f"{LOCK_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_TIMEOUT_S}s",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "search_path": "pg_catalog",  # every table is named with its schema
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "client_encoding": "UTF8",
    "jit": "off",  # it compiles for longer than our statements run
}
"""The settings that the services rely on. `default_transaction_read_only` is not among them: managed services and
switch-overs stop writes with it, and what a session wrote in spite of it would be lost."""
_SOCKET_OPTIONS: Final = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
_SINCE_17: Final = frozenset({"transaction_timeout"})
"""An older server refuses a session that sets one of these in its first message."""
_NO_SUCH_PARAMETER: Final = frozenset({"08P01", "42704"})
"""SQLSTATEs with which a pooler, or an old server, refuses settings in the first message of a session."""
_STANDBY: Final = "it is a standby"
_LOST_STATEMENT: Final = frozenset({"26000", "42P05"})

_LOOK: Final = """
    SELECT pg_catalog.array_agg(pg_catalog.set_config(wanted.name, wanted.value, false)) AS settings,
        pg_catalog.current_setting('transaction_read_only') AS read_only,
        pg_catalog.pg_is_in_recovery() AS standby,
        pg_catalog.pg_backend_pid() AS pid,
        pg_catalog.current_setting('server_version') AS version,
        pg_catalog.current_setting('server_version_num') AS version_number,
        pg_catalog.current_setting('server_encoding') AS encoding,
        pg_catalog.current_setting('session_replication_role') AS replication_role,
        pg_catalog.current_setting('fsync') AS fsync,
        pg_catalog.current_setting('full_page_writes') AS full_page_writes
    FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]))
        AS wanted(name, value)
    WHERE pg_catalog.current_setting(wanted.name, true) IS NOT NULL"""

_TIMELINE: Final = """
    SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) AS segment, system_identifier AS system
    FROM pg_catalog.pg_control_system()"""
"""The name of a WAL segment begins with its timeline; each promotion of a standby begins a newer one."""
NEWEST: Final[dict[int, int]] = {}
"""The newest timeline that this process has seen, by the identifier of the servers that are copies of each other."""

log = structlog.get_logger(__name__)
SHARED_SESSIONS: Final = (
    "a pooler between here and PostgreSQL hands one session to several clients (PgBouncer's pool_mode = transaction or"
    " statement); set pool_mode = session for this database, or connect to PostgreSQL itself"
)
_warned: set[str] = set()
_looked: set[URL] = set()


class OldPrimary(ConnectionError):  # noqa: N818 - it is what is there
    """A server takes writes that was replaced by another one."""


class Session(asyncpg.Connection):  # type: ignore[misc]  # the driver has no annotations
    """A connection that knows whether it can write, and whether a pooler is in between."""

    __slots__ = ("_engine", "pooled", "read_only")

    read_only: str | None
    """Why it can't write; None when it can."""
    pooled: bool
    """Whether a pooler is between this process and the server."""
    _engine: AsyncEngine

    def sqlalchemy(self) -> AsyncEngine:
        """Return an engine whose only connection is this session; it begins and ends no transaction."""
        try:
            return self._engine
        except AttributeError:
            # The pool that takes this session back ends its prepared statements, so SQLAlchemy must not keep any: the
            # driver does. `async_creator` has no way to say so.
            self._engine = create_async_engine(
                "postgresql+asyncpg://",
                creator=lambda: self._engine.dialect.loaded_dbapi.connect(
                    async_creator_fn=self._itself, prepared_statement_cache_size=0
                ),
                poolclass=StaticPool,
                isolation_level="AUTOCOMMIT",
                hide_parameters=True,
            )
            return self._engine

    async def _itself(self) -> Session:
        return self

    async def fetch(self, *args: Any, **options: Any) -> Any:
        """Fetch as asyncpg does; end the session when the server gives no answer in time."""
        return await self._answered(super().fetch(*args, **options))

    async def execute(self, *args: Any, **options: Any) -> Any:
        """Execute as asyncpg does; end the session when the server gives no answer in time."""
        return await self._answered(super().execute(*args, **options))

    async def _answered(self, waiting: Awaitable[Any]) -> Any:
        try:
            return await waiting
        except TimeoutError:
            # The server would have ended the statement before. Whatever comes next, a rollback or giving the session
            # back, would wait as long again: for the server to acknowledge that the driver cancels it.
            self.terminate()
            raise


async def open_session(url: URL, settings: Mapping[str, str], *, command_timeout_s: float, **options: Any) -> Session:
    """Connect to the first address of the URL that works; `options` are asyncpg's own.

    A process that connects to several for the first time looks at all of them, to know which timeline is the newest.
    Raises what the driver raises, `OldPrimary`, and `CannotStart` for an unfit server.
    """
    options["command_timeout"] = command_timeout_s
    failure: Exception | None = None
    first, *others = addresses(url)
    if others and url not in _looked:
        await asyncio.gather(*(_look_at(address, settings, options) for address in (first, *others)))
        _looked.add(url)
    for address in (first, *others):
        try:
            session = await _open(address, settings, options)
            if others:
                await _pass_over_old(session, address)
        except _NEXT_ADDRESS as error:
            failure = failure or error
        else:
            return session
    assert failure is not None  # noqa: S101 - a URL names one place at least
    raise failure


_NEXT_ADDRESS: Final = (OSError, asyncpg.TargetServerAttributeNotMatched, asyncpg.OperatorInterventionError)


async def _look_at(address: Address, settings: Mapping[str, str], options: Mapping[str, Any]) -> None:
    """Note the timeline of a server, if it is there and takes writes; whoever connects to it says what is wrong."""
    with suppress(*_NEXT_ADDRESS, asyncpg.PostgresError, CannotStart):
        session = await _open(address, settings, options)
        try:
            await _pass_over_old(session, address)
        finally:
            session.terminate()


async def _pass_over_old(session: Session, address: Address) -> None:
    """Note the timeline of a session's server; raise `OldPrimary` and end the session if a newer one was seen.

    A server that takes no writes is no danger; one that does not tell its timeline, as some services do, is not judged.
    """
    if session.read_only == _STANDBY:
        return
    try:
        found = await session.fetchrow(_TIMELINE)
    except asyncpg.PostgresError:
        return
    timeline, system = int(found["segment"][:8], 16), found["system"]
    newest = NEWEST[system] = max(timeline, NEWEST.get(system, 0))
    if timeline < newest:
        session.terminate()
        why = f"{address.where} was replaced by another primary (timeline {timeline}, now {newest}) and takes writes"
        log.error("an old primary is passed over: stop it before somebody writes to it", why=why)
        raise OldPrimary(why)


async def _open(address: Address, settings: Mapping[str, str], options: Mapping[str, Any]) -> Session:
    options = {**address.arguments, **options, "connection_class": Session}
    if address.must_write and settings.get("default_transaction_read_only") == "on":
        options["target_session_attrs"] = "primary"  # that it takes no writes is then by our own wish
    at_once = {name: value for name, value in settings.items() if name not in _SINCE_17}
    try:
        session: Session = await asyncpg.connect(**options, server_settings=at_once)
    except asyncpg.PostgresError as error:
        if error.sqlstate not in _NO_SUCH_PARAMETER:
            raise
        few = {name: settings[name] for name in ("application_name", "options") if name in settings}
        session = await asyncpg.connect(**options, server_settings=few)
    try:
        _keep_alive(session, address.tcp)
        await _prepare(session, {name: value for name, value in settings.items() if name != "options"})
    except BaseException:
        session.terminate()
        raise
    return session


async def _prepare(session: Session, settings: Mapping[str, str]) -> None:
    """Set the session and check it, in one round trip."""
    try:
        seen = await session.fetchrow(_LOOK, list(settings), list(settings.values()))
    except asyncpg.PostgresError as error:
        if error.sqlstate in _LOST_STATEMENT:
            raise CannotStart(SHARED_SESSIONS) from error
        raise
    if (why := unfit(seen)) is not None:
        raise CannotStart(why)
    session.pooled = seen["pid"] != session.get_server_pid()
    session.read_only = None
    if seen["read_only"] == "on":
        session.read_only = _STANDBY if seen["standby"] else "default_transaction_read_only is on"
    _warn(seen)


def unfit(seen: Mapping[str, Any]) -> str | None:
    """Return in one line why a server is unfit; None when it is fit."""
    if int(seen["version_number"]) < SERVER_VERSION_MIN * 10_000:
        return f"PostgreSQL {seen['version']} is too old: {SERVER_VERSION_MIN} is the oldest that is supported"
    if seen["encoding"] != "UTF8":
        return f"the database's encoding is {seen['encoding']}, it must be UTF8 (CREATE DATABASE ... ENCODING 'UTF8')"
    if seen["replication_role"] != "origin":
        return (
            f"session_replication_role is {seen['replication_role']}, which turns constraints off: reset it for this"
            " role and database"
        )
    return None


def _warn(seen: Mapping[str, Any]) -> None:
    """Warn, once in a process, of unsafe server settings that no client can change."""
    for name in ("fsync", "full_page_writes"):
        if seen[name] != "on" and name not in _warned:
            _warned.add(name)
            log.warning(
                "the server may lose what it has acknowledged when its machine stops", setting=name, value="off"
            )


def _keep_alive(session: Session, options: Mapping[str, int]) -> None:
    """Set the options that libpq sets on a TCP socket."""
    plug = session._transport.get_extra_info("socket")  # noqa: SLF001 - the driver has no option for it
    if plug is None or plug.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, options.get("keepalives", 1))
    for word, name in _SOCKET_OPTIONS.items():
        if options.get(word) and hasattr(socket, name):
            plug.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), options[word])
