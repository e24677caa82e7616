"""While the broker is away a stream says how far it is; when it is back, it shows what happened meanwhile."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from contracts.topics import TOPICS
from order_api.settings import ApiSettings
from tests.order_api.live.support import Events, followed, new_order, streaming
from tests.order_api.support import Orchestrator, running, until
from tests.saga_kit.support import FaultyCluster


@pytest.fixture
def cluster() -> Iterator[FaultyCluster]:
    """Run a broker that goes and comes on demand."""
    one = FaultyCluster()
    yield one
    one.up()


@pytest.fixture
def settings(settings: ApiSettings, cluster: FaultyCluster) -> ApiSettings:
    """Make settings for an API on that broker."""
    prefix = f"away{secrets.token_hex(4)}."
    for topic in TOPICS:
        cluster.create_topic(prefix + topic.name, topic.partitions)
    where = {"kafka_bootstrap_servers": cluster.bootstrap_servers, "kafka_topic_prefix": prefix}
    return settings.model_copy(update=where)


async def test_what_happens_while_the_broker_is_away_is_shown_when_it_is_back(
    settings: ApiSettings, cluster: FaultyCluster, orchestrator: Orchestrator
) -> None:
    """The connection is well all the time, and the heartbeat says that events are held up."""
    async with running(settings) as api:
        await followed(api)
        events, order_id = Events(api.wire.publisher, orchestrator), new_order()
        feed = api.app.state.streams._feed  # noqa: SLF001 - what heartbeats say, without waiting for one
        async with streaming(api) as stream:
            await stream.until("snapshot-end")
            await events.tell(order_id, "VALIDATING", 1)
            await stream.until("order", version=1)
            await until(lambda: feed.mark > 0)
            cluster.down()
            await until(lambda: not api.app.state.follower.following, within_s=40)
            mark = feed.mark
            await events.commit(order_id, "COMPLETED", 2)
            await until(lambda: stream.of("heartbeat"), within_s=30)
            assert ({order_id: 1}, mark) == (stream.versions, feed.mark)
            cluster.up()
            await until(lambda: stream.versions == {order_id: 2}, within_s=40)
            await until(lambda: feed.mark > mark, within_s=40)
