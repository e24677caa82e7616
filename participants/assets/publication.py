"""Publishes prices from memory: the changes of the sources that move, and each newest price again as a heartbeat.

Nothing here is stored before it is sent. A price that did not arrive is repeated by the heartbeat, unless there is a
newer one by then, which makes it late.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import Trading
from participants.assets.feed import Feed, FeedPoint
from participants.assets.price_store import Newest, PriceChange, Source, price_message, set_prices
from participants.assets.simulator import Script, Walk, conflate, script_due, walk
from saga_kit.messaging.outbox import Publishes
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.crash_points import reached
from saga_kit.runtime.transactions import Begins

MOVE_EVERY_S: Final = 0.02
"""All changes of so much time are one statement."""
IDLE_S: Final = 0.2
"""How often to look for a price that begins to move."""
HEARTBEAT_ROUNDS: Final = 20
"""Into so many rounds the heartbeats of an interval are spread."""
CATCH_UP_S: Final = 1.0
"""After a pause a walk makes the steps of so much time at most."""


class PriceMetrics:
    """What is counted of the prices that this instance publishes."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self.changes = Counter("price_changes", "Changed prices published from memory.", registry=registry)
        self.heartbeats = Counter("price_heartbeats", "Newest prices published again.", registry=registry)
        self.unsent = Counter("price_unsent", "Prices that may not have reached the broker.", registry=registry)


class Publication:
    """Moves and repeats the prices that `feed` has leased; `clock` returns seconds."""

    def __init__(
        self,
        source: AsyncEngine | Begins,
        feed: Feed,
        publisher: Publishes,
        metrics: PriceMetrics,
        *,
        heartbeat_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._feed = feed
        self._publisher = publisher
        self._metrics = metrics
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._moved_at: dict[str, float] = {}
        """By asset: up to when its walk has made its steps."""
        self._repeated: dict[str, int] = {}
        """By asset: the last interval of heartbeats in which it was repeated."""

    async def move(self, stopping: asyncio.Event) -> None:
        """Move and publish prices until `stopping`."""
        await keep_doing("moving prices", self.move_once, stopping, every_s=0)

    async def repeat(self, stopping: asyncio.Event) -> None:
        """Repeat the newest prices until `stopping`."""
        every_s = self._heartbeat_s / HEARTBEAT_ROUNDS
        await keep_doing("repeating prices", self.repeat_once, stopping, every_s=every_s)

    async def move_once(self) -> bool:
        """Make and publish the steps that are due; rest before, as long as fits. Return that there may be more."""
        moving = [one for one in self._feed.newest.values() if one.terms is not None and one.trading is Trading.OPEN]
        self._moved_at = {one.asset_id: self._moved_at.get(one.asset_id, self._clock()) for one in moving}
        await asyncio.sleep(self._rest_s(moving))
        changes = [change for one in moving if (change := self._due(one)) is not None]
        if changes:
            moved = await set_prices(self._source, changes, self._feed.instance)
            reached(FeedPoint.PRICES_MOVED, moved)
            for one in moved:
                self._feed.show(one)
            if await self._publish(moved, repeats=False):
                self._metrics.changes.inc(len(moved))
        return True

    async def repeat_once(self) -> None:
        """Publish again each newest price whose turn it is; a price that its source does not stand by is left out."""
        now_s = self._clock()
        due: list[Newest] = []
        for one in self._feed.newest.values():
            interval = int(now_s / self._heartbeat_s + zlib.crc32(one.asset_id.encode()) / 2**32)
            if self._repeated.setdefault(one.asset_id, interval) != interval and self._stands_by(one):
                due.append(one)
            self._repeated[one.asset_id] = interval
        if due and await self._publish(due, repeats=True):
            self._metrics.heartbeats.inc(len(due))

    def _stands_by(self, one: Newest) -> bool:
        recently = timedelta(seconds=self._heartbeat_s)
        return one.source is not Source.DEAD and one.confirmed_at is not None and one.now - one.confirmed_at <= recently

    def _rest_s(self, moving: Sequence[Newest]) -> float:
        """Say how long no price is due: a slow walk is not looked at fifty times a second."""
        rests_s = [
            self._moved_at[one.asset_id] + 1 / one.terms.per_second - self._clock()
            if isinstance(one.terms, Walk)
            else MOVE_EVERY_S
            for one in moving
        ]
        return max(MOVE_EVERY_S, min((IDLE_S, *rests_s)))

    def _due(self, one: Newest) -> PriceChange | None:
        if isinstance(one.terms, Walk):
            return self._walked(one, one.terms)
        assert isinstance(one.terms, Script)  # noqa: S101 - a price that moves has one of the two
        return self._scripted(one, one.terms)

    def _walked(self, one: Newest, terms: Walk) -> PriceChange | None:
        now_s = self._clock()
        begun_s = max(self._moved_at[one.asset_id], now_s - CATCH_UP_S)
        steps = int((now_s - begun_s) * terms.per_second)
        self._moved_at[one.asset_id] = begun_s + steps / terms.per_second
        if not steps:
            return None
        path = walk(terms, one.price, one.position, steps)
        return PriceChange(one.asset_id, conflate(one.price, path), one.sequence, steps)

    def _scripted(self, one: Newest, terms: Script) -> PriceChange | None:
        made = script_due(terms, one.position, one.elapsed_s + self._feed.known_for_s(one.asset_id))
        over = one.position + len(made) == len(terms.prices)
        return PriceChange(one.asset_id, made, one.sequence, len(made), over) if made else None

    async def _publish(self, prices: Sequence[Newest], *, repeats: bool) -> bool:
        sent = not prices or await self._publisher.publish([price_message(one, repeats=repeats) for one in prices])
        reached(FeedPoint.PRICES_PUBLISHED, prices)
        if not sent:
            self._metrics.unsent.inc(len(prices))
        return sent
