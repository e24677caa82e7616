"""Sessions have the needed settings under hostile defaults, after a time without writes, and behind a pooler."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from saga_kit.runtime.database import POOL_TIMEOUT_S, READ_ONLY_S, create_engine, final_cause, ping
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.errors import classify
from saga_kit.runtime.session import NEWEST, OldPrimary, unfit
from saga_kit.runtime.transactions import Transactions
from tests.support.infrastructure import Infrastructure, drop_database

PATIENT_S: Final = 4.0
HOSTILE: Final = {
    "synchronous_commit": ("off", "on"),
    "default_transaction_isolation": ("serializable", "read committed"),
    "default_transaction_deferrable": ("on", "off"),
    "statement_timeout": ("1ms", "15s"),
    "lock_timeout": ("1ms", "5s"),
    "idle_in_transaction_session_timeout": ("1ms", "10s"),
    "idle_session_timeout": ("1ms", "0"),
    "transaction_timeout": ("2s", "0"),
    "search_path": ("hostile, pg_catalog", "pg_catalog"),
    "TimeZone": ("Asia/Kathmandu", "UTC"),
    "DateStyle": ("SQL, DMY", "ISO, MDY"),
    "IntervalStyle": ("iso_8601", "postgres"),
    "bytea_output": ("escape", "hex"),
    "extra_float_digits": ("-15", "1"),
    "standard_conforming_strings": ("off", "on"),
    "transform_null_equals": ("on", "off"),
    "array_nulls": ("off", "on"),
    "client_encoding": ("SQL_ASCII", "UTF8"),
    "jit": ("on", "off"),
}
"""Defaults that an administrator may set on the role or the database, and the values that our sessions have anyway."""


class ScratchDatabase:
    """A database of this test's own, and its administrator."""

    def __init__(self, admin_url: str, name: str) -> None:
        self.name, self.url = name, urlsplit(admin_url)._replace(path=f"/{name}").geturl()
        self._admin_url = admin_url

    async def administrate(self, *statements: str) -> None:
        """Run statements as the administrator; `{db}` stands for the database."""
        connection = await asyncpg.connect(self._admin_url)
        for statement in statements:
            await connection.execute(statement.replace("{db}", self.name))
        await connection.close()

    async def stop_writes(self, how: str = "on") -> None:
        """Make every new session read-only, or not (`off`), and end the present ones."""
        await self.administrate(
            f"ALTER DATABASE {{db}} SET default_transaction_read_only = {how}",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{db}'",
        )


@pytest_asyncio.fixture
async def scratch(infrastructure: Infrastructure) -> AsyncIterator[ScratchDatabase]:
    """Give this test a database that it may damage."""
    one = ScratchDatabase(infrastructure.database_url_admin, f"test_{secrets.token_hex(6)}")
    await one.administrate("CREATE DATABASE {db}")
    yield one
    await drop_database(infrastructure.database_url_admin, one.name)


Ask = Callable[[str], Awaitable[Any]]
"""Runs a statement; returns the first value of its first row."""


class Pool(Protocol):
    """What each kind of pool must do, of at most three sessions."""

    def begin(self) -> AbstractAsyncContextManager[Ask]:
        """Begin a transaction."""

    async def ping(self) -> None:
        """Ask whether the database serves."""

    async def close(self) -> None:
        """Close all sessions."""


