"""Publishes prices to a system's feed, as a source does, and tells when the orchestrator has judged them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Final

import asyncpg

from contracts.assets import AssetPriceChanged
from contracts.codec import outgoing
from contracts.decimals import Price
from contracts.envelope import Outgoing
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.settings import KafkaSettings
from tests.bench.ground import Ground, System
from tests.bench.market.resting import HIGH, LOW
from tests.bench.scenario import BenchError

TICK: Final = Decimal("0.01")
START: Final = (LOW + HIGH) / 2
TOGETHER: Final = 1000
"""Ticks that are published at once, of a backlog."""
PACE_S: Final = 0.005
"""At a rate, ticks that are due in the same interval go out together."""
LOOK_S: Final = 0.01
DEADLINE_S: Final = 120.0
_SEQUENCES: Final = "SELECT asset_id, sequence FROM orders.marks"
_JUDGED: Final = """
    SELECT coalesce(sum(sequence), 0)::bigint, coalesce(bool_and(live), true) FROM orders.marks
    WHERE asset_id = ANY($1::text[])"""


class Feed:
    """The source of a system's prices. Each asset has a sequence that counts by one."""

    def __init__(self, publisher: Publisher, connection: asyncpg.Connection, sequences: Mapping[str, int]) -> None:
        self._publisher, self._connection = publisher, connection
        self._sequences = dict(sequences)
        self._number = 0

    async def publish(self, prices: Sequence[tuple[str, Decimal]]) -> None:
        """Publish prices of assets, in their order. Raises `BenchError` when the broker does not take them."""
        for first in range(0, len(prices), TOGETHER):
            ticks = [self._message(asset_id, price) for asset_id, price in prices[first : first + TOGETHER]]
            if not await self._publisher.publish(ticks):
                raise BenchError("the broker did not take the prices")

    async def paced(self, prices: Sequence[tuple[str, Decimal]], per_s: float) -> None:
        """Publish prices at a rate."""
        began, done = time.monotonic(), 0
        while done < len(prices):
            await asyncio.sleep(PACE_S)
            due = min(len(prices), round((time.monotonic() - began) * per_s))
            await self.publish(prices[done:due])
            done = due

    async def judged(self, asset_ids: Sequence[str]) -> float:
        """Wait until every published tick of these assets is judged; return how many were judged in a second.

        The time runs from the first of them that was seen to be judged. Raises `BenchError` when they were too old to
        fire anything, or are not judged in time.
        """
        last = sum(self._sequences.get(asset_id, 0) for asset_id in asset_ids)
        before, _ = await self._marks(asset_ids)
        first, began = before, 0.0
        async with asyncio.timeout(DEADLINE_S):
            while (now := await self._marks(asset_ids))[0] < last:
                if first == before != now[0]:
                    first, began = now[0], time.monotonic()
                await asyncio.sleep(LOOK_S)
        if not now[1]:
            raise BenchError("the ticks were too old when they were judged; measure fewer of them")
        return (last - first) / (time.monotonic() - began)

    async def _marks(self, asset_ids: Sequence[str]) -> tuple[int, bool]:
        judged, live = await self._connection.fetchrow(_JUDGED, asset_ids)
        return judged, live

    def _message(self, asset_id: str, price: Decimal) -> Outgoing:
        now = datetime.now(UTC)
        self._sequences[asset_id] = sequence = self._sequences.get(asset_id, 0) + 1
        self._number += 1
        changed = AssetPriceChanged(asset_id, sequence, Price(price), now)
        return outgoing(changed, message_id=f"bench-{self._number}", source="/bench", time=now)


@asynccontextmanager
async def feed(ground: Ground, system: System) -> AsyncIterator[Feed]:
    """Give a system's feed, which goes on from the prices that were judged."""
    settings = KafkaSettings(kafka_bootstrap_servers=ground.kafka_bootstrap_servers, kafka_topic_prefix=system.prefix)
    publisher = Publisher(settings, client_id="bench-feed")
    connection = await asyncpg.connect(system.contender.database_url)
    try:
        yield Feed(publisher, connection, dict(await connection.fetch(_SEQUENCES)))
    finally:
        await connection.close()
        await publisher.stop()


def walk(asset_ids: Sequence[str], ticks: int, seed: int = 1) -> list[tuple[str, Decimal]]:
    """Let the prices of assets walk at random, a tick up or down, within the bounds that fire nothing."""
    chance, at, prices = Random(seed), dict.fromkeys(asset_ids, START), []  # noqa: S311 - a load, no secret
    for _ in range(ticks):
        asset_id = chance.choice(asset_ids)
        at[asset_id] = min(HIGH, max(LOW, at[asset_id] + chance.choice((TICK, -TICK))))
        prices.append((asset_id, at[asset_id]))
    return prices
