"""Shared by the tests of prices: what is stored and sent, and an instance of the service with a clock of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import AssetPriceChanged
from contracts.codec import decode
from contracts.decimals import Price
from participants.assets.feed import Feed
from participants.assets.price_store import Newest, PriceChange, newest_prices, set_prices
from participants.assets.publication import PriceMetrics, Publication
from participants.assets.simulator import Walk
from participants.assets.tables import SCHEMA
from saga_kit.messaging.outbox import Outbox, Relay
from tests.saga_kit.support import FakePublisher

WALK = Walk(7, 50.0, 3, Price("90"), Price("110"), Price("0.01"))


async def newest(engine: AsyncEngine) -> Newest:
    """Read the price of BTC."""
    return next(one for one in await newest_prices(engine) if one.asset_id == "BTC")


async def sent(engine: AsyncEngine, count: int) -> list[AssetPriceChanged]:
    """Publish what is in the outbox; return it by its sequence."""
    publisher = FakePublisher()
    relay = Relay(engine, SCHEMA, Outbox(SCHEMA), publisher)
    async with asyncio.timeout(60):
        while len(publisher.published) < count:
            await relay.relay_once()
    return sorted(events(publisher), key=lambda one: one.sequence)


def events(publisher: FakePublisher) -> list[AssetPriceChanged]:
    """Decode what was published."""
    return [decode("AssetPriceChanged", one.value) for one in publisher.published]  # type: ignore[misc]


async def set_from_outside(engine: AsyncEngine, *prices: str) -> list[tuple[int, str]]:
    """Set prices of BTC as a feed does; return what must be published."""
    made = await set_prices(engine, [PriceChange("BTC", [Price(price) for price in prices])])
    return [(one.sequence, str(one.price)) for one in made]


@dataclass
class Instance:
    """An instance of the service: its feed and its publication, with a clock of the test's own."""

    engine: AsyncEngine
    heartbeat_s: float = 10.0
    publisher: FakePublisher = field(default_factory=FakePublisher)
    now_s: float = 1_000.0

    def __post_init__(self) -> None:
        """Build the parts."""
        self.feed = Feed(self.engine, 1.0, lambda: self.now_s)
        self.registry = CollectorRegistry()
        self.publication = Publication(
            self.engine,
            self.feed,
            self.publisher,
            PriceMetrics(self.registry),
            heartbeat_s=self.heartbeat_s,
            clock=lambda: self.now_s,
        )

    async def confirm(self) -> None:
        """Confirm prices and take leases, as after a pause."""
        self.now_s += 3
        await self.feed.catch_up()

    async def move(self, seconds: float) -> None:
        """Let the moving prices know that time has passed, and move them."""
        moving = asyncio.create_task(self.publication.move_once())
        await asyncio.sleep(0)
        self.now_s += seconds
        await moving

    async def repeat(self, rounds: int = 20) -> None:
        """Run through one interval of heartbeats, with fresh confirmations."""
        for _ in range(rounds):
            await self.repeat_round(rounds)

    async def repeat_round(self, rounds: int = 20) -> None:
        """Run one round of heartbeats."""
        self.now_s += self.heartbeat_s / rounds
        await self.feed.catch_up()
        await self.publication.repeat_once()

    def counted(self, name: str) -> float:
        """Return a metric's value."""
        return self.registry.get_sample_value(f"{name}_total") or 0.0

    def published(self) -> list[AssetPriceChanged]:
        """Return what was published, and forget it."""
        found = events(self.publisher)
        self.publisher.published.clear()
        return found
