"""The follower: it notifies the waiters that an event names, and all when it may have missed one."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from structlog.testing import capture_logs

from contracts.envelope import Outgoing
from contracts.topics import ORDERS_EVENTS
from order_api.orders.follower import Follower
from order_api.orders.waiting import Waiter, Waiters
from saga_kit.messaging import follower as follower_module
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.settings import KitSettings
from tests.order_api.support import until
from tests.saga_kit.support import FaultyCluster, kit_settings
from tests.support.infrastructure import Infrastructure

URL = "postgresql://u:p@localhost/d"
KEY = b"00000000-0000-4000-8000-000000000001"


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultyCluster]:
    """Give these tests a broker that goes and comes on demand."""
    one = FaultyCluster()
    yield one
    one.up()


@pytest.fixture
def settings(cluster: FaultyCluster) -> KitSettings:
    """Make settings with topics of this test's own."""
    return kit_settings(URL, cluster.bootstrap_servers, f"f{secrets.token_hex(4)}.")


@pytest.fixture
def events(cluster: FaultyCluster, settings: KitSettings) -> str:
    """Create the topic of events."""
    name = settings.kafka_topic_prefix + ORDERS_EVENTS.name
    cluster.create_topic(name, ORDERS_EVENTS.partitions)
    return name


@asynccontextmanager
async def _following(settings: KitSettings, idle_s: float = 15.0) -> AsyncIterator[tuple[Follower, Waiters]]:
    waiters, stopping = Waiters(), asyncio.Event()
    follower = Follower(settings, waiters, idle_s=idle_s)
    running = asyncio.create_task(follower.run(stopping))
    try:
        yield follower, waiters
    finally:
        stopping.set()
        await asyncio.wait_for(running, 20)


async def _publish(settings: KitSettings, key: bytes = KEY, version: int = 4, status: str = "COMPLETED") -> None:
    publisher = Publisher(settings)
    body = msgspec.json.encode({"version": version, "status": status, "order": {"later": "fields"}})
    assert await publisher.publish([Outgoing(ORDERS_EVENTS.name, key.decode(), "x", body, [])])
    await publisher.stop()


async def _notified(waiter: Waiter, within_s: float) -> bool:
    return await waiter.notified(asyncio.get_running_loop().time() + within_s)


@pytest.mark.usefixtures("events")
async def test_an_event_rings_for_whom_it_names(settings: KitSettings) -> None:
    """For its order and no other; who waits for the end hears nothing of what is before it."""
    async with _following(settings) as (follower, waiters):
        await until(lambda: follower.following)
        other = KEY.replace(b"1", b"2")
        with (
            waiters.waiter(KEY, for_end=True) as end,
            waiters.waiter(KEY, for_end=False) as change,
            waiters.waiter(other, for_end=False) as other_order,
        ):
            change.known = 1
            await _publish(settings, version=1, status="PENDING")
            await _publish(settings, version=2, status="CONFIRMED")
            assert await _notified(change, 15)
            assert not await _notified(end, 0.3)
            await _publish(settings)
            assert await _notified(end, 15)
            assert not await _notified(other_order, 0.3)
    assert KEY not in waiters
    assert 0 == waiters.waiting


