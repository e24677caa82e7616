"""A simulated PostgreSQL: read committed, row and advisory locks, unique keys, commits of unknown outcome.

It knows no table: `statements` says what each statement does. `test_same_as_postgres.py` runs the same statements on
the real server and compares the rows. A row is a dict; a stored row is never changed in place.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol, cast

import asyncpg

from saga_kit.runtime.transactions import Transaction as KitTransaction
from saga_kit.runtime.transactions import Write
from tests.evidence.simulation.locks import Number, NumberedLocks

Row = dict[str, Any]
Key = Any
EPOCH: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LOCK_TIMEOUT_S: Final = 5.0
DEADLOCK: Final = "40P01"
READ_ONLY: Final = "25006"
LOCK_NOT_AVAILABLE: Final = "55P03"
CHECK_VIOLATION: Final = "23514"


class ServerError(asyncpg.PostgresError):  # type: ignore[misc]  # the driver has no annotations
    """An error of the server, with its SQLSTATE."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class UniqueViolation(asyncpg.UniqueViolationError):  # type: ignore[misc]
    """The server's error for a value that a unique index has already."""

    def __init__(self, index: str) -> None:
        super().__init__(f'duplicate key value violates unique constraint "{index}"')
        self.constraint_name = index


class World(Protocol):
    """The connection to the server: it takes time, and raises `OSError` when it breaks."""

    async def round_trip(self) -> None:
        """Take the time of a statement."""

    async def commits(self, apply: Callable[[], None]) -> None:
        """Take the time of a commit, calling `apply` or not, and raise when the client can't know which."""


class Result(NamedTuple):
    """The rows of a statement, and how many rows it wrote."""

    rows: Sequence[Any] = ()
    written: int = 0


Statement = Callable[..., Awaitable[Result]]
"""Called with the transaction and the statement's parameters."""


class Step(NamedTuple):
    """What a transaction did in one round trip: a statement, or `writes` together; `reads`: its rows were wanted."""

    writes: list[Write]
    reads: bool = False

    @classmethod
    def single(cls, sql: str, args: tuple[Any, ...], *, reads: bool) -> Step:
        """Make a step of one statement."""
        return cls([Write(sql, args, None, "", "", "", [])], reads)


class Said(NamedTuple):
    """A transaction's steps, and the server's clock when it ended."""

    at: datetime
    steps: list[Step]


class Database:
    """The committed rows of all tables, the holders of the locks, and the clock."""

    def __init__(self, statements: Mapping[str, Statement], clock: Callable[[], float]) -> None:
        """Begin empty; `clock` gives simulated seconds."""
        self.statements = statements
        self.tables: dict[str, dict[Key, Row]] = defaultdict(dict)
        self.locks: dict[tuple[str, Key], Transaction] = {}
        self.numbered = NumberedLocks()
        self.open: set[Transaction] = set()
        self.clock_is_off_s = 0.0
        self.read_only = False
        """Whether it refuses locks and writes, as a standby does, or a primary during a switch-over."""
        self.committed: list[Callable[[Transaction], None]] = []
        """Called with each transaction that has committed."""
        self.deadlocks = 0
        self.said: list[Said] | None = None
        """The statements of committed transactions, in the order of their commits; None when nobody records them."""
        self._clock = clock
        self._serial: dict[str, int] = defaultdict(int)

    def now(self) -> datetime:
        """Read the server's clock."""
        return EPOCH + timedelta(seconds=self._clock() + self.clock_is_off_s)

    def next_serial(self, table: str) -> int:
        """Take the next number of a table's identity column; a rollback does not give it back."""
        self._serial[table] += 1
        return self._serial[table]

    def restart(self) -> None:
        """End every transaction that is not committed, as a crash of the server does."""
        for tx in list(self.open):
            tx.broken = True
            tx.end()


