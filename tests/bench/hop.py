"""The time of one hop on an otherwise idle broker: from sending a message until a consumer has it.

Producer and consumer have the system's own settings. The hops of an order's path are the least that its latency can be.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time

from aiokafka import AIOKafkaConsumer

from saga_kit.messaging.publisher import Publisher, RawMessage
from saga_kit.runtime.settings import KafkaSettings, KitSettings

PATH = (
    "OrderRequested",
    "CheckAsset",
    "AssetApproved",
    "ReserveBalance",
    "BalanceReserved",
    "SettleBalance",
    "BalanceSettled",
    "OrderStatusChanged",
)
"""The messages of a market order that are sent one after another, from its request to its last event."""
PAUSE_S = 0.05
"""The average pause between two hops: longer than a fetch waits, so that no hop meets a fetch under way."""


async def hop_ms(bootstrap_servers: str, topic: str, hops: int) -> float:
    """Return the median time of this number of hops."""
    wait_ms = KitSettings.model_fields["kafka_fetch_max_wait_ms"].default
    publisher = Publisher(KafkaSettings(kafka_bootstrap_servers=bootstrap_servers), client_id="hop")
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap_servers, group_id=None, fetch_max_wait_ms=wait_ms)
    await consumer.start()
    took_ms, chance = [], random.Random(1)  # noqa: S311 - a load, no secret
    try:
        await consumer.seek_to_end()
        for number in range(hops + 1):
            getting = asyncio.ensure_future(_arrival(consumer))
            await asyncio.sleep(chance.uniform(0, 2 * PAUSE_S))
            began = time.perf_counter()
            await publisher.publish_raw([RawMessage(topic, str(number).encode(), bytes(350), [])])
            took_ms.append((await asyncio.wait_for(getting, 30) - began) * 1e3)
    finally:
        await consumer.stop()
        await publisher.stop()
    return statistics.median(took_ms[1:])


async def _arrival(consumer: AIOKafkaConsumer) -> float:
    await consumer.getone()
    return time.perf_counter()
