"""The transactions of batches, on the driver's own connections: few round trips, and little work for each of them.

A batch of one message costs as many round trips as one of five hundred, so they decide what a small batch costs. A
`Transaction` therefore puts its writes off and sends them as one statement. Tables, migrations, reports and whatever is
seldom use SQLAlchemy; `begin` gives them the same `Transaction` on an engine's connection.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, Self

import asyncpg
import structlog
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from saga_kit.runtime.database import (
    COMMAND_TIMEOUT_S,
    POOL_TIMEOUT_S,
    READ_ONLY_S,
    RECYCLE_S,
    ends_sessions,
    settings_of,
)
from saga_kit.runtime.errors import DATABASE_ERRORS, Contention
from saga_kit.runtime.session import STATEMENT_TIMEOUT_S, Session, open_session

STATEMENTS_MAX: Final = 500
"""Statements that a connection keeps prepared; ours are fewer than a hundred, whatever writes they are made of."""
CLOSE_TIMEOUT_S: Final = 5.0
GIVE_BACK_TIMEOUT_S: Final = 5.0
"""How long a server may take to roll back, and to acknowledge that a statement was cancelled."""
_PARAMETER: Final = re.compile(r"\$(\d+)")
_WRITTEN: Final = re.compile(r"\d+$")

log = structlog.get_logger(__name__)


class Write(NamedTuple):
    """An INSERT, UPDATE or DELETE with parameters `$1`, `$2`, ..., without a WITH of its own and without RETURNING."""

    sql: str
    args: tuple[Any, ...]
    rows: int | None
    """How many rows it must write; None: any number."""
    otherwise: str
    """What has happened when it wrote another number, or would have broken `unique`."""
    unique: str
    """The unique index that another transaction's row may keep it from obeying; "": none."""
    returning: str
    """The column whose values are wanted; "": none."""
    returned: list[Any]


class Connection(Protocol):
    """What a transaction needs of its connection; asyncpg's has it. `transaction` within another is a savepoint."""

    async def fetch(self, query: str, *args: Any) -> list[Any]: ...  # noqa: D102 - as asyncpg describes it
    async def execute(self, query: str, *args: Any) -> str: ...  # noqa: D102
    def transaction(self) -> Any: ...  # noqa: D102
    def sqlalchemy(self) -> AsyncEngine: ...  # noqa: D102 - as `Session`


