"""What the trigger engine counts for Prometheus."""

from __future__ import annotations

from collections import Counter as Counted
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import Counter, Gauge, Histogram

from order_saga.triggers import store
from order_saga.triggers.feed import LATE
from saga_kit.runtime.backoff import RESTS, keep_doing
from saga_kit.runtime.transactions import alone, begin

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from prometheus_client import CollectorRegistry
    from sqlalchemy.ext.asyncio import AsyncEngine

    from order_saga.triggers.book import Hit
    from order_saga.triggers.feed import Admitted, Tick
    from saga_kit.runtime.transactions import Begins

AGES_EVERY_S: Final = 5.0
TIDY_EVERY_S: Final = 60.0
BACKWARDS_AFTER: Final = 100
"""Late ticks of an asset in a row, each as of later than the one before: its source has begun to count anew."""
SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

log = structlog.get_logger(__name__)


class TriggerMetrics:
    """The engine's metrics, counted after each commit."""

    def __init__(self) -> None:
        self.fired = Counter("triggers_fired", "Orders that a tick fired.", ["kind"], registry=None)
        self.lag = Histogram(
            "trigger_lag_seconds", "From a tick's append time to its firing.", buckets=SECONDS, registry=None
        )
        self.ignored = Counter("price_ticks_ignored", "Ticks that fired nothing, by reason.", ["why"], registry=None)
        self.gaps = Counter("price_gaps", "Sequences that a feed which counts by one left out.", registry=None)
        self.age = Gauge(
            "price_feed_age_seconds", "Since the price was confirmed, where orders rest.", ["asset"], registry=None
        )
        self.backwards = Gauge("price_feed_backwards", "Assets whose feed began to count anew.", registry=None)

    def register(self, registry: CollectorRegistry) -> None:
        """Show everything on a process's metrics page."""
        for metric in vars(self).values():
            registry.register(metric)

    def count_hits(self, hits: Sequence[Hit], ticks: Mapping[tuple[str, int], Tick], now: datetime) -> None:
        """Count what a committed round fired, and for each tick that fired how long it took."""
        for kind, number in Counted(hit.kind for hit in hits if hit.fired is not None).items():
            self.fired.labels(kind).inc(number)
        for key in {(hit.row.asset_id, hit.fired.sequence) for hit in hits if hit.fired is not None}:
            self.lag.observe(max(0.0, (now - ticks[key].appended_at).total_seconds()))

    def count_ticks(self, admitted: Admitted) -> None:
        """Count what was ignored of an asset's ticks, once they are all judged."""
        for why, number in admitted.ignored.items():
            self.ignored.labels(why).inc(number)
        self.gaps.inc(admitted.gaps)


class BackwardFeeds:
    """Notices feeds whose sequence begins anew: every tick of theirs is late, and nothing fires any more."""

    def __init__(self, metrics: TriggerMetrics) -> None:
        self._metrics = metrics
        self._late: dict[str, tuple[int, datetime]] = {}
        """Of each asset, how many late ticks came in a row, and when the last one was as of."""

    def note(self, asset_id: str, ticks: Sequence[Tick], admitted: Admitted) -> None:
        """Look at the ticks of an asset as they arrived, and what came of them."""
        if not admitted.ignored[LATE]:
            if self._late.pop(asset_id, None) is not None:
                self._show()
            return
        number, as_of = self._late.get(asset_id, (0, ticks[0].as_of))
        for tick in ticks:
            late = admitted.mark is not None and tick.sequence < admitted.mark.sequence
            number, as_of = (number + 1, tick.as_of) if late and tick.as_of >= as_of else (0, tick.as_of)
        before = self._late.get(asset_id, (0, as_of))[0]
        self._late[asset_id] = number, as_of
        if before < BACKWARDS_AFTER <= number:
            log.error("a feed counts from the beginning again: no order of its asset fires", asset_id=asset_id)
        self._show()

    def _show(self) -> None:
        self._metrics.backwards.set(sum(number >= BACKWARDS_AFTER for number, _ in self._late.values()))


async def refresh_ages(source: AsyncEngine | Begins, metrics: TriggerMetrics, stopping: asyncio.Event) -> None:
    """Show how old prices are, every few seconds, until told to stop. Assets without resting orders are left out."""

    async def look() -> None:
        async with alone(source) as tx:
            ages = await store.feed_ages(tx)
        metrics.age.clear()
        for asset_id, age_s in ages.items():
            metrics.age.labels(asset_id).set(age_s)

    await keep_doing("ages of prices", look, stopping, every_s=AGES_EVERY_S, rests=RESTS)


async def keep_tidy(source: AsyncEngine | Begins, stopping: asyncio.Event) -> None:
    """Delete steps and trails that no order needs, every minute, until told to stop. Busy assets wait for next time."""

    async def tidy() -> None:
        async with alone(source) as tx:
            asset_ids = await store.with_trails(tx)
        for asset_id in asset_ids:
            async with begin(source) as tx:
                if await store.try_gates(tx, [asset_id]):
                    await store.tidy(tx, [asset_id])

    await keep_doing("tidying trails", tidy, stopping, every_s=TIDY_EVERY_S, rests=RESTS)
