"""The history runs up, down and up again; two runs take turns; a run that fails leaves nothing."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

import migrations
from operations.access.database import connected as connected_engine
from operations.retention import archive
from saga_kit.participant.holds import Holds
from saga_kit.runtime.transactions import begin
from tests.migrations.support import catalog, connected, rights, views
from tests.operations.audit import rows
from tests.support.infrastructure import Infrastructure
from tests.support.project import ROOT

BEFORE_ARCHIVE, BEFORE_LEDGER = "0004", "0005"
BEFORE, HEAD = sorted(path.name[:4] for path in (ROOT / "migrations" / "versions").glob("0*.py"))[-2:]
_DATABASE_RIGHTS = """
    SELECT right_on.* FROM pg_database
    CROSS JOIN aclexplode(coalesce(datacl, acldefault('d', datdba))) AS right_on WHERE datname = current_database()"""
_WAITS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"""
_SCHEMAS = "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1"


async def _column(url: str, query: str) -> list[str]:
    async with connected(url) as connection:
        return [row[0] for row in await connection.fetch(query)]


async def _database_rights(url: str) -> set[tuple[object, ...]]:
    async with connected(url) as connection:
        return {tuple(row) for row in await connection.fetch(_DATABASE_RIGHTS)}


async def test_upgrade_makes_everything_from_nothing(empty_url: str) -> None:
    """An empty database has no revision; after an upgrade it has the newest, and a second upgrade changes nothing."""
    assert await asyncio.to_thread(migrations.current, empty_url) is None

    await asyncio.to_thread(migrations.upgrade, empty_url)

    assert await asyncio.to_thread(migrations.current, empty_url) == HEAD
    expected = ["api", "assets", "audit", "balances", "information_schema", "orders", "public", "webhooks"]
    assert expected == await _column(empty_url, _SCHEMAS)
    before = await catalog(empty_url), await views(empty_url), await rights(empty_url)
    await asyncio.to_thread(migrations.upgrade, empty_url)
    assert before == (await catalog(empty_url), await views(empty_url), await rights(empty_url))


async def _everything(url: str) -> tuple[object, ...]:
    return await catalog(url), await views(url), await rights(url)


async def test_a_downgrade_leaves_what_was_there_before_and_upgrade_comes_back(empty_url: str) -> None:
    """The downgrade to nothing undoes everything, rights included; the next upgrade gives the same database again."""
    before = await rights(empty_url), await _database_rights(empty_url)
    await asyncio.to_thread(migrations.upgrade, empty_url)
    first = await _everything(empty_url)

    await asyncio.to_thread(migrations.downgrade, empty_url, "base")

    assert await asyncio.to_thread(migrations.current, empty_url) is None
    assert ["information_schema", "public"] == await _column(empty_url, _SCHEMAS)
    after = await rights(empty_url)
    # public's rights are written out now; they are PostgreSQL's own again.
    assert before == (after, await _database_rights(empty_url))
    await asyncio.to_thread(migrations.upgrade, empty_url)
    assert first == await _everything(empty_url)


async def test_the_last_revision_can_be_undone_alone(empty_url: str) -> None:
    """One step down is the revision before; one step up again is the newest, and neither changes anything else."""
    await asyncio.to_thread(migrations.upgrade, empty_url)
    newest = await _everything(empty_url)

    await asyncio.to_thread(migrations.downgrade, empty_url, "-1")

    assert BEFORE == await asyncio.to_thread(migrations.current, empty_url)
    assert newest != await _everything(empty_url)
    await asyncio.to_thread(migrations.upgrade, empty_url)
    assert newest == await _everything(empty_url)


_OF_ORDERS = ("orders.orders", "orders.history", "orders.fills", "balances.holds")
_EVERYTHING = "SELECT to_jsonb(one)::text FROM {table} AS one ORDER BY 1"


def _exactly(row: str) -> Any:
    """Read a row to the last digit; a document that is stored as text like one that is stored as `jsonb`."""
    read = json.loads(row, parse_float=Decimal)
    documents = {
        name: _exactly(read[name])
        for name in ("progress", "entries")
        if isinstance(read, dict) and isinstance(read.get(name), str)
    }
    return read | documents if documents else read


async def test_what_is_archived_is_back_after_a_downgrade(empty_url: str) -> None:
    """Every row as it was, to the last digit: orders, histories, fills and holds, with the columns of that time."""
    await asyncio.to_thread(migrations.upgrade, empty_url)
    async with connected(empty_url) as connection:
        await rows.insert(connection)
        await connection.execute("DELETE FROM orders.orders WHERE terms IS NOT NULL")  # no older version could go on
    before = {table: await _column(empty_url, _EVERYTHING.format(table=table)) for table in _OF_ORDERS}
    pages = ("(0,0)", "(1000,0)")
    async with connected_engine(empty_url) as engine, begin(engine) as tx:
        assert 7 == await archive.move(tx, pages, -60.0, 100)
        assert 11 == await Holds("balances").archive(tx, pages, -60.0, 100)

    await asyncio.to_thread(migrations.downgrade, empty_url, BEFORE_ARCHIVE)

    for table, had in before.items():
        has = [_exactly(row) for row in await _column(empty_url, _EVERYTHING.format(table=table))]
        of_that_time = [{name: row[name] for name in has[0]} for row in map(_exactly, had)]
        assert sorted(of_that_time, key=repr) == sorted(has, key=repr)


