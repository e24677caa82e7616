"""The pool of transactions gives out sessions that work, each to one at a time, and loses none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from local_stack.ports import free_ports
from saga_kit.runtime.database import COMMAND_TIMEOUT_S, create_engine
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.errors import classify
from saga_kit.runtime.transactions import Begins, Transactions, begin
from tests.saga_kit.runtime.names_table import INSERT, equals, insert, rows, until, value
from tests.saga_kit.support import Schema
from tests.support.proxy import Proxy


async def test_a_cancelled_task_leaves_no_open_transaction(names: Schema, only: Transactions) -> None:
    """A task that is cancelled during a statement gives its session back, without its transaction and its locks."""
    entered = asyncio.Event()

    async def sleeps() -> None:
        async with only.begin() as tx:
            await tx.execute(INSERT.format(s=names.name), ["a"], [1])
            entered.set()
            await tx.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(sleeps())
    await entered.wait()
    at_work = "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND wait_event = 'PgSleep'"
    await until(lambda: names.rows(at_work))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    open_ones = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kit-tests' AND pid <> pg_backend_pid()"
        " AND datname = current_database() AND xact_start IS NOT NULL"
    )
    await until(lambda: equals(names.rows(open_ones), [(0,)]))
    async with only.begin() as tx:
        assert 0 == await tx.fetchval(f"SELECT count(*) FROM {names.name}.names")
        insert(tx, names, ["a"], [1])
    assert [("a", 1)] == await rows(names)


async def test_a_task_that_is_cancelled_while_it_waits_takes_no_session(only: Transactions) -> None:
    """A task that is cancelled while it waits for a session leaves the pool whole."""
    async with only.begin() as tx:
        waits = asyncio.create_task(value(only, "SELECT 1"))
        while not only._free._waiters:  # noqa: SLF001 - nothing else tells that it waits
            await asyncio.sleep(0)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert 2 == await tx.fetchval("SELECT 2")
    assert 3 == await value(only, "SELECT 3")


async def test_connecting_may_take_longer_than_waiting_for_a_session(
    only: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is for a session to become free: of several hosts, those that are dead may take long to give up on."""
    monkeypatch.setattr("saga_kit.runtime.transactions.POOL_TIMEOUT_S", 0.2)
    connect = only._open  # noqa: SLF001 - there is no slow server at hand

    async def slowly(*args: Any, **options: Any) -> Any:
        await asyncio.sleep(0.5)  # a host that does not answer, for longer than the limit
        return await connect(*args, **options)

    monkeypatch.setattr(only, "_open", slowly)
    async with only.begin() as tx:
        assert 1 == await tx.fetchval("SELECT 1")
        with pytest.raises(TimeoutError):
            await value(only, "SELECT 2")
    assert 3 == await value(only, "SELECT 3")


