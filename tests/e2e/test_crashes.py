"""Servers restart and every process is killed while orders run: every accepted order ends, and every cent adds up."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import HOLDINGS, buy, mixed
from tests.e2e.system import System, eventually, running
from tests.e2e.trader import Trader
from tests.support.infrastructure import Infrastructure, own_broker, own_postgres

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.apache_kafka]
SERVICES = ("api", "orchestrator", "balance", "assets")
RATE = 25


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[Infrastructure]:
    """Run a PostgreSQL and an Apache Kafka that these tests may stop."""
    async with own_broker() as broker, own_postgres() as postgres:
        yield Infrastructure(postgres, broker, "apache")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(servers: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Run a system on them with one process of each service: while it is dead, no other process replaces it."""
    async with running(servers, tmp_path_factory.mktemp("crashes"), replicas={}, time_scale=0.5) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trader(system: System) -> AsyncIterator[Trader]:
    """Trade in that system."""
    async with Trader(system) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def users(system: System) -> list[str]:
    """Give twenty users enough to trade with."""
    return await system.endow([f"user-{number}" for number in range(20)], HOLDINGS)


@pytest.mark.parametrize("server", ["broker", "postgres"])
async def test_a_server_restarts_in_mid_flight(
    servers: Infrastructure, system: System, trader: Trader, users: list[str], server: str
) -> None:
    """Every service waits for the server and goes on: no process ends, every order does, the audit finds nothing."""
    before = system.stack.pids
    restart: Callable[[], Coroutine[Any, Any, None]] = getattr(servers, server).restart
    ids = await trader.trade_during(restart(), mixed(users, seed=len(server)), at_least=150, rate=RATE)
    ends = await trader.ended(ids)
    assert len(ids) == len(ends)
    assert before == system.stack.pids
    await assert_all_is_well(system, trader)


async def test_an_order_that_the_broker_missed_comes_later_or_is_told_that_it_never_will(
    servers: Infrastructure, system: System, trader: Trader, users: list[str]
) -> None:
    """A 503 names the order, which is stored: it ends when the broker is back, as EXPIRED when it is too old."""
    wanted = [buy(users[0], "ACME", "1"), buy(users[0], "ACME", "1", ends="CANCELLED EXPIRED")]
    await servers.broker.kill()
    ids = []
    for one in wanted:
        answer = await trader.call(one.user_id, "POST", "/orders", json=one.body)
        order_id, where = answer.json()["order_id"], f"/orders/{answer.json()['order_id']}"
        assert (503, "not-published", where, where) == (
            *(answer.status_code, answer.json()["code"]),
            *(answer.json()["instance"], answer.headers["location"]),
        )
        shown = await trader.call(one.user_id, "GET", where)
        assert (200, "PENDING", 0) == (shown.status_code, shown.json()["status"], shown.json()["version"])
        ids.append(order_id)
        trader.accepted[order_id] = one
    older = "UPDATE api.claims SET created_at = created_at - interval '61 s' WHERE order_id = $1::text::uuid"
    await system.owner_rows(older, ids[1])  # as if the outage had been that long
    await servers.broker.start()
    younger = "UPDATE api.claims SET created_at = now() WHERE order_id = $1::text::uuid"
    await system.owner_rows(younger, ids[0])  # as if the outage had been short, however long the broker took to start

    assert dict(zip(ids, [one.ends for one in wanted], strict=True)) == await trader.ended(ids)
    await assert_all_is_well(system, trader)


async def test_everything_is_killed_while_1000_orders_run(
    servers: Infrastructure, system: System, trader: Trader, users: list[str]
) -> None:
    """Each service, the broker and PostgreSQL are killed one after the other: every order ends, every cent adds up."""

    async def kill_all() -> None:
        for service in SERVICES:
            await _some_are_in_flight(system)
            await system.end(service, signal.SIGKILL)
        for server in (servers.broker, servers.postgres):
            await _some_are_in_flight(system)
            await server.kill()
            await server.start()

    ids = await trader.trade_during(kill_all(), mixed(users, seed=1000), at_least=1000, rate=RATE)
    ends = await trader.ended(ids)
    assert len(ids) == len(ends)
    assert {"COMPLETED", "CANCELLED", "FAILED"} == {end.split(" ")[0] for end in ends.values()}
    await assert_all_is_well(system, trader)


async def _some_are_in_flight(system: System) -> None:
    statement = "SELECT 1 FROM audit.orders WHERE status NOT IN ('COMPLETED', 'CANCELLED', 'FAILED') LIMIT 1"

    async def some() -> bool:
        return bool(await system.rows(statement))

    await eventually(some, "orders are in flight", poll_s=0.01)
