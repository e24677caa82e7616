"""The primary dies and a synchronous standby takes over, by the commands of docs/postgresql.md, while orders run."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import HOLDINGS, buy, mixed
from tests.e2e.system import System, eventually, running
from tests.e2e.trader import Trader
from tests.support.infrastructure import Infrastructure
from tests.support.postgres_machine import Machine, Place, machine, shown

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.apache_kafka]

PAGE = "postgresql.md"
RATE = 20
MOVES_WITHIN_S = 30.0
"""How long it may take from the promotion to the next event. An idle machine needs a few seconds."""


@dataclass
class Pair:
    """A primary and its synchronous standby, beside the broker of the test session."""

    machine: Machine
    primary: Place
    standby: Place
    infrastructure: Infrastructure
    database: str = ""
    """The system's database, when there is one."""

    @property
    def database_url_admin(self) -> str:
        """The owner's address of both."""
        return self.machine.address(self.primary, self.standby)

    @property
    def kafka_bootstrap_servers(self) -> str:
        """The address of the broker."""
        return self.infrastructure.kafka_bootstrap_servers

    async def create_topics(self, topics: Mapping[str, int]) -> None:
        """Create topics."""
        await self.infrastructure.create_topics(topics)

    async def delete_topics(self, prefix: str) -> None:
        """Delete topics."""
        await self.infrastructure.delete_topics(prefix)

    async def type(self, place: Place, name: str, *, primary: Place | None = None) -> str:
        """Type a block of the page at one of the two, with the address of the other as the primary's."""
        other = f"host=/var/run/postgresql port={primary.port} user=owner" if primary else ""
        return await self.machine.type(place, shown(PAGE, name), PRIMARY=other)

    async def rows(self, place: Place, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Run a query as the owner at one of the two, in the database of the system."""
        connection = await asyncpg.connect(self.machine.address(place), database=self.database)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    async def lives_on(self) -> set[int]:
        """Return the ports of the servers that take writes."""
        return {place.port for place in (self.primary, self.standby) if await self._takes_writes(place)}

    async def _takes_writes(self, place: Place) -> bool:
        try:
            connection = await asyncpg.connect(self.machine.address(place), timeout=30)
        except OSError:
            return False
        try:
            return not await connection.fetchval("SELECT pg_is_in_recovery()")
        finally:
            await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(infrastructure: Infrastructure) -> AsyncIterator[Pair]:
    """Make both as the page says."""
    async with machine(2) as servers:
        one = Pair(servers, servers.places[0], servers.places[1], infrastructure)
        await servers.make(one.primary)
        await one.type(one.standby, "standby", primary=one.primary)
        await one.type(one.primary, "synchronous")
        yield one


async def test_no_acknowledged_order_is_lost_when_a_standby_takes_over(
    pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Orders come before, while and after there is no primary: each that was acknowledged ends, to the cent."""
    stood_still_s = 0.0

    async def fail_over(system: System) -> None:
        nonlocal stood_still_s
        await eventually(lambda: _some_are_in_flight(system), "orders are in flight", poll_s=0.01)
        await pair.machine.kill(pair.primary)
        assert "t" == await pair.type(pair.standby, "promote")
        promoted, known = time.monotonic(), len(system.events.records)

        async def moved() -> bool:
            return len(system.events.records) > known

        await eventually(moved, "orders move again", poll_s=0.02)
        stood_still_s = time.monotonic() - promoted

    async with running(pair, tmp_path_factory.mktemp("failover"), replicas={}) as system, Trader(system) as trader:
        users = await system.endow([f"user-{number}" for number in range(6)], HOLDINGS)
        pair.database = urlsplit(system.stack.database_url).path.removeprefix("/")
        before = system.stack.pids
        ids = await trader.trade_during(fail_over(system), mixed(users, seed=67), at_least=60, rate=RATE)
        assert len(ids) == len(await trader.ended(ids))
        assert stood_still_s < MOVES_WITHIN_S
        assert before == system.stack.pids  # no process ended
        assert {pair.standby.port} == await pair.lives_on()
        await assert_all_is_well(system, trader)
        await _old_primary_comes_back(pair, system, trader)
        await _rejoin(pair, trader)


async def _old_primary_comes_back(pair: Pair, system: System, trader: Trader) -> None:
    """Nobody has fenced it, it takes writes, and all services connect anew, one of them as a new process."""
    await pair.machine.start(pair.primary)
    assert {pair.primary.port, pair.standby.port} == await pair.lives_on()
    await pair.rows(pair.standby, _END_SESSIONS)
    await system.end("api", signal.SIGKILL)
    ids = [await trader.post(buy("user-0", "BTC", "0.01")) for _ in range(5)]

    async def have_ended() -> bool:
        return len(ids) == len(await pair.rows(pair.standby, _ENDED, ids))

    await eventually(have_ended, "orders end at the new primary")
    assert [] == await pair.rows(pair.primary, "SELECT 1 FROM api.claims WHERE order_id = ANY($1::uuid[])", ids)
    assert "an old primary is passed over" in (system.stack.logs / "api.log").read_text()
    await pair.machine.kill(pair.primary)


_END_SESSIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'order_saga_%'
    AND usename <> 'order_saga_auditor' AND datname = current_database()"""
_ENDED = "SELECT 1 FROM audit.orders WHERE order_id = ANY($1::uuid[]) AND status = 'COMPLETED'"


async def _rejoin(pair: Pair, trader: Trader) -> None:
    """Bring the old primary back as a standby, and let commits wait for it."""
    await pair.type(pair.primary, "rejoin", primary=pair.standby)
    await pair.type(pair.standby, "synchronous")
    assert {pair.standby.port} == await pair.lives_on()
    ids = await trader.trade([buy("user-0", "BTC", "0.01")])
    assert len(ids) == len(await trader.ended(ids))


async def _some_are_in_flight(system: System) -> bool:
    statement = "SELECT 1 FROM audit.orders WHERE status NOT IN ('COMPLETED', 'CANCELLED', 'FAILED') LIMIT 1"
    return bool(await system.rows(statement))
