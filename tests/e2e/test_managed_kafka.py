"""A cluster as managed services set it up: three brokers and replicas, no automatic topics, timestamps by producers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contracts.envelope import Outgoing
from contracts.topics import ORDERS_REQUESTS, TOPICS
from saga_kit.messaging.publisher import Publisher
from tests.e2e.system import command, eventually
from tests.support.cluster import Cluster, brokers
from tests.support.infrastructure import Infrastructure

pytestmark = pytest.mark.apache_kafka


@pytest.fixture(scope="module")
def cluster(infrastructure: Infrastructure) -> Iterator[Cluster]:
    """Start three brokers."""
    assert "apache" == infrastructure.broker_kind
    with brokers(3) as one:
        yield one


async def test_topics_have_three_copies_and_outlive_a_broker(cluster: Cluster) -> None:
    """Each acknowledged message has two copies: one broker may die, and with two dead nothing is acknowledged."""
    await cluster.ready()
    assert 1 == (await command("topics", "--check", env=cluster.environment)).code
    made = await command("topics", "--replication", "3", env=cluster.environment)
    assert (0, "", len(TOPICS)) == (made.code, made.err, len(made.out.splitlines()))
    assert 0 == (await command("topics", "--check", env=cluster.environment)).code
    publisher = Publisher(cluster.settings, timeout_s=10)
    messages = [Outgoing(ORDERS_REQUESTS.name, f"k{number}", f"{number}", b"{}", []) for number in range(24)]

    async def stored() -> bool:
        return await publisher.publish(messages)

    async def refused() -> bool:
        return not await publisher.publish(messages)

    try:
        await eventually(stored, "three brokers store", within_s=60)
        await cluster.kill(3)
        await eventually(stored, "two brokers store", within_s=60)
        await cluster.kill(2)
        await eventually(refused, "with one copy left nothing is acknowledged", within_s=60)
    finally:
        await publisher.stop()