@pytest.mark.usefixtures("events")
async def test_a_quiet_topic_holds_up_nobodys_end(settings: KitSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait for records ends with the process, however long it may take."""
    monkeypatch.setattr(follower_module, "POLL_MS", 60_000)
    async with asyncio.timeout(30):
        async with _following(settings) as (follower, _):
            await until(lambda: follower.following)
        assert not follower.following


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"order":' * 50_000, b'{"status":"\xff"}', b"", b"{}"])
async def test_an_event_that_can_not_be_read_rings_and_stops_nothing(settings: KitSettings, body: bytes) -> None:
    """Whoever waits for its order looks; the follower goes on without beginning anew."""
    with capture_logs() as lines:
        async with _following(settings) as (follower, waiters):
            await until(lambda: follower.following)
            with waiters.waiter(KEY, for_end=True) as waiter:
                publisher = Publisher(settings)
                assert await publisher.publish([Outgoing(ORDERS_EVENTS.name, KEY.decode(), "x", body, [])])
                await publisher.stop()
                assert await _notified(waiter, 15)
            assert follower.following
    assert [] == [line for line in lines if line["log_level"] != "info"]


@pytest.mark.usefixtures("events")
async def test_a_bomb_among_the_events_rings_for_all_and_stops_nothing(settings: KitSettings) -> None:
    """Whose it was is not known, so everybody looks; what comes behind it in its partition notifies as before."""
    topic = settings.kafka_topic_prefix + ORDERS_EVENTS.name
    async with _following(settings) as (follower, waiters):
        await until(lambda: follower.following)
        with waiters.waiter(KEY, for_end=True) as waiter:
            async with AIOKafkaProducer(
                bootstrap_servers=settings.kafka_bootstrap_servers,
                compression_type="gzip",
                max_request_size=100 << 20,
            ) as producer:
                await producer.send_and_wait(topic, b" " * (64 << 20), key=KEY)
            assert await _notified(waiter, 20)
        with waiters.waiter(KEY, for_end=True) as waiter:
            await _publish(settings)
            assert await _notified(waiter, 20)
        assert follower.following


@pytest.mark.apache_kafka  # the embedded broker makes a topic of whatever it is asked for
async def test_a_topic_that_comes_later_is_followed(infrastructure: Infrastructure, topic_prefix: str) -> None:
    """An API that starts before its topics exist waits for them, and wakes who waited meanwhile."""
    settings = kit_settings(URL, infrastructure.kafka_bootstrap_servers, topic_prefix)
    async with _following(settings) as (follower, waiters):
        with waiters.waiter(KEY, for_end=True) as waiter:
            assert not await _notified(waiter, 0.5)
            await infrastructure.create_topics({topic_prefix + ORDERS_EVENTS.name: ORDERS_EVENTS.partitions})
            assert await _notified(waiter, 15)
            assert follower.following
            await _publish(settings)
            assert await _notified(waiter, 15)


@pytest.mark.apache_kafka  # the embedded broker has no transactions that stay open
async def test_who_waits_looks_while_an_open_transaction_hides_events(
    infrastructure: Infrastructure, topic_prefix: str
) -> None:
    """Nobody hears of events behind somebody's open transaction, so everybody looks now and then; then all is heard."""
    settings = kit_settings(URL, infrastructure.kafka_bootstrap_servers, topic_prefix)
    topic = topic_prefix + ORDERS_EVENTS.name
    await infrastructure.create_topics({topic: ORDERS_EVENTS.partitions})
    options = {"transactional_id": topic, "transaction_timeout_ms": 900_000}
    async with (
        AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, **options) as producer,
        _following(settings) as (follower, waiters),
    ):
        await until(lambda: follower.following)
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"{}", key=KEY)
        await _publish(settings)
        with waiters.waiter(KEY, for_end=True) as waiter:
            assert await _notified(waiter, 15)
        complete_at = follower.complete_at
        with waiters.waiter(KEY, for_end=True) as waiter:
            assert await _notified(waiter, 15), "again and again"
        assert follower.following
        assert complete_at == follower.complete_at, "it has not heard what is hidden"
        await producer.abort_transaction()
        with waiters.waiter(KEY, for_end=True) as waiter:
            assert await _notified(waiter, 15), "the event itself"
        await until(lambda: follower.complete_at > complete_at)


@pytest.mark.usefixtures("events")
async def test_a_broker_that_was_away_wakes_everybody(settings: KitSettings, cluster: FaultyCluster) -> None:
    """While it was away something may have happened that no event tells of: whoever waits looks once."""
    async with _following(settings, idle_s=0.5) as (follower, waiters):
        await until(lambda: follower.following)
        with waiters.waiter(KEY, for_end=True) as waiter:
            cluster.down()
            await until(lambda: not follower.following, within_s=30)
            assert not await _notified(waiter, 0.2)
            cluster.up()
            assert await _notified(waiter, 30)
            await _publish(settings)
            assert await _notified(waiter, 15)


@pytest.mark.usefixtures("events")
async def test_it_knows_until_when_it_has_heard_all(settings: KitSettings, cluster: FaultyCluster) -> None:
    """While nothing comes, too, that time moves on; while the broker is away it stands still."""
    async with _following(settings, idle_s=0.5) as (follower, waiters):
        await until(lambda: follower.following)
        for _ in range(2):
            asked_at = time.time()
            await until(lambda at=asked_at: follower.complete_at > at)
        with waiters.waiter(KEY, for_end=True) as waiter:
            await _publish(settings)
            published_at = time.time()
            await until(lambda: follower.complete_at > published_at)
            assert await _notified(waiter, 0.1), "it was told before"
        cluster.down()
        await until(lambda: not follower.following, within_s=30)
        stands_at = follower.complete_at
        assert stands_at < time.time()
        cluster.up()
        with waiters.waiter(KEY, for_end=True) as waiter:
            assert await _notified(waiter, 30)
            assert stands_at == follower.complete_at, "whoever missed something is told first"
        await until(lambda: follower.complete_at > stands_at)


@pytest.mark.usefixtures("events")
async def test_a_consumer_that_hangs_is_replaced(settings: KitSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that looks alive and brings nothing is found by the broker's ends, and a new one takes its place."""
    getmany = AIOKafkaConsumer.getmany
    hung: list[AIOKafkaConsumer] = []

    async def hangs_at_first(self: AIOKafkaConsumer, **more: int) -> object:
        if self in hung or not hung:
            hung[:] = [self]
            await asyncio.sleep(0.05)
            return {}
        return await getmany(self, **more)

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", hangs_at_first)
    monkeypatch.setattr(follower_module, "POLL_MS", 50)
    async with _following(settings, idle_s=0.3) as (follower, waiters):
        await until(lambda: follower.following)
        with waiters.waiter(KEY, for_end=True) as waiter:
            await _publish(settings)
            assert await _notified(waiter, 15)
    assert not follower.following
