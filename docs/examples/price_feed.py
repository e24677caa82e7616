"""A platform's own feed of prices: any source of (asset, price) goes to `assets.prices`. It needs aiokafka, no more.

    python price_feed.py < prices      lines `ASSET PRICE`; instead of stdin, iterate over your websocket

KAFKA_BOOTSTRAP_SERVERS and KAFKA_TOPIC_PREFIX say where. Whoever writes this topic fires everybody's orders: give the
right to this feed's login alone, and stop the reference asset service from publishing the same assets.
"""

import asyncio
import json
import os
import sys
import time
import uuid
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

SOURCE = "/price-feed"
HEARTBEAT_S = float(os.environ.get("HEARTBEAT_S", "5"))  # at most 10: an older price is stale
TOPIC = os.environ.get("KAFKA_TOPIC_PREFIX", "") + "assets.prices"


async def prices():
    """Yield (asset, price as text) in the order it happened; replace this by your source."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        yield line.split()


async def send(producer, body):
    """Publish a price. The key is the asset, so all its prices are in one partition, in order."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": str(uuid.uuid4()),
        "ce_source": SOURCE,
        "ce_type": "AssetPriceChanged",
        "ce_time": datetime.now(UTC).isoformat(),
        "content-type": "application/json",
    }
    pairs = [(name, value.encode()) for name, value in headers.items()]
    await producer.send_and_wait(TOPIC, json.dumps(body).encode(), key=body["asset_id"].encode(), headers=pairs)


async def repeat(producer, newest):
    """Say again, with the old sequence, what each price is: silence must mean that the source is dead."""
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        for body in list(newest.values()):
            await send(producer, body | {"confirmed_at": datetime.now(UTC).isoformat()})


async def main():
    """Publish every change at once, with a sequence that rises for ever: microseconds since 1970."""
    newest = {}
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"], acks="all", enable_idempotence=True
    )
    async with producer:
        beat = asyncio.create_task(repeat(producer, newest))
        async for asset_id, price in prices():
            before = newest.get(asset_id, {"sequence": 0, "price": None})
            if price != before["price"]:
                sequence = max(time.time_ns() // 1000, before["sequence"] + 1)
                as_of = datetime.now(UTC).isoformat()
                newest[asset_id] = {"asset_id": asset_id, "sequence": sequence, "price": price, "as_of": as_of}
                await send(producer, newest[asset_id])
        beat.cancel()


if __name__ == "__main__":
    asyncio.run(main())