class EnginePool:
    """SQLAlchemy's pool."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(parse_database_url(url), application_name="session-tests", pool_size=3)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Ask]:
        """Begin a transaction."""
        async with self._engine.begin() as connection:

            async def ask(sql: str) -> Any:
                result = await connection.exec_driver_sql(sql)
                return result.scalar() if result.returns_rows else None

            yield ask

    async def ping(self) -> None:
        """Ask whether the database serves."""
        await ping(self._engine)

    async def close(self) -> None:
        """Close all sessions."""
        await self._engine.dispose()


class BatchPool:
    """The pool of the transactions of batches."""

    def __init__(self, url: str) -> None:
        self._transactions = Transactions(parse_database_url(url), application_name="session-tests", size=3)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Ask]:
        """Begin a transaction."""
        async with self._transactions.begin() as tx:
            yield tx.fetchval

    async def ping(self) -> None:
        """Ask whether the database serves."""
        async with self._transactions.alone() as tx:
            await tx.execute("SELECT")

    async def close(self) -> None:
        """Close all sessions."""
        await self._transactions.close()


KINDS: Final[dict[str, Callable[[str], Pool]]] = {"engine": EnginePool, "transactions": BatchPool}
of_each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest_asyncio.fixture(params=KINDS)
async def pool(scratch: ScratchDatabase, request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    """Make a pool of each kind for this database."""
    one = KINDS[request.param](scratch.url)
    yield one
    await one.close()


@pytest_asyncio.fixture
async def engine(scratch: ScratchDatabase) -> AsyncIterator[AsyncEngine]:
    """Make an engine for this database."""
    one = create_engine(parse_database_url(scratch.url), application_name="session-tests", pool_size=3)
    yield one
    await one.dispose()


async def _write(pool: Pool) -> None:
    async with pool.begin() as ask:
        await ask("CREATE TABLE IF NOT EXISTS public.t (n int)")
        await ask("INSERT INTO public.t VALUES (1)")


async def _ask(pool: Pool, sql: str) -> Any:
    async with pool.begin() as ask:
        return await ask(sql)


async def _hold_all(pool: Pool, sql: str = "SELECT 1") -> list[Any]:
    """Read with every session of the pool at the same time, so that all are made."""
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(pool.begin()) for _ in range(3)]
        return [await ask(sql) for ask in sessions]


@pytest.mark.parametrize("whose", ["DATABASE {db}", "ROLE owner IN DATABASE {db}"])
async def test_no_default_of_the_server_weakens_a_session(scratch: ScratchDatabase, pool: Pool, whose: str) -> None:
    """Defaults of the database or the role change no setting that our sessions depend on."""
    owner = urlsplit(scratch.url).username or ""
    await scratch.administrate(
        *(f"ALTER {whose.replace('owner', owner)} SET {name} = {bad if name == 'search_path' else repr(bad)}"
          for name, (bad, _) in HOSTILE.items())
    )  # fmt: skip
    async with pool.begin() as ask:
        found = {name: await ask(f"SHOW {name}") for name in HOSTILE}

    assert {name: good for name, (_, good) in HOSTILE.items()} == found


async def test_a_session_that_cannot_write_leaves_the_pool(scratch: ScratchDatabase, pool: Pool) -> None:
    """Within seconds after the server takes writes again, all sessions of the pool do; until then they can read."""
    await _write(pool)
    await scratch.stop_writes()
    with pytest.raises(Exception, match=r"connection|terminating|read-only|another operation") as ended:
        await _write(pool)
    assert "infrastructure" == classify(ended.value)
    assert [1, 1, 1] == await _hold_all(pool)
    with pytest.raises(Exception, match="read-only transaction") as refused:
        await _write(pool)
    assert "infrastructure" == classify(refused.value)
    await _hold_all(pool)

    await scratch.administrate("ALTER DATABASE {db} RESET default_transaction_read_only")
    begin = time.monotonic()
    async with asyncio.timeout(60):
        while True:
            try:
                await _write(pool)
                break
            except Exception:  # noqa: BLE001 - the assertions above check which
                await asyncio.sleep(0.1)
    await _hold_all(pool)
    async with asyncio.TaskGroup() as all_at_once:
        for _ in range(3):
            all_at_once.create_task(_write(pool))
    assert time.monotonic() - begin < 15


async def test_a_session_of_a_read_only_server_serves_readers_for_a_second(
    scratch: ScratchDatabase, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that began on a read-only server is used again at first, and replaced after `READ_ONLY_S`."""
    await scratch.stop_writes()
    for module in ("database", "transactions"):
        monkeypatch.setattr(f"saga_kit.runtime.{module}.READ_ONLY_S", PATIENT_S)  # more than a machine stands still
    began = time.monotonic()
    first = await _ask(pool, "SELECT pg_backend_pid()")
    assert first == await _ask(pool, "SELECT pg_backend_pid()")
    async with asyncio.timeout(60):
        while first == await _ask(pool, "SELECT pg_backend_pid()"):
            await asyncio.sleep(0.02)
    assert time.monotonic() - began > PATIENT_S
    assert READ_ONLY_S == 1