class Transaction:
    """One transaction. Its methods are named as asyncpg's, and raise what asyncpg raises.

    Writes that are put off by `write` are sent by `flush`, all in one statement; who begins a transaction flushes it
    before the commit. They see the tables as they were before any of them, so no two may write the same row.

    It begins with its first statement, but for `read`. When nothing has begun before its last flush, and no number of
    rows can refuse that, the flush is a transaction by itself: a batch that reads and then writes once costs two round
    trips. Values of the types json and jsonb are read as Python's, and written from text, as with SQLAlchemy.
    """

    def __init__(self, connection: Connection, *, begun: bool = True) -> None:
        """`begun`: it is begun and ended by somebody else."""
        self._connection = connection
        self._own: Any = None if begun else connection.transaction()
        self._begun = begun
        self._writes: list[Write] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing has begun and nothing is put off: the database has not heard of it."""
        return not self._begun and not self._writes

    async def read(self, sql: str, *args: Any) -> list[Any]:
        """Run a statement that locks and writes nothing, and need not see the same as the next one; return its rows."""
        return await self._connection.fetch(sql, *args)

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run a statement; return its rows, whose columns are found by name and by number."""
        if not self._begun:
            await self._begin()
        return await self._connection.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """Run a statement; return its first row, None when there is none."""
        return next(iter(await self.fetch(sql, *args)), None)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Run a statement; return the first column of its first row, None when there is none."""
        row = await self.fetchrow(sql, *args)
        return None if row is None else row[0]

    async def execute(self, sql: str, *args: Any) -> int:
        """Run a statement; return how many rows it wrote, or read."""
        if not self._begun:
            await self._begin()
        found = _WRITTEN.search(await self._connection.execute(sql, *args))
        return 0 if found is None else int(found[0])

    def write(
        self,
        sql: str,
        *args: Any,
        rows: int | None = None,
        otherwise: str = "",
        unique: str = "",
        returning: str = "",
    ) -> list[Any]:
        """Put off a write; return a list that `flush` fills with the values of the column `returning`.

        `flush` raises `Contention` with the text `otherwise` when the statement writes another number of rows than
        `rows`, or a value twice in the unique index `unique`: another transaction was faster. In a flush of several
        writes that compare their rows, a value twice in any index says the same.
        """
        returned: list[Any] = []
        self._writes.append(Write(sql, args, rows, otherwise, unique, returning, returned))
        return returned

    async def flush(self, *, last: bool = False) -> None:
        """Send what was put off; `last`: only the commit follows. Raises `Contention` (see `write`)."""
        if not self._writes:
            return
        writes, self._writes = self._writes, []
        if not (last and all(write.rows is None for write in writes)):
            await self._begin()
        try:
            results = await self._send(writes)
        except asyncpg.UniqueViolationError as error:
            if faster := _faster(writes, error.constraint_name or ""):
                raise Contention(faster) from error
            raise
        for write, (number, returned) in zip(writes, results, strict=True):
            if write.rows is not None and number != write.rows:
                raise Contention(write.otherwise or f"{number} rows were written instead of {write.rows}")
            write.returned.extend(returned)

    async def _send(self, writes: list[Write]) -> list[tuple[int, list[Any]]]:
        """Send writes as one statement; return for each how many rows it wrote, and what it returned."""
        sql = compose(tuple((write.sql, len(write.args), write.returning) for write in writes))
        [row] = await self._connection.fetch(sql, *(arg for write in writes for arg in write.args))
        return [(number, []) if type(number) is int else (len(number), number) for number in row]

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo, after an error inside, what was done or put off inside, so that the transaction can go on.

        What was put off before is sent first: it is none of what may be undone.
        """
        await self._begin()
        await self.flush()
        try:
            async with self._connection.transaction():
                yield
                await self.flush()
        except BaseException:
            self._writes.clear()
            raise

    @asynccontextmanager
    async def sqlalchemy(self) -> AsyncIterator[AsyncConnection]:
        """Give SQLAlchemy's connection within this transaction, for handlers that are written with it.

        What was put off is sent first, so its statements see it.
        """
        await self._begin()
        await self.flush()
        async with self._connection.sqlalchemy().connect() as connection:
            yield connection

    async def _begin(self) -> None:
        if not self._begun:
            await self._own.start()
            self._begun = True

    async def __aenter__(self) -> Self:
        """Begin with the first statement; see the class."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush and commit, or roll back after an error."""
        if kind is None:
            try:
                await self.flush(last=True)
            except BaseException:
                await self._end(commit=False)
                raise
        await self._end(commit=kind is None)

    async def _end(self, *, commit: bool) -> None:
        if self._own is None or not self._begun:
            return
        if commit:
            await self._own.commit()
            return
        # What failed says more than a rollback that fails after it; the pool takes no connection in a transaction.
        with suppress(*DATABASE_ERRORS, OSError):
            async with asyncio.timeout(GIVE_BACK_TIMEOUT_S):
                await self._own.rollback()


class Begins(Protocol):
    """Begins transactions: `Transactions`, or whatever stands in for them."""

    def begin(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction; at the end flush and commit it, or roll it back after an error."""


class Transactions:
    """A pool of connections of its own, with the limits and checks of `database`."""

    def __init__(
        self,
        url: URL,
        *,
        application_name: str,
        size: int = 5,
        by_key: bool = False,
        statement_timeout_s: int = STATEMENT_TIMEOUT_S,
    ) -> None:
        """Connect to nothing yet. `by_key`: as for `database.create_engine`.

        The server ends a statement after `statement_timeout_s`; one that no longer answers is given up a third later.
        """
        self._url = url
        self._settings: Mapping[str, str] = {
            **settings_of(url, application_name, by_key=by_key),
            "statement_timeout": f"{statement_timeout_s}s",
        }
        self._command_timeout_s = statement_timeout_s * COMMAND_TIMEOUT_S / STATEMENT_TIMEOUT_S
        self._size = size
        self._free = asyncio.Semaphore(size)
        self._pool: asyncpg.Pool | None = None
        self._making = asyncio.Lock()
        self._stale = False
        """Whether the connections that there are must be replaced."""
        self._replaced = 0
        """How often they were."""

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """Begin a transaction; at the end flush and commit it, or roll it back after an error.

        Raises what asyncpg raises, `TimeoutError` when no connection is free, and `CannotStart` for an unfit server.
        """
        async with self._connection() as connection, Transaction(connection, begun=False) as tx:
            yield tx

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Transaction]:
        """Give a connection on which each statement is a transaction of its own, which saves two round trips.

        Only what is put off is a transaction together, which begins with the flush.
        """
        async with self._connection() as connection:
            tx = Transaction(connection)
            yield tx
            async with connection.transaction():
                await tx.flush()

    async def close(self) -> None:
        """Close all connections; those in use when they are given back, but not later than `CLOSE_TIMEOUT_S`."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        pool = self._pool or await self._make()
        if self._stale:
            self._stale = False
            self._replaced += 1
            await pool.expire_connections()
        async with asyncio.timeout(POOL_TIMEOUT_S):
            await self._free.acquire()
        try:
            # No timeout here: it would count connecting too, which tries one host of several after the other.
            connection = await pool.acquire()
            try:
                yield connection
            finally:
                with suppress(TimeoutError):  # then the pool has ended it
                    await pool.release(connection, timeout=GIVE_BACK_TIMEOUT_S)
        except (*DATABASE_ERRORS, TimeoutError) as error:
            self._stale = self._stale or ends_sessions(error)
            raise
        finally:
            self._free.release()

    async def _make(self) -> asyncpg.Pool:
        async with self._making:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    min_size=0,
                    max_size=self._size,
                    max_inactive_connection_lifetime=RECYCLE_S,
                    max_queries=math.inf,  # `RECYCLE_S` replaces a session; a busy one would be every minute
                    connect=self._open,
                    reset=_keep_as_it_is,
                )
            return self._pool

    async def _open(self, *_: Any, **__: Any) -> Session:
        session = await open_session(
            self._url,
            self._settings,
            command_timeout_s=self._command_timeout_s,
            statement_cache_size=STATEMENTS_MAX,
            max_cached_statement_lifetime=0,  # for as long as the connection
            max_cacheable_statement_size=0,  # however long its text is
        )
        await _read_json(session)
        loop = asyncio.get_running_loop()
        loop.call_later(READ_ONLY_S if session.read_only else RECYCLE_S, self._expire, self._replaced)
        return session

    def _expire(self, replaced: int) -> None:
        """Have the connections replaced, unless that was done since: or each of them would have it done once more."""
        if replaced == self._replaced:
            self._stale = True


