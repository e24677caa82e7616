"""The reference price source: it confirms every live price at an interval, until the service stops.

While it fails, without a database for instance, prices grow stale and orders are refused. After an outage the source
runs before the orders that waited for the database, so that they are checked against freshly confirmed prices.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from participants.assets.price_store import Newest, confirm_prices, release
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.crash_points import reached
from saga_kit.runtime.errors import describe
from saga_kit.runtime.transactions import Begins

LATE_AFTER: Final = 2
"""After so many intervals without a confirmation the source was held up, not just slow."""

GIVEN_UP_AFTER_S: Final = 10.0
"""How long a check waits for a failing source; the orchestrator gives up after 30 s."""

LEASE_INTERVALS: Final = 5
"""An instance that has not confirmed for so many intervals loses its prices to another one."""


log = structlog.get_logger(__name__)


class FeedPoint(StrEnum):
    """Places in the work on prices between two effects: see `saga_kit.runtime.crash_points`."""

    PRICES_LEASED = "prices leased"
    """Prices are confirmed and their leases renewed; this instance does not know yet which of them it has."""
    PRICES_MOVED = "prices moved"
    """New prices are committed; nothing is published."""
    PRICES_PUBLISHED = "prices published"
    """The broker has acknowledged them, or has not: the heartbeat repeats them in any case."""


class Feed:
    """Confirms all live prices every `every_s` seconds; `clock` returns seconds, a frozen process's too.

    Each price is moved and repeated by one instance of the service, which leases it while it confirms. `newest` has the
    prices of this instance.
    """

    def __init__(
        self, source: AsyncEngine | Begins, every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.instance: Final = str(uuid.uuid4())
        self.newest: dict[str, Newest] = {}
        self._read_at: dict[str, float] = {}
        self._source = source
        self._every_s = every_s
        self._clock = clock
        self._confirmed_at: float | None = None
        self._failing_since: float | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Confirm until `stopping`, then give the leases up. A failure is logged, and the next round tries again."""
        await keep_doing("confirming prices", self._confirm, stopping, every_s=self._every_s)
        self.newest.clear()
        try:
            await release(self._source, self.instance)
        except Exception as error:  # noqa: BLE001 - it only saves another instance the wait
            log.info("the leases of prices were not given up", cause=describe(error))

    async def catch_up(self) -> bool:
        """Confirm now if the last confirmation is long ago, or there was none; return whether it did.

        After True the caller must read the prices again: what it has read shows how long the source was held up, not
        how old the prices are. Raises the database's errors for `GIVEN_UP_AFTER_S`, and returns False after that: a
        source that can't confirm leaves its prices stale, and orders are refused instead of waiting.
        """
        now = self._clock()
        if self._confirmed_at is not None and now - self._confirmed_at <= LATE_AFTER * self._every_s:
            return False
        try:
            await self._confirm()
        except Exception:
            self._failing_since = now if self._failing_since is None else self._failing_since
            if now - self._failing_since < GIVEN_UP_AFTER_S:
                raise
            return False
        return True

    def show(self, one: Newest) -> None:
        """Take note of a price, unless a newer one is known: what was read first may come last."""
        known = self.newest.get(one.asset_id)
        if known is None or known.sequence <= one.sequence:
            self.newest[one.asset_id] = one
            self._read_at[one.asset_id] = self._clock()

    def known_for_s(self, asset_id: str) -> float:
        """Say how many seconds ago the newest price of an asset was read."""
        return self._clock() - self._read_at[asset_id]

    async def _confirm(self) -> None:
        begun_at = self._clock()
        found = await confirm_prices(self._source, self.instance, LEASE_INTERVALS * self._every_s)
        reached(FeedPoint.PRICES_LEASED, found)
        self._confirmed_at, self._failing_since = begun_at, None
        for mine, one in found:
            if mine:
                self.show(one)
            else:
                self.newest.pop(one.asset_id, None)
