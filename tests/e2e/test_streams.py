"""Streams of two API processes that are killed again and again: each client sees every end, or is told of a gap."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx2
import pytest
import pytest_asyncio

from local_stack.ports import free_ports
from order_client import AsyncClient, Gap, OrderStatusChanged, SnapshotEnd
from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import HOLDINGS, mixed
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader
from tests.support.proxy import Proxy

pytestmark = pytest.mark.asyncio(loop_scope="package")

USERS = 20
CLIENTS_OF_A_USER = 5
KILLS = 6
RATE = 20
COME_BACK_S = 0.2
"""The server asks for seconds; here everybody comes back at once."""


class Client:
    """Follows a user's orders by streams, one after the other, and keeps the highest version of each order."""

    def __init__(self, user_id: str, token: str, port: int) -> None:
        self.user_id = user_id
        self.versions: dict[str, int] = {}
        self.gaps = 0
        self.streams = 0
        self.last_id = ""
        self._token = token
        self._headers = {"Authorization": f"Bearer {token}"}
        self._url = f"http://127.0.0.1:{port}/events"

    async def follow(self) -> None:
        """Follow for ever: come back whenever a stream ends, however it does."""
        while True:
            with suppress(httpx2.TransportError):
                await self._read_one()
            await asyncio.sleep(COME_BACK_S)

    async def _read_one(self) -> None:
        headers = self._headers | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        async with httpx2.AsyncClient(timeout=60) as http, http.stream("GET", self._url, headers=headers) as answer:
            if answer.status_code != 200:
                return
            self.streams += 1
            async for event in httpx2.EventSource(answer):
                self.last_id = event.id or self.last_id
                if event.event == "order":
                    order = json.loads(event.data)
                    self.versions[order["order_id"]] = max(order["version"], self.versions.get(order["order_id"], 0))
                    assert self.user_id == order["order"]["user_id"]
                self.gaps += event.event == "gap"


class Product(Client):
    """The same by the product's own client, which comes back when the API says."""

    async def follow(self) -> None:
        """Follow for ever."""
        async with AsyncClient(self._url.removesuffix("/events"), self._token) as client:
            async for item in client.events():
                if isinstance(item, OrderStatusChanged):
                    order_id = str(item.order_id)
                    assert item.version > self.versions.get(order_id, -1), "an older version, or one twice"
                    self.versions[order_id] = item.version
                self.last_id = self.last_id or ("live" if isinstance(item, SnapshotEnd) else "")
                self.streams += isinstance(item, SnapshotEnd)
                self.gaps += isinstance(item, Gap)


@pytest_asyncio.fixture(loop_scope="package")
async def proxy(system: System) -> AsyncIterator[Proxy]:
    """Stand before both processes: each connection goes to the next one."""
    [port] = free_ports(1)
    one = Proxy(port)
    await one.start()
    one.turns.extend(("127.0.0.1", system.port(pid)) for pid in system.stack.pids["api"])
    yield one
    await one.close()


async def test_every_client_sees_every_end_while_processes_are_killed(
    system: System, trader: Trader, proxy: Proxy
) -> None:
    """SIGKILL for one of both again and again, under load; whoever followed has each order's last version, or a gap."""
    users = await system.endow([f"watched-{number}" for number in range(USERS)], HOLDINGS)
    kinds = [Product, *[Client] * (CLIENTS_OF_A_USER - 1)]
    clients = [kind(user, trader.token(user), proxy.port) for user in users for kind in kinds]

    async def kill() -> None:
        for number in range(KILLS):
            await system.end("api", signal.SIGKILL, number % 2)

    following = [asyncio.create_task(client.follow()) for client in clients]

    async def all_begun() -> bool:
        return all(client.last_id for client in clients)

    try:
        await eventually(all_begun, "every client is shown what there is")
        ids = await trader.trade_during(kill(), mixed(users, seed=9), at_least=10 * USERS, rate=RATE)
        ends = await trader.ended(ids)
        assert len(ids) == len(ends)
        rows = await system.rows("SELECT order_id, user_id, version FROM audit.orders WHERE user_id = ANY($1)", users)
        last = {user: {str(row[0]): row[2] for row in rows if row[1] == user} for user in users}

        async def all_seen() -> bool:
            return all(client.versions == last[client.user_id] or client.gaps for client in clients)

        await eventually(all_seen, "every client has the last version of every order", within_s=60)
        assert not [task for task in following if task.done()]
        assert [] == [client.user_id for client in clients if client.gaps], "no user here has so many orders"
        for kind in (Product, Client):
            streams = [client.streams for client in clients if type(client) is kind]
            assert sum(streams) > len(streams), "they came back"
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    await assert_all_is_well(system, trader)
