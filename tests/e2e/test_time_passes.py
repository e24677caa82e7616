"""A service stands still for a while: afterwards no order trades on an old price, and no good order fails."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import COMPLETED, buy, sell
from tests.e2e.system import System, eventually, running
from tests.e2e.trader import Trader
from tests.e2e.wire import Follower
from tests.support.infrastructure import Infrastructure, own_postgres
from tests.support.servers import Server

pytestmark = [pytest.mark.asyncio, pytest.mark.apache_kafka]

STALE_AFTER_S, OUTAGE_S = 3.0, 7.0
TIME_SCALE = 0.4
"""Leaves more time than a busy machine needs between the questions and the lock."""
PATIENCE_S = 12.1
"""A little more than the 30 s of the table of phases."""
ENVIRONMENT = {"ASSETS_STALE_AFTER_S": f"{STALE_AFTER_S}", "ASSETS_CONFIRM_EVERY_S": "0.5"}


@dataclass(frozen=True)
class Servers:
    """A PostgreSQL of this test's own, with the broker that all tests share."""

    postgres: Server
    shared: Infrastructure

    @property
    def database_url_admin(self) -> str:
        """The owner's address."""
        return self.postgres.address

    @property
    def kafka_bootstrap_servers(self) -> str:
        """The broker."""
        return self.shared.kafka_bootstrap_servers

    async def create_topics(self, topics: Mapping[str, int], /) -> None:
        """Create topics."""
        await self.shared.create_topics(topics)

    async def delete_topics(self, prefix: str, /) -> None:
        """Delete topics."""
        await self.shared.delete_topics(prefix)


async def test_orders_that_waited_for_the_database_wait_for_the_price_source_too(
    infrastructure: Infrastructure, tmp_path: Path
) -> None:
    """After an outage twice as long as a price is fresh, each order whose patience is not over completes.

    That holds for orders that were submitted meanwhile, and for orders whose check was already sent.
    """
    async with own_postgres() as postgres:
        servers = Servers(postgres, infrastructure)
        replicas = dict.fromkeys(("api", "orchestrator", "balance", "assets"), 1)
        async with (
            running(servers, tmp_path, replicas=replicas, environment=ENVIRONMENT) as system,
            Trader(system) as trader,
        ):
            users = await system.endow(["carla", "dirk"], {"USD": "100000.00", "BTC": "2"})
            with system.paused("assets"):
                before = await trader.produce(*(buy(users[0], "BTC", "0.001") for _ in range(10)))
                await eventually(lambda: _all_asked(system, before), "all are asked about")
            await postgres.kill()
            during = await trader.produce(*(sell(users[1], "BTC", "0.001") for _ in range(10)))
            await asyncio.sleep(OUTAGE_S)
            await postgres.start()
            ends = await trader.ended([*before, *during])
            assert {COMPLETED} == set(ends.values()), ends
            await assert_all_is_well(system, trader)


async def test_an_answer_that_waited_out_its_patience_is_not_acted_on(
    infrastructure: Infrastructure, tmp_path: Path
) -> None:
    """The orchestrator gets the answers but can't write until their patience is over: then each order times out.

    The order in which timers and answers are handled makes no difference, and nothing is held at the end.
    """
    async with (
        running(infrastructure, tmp_path, replicas={}, time_scale=TIME_SCALE) as system,
        Trader(system) as trader,
    ):
        await system.endow(["erna"], {"USD": "100000.00", "BTC": "2"})
        with Follower(system.stack.kafka_bootstrap_servers, f"{system.prefix}assets.replies") as replies:
            bystander = await asyncpg.connect(system.stack.database_url)
            with system.paused("assets"):
                ids = await trader.produce(*(buy("erna", "BTC", "0.001", ends="FAILED TIMED_OUT") for _ in range(20)))
                await eventually(lambda: _all_asked(system, ids), "all are asked about", poll_s=0.01)
                async with bystander.transaction():
                    await bystander.execute("SELECT FROM orders.orders FOR UPDATE")
                    assert not await system.rows("SELECT 1 FROM audit.history WHERE kind = 'timed_out'")
                    for pid in system.stack.pids["assets"]:
                        os.kill(pid, signal.SIGCONT)
                    await eventually(lambda: _answered(replies, len(ids)), "all are answered")
                    await asyncio.sleep(PATIENCE_S)
            await bystander.close()
        assert {"FAILED TIMED_OUT"} == set((await trader.ended(ids)).values())
        await assert_all_is_well(system, trader)


async def _all_asked(system: System, order_ids: list[str]) -> bool:
    rows = await system.rows(
        "SELECT count(DISTINCT order_id) FROM audit.history"
        " WHERE kind = 'asked' AND name = 'check' AND order_id = ANY($1::uuid[])",
        order_ids,
    )
    return bool(rows[0][0] == len(order_ids))


async def _answered(replies: Follower, number: int) -> bool:
    return len({record.key for record in replies.records}) >= number
