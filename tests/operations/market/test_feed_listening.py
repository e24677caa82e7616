"""`feed check` listens to a real topic of prices: what is published while it listens, on any of its partitions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from contracts.assets import AssetPriceChanged
from contracts.codec import outgoing
from contracts.decimals import Price
from contracts.envelope import Outgoing
from contracts.topics import ASSETS_PRICES
from operations.access.errors import Trouble
from operations.market.feed_check import listen
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.settings import KafkaSettings
from tests.support.infrastructure import Infrastructure, create_topics


def settings_of(infrastructure: Infrastructure, prefix: str) -> KafkaSettings:
    """Make the settings of a client."""
    return KafkaSettings(kafka_bootstrap_servers=infrastructure.kafka_bootstrap_servers, kafka_topic_prefix=prefix)


def price(asset_id: str, sequence: int) -> Outgoing:
    """Make the message of a price that is on its tick for BTC alone."""
    now = datetime.now(UTC)
    event = AssetPriceChanged(asset_id, sequence, Price("100.5"), now, now)
    return outgoing(event, message_id=f"{asset_id}:{sequence}", source="/feed", time=now)


async def test_it_tells_of_each_asset_what_was_published_meanwhile(
    infrastructure: Infrastructure, topic_prefix: str
) -> None:
    """Prices of before do not count; each asset is judged by its own tick, and the numbers rise without a fault."""
    settings = settings_of(infrastructure, topic_prefix)
    topics = {topic_prefix + ASSETS_PRICES.name: ASSETS_PRICES.partitions}
    await create_topics(infrastructure.kafka_bootstrap_servers, topics)
    publisher = Publisher(settings, timeout_s=30)
    assert await publisher.publish([price("OLD", 1)])
    listening = asyncio.create_task(listen(settings, 8.0, {"BTC": Decimal("0.5"), "ETH": Decimal(1)}))
    sequence = 0
    while not listening.done():
        sequence += 1
        assert await publisher.publish([price("BTC", sequence), price("ETH", sequence)])
    await publisher.stop()
    btc, eth = await listening
    assert ("BTC", "ETH") == (btc["asset_id"], eth["asset_id"])
    assert 0 < btc["changes"] <= sequence
    assert (0, 0, 0, ["/feed"]) == (btc["gaps"], btc["backward"], btc["off_tick"], btc["producers"])
    assert eth["off_tick"] >= eth["changes"] > 0


async def test_a_topic_that_is_not_there_is_named_and_not_made(
    infrastructure: Infrastructure, topic_prefix: str
) -> None:
    """Twice the same answer: to look for a topic does not create it."""
    settings = settings_of(infrastructure, topic_prefix)
    for _ in range(2):
        with pytest.raises(Trouble, match=rf"there is no topic {topic_prefix}assets\.prices"):
            await listen(settings, 1.0, {})
