"""While the leader of one partition is away, its orders wait, all others are told at once, and no id runs ahead."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from aiokafka.partitioner import murmur2
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from contracts.topics import ORDERS_EVENTS, TOPICS
from order_api.live.marks import mark_of
from order_api.settings import ApiSettings
from tests.order_api.live.support import Events, followed, new_order, streaming
from tests.order_api.support import Orchestrator, running, until
from tests.support.cluster import Cluster, brokers
from tests.support.infrastructure import Infrastructure

pytestmark = pytest.mark.apache_kafka
AWAY: Final = 3
"""The broker that leads the first partition, and nothing else."""
IDLE_S: Final = 1.0
"""After so long without an event the API asks for the ends of all partitions; usually 15 s."""
STILL_S: Final = 5.0
"""A partition that was not read to its end for so long is away."""


@pytest.fixture(scope="module")
def cluster(infrastructure: Infrastructure) -> Iterator[Cluster]:
    """Start three brokers."""
    assert "apache" == infrastructure.broker_kind
    with brokers(3) as one:
        asyncio.run(one.ready())
        yield one


@pytest.fixture
def settings(settings: ApiSettings, cluster: Cluster) -> ApiSettings:
    """Make settings for an API on these brokers; partitions have no other copies, so no other leaders."""
    prefix, kafka = f"leader{secrets.token_hex(4)}.", cluster.settings.kafka_bootstrap_servers
    admin = AdminClient({"bootstrap.servers": kafka})
    made = admin.create_topics(
        [
            NewTopic(
                prefix + topic.name,
                topic.partitions,
                replica_assignment=[
                    [AWAY if topic is ORDERS_EVENTS and number == 0 else 1 + number % 2]
                    for number in range(topic.partitions)
                ],
            )
            for topic in TOPICS
        ]
    )
    for outcome in made.values():
        outcome.result()
    return settings.model_copy(update={"kafka_bootstrap_servers": kafka, "kafka_topic_prefix": prefix})


def order_on(*, first: bool) -> str:
    """Make the id of an order whose events are on the first partition, or on another one."""
    while True:
        order_id = new_order()
        if first is ((murmur2(order_id.encode()) & 0x7FFFFFFF) % ORDERS_EVENTS.partitions == 0):
            return order_id


@asynccontextmanager
async def away(cluster: Cluster, *, dead: bool) -> AsyncIterator[None]:
    """Have the broker away for the block, and back after it."""
    await (cluster.kill if dead else cluster.freeze)(AWAY)
    try:
        yield
    finally:
        await (cluster.start if dead else cluster.thaw)(AWAY)
        await cluster.ready()


def _checked(follower: Any) -> list[float]:
    """Have a follower check its ends more often, and note each time at which it has."""
    checks: list[float] = []
    check = follower._check  # noqa: SLF001 - it checks as it always does

    async def noted(*arguments: Any) -> None:
        try:
            await check(*arguments)
        finally:
            checks.append(time.monotonic())

    follower._idle_s, follower._check = IDLE_S, noted  # noqa: SLF001 - the same
    return checks


@pytest.mark.parametrize("dead", [False, True], ids=["frozen", "dead"])
async def test_one_leader_that_is_away_holds_up_its_own_orders_alone(
    settings: ApiSettings, cluster: Cluster, orchestrator: Orchestrator, *, dead: bool
) -> None:
    """Also after some time without events, and for an API that begins meanwhile; when it is back, its orders come."""
    waits, goes_on = order_on(first=True), order_on(first=False)
    async with running(settings) as api, AsyncExitStack() as shows:
        await followed(api)
        events, feed = Events(api.wire.publisher, orchestrator), api.app.state.streams._feed  # noqa: SLF001 - its mark
        checks = _checked(api.app.state.follower)
        async with streaming(api) as stream:
            await stream.until("snapshot-end")
            for order_id in (waits, goes_on):
                await events.tell(order_id, "VALIDATING", 1)
                await stream.until("order", order_id=order_id, version=1)
            began = mark_of(datetime.now(UTC))
            await until(lambda: feed.mark > began)
            async with away(cluster, dead=dead):
                await until(lambda: time.time() - api.app.state.follower.complete_at > STILL_S)
                await events.commit(waits, "QUEUED", 2)
                committed = mark_of(datetime.now(UTC))
                await events.tell(goes_on, "SETTLING", 2)
                await stream.until("order", order_id=goes_on, version=2)
                await until(lambda: checks, within_s=30)
                late = await shows.enter_async_context(running(settings))
                await until(lambda: late.app.state.follower.following, within_s=60)  # it may ask the frozen one first
                other = await shows.enter_async_context(streaming(late))
                await other.until("snapshot-end")
                await events.tell(goes_on, "SETTLING", 3)
                for one in (stream, other):
                    await one.until("order", order_id=goes_on, version=3)
                assert 1 == stream.versions[waits]
                assert max(feed.mark, int(stream.last_id[1:])) < committed
            await events.publish(waits)
            for one in (stream, other):
                await one.until("order", order_id=waits, version=2)
            await until(lambda: feed.mark > committed, within_s=60)
            await events.tell(goes_on, "COMPLETED", 4)
            await stream.until("order", order_id=goes_on, version=4)
            assert committed < int(stream.last_id[1:])
            assert [] == stream.of("gap") == other.of("gap")