@pytest.mark.parametrize("with_holds", [False, True])
async def test_only_an_empty_ledger_begins_with_its_migration(empty_url: str, *, with_holds: bool) -> None:
    """A ledger with holds executes every command, as before; an empty one executes none that is older."""
    await asyncio.to_thread(migrations.upgrade, empty_url, BEFORE_LEDGER)
    async with connected(empty_url) as connection:
        if with_holds:
            await rows.insert_holds(connection)
        before = await connection.fetchval("SELECT clock_timestamp()")

        await asyncio.to_thread(migrations.upgrade, empty_url)

        began_at = await connection.fetchval("SELECT began_at FROM audit.ledger")
        assert (began_at is None) == with_holds
        assert with_holds or began_at > before


async def test_a_second_upgrade_waits_for_the_first(empty_url: str) -> None:
    """While one run has the lock another waits for it, and then finds the work done."""
    async with connected(empty_url) as first:
        transaction = first.transaction()
        await transaction.start()
        await first.execute(f"SELECT pg_advisory_xact_lock({migrations.LOCK})")

        second = asyncio.create_task(asyncio.to_thread(migrations.upgrade, empty_url))
        async with asyncio.timeout(90):
            while not await first.fetchval(_WAITS):
                await asyncio.sleep(0.01)
        assert ["information_schema", "public"] == await _column(empty_url, _SCHEMAS)
        await transaction.rollback()
        await second

    assert await asyncio.to_thread(migrations.current, empty_url) == HEAD


async def test_upgrades_at_the_same_instant_all_succeed(empty_url: str) -> None:
    """Several runs at the same time make one schema, and all succeed."""
    await asyncio.gather(*(asyncio.to_thread(migrations.upgrade, empty_url) for _ in range(3)))

    assert await asyncio.to_thread(migrations.current, empty_url) == HEAD


async def test_an_upgrade_that_fails_leaves_nothing(empty_url: str) -> None:
    """A run is one transaction: an obstacle at its end undoes its beginning."""
    async with connected(empty_url) as connection:
        await connection.execute("CREATE SCHEMA audit")

    with pytest.raises(DBAPIError, match='schema "audit" already exists'):
        await asyncio.to_thread(migrations.upgrade, empty_url)

    assert ["audit", "information_schema", "public"] == await _column(empty_url, _SCHEMAS)
    assert await asyncio.to_thread(migrations.current, empty_url) is None


async def test_a_migration_does_not_queue_behind_a_busy_table(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that gets no lock fails soon, because later statements of all services wait behind it."""
    await asyncio.to_thread(migrations.upgrade, empty_url)
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_S", 0.1)
    async with connected(empty_url) as busy, busy.transaction():
        await busy.execute("LOCK TABLE orders.orders IN ACCESS SHARE MODE")

        with pytest.raises(DBAPIError, match="lock timeout"):
            await asyncio.to_thread(migrations.downgrade, empty_url, "base")

    assert await asyncio.to_thread(migrations.current, empty_url) == HEAD


async def test_a_driver_in_the_address_does_no_harm(empty_url: str) -> None:
    """The address may name SQLAlchemy's driver, and carry libpq's sslmode."""
    address = empty_url.replace("postgresql://", "postgresql+asyncpg://") + "?sslmode=prefer"

    assert await asyncio.to_thread(migrations.current, address) is None


async def test_an_owner_who_is_no_superuser_can_migrate(infrastructure: Infrastructure, empty_url: str) -> None:
    """The owner of the database, who may create roles, needs no more to migrate; the groups may exist already."""
    name = empty_url.rpartition("/")[2]
    async with connected(infrastructure.database_url_admin) as admin:
        await admin.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'test-only'")
        await admin.execute(f"ALTER DATABASE {name} OWNER TO {name}")
    try:
        server = empty_url.rpartition("@")[2]
        url = f"postgresql://{name}:test-only@{server}"
        await asyncio.to_thread(migrations.upgrade, url)
        assert await asyncio.to_thread(migrations.current, url) == HEAD
    finally:
        async with connected(empty_url) as connection:
            await connection.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER")
            await connection.execute(f"DROP OWNED BY {name}")
        async with connected(infrastructure.database_url_admin) as admin:
            await admin.execute(f"DROP OWNED BY {name}")
            await admin.execute(f"DROP ROLE {name}")


async def test_what_alembic_can_see_agrees_with_the_tables(empty_url: str) -> None:
    """`alembic check` finds nothing to do; a missing column it would find."""
    await asyncio.to_thread(migrations.upgrade, empty_url)
    await asyncio.to_thread(migrations.check, empty_url)
    async with connected(empty_url) as connection:
        await connection.execute("ALTER TABLE orders.orders DROP COLUMN traceparent")

    with pytest.raises(Exception, match="traceparent"):
        await asyncio.to_thread(migrations.check, empty_url)


async def test_an_unreachable_database_is_an_error_at_once(infrastructure: Infrastructure) -> None:
    """The error for a database that does not exist has the server's own words."""
    url = infrastructure.database_url_admin + "_that_is_not_there"

    with pytest.raises(DBAPIError, match="does not exist"):
        await asyncio.to_thread(migrations.current, url)
