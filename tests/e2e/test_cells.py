"""Two cells on one broker: neither sees anything of the other, and a request in the wrong one harms nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice

import pytest
import pytest_asyncio
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from contracts.topics import TOPICS
from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import COMPLETED, HOLDINGS, Wanted, buy, mixed
from tests.e2e.system import System, running
from tests.e2e.trader import Trader, cancel_of
from tests.support.infrastructure import Infrastructure

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.apache_kafka]
NO_ACCOUNT = "FAILED ACCOUNT_NOT_FOUND"
GROUPS = ("orchestrator", "cancels", "triggers", "balance", "holds", "assets")


@dataclass
class Cell:
    """A system, who trades there, and its own users."""

    system: System
    trader: Trader
    users: list[str]

    async def post(self, user_id: str, key: str) -> str:
        """Submit an order under a key by REST; return its id."""
        wanted = buy(user_id, "ACME", "1", ends=COMPLETED if user_id in self.users else NO_ACCOUNT)
        headers = {"Idempotency-Key": key}
        answer = await self.trader.call(user_id, "POST", "/orders", json=wanted.body, headers=headers)
        assert 202 == answer.status_code, answer.text
        order_id: str = answer.json()["order_id"]
        self.trader.accepted[order_id] = wanted
        return order_id

    async def status(self, user_id: str, order_id: str) -> int:
        """Ask for an order; return the status code."""
        return (await self.trader.call(user_id, "GET", f"/orders/{order_id}")).status_code


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cells(
    infrastructure: Infrastructure, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Cell, Cell]]:
    """Run two cells: one broker, a prefix and a database for each, and a user in each whom the other does not know."""
    async with AsyncExitStack() as stack:

        async def cell(name: str) -> Cell:
            folder = tmp_path_factory.mktemp(name)
            system = await stack.enter_async_context(running(infrastructure, folder, replicas={}))
            trader = await stack.enter_async_context(Trader(system))
            return Cell(system, trader, await system.endow([f"{name}-1", f"{name}-2"], HOLDINGS))

        yield await cell("north"), await cell("south")


async def test_two_cells_on_a_broker_never_see_each_others_messages(cells: tuple[Cell, Cell]) -> None:
    """Both trade at once: every event, group and dead letter is of its own cell, and every account adds up."""
    ids = await asyncio.gather(
        *(one.trader.trade(list(islice(mixed(one.users, seed=4), 12)), over_s=2.0) for one in cells)
    )
    for one, own in zip(cells, ids, strict=True):
        await one.trader.ended(own)
        await assert_all_is_well(one.system, one.trader)
        assert set(own) == one.system.events.told().keys()
        assert [] == await one.system.owner_rows("SELECT reason FROM orders.dead_letters")
        known = {row["user_id"] for row in await one.system.rows("SELECT user_id FROM audit.orders")}
        assert set(one.users) & known
        assert not _others(cells, one) & known
    assert ids[0] != ids[1]
    for one in cells:
        read = await asyncio.to_thread(_read_by_groups, one.system)
        assert read == {one.system.prefix + topic.name for topic in TOPICS} & read
        assert one.system.prefix + "orders.requests" in read


async def test_a_request_in_the_wrong_cell_harms_nothing(cells: tuple[Cell, Cell]) -> None:
    """There the user has no account: the order fails, whatever its id, and its own cell does not hear of it."""
    north, south = cells
    user = north.users[0]
    there = buy(user, "ACME", "1")
    astray = Wanted(user, "MARKET_BUY", "ACME", "1", ends=NO_ACCOUNT, order_id=there.order_id)
    await south.trader.produce(astray)
    assert {there.order_id: NO_ACCOUNT} == await south.trader.ended([there.order_id])
    await north.trader.produce(there)
    assert {there.order_id: COMPLETED} == await north.trader.ended([there.order_id])
    await south.system.producer.send(cancel_of(there), cancel_of(buy(user, "ACME", "1")))
    for one in cells:
        await assert_all_is_well(one.system, one.trader)


async def test_an_answer_of_the_wrong_cell_is_of_that_cell_alone(cells: tuple[Cell, Cell]) -> None:
    """A key is one order in each cell, and neither knows the other's order."""
    north, south = cells
    user, key = north.users[1], str(uuid.uuid4())
    lost = await south.post(user, key)
    own = await north.post(user, key)
    assert own == await north.post(user, key) != lost
    assert {lost: NO_ACCOUNT} == await south.trader.ended([lost])
    assert {own: COMPLETED} == await north.trader.ended([own])
    assert [200, 404] == [await one.status(user, own) for one in cells]
    assert 404 == (await south.trader.call(user, "PUT", f"/orders/{own}/cancel")).status_code
    for one in cells:
        await assert_all_is_well(one.system, one.trader)


def _others(cells: tuple[Cell, Cell], one: Cell) -> set[str]:
    return {user for other in cells if other is not one for user in other.users}


def _read_by_groups(system: System) -> set[str]:
    """Return the topics of which a cell's groups have committed offsets."""
    admin = AdminClient({"bootstrap.servers": system.stack.kafka_bootstrap_servers, "log_level": 0})
    found = set()
    for group in GROUPS:
        asked = admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(system.prefix + group)], request_timeout=30
        )
        found |= {tp.topic for tp in asked[system.prefix + group].result().topic_partitions}
    return found