class Transaction(KitTransaction):
    """One transaction: the kit's own, with the simulated server in place of a connection."""

    def __init__(self, database: Database, world: World) -> None:
        super().__init__(cast("Any", None))
        self.database = database
        self.writes: dict[str, dict[Key, Row | None]] = {}
        self.steps: list[Step] = []
        self.broken = False
        self.ended = asyncio.Event()
        self.is_committed = False
        self._needs_begin = False
        """Whether a statement was run that is one of a transaction, and no transaction by itself."""
        self.node: Any = world
        self._world = world
        self._locked: list[tuple[str, Key]] = []
        self.lock_timeout_s = LOCK_TIMEOUT_S
        self.waits_for: Callable[[], Iterable[Any]] = tuple
        """Whom it waits for at this moment."""
        self.looked_at: tuple[tuple[str, ...], datetime] = ((), EPOCH)
        """Of a batch of ticks: the assets whose market it read, and the clock then."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing has begun and nothing is put off."""
        return not self._needs_begin and not self._writes

    async def read(self, sql: str, *args: Any) -> list[Any]:
        """Run one of the statements that there are, which begins no transaction; return its rows."""
        await self._world.round_trip()
        result = await self._run(sql, args)
        self.steps.append(Step.single(sql, args, reads=True))
        return list(result.rows)

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run one of the statements that there are; return its rows."""
        self._needs_begin = True
        return await self.read(sql, *args)

    async def execute(self, sql: str, *args: Any) -> int:
        """Run one of the statements that there are; return how many rows it wrote."""
        self._needs_begin = True
        await self._world.round_trip()
        result = await self._run(sql, args)
        self.steps.append(Step.single(sql, args, reads=False))
        return result.written

    async def flush(self, *, last: bool = False) -> None:
        """Send what was put off; as the kit does, in a transaction by itself where nothing else needs one."""
        alone = last and not self._needs_begin and all(write.rows is None for write in self._writes)
        self._needs_begin = self._needs_begin or bool(self._writes)
        await super().flush(last=last)
        if alone:
            await self.commit()

    async def commit(self) -> None:
        """Commit, unless that is done."""
        if self.is_committed:
            return
        self.fail_if_broken()
        await self._world.commits(self.apply)
        self.is_committed = True

    async def _send(self, writes: list[Write]) -> list[tuple[int, list[Any]]]:
        """Run the writes one after the other in one round trip; the server runs them as one statement."""
        await self._world.round_trip()
        results = [await self._run(write.sql, write.args) for write in writes]
        self.steps.append(Step(writes))
        return [(result.written, [row[0] for row in result.rows]) for result in results]

    async def _run(self, sql: str, args: tuple[Any, ...]) -> Result:
        self.fail_if_broken()
        statement = self.database.statements.get(sql)
        if statement is None:
            raise AssertionError(f"the simulation does not know this statement: {sql}")
        try:
            return await statement(self, *args)
        except asyncpg.PostgresError:
            self.end()  # an error ends a transaction and releases its locks at once
            raise

    # What statements are made of --------------------------------------------------------------------------------------

    def get(self, table: str, key: Key) -> Row | None:
        """Return the newest version of a row that this transaction may see."""
        written = self.writes.get(table)
        if written is not None and key in written:
            return written[key]
        return self.database.tables[table].get(key)

    def rows(self, table: str) -> list[tuple[Key, Row]]:
        """List what a statement that begins now sees of a table."""
        written = self.writes.get(table)
        if not written:
            return list(self.database.tables[table].items())
        merged = {**self.database.tables[table], **written}
        return [(key, row) for key, row in merged.items() if row is not None]

    async def lock(self, table: str, key: Key) -> Row | None:
        """Lock a row that exists, waiting for whoever holds it, and return it as it is then (None: it is gone)."""
        await self._take((table, key))
        return self.get(table, key)

    def is_free(self, table: str, key: Key) -> bool:
        """Tell whether a row can be locked at once (SKIP LOCKED)."""
        return self.database.locks.get((table, key), self) is self

    def holds(self, table: str, key: Key) -> bool:
        """Tell whether this transaction has locked a row."""
        return self.database.locks.get((table, key)) is self

    async def insert(self, table: str, key: Key, row: Row) -> bool:
        """Insert a row unless its key is taken; one that another transaction is inserting is waited for."""
        if self.get(table, key) is not None:
            return False
        await self._take((table, key))
        if self.get(table, key) is not None:
            return False
        self.put(table, key, row)
        return True

    def put(self, table: str, key: Key, row: Row | None) -> None:
        """Write a row that is locked; None deletes it."""
        self._fail_if_read_only()
        self.writes.setdefault(table, {})[key] = row

    def _fail_if_read_only(self) -> None:
        if self.database.read_only:
            raise ServerError(READ_ONLY, "cannot execute this in a read-only transaction")

    async def _take(self, what: tuple[str, Key]) -> None:
        self._fail_if_read_only()
        locks = self.database.locks
        while (holder := locks.get(what, self)) is not self:
            await self._wait_for(holder.ended, lambda holder=holder: (holder,))  # type: ignore[misc]
        if what not in locks:
            locks[what] = self
            self._locked.append(what)

    async def take_number(self, number: Number, *, exclusive: bool) -> None:
        """Take a lock by number, waiting for its turn; it is held to the end."""
        locks = self.database.numbered
        asked = locks.take(number, self, exclusive=exclusive)
        if asked is None:
            return
        try:
            await self._wait_for(asked.granted, lambda: locks.blockers(number, asked))
        except BaseException:
            locks.give_up(number, asked)
            raise

    def try_number(self, number: Number) -> bool:
        """Take a lock by number exclusively, if it is free at once."""
        locks = self.database.numbered
        asked = locks.take(number, self, exclusive=True)
        if asked is not None:
            locks.give_up(number, asked)
        return asked is None

    async def _wait_for(self, event: asyncio.Event, whom: Callable[[], Iterable[Any]]) -> None:
        self.waits_for = whom
        try:
            self._fail_on_deadlock()
            async with asyncio.timeout(self.lock_timeout_s):
                await event.wait()
        except TimeoutError:
            raise ServerError(LOCK_NOT_AVAILABLE, "canceling statement due to lock timeout") from None
        finally:
            self.waits_for = tuple
        self.fail_if_broken()

    def _fail_on_deadlock(self) -> None:
        known: set[Transaction] = set()
        ahead = list(self.waits_for())
        while ahead:
            one = ahead.pop()
            if one is self:
                self.database.deadlocks += 1
                raise ServerError(DEADLOCK, "deadlock detected")
            if one not in known:
                known.add(one)
                ahead += one.waits_for()

    # Its end ----------------------------------------------------------------------------------------------------------

    def fail_if_broken(self) -> None:
        """Raise `ConnectionResetError` when the server has ended this transaction."""
        if self.broken:
            raise ConnectionResetError("the server closed the connection")

    def apply(self) -> None:
        """Commit."""
        self.fail_if_broken()
        for table, written in self.writes.items():
            rows = self.database.tables[table]
            for key, row in written.items():
                if row is None:
                    rows.pop(key, None)
                else:
                    rows[key] = row
        if self.database.said is not None:
            self.database.said.append(Said(self.database.now(), self.steps))
        self.end()
        for tell in self.database.committed:
            tell(self)

    def end(self) -> None:
        """Release every lock; what is not committed by now never will be."""
        for what in self._locked:
            del self.database.locks[what]
        self._locked.clear()
        self.database.numbered.release(self)
        self.database.open.discard(self)
        self.broken = True
        self.ended.set()


class Engine:
    """Stands in for the kit's pool. `lingers_s` says how long the server keeps the locks of a dead client."""

    def __init__(self, database: Database, world: World, lingers_s: Callable[[], float] = lambda: 0.0) -> None:
        self._database = database
        self._world = world
        self._lingers_s = lingers_s

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """Begin a transaction; commit it at the end, or roll it back on an error."""
        await self._world.round_trip()
        tx = Transaction(self._database, self._world)
        self._database.open.add(tx)
        try:
            yield tx
            if not tx.is_committed:
                await tx.flush(last=True)
            await tx.commit()
        except Exception:
            tx.end()
            raise
        except BaseException:  # the process is dead; the server notices later
            asyncio.get_running_loop().call_later(self._lingers_s(), tx.end)
            raise
        finally:
            if tx.ended.is_set():
                self._database.open.discard(tx)