@pytest.mark.parametrize(
    "ends",
    [
        "DO $x$ BEGIN RAISE EXCEPTION USING ERRCODE = 'admin_shutdown'; END $x$",
        "DO $x$ BEGIN RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction'; END $x$",
        "SELECT pg_terminate_backend(pg_backend_pid())",
    ],
)
async def test_a_server_that_ends_one_session_has_all_replaced(pool: Pool, ends: str) -> None:
    """After the server ended a session, or refused a write in one, the pool gives out none that was made before."""
    before = await _hold_all(pool, "SELECT pg_backend_pid()")
    with pytest.raises(Exception, match=r"admin_shutdown|read_only|connection") as ended:
        await _ask(pool, ends)
    after = await _hold_all(pool, "SELECT pg_backend_pid()")

    assert "infrastructure" == classify(ended.value)
    assert set() == set(before) & set(after)


async def test_an_error_of_a_statement_replaces_no_session(pool: Pool) -> None:
    """After any other error all sessions stay."""
    before = await _hold_all(pool, "SELECT pg_backend_pid()")
    with pytest.raises(Exception, match="division by zero"):
        await _ask(pool, "SELECT 1 / 0")
    assert set(before) == set(await _hold_all(pool, "SELECT pg_backend_pid()"))


@of_each_kind
async def test_a_wait_for_a_session_ends(scratch: ScratchDatabase, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all sessions are in use, the next one is waited for `POOL_TIMEOUT_S`, which is no fault of a message."""
    for module in ("database", "transactions"):
        monkeypatch.setattr(f"saga_kit.runtime.{module}.POOL_TIMEOUT_S", 0.3)
    pool = KINDS[kind](scratch.url)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(pool.begin())
        begin = time.monotonic()
        with pytest.raises(Exception, match=r"QueuePool limit|^$") as waited:
            await _ask(pool, "SELECT 1")
        assert 0.3 <= time.monotonic() - begin < POOL_TIMEOUT_S
    assert 1 == await _ask(pool, "SELECT 1")
    await pool.close()

    assert "infrastructure" == classify(waited.value)


async def test_of_several_hosts_one_that_takes_writes_serves_also_those_who_only_read(scratch: ScratchDatabase) -> None:
    """An audit sets its session to read only, and that is no reason to pass over the server."""
    parts = urlsplit(scratch.url)
    login, _, host = parts.netloc.rpartition("@")
    twice = parts._replace(netloc=f"{login}@{host},{host}").geturl()
    reader = create_engine(
        parse_database_url(twice), application_name="reader", settings={"default_transaction_read_only": "on"}
    )
    try:
        async with reader.connect() as connection:
            assert "on" == (await connection.exec_driver_sql("SHOW transaction_read_only")).scalar_one()
    finally:
        await reader.dispose()


async def test_of_several_hosts_an_old_primary_is_passed_over(scratch: ScratchDatabase) -> None:
    """A server whose timeline is older than one that was seen is refused by its name; a single host is not judged."""
    owner = await asyncpg.connect(scratch.url)
    system = await owner.fetchval("SELECT system_identifier FROM pg_control_system()")
    await owner.close()
    parts = urlsplit(scratch.url)
    login, _, host = parts.netloc.rpartition("@")
    several = create_engine(
        parse_database_url(parts._replace(netloc=f"{login}@{host},{host}").geturl()), application_name="several"
    )
    single = create_engine(parse_database_url(scratch.url), application_name="single")
    try:
        async with several.connect():
            assert 1 <= NEWEST[system] < 1_000_000
        await several.dispose()
        NEWEST[system] = 1_000_000
        with pytest.raises(OldPrimary, match=f"{parts.port}/.* was replaced by another primary") as refused:
            async with several.connect():
                pass
        assert "infrastructure" == classify(refused.value)
        async with single.connect():
            pass
    finally:
        del NEWEST[system]
        await several.dispose()
        await single.dispose()


async def test_a_ping_asks_whether_the_database_could_write(scratch: ScratchDatabase, engine: AsyncEngine) -> None:
    """A read-only database is not ready, and is ready again once it takes writes."""
    await ping(engine)
    await scratch.stop_writes()
    async with asyncio.timeout(60):
        while True:
            try:
                await ping(engine)
            except Exception as error:  # noqa: BLE001 - classified here
                if "takes no writes: default_transaction_read_only is on" in str(error):
                    break
            await asyncio.sleep(0.05)

    await scratch.stop_writes("off")
    async with asyncio.timeout(60):
        while True:
            try:
                await ping(engine)
                break
            except Exception:  # noqa: BLE001 - the sessions that were ended
                await asyncio.sleep(0.05)


@of_each_kind
async def test_a_database_that_does_not_speak_utf8_is_refused(scratch: ScratchDatabase, kind: str) -> None:
    """A server with another encoding would store other characters, so it is refused in one line and not retried."""
    name = f"{scratch.name}_latin"
    await scratch.administrate(
        f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    url = urlsplit(scratch.url)._replace(path=f"/{name}").geturl()
    pool = KINDS[kind](url)
    with pytest.raises(Exception, match="encoding is LATIN1, it must be UTF8") as refused:
        await pool.ping()
    await pool.close()
    await drop_database(scratch.url, name)

    assert "infrastructure" == classify(refused.value)
    assert (final_cause(refused.value) or "").startswith("the database's encoding is LATIN1")


async def test_constraints_that_are_turned_off_are_refused(scratch: ScratchDatabase, pool: Pool) -> None:
    """A role whose sessions skip foreign keys and triggers is refused."""
    await scratch.administrate("ALTER DATABASE {db} SET session_replication_role = replica")
    with pytest.raises(Exception, match="session_replication_role is replica"):
        await pool.ping()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"version_number": "150004", "version": "15.4"}, "PostgreSQL 15.4 is too old"),
        ({"encoding": "SQL_ASCII"}, "encoding is SQL_ASCII"),
    ],
)
def test_an_unfit_server_is_named(changes: dict[str, str], words: str | None) -> None:
    """An old server version and an encoding other than UTF-8 are refused, and the message names them."""
    good = {"version_number": "180001", "version": "18.1", "encoding": "UTF8", "replication_role": "origin"}
    assert (words is None) == (unfit({**good, **changes}) is None)
    assert (words or "") in (unfit({**good, **changes}) or "")


@of_each_kind
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda url: url._replace(netloc=url.netloc.replace(":", ":wrong", 1)), "password authentication failed"),
        (lambda url: url._replace(path="/nowhere"), 'database "nowhere" does not exist'),
    ],
)
async def test_a_wrong_address_is_a_final_cause(scratch: ScratchDatabase, change: Any, words: str, kind: str) -> None:
    """A wrong password and an unknown database are reported in one line as a final cause."""
    pool = KINDS[kind](change(urlsplit(scratch.url)).geturl())
    with pytest.raises(Exception, match=words) as refused:
        await pool.ping()
    await pool.close()

    assert words in (final_cause(refused.value) or "")
    assert "infrastructure" == classify(refused.value)
