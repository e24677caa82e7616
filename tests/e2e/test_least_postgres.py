"""The whole system runs on PostgreSQL 16, the oldest supported version; all other tests run on 18."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
import pytest_asyncio

import migrations
from saga_kit.runtime.session import SERVER_VERSION_MIN
from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import COMPLETED, HOLDINGS, mixed
from tests.e2e.system import System, running
from tests.e2e.trader import Trader
from tests.support.infrastructure import Infrastructure
from tests.support.servers import EmbeddedPostgres

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(infrastructure: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Run a small system on a PostgreSQL of the oldest version and the session's broker."""
    server = await asyncio.to_thread(EmbeddedPostgres, "pginstall")
    try:
        servers = replace(infrastructure, postgres=server)
        async with running(servers, tmp_path_factory.mktemp("least"), replicas={}) as one:
            yield one
    finally:
        await asyncio.to_thread(server.close)


async def test_orders_of_every_kind_run_to_their_end(system: System) -> None:
    """The database is migrated, every service starts, orders end as expected, and the audit finds nothing."""
    [version] = await system.owner_rows("SELECT current_setting('server_version_num')::int / 10000")
    assert SERVER_VERSION_MIN == version[0]
    async with Trader(system) as trader:
        users = await system.endow(["least"], HOLDINGS)
        wanted = [one for _, one in zip(range(30), mixed(users, seed=16), strict=False)]
        ids = await trader.trade(wanted)
        ends = await trader.ended(ids)
        assert COMPLETED in ends.values()
        await assert_all_is_well(system, trader)


async def test_the_schema_comes_and_goes(system: System) -> None:
    """Every migration can be applied and reverted on it."""
    connection = await asyncpg.connect(system.stack.database_url)
    await connection.execute("CREATE DATABASE up_and_down")
    await connection.close()
    url = system.stack.database_url.rpartition("/")[0] + "/up_and_down"
    await asyncio.to_thread(migrations.upgrade, url)
    await asyncio.to_thread(migrations.check, url)
    await asyncio.to_thread(migrations.downgrade, url, "base")
    assert await asyncio.to_thread(migrations.current, url) is None
