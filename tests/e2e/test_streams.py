"""Streams of two API processes that are killed again and again: each client sees every end, or is told of a gap."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio

from order_client import AsyncClient, Gap, OrderStatusChanged, SnapshotEnd
from tests.e2e.checker import assert_all_is_well
from tests.e2e.followers import Follower, SocketFollower
from tests.e2e.orders import HOLDINGS, mixed
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader
from tests.support.proxy import Proxy

pytestmark = pytest.mark.asyncio(loop_scope="package")

USERS = 40
KILLED_FOR_S = 60.0
EVERY_S = 1.0
"""Of two processes that are killed in turn one may take longer to be there again: then it is killed when it is."""
KILLS_MIN = 6
"""On a machine that is so busy that a process takes long to be ready, the killing goes on for longer."""
RATE = 20


class Product(Follower):
    """The same by the product's own client, which comes back when the API says."""

    async def follow(self) -> None:
        """Follow for ever."""
        async with AsyncClient(self._urls[0], self.token) as client:
            async for item in client.events():
                if isinstance(item, OrderStatusChanged):
                    order_id = str(item.order_id)
                    assert item.version > self.versions.get(order_id, -1), "an older version, or one twice"
                    self.versions[order_id] = item.version
                self.last_id = self.last_id or ("live" if isinstance(item, SnapshotEnd) else "")
                self.streams += isinstance(item, SnapshotEnd)
                self.gaps += isinstance(item, Gap)


KINDS = (Product, SocketFollower, Follower, Follower, Follower)
"""The clients of each user."""


async def _kill_for(system: System, seconds: float, killed: list[int]) -> None:
    """Kill one API process after the other, and note which; return when both are ready again."""
    begin_s = time.monotonic()
    while (now_s := time.monotonic()) < begin_s + seconds or len(killed) < KILLS_MIN:
        number = len(killed) % 2
        killed.append(system.stack.pids["api"][number])
        os.kill(killed[-1], signal.SIGKILL)
        await eventually(partial(_is_ready, system, 1 - number, killed[-2:], now_s + EVERY_S), "the other one is ready")
    for number in (0, 1):
        await eventually(partial(_is_ready, system, number, killed[-2:], now_s), "both are ready")


async def _is_ready(system: System, number: int, before: list[int], not_before_s: float) -> bool:
    """Tell whether a process that is none of `before` is ready, and it is time."""
    ready = [await system.is_replaced("api", number, pid) for pid in before]
    return all(ready) and time.monotonic() >= not_before_s


@pytest_asyncio.fixture(loop_scope="package")
async def proxy(system: System) -> AsyncIterator[Proxy]:
    """Stand before both processes: each connection goes to the next one."""
    one = Proxy()
    await one.start()
    one.turns.extend(("127.0.0.1", system.port(pid)) for pid in system.stack.pids["api"])
    yield one
    await one.close()


@pytest.mark.timeout(600)  # six kills, each when the process before is ready again
async def test_every_client_sees_every_end_while_processes_are_killed(
    system: System, trader: Trader, proxy: Proxy
) -> None:
    """SIGKILL for one of both again and again, under load; whoever followed has each order's last version, or a gap."""
    users = await system.endow([f"watched-{number}" for number in range(USERS)], HOLDINGS)
    urls = [f"http://127.0.0.1:{proxy.port}"]
    clients = [kind(user, trader.token(user), urls) for user in users for kind in KINDS]
    killed: list[int] = []
    following = [asyncio.create_task(client.follow()) for client in clients]

    async def all_begun() -> bool:
        return all(client.last_id for client in clients)

    try:
        await eventually(all_begun, "every client is shown what there is")
        ids = await trader.trade_during(
            _kill_for(system, KILLED_FOR_S, killed), mixed(users, seed=9), at_least=10 * USERS, rate=RATE
        )
        ends = await trader.ended(ids)
        assert len(ids) == len(ends)
        rows = await system.rows("SELECT order_id, user_id, version FROM audit.orders WHERE user_id = ANY($1)", users)
        last = {user: {str(row[0]): row[2] for row in rows if row[1] == user} for user in users}

        async def all_seen() -> bool:
            return all(client.versions == last[client.user_id] or client.gaps for client in clients)

        await eventually(all_seen, "every client has the last version of every order", within_s=60)
        assert not [task for task in following if task.done()]
        assert [] == [client.user_id for client in clients if client.gaps], "no user here has so many orders"
        for kind in set(KINDS):
            streams = [client.streams for client in clients if type(client) is kind]
            assert sum(streams) > 2 * len(streams), "they came back"
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    await assert_all_is_well(system, trader)
