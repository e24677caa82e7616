"""Sessions have the needed settings under hostile defaults, after a time without writes, and behind a pooler."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from saga_kit.runtime.database import create_engine, final_cause, ping
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.errors import classify
from saga_kit.runtime.session import unfit
from tests.support.infrastructure import Infrastructure, drop_database

HOSTILE: Final = {
    "synchronous_commit": ("off", "on"),
    "default_transaction_isolation": ("serializable", "read committed"),
    "default_transaction_deferrable": ("on", "off"),
    "statement_timeout": ("1ms", "15s"),
    "lock_timeout": ("1ms", "5s"),
    "idle_in_transaction_session_timeout": ("1ms", "30s"),
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


@pytest_asyncio.fixture
async def engine(scratch: ScratchDatabase) -> AsyncIterator[AsyncEngine]:
    """Make an engine for this database."""
    one = create_engine(parse_database_url(scratch.url), application_name="session-tests", pool_size=3)
    yield one
    await one.dispose()


async def _write(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.exec_driver_sql("CREATE TABLE IF NOT EXISTS public.t (n int)")
        await tx.exec_driver_sql("INSERT INTO public.t VALUES (1)")


async def _hold_all(engine: AsyncEngine) -> list[Any]:
    """Read with every session of the pool at the same time, so that all are made."""
    connections = [await engine.connect() for _ in range(3)]
    answers = [(await one.exec_driver_sql("SELECT 1")).scalar_one() for one in connections]
    for one in connections:
        await one.close()
    return answers


@pytest.mark.parametrize("whose", ["DATABASE {db}", "ROLE owner IN DATABASE {db}"])
async def test_no_default_of_the_server_weakens_a_session(
    scratch: ScratchDatabase, engine: AsyncEngine, whose: str
) -> None:
    """Defaults of the database or the role change no setting that our sessions depend on."""
    owner = urlsplit(scratch.url).username or ""
    await scratch.administrate(
        *(f"ALTER {whose.replace('owner', owner)} SET {name} = {bad if name == 'search_path' else repr(bad)}"
          for name, (bad, _) in HOSTILE.items())
    )  # fmt: skip
    async with engine.connect() as connection:
        found = {name: (await connection.exec_driver_sql(f"SHOW {name}")).scalar_one() for name in HOSTILE}

    assert {name: good for name, (_, good) in HOSTILE.items()} == found


async def test_a_session_that_cannot_write_leaves_the_pool(scratch: ScratchDatabase, engine: AsyncEngine) -> None:
    """Within seconds after the server takes writes again, all sessions of the pool do; until then they can read."""
    await _write(engine)
    await scratch.stop_writes()
    with pytest.raises(Exception, match=r"connection|terminating|read-only|another operation") as ended:
        await _write(engine)
    assert "infrastructure" == classify(ended.value)
    assert [1, 1, 1] == await _hold_all(engine)
    with pytest.raises(Exception, match="read-only transaction") as refused:
        await _write(engine)
    assert "infrastructure" == classify(refused.value)
    await _hold_all(engine)

    await scratch.administrate("ALTER DATABASE {db} RESET default_transaction_read_only")
    begin = time.monotonic()
    async with asyncio.timeout(20):
        while True:
            try:
                await _write(engine)
                break
            except Exception:  # noqa: BLE001 - the assertions above check which
                await asyncio.sleep(0.1)
    await _hold_all(engine)
    async with asyncio.TaskGroup() as all_at_once:
        for _ in range(3):
            all_at_once.create_task(_write(engine))
    assert time.monotonic() - begin < 15


async def test_a_ping_asks_whether_the_database_could_write(scratch: ScratchDatabase, engine: AsyncEngine) -> None:
    """A read-only database is not ready, and is ready again once it takes writes."""
    await ping(engine)
    await scratch.stop_writes()
    async with asyncio.timeout(20):
        while True:
            try:
                await ping(engine)
            except Exception as error:  # noqa: BLE001 - classified here
                if "takes no writes: default_transaction_read_only is on" in str(error):
                    break
            await asyncio.sleep(0.05)

    await scratch.stop_writes("off")
    async with asyncio.timeout(20):
        while True:
            try:
                await ping(engine)
                break
            except Exception:  # noqa: BLE001 - the sessions that were ended
                await asyncio.sleep(0.05)


async def test_a_database_that_does_not_speak_utf8_is_refused(scratch: ScratchDatabase) -> None:
    """A server with another encoding would store other characters, so it is refused in one line and not retried."""
    name = f"{scratch.name}_latin"
    await scratch.administrate(
        f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    url = urlsplit(scratch.url)._replace(path=f"/{name}").geturl()
    engine = create_engine(parse_database_url(url), application_name="session-tests")
    with pytest.raises(Exception, match="encoding is LATIN1, it must be UTF8") as refused:
        await ping(engine)
    await engine.dispose()
    await drop_database(scratch.url, name)

    assert "infrastructure" == classify(refused.value)
    assert (final_cause(refused.value) or "").startswith("the database's encoding is LATIN1")


async def test_constraints_that_are_turned_off_are_refused(scratch: ScratchDatabase, engine: AsyncEngine) -> None:
    """A role whose sessions skip foreign keys and triggers is refused."""
    await scratch.administrate("ALTER DATABASE {db} SET session_replication_role = replica")
    with pytest.raises(Exception, match="session_replication_role is replica"):
        await ping(engine)


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda url: url._replace(netloc=url.netloc.replace(":", ":wrong", 1)), "password authentication failed"),
        (lambda url: url._replace(path="/nowhere"), 'database "nowhere" does not exist'),
    ],
)
async def test_a_wrong_address_is_a_final_cause(scratch: ScratchDatabase, change: Any, words: str) -> None:
    """A wrong password and an unknown database are reported in one line as a final cause."""
    engine = create_engine(parse_database_url(change(urlsplit(scratch.url)).geturl()), application_name="session-tests")
    with pytest.raises(Exception, match=words) as refused:
        await ping(engine)
    await engine.dispose()

    assert words in (final_cause(refused.value) or "")
    assert "infrastructure" == classify(refused.value)