async def test_a_statement_that_is_not_answered_ends(only: Transactions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's own limit ends a statement, as an outage, and the pool goes on."""
    with monkeypatch.context() as hasty:
        hasty.setattr(only, "_command_timeout_s", 0.3)
        with pytest.raises(TimeoutError) as late:
            await value(only, "SELECT pg_sleep(60)")
    assert "infrastructure" == classify(late.value)
    assert 1 == await value(only, "SELECT 1")


PATIENCE_S = 6
"""How long a statement waits for a server that is silent; SQLAlchemy then gives an orderly end two seconds.

Another wait of this kind is longer than these, and than a busy machine stands still.
"""


@pytest.mark.parametrize("kind", ["transactions", "engine"])
async def test_a_server_that_falls_silent_is_given_up_once(
    names: Schema, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a statement that is not answered, neither a rollback nor a session's return to its pool waits as long."""
    monkeypatch.setattr("saga_kit.runtime.transactions.COMMAND_TIMEOUT_S", PATIENCE_S)
    async with silent_server(names, kind) as (source, proxy):
        assert 1 == await value(source, "SELECT 1")

        async def falls_silent() -> None:
            async with begin(source) as tx:
                await tx.execute(INSERT.format(s=names.name), ["a"], [1])
                proxy.swallow()
                async with tx.savepoint():
                    await tx.fetchval("SELECT 2")

        begin_s = time.monotonic()
        with pytest.raises(TimeoutError):
            await falls_silent()
        assert PATIENCE_S <= time.monotonic() - begin_s < 2 * PATIENCE_S
        proxy.heal()
        assert 3 == await value(source, "SELECT 3")


@pytest.mark.parametrize("kind", ["transactions", "engine"])
async def test_whoever_comes_after_a_silent_server_gets_a_new_session(
    names: Schema, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement without an answer is enough: sessions that were idle then are as dead, and nobody tries them."""
    monkeypatch.setattr("saga_kit.runtime.transactions.COMMAND_TIMEOUT_S", PATIENCE_S)
    async with silent_server(names, kind, size=2) as (source, proxy):
        async with begin(source) as one, begin(source) as other:
            assert (1, 2) == (await one.fetchval("SELECT 1"), await other.fetchval("SELECT 2"))
        proxy.swallow()
        with pytest.raises(TimeoutError):
            await value(source, "SELECT 3")
        proxy.heal()
        begin_s = time.monotonic()
        assert 4 == await value(source, "SELECT 4")
        assert time.monotonic() - begin_s < PATIENCE_S


async def test_sqlalchemys_own_statement_gives_a_silent_server_up_once(names: Schema) -> None:
    """A report, or a health check, that gets no answer does not wait for its rollback too."""
    async with silent_server(names, "engine") as (source, proxy):
        assert isinstance(source, AsyncEngine)

        async def falls_silent() -> None:
            async with source.connect() as connection:
                await connection.exec_driver_sql("SELECT 1")
                proxy.swallow()
                await connection.exec_driver_sql("SELECT 2")

        begin_s = time.monotonic()
        with pytest.raises(TimeoutError):
            await falls_silent()
        assert PATIENCE_S <= time.monotonic() - begin_s < 2 * PATIENCE_S
        proxy.heal()
        assert 3 == await value(source, "SELECT 3")


async def test_a_task_that_is_cancelled_leaves_a_silent_server_soon(
    names: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks a task to end waits for a silent server no longer than for one that rolls back."""
    monkeypatch.setattr("saga_kit.runtime.transactions.GIVE_BACK_TIMEOUT_S", 0.3)
    async with silent_server(names, "transactions") as (source, proxy):

        async def work() -> None:
            async with begin(source) as tx:
                await tx.fetchval("SELECT 1")
                proxy.swallow()
                await tx.fetchval("SELECT 2")

        task = asyncio.create_task(work())
        await proxy.swallowed.wait()
        begin_s = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begin_s < COMMAND_TIMEOUT_S / 2
        proxy.heal()
        assert 3 == await value(source, "SELECT 3")


@asynccontextmanager
async def silent_server(names: Schema, kind: str, size: int = 1) -> AsyncIterator[tuple[AsyncEngine | Begins, Proxy]]:
    """Give a pool of sessions, the kit's own or an engine, and the proxy through which they go."""
    url = parse_database_url(names.url)
    [port] = free_ports(1)
    proxy = Proxy(port)
    proxy.target = (url.host or "localhost", url.port or 5432)
    await proxy.start()
    there = url.set(host="127.0.0.1", port=port)
    pool = Transactions(there, application_name="kit-tests", size=size)
    engine = create_engine(there, application_name="kit-tests", pool_size=size, command_timeout_s=PATIENCE_S)
    try:
        yield (engine if kind == "engine" else pool), proxy
    finally:
        await pool.close()
        await engine.dispose()
        await proxy.close()


@pytest.mark.parametrize("sql", ["SELECT pg_terminate_backend(pg_backend_pid())", "{read_only}"])
async def test_a_session_that_the_server_ends_is_replaced(
    names: Schema, source: AsyncEngine | Begins, sql: str
) -> None:
    """The error is the server's own, and the next transaction has another session."""
    before = await value(source, "SELECT pg_backend_pid()")

    async def work() -> None:
        async with begin(source) as tx:
            if sql == "{read_only}":
                await tx.execute("SET TRANSACTION READ ONLY")
                await tx.execute(INSERT.format(s=names.name), ["a"], [1])
            else:
                await tx.execute(sql)

    with pytest.raises(asyncpg.PostgresError) as ended:
        await work()
    assert "infrastructure" == classify(ended.value)
    assert before != await value(source, "SELECT pg_backend_pid()")


async def test_the_age_of_sessions_has_them_replaced_once(names: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest session has all of them replaced; when the time of the second comes, that is done already."""
    monkeypatch.setattr("saga_kit.runtime.transactions.RECYCLE_S", 0.0)
    pool = Transactions(parse_database_url(names.url), application_name="kit-tests", size=2)
    too_old: list[int] = []
    expire = pool._expire  # noqa: SLF001 - so that the test, and no clock, says when a session is too old
    monkeypatch.setattr(pool, "_expire", too_old.append)

    async def sessions() -> set[int]:
        async with pool.begin() as one, pool.begin() as other:
            return {await one.fetchval("SELECT pg_backend_pid()"), await other.fetchval("SELECT pg_backend_pid()")}

    first = await sessions()
    while len(too_old) < 2:
        await asyncio.sleep(0)
    expire(too_old[0])
    second = await sessions()
    assert not first & second
    expire(too_old[1])
    assert second == await sessions()
    await pool.close()


async def test_a_closed_pool_has_no_session(names: Schema) -> None:
    """Closing a pool closes its sessions; one that was never used has none, and is closed as well."""
    pool = Transactions(parse_database_url(names.url), application_name="kit-tests")
    await pool.close()
    pid = await value(pool, "SELECT pg_backend_pid()")
    await pool.close()
    await until(lambda: equals(names.rows(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"), []))
