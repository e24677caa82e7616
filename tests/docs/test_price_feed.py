"""The example of a platform's own feed, run as it stands on a broker: what it sends is a feed without faults."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer

from contracts.assets import AssetPriceChanged
from contracts.codec import decode
from contracts.envelope import read_envelope
from contracts.topics import ASSETS_PRICES
from operations.market.feed_check import HEARTBEAT_MAX_S, RATE_MAX
from order_saga.core.phases import MAX_TICK_AGE_S
from order_saga.triggers.metrics import BACKWARDS_AFTER
from tests.support.infrastructure import Infrastructure

PAGE = Path(__file__).parents[2] / "docs" / "price-feed.md"
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "price_feed.py"


def test_the_page_lists_the_fields_of_a_price() -> None:
    """Its table has every field of the message, says which are required, and its example is one that can be read."""
    text = PAGE.read_text()
    rows = re.findall(r"^\| `(\w+)` \| (required|optional) \|", text, re.MULTILINE)
    fields = msgspec.structs.fields(AssetPriceChanged)
    assert rows == [(field.name, "required" if field.required else "optional") for field in fields]
    (example,) = re.findall(r"^```json\n(.*)\n```$", text, re.MULTILINE)
    event = decode("AssetPriceChanged", example.encode())
    assert isinstance(event, AssetPriceChanged)


def test_the_page_says_the_limits_of_the_code() -> None:
    """How old a tick may be, how many late ones are a new beginning, and what `feed check` wants of a feed."""
    text = PAGE.read_text()
    assert f"at most {MAX_TICK_AGE_S:g} s old, `OPEN`" in text
    assert f"| {BACKWARDS_AFTER} smaller ones in a row" in text
    assert f"at least every {HEARTBEAT_MAX_S:g} s**" in text
    assert f"above {RATE_MAX:g} a second" in text


async def test_its_messages_are_prices_on_rising_sequences(infrastructure: Infrastructure, topic_prefix: str) -> None:
    """Each change has a greater sequence, an equal price none; a heartbeat repeats the newest, confirmed anew."""
    topic = topic_prefix + ASSETS_PRICES.name
    await infrastructure.create_topics({topic: 3})
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": infrastructure.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": topic_prefix,
        "HEARTBEAT_S": "0.5",
    }
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=infrastructure.kafka_bootstrap_servers, auto_offset_reset="earliest"
    )
    feed = await asyncio.create_subprocess_exec(sys.executable, EXAMPLE, env=environment, stdin=asyncio.subprocess.PIPE)
    assert feed.stdin is not None
    feed.stdin.write(b"BTC 50000\nETH 2500\nBTC 50000\nBTC 50001.5\n")
    await feed.stdin.drain()
    seen: list[AssetPriceChanged] = []
    async with consumer, asyncio.timeout(60):
        while not any(one.price == 50001.5 and one.confirmed_at for one in seen):
            record = await consumer.getone()
            event = decode(read_envelope(record.headers).type, record.value)
            assert isinstance(event, AssetPriceChanged)
            assert event.asset_id.encode() == record.key
            seen.append(event)
    feed.stdin.close()
    assert 0 == await asyncio.wait_for(feed.wait(), 30)

    changes = [one for one in seen if one.confirmed_at is None]
    assert ["50000", "50001.5"] == [str(one.price) for one in changes if one.asset_id == "BTC"]
    first, second = (one for one in changes if one.asset_id == "BTC")
    assert first.sequence < second.sequence
    [beat] = [one for one in seen if one.asset_id == "BTC" and one.confirmed_at and one.price == second.price]
    assert (second.sequence, second.as_of) == (beat.sequence, beat.as_of)
    assert beat.confirmed_at is not None
    assert beat.confirmed_at > beat.as_of