@asynccontextmanager
async def begin(source: AsyncEngine | Begins) -> AsyncIterator[Transaction]:
    """Begin a transaction of an engine or of a pool; at the end flush and commit it, or roll it back after an error."""
    async with source.begin() as begun:
        if isinstance(begun, Transaction):
            yield begun
            return
        await begun.exec_driver_sql("SELECT")  # SQLAlchemy begins with the first statement
        raw: Any = await begun.get_raw_connection()
        session: Session = raw.driver_connection
        tx = Transaction(session)
        try:
            yield tx
            await tx.flush()
        except (*DATABASE_ERRORS, TimeoutError) as error:
            # SQLAlchemy sees no error of the driver's, and would roll back on a connection that is no more.
            if ends_sessions(error) or session.is_closed():
                await begun.invalidate(error)
                await begun.engine.dispose()
            raise


def alone(source: AsyncEngine | Begins) -> AbstractAsyncContextManager[Transaction]:
    """Give a connection for statements that need no common transaction; of an engine, a transaction."""
    return source.alone() if isinstance(source, Transactions) else begin(source)


def _faster(writes: Sequence[Write], index: str) -> str:
    """Say what another transaction has done, if that is why a value would be in an index twice; else "".

    All parts of a statement run, also those after one that writes too few rows because somebody was faster. What they
    would write is then there already, and their index is violated before any number of rows is compared.
    """
    for write in writes:
        if write.unique and write.unique == index:
            return write.otherwise
    guarded = len(writes) > 1 and any(write.rows is not None for write in writes)
    return f"another transaction was faster: {index} has the value" if guarded else ""


@lru_cache(STATEMENTS_MAX)
def compose(writes: tuple[tuple[str, int, str], ...]) -> str:
    """Make one statement of several: each is its text, the number of its parameters, and the column that it returns.

    Its only row has a column for each: the number of rows, or an array of the values that were asked for.
    """
    parts, columns, before = [], [], 0
    for number, (sql, parameters, returning) in enumerate(writes):
        parts.append(f"write_{number} AS (\n{_shifted(sql.strip(), before)}\nRETURNING {returning or 'NULL'})")
        what, array = (returning, "ARRAY") if returning else ("count(*)", "")
        columns.append(f"{array}(SELECT {what} FROM write_{number})")  # noqa: S608 - our own words
        before += parameters
    return f"WITH {', '.join(parts)}\nSELECT {', '.join(columns)}"


def _shifted(sql: str, by: int) -> str:
    """Make the numbers of a statement's parameters follow those of the statements before it."""
    return _PARAMETER.sub(lambda found: f"${int(found[1]) + by}", sql)


async def _keep_as_it_is(_: Any) -> None:
    """Reset nothing: no statement of ours changes a session, and asyncpg itself ends a transaction that is open."""


async def _read_json(session: Session) -> None:
    """Let a session read json and jsonb as SQLAlchemy does, whether it is used with SQLAlchemy or not."""
    for name, version in (("json", b""), ("jsonb", b"\x01")):  # PostgreSQL's binary jsonb begins with a version

        def encode(text: str, version: bytes = version) -> bytes:
            return version + text.encode()

        def decode(value: bytes, version: bytes = version) -> Any:
            return json.loads(value.removeprefix(version))

        await session.set_type_codec(name, schema="pg_catalog", format="binary", encoder=encode, decoder=decode)
