"""The reference price source: it confirms every live price at an interval, until the service stops.

While it fails, without a database for instance, prices grow stale and orders are refused. After an outage the source
runs before the orders that waited for the database, so that they are checked against freshly confirmed prices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from participants.assets.store import confirm_prices
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.transactions import Begins

LATE_AFTER: Final = 2
"""After so many intervals without a confirmation the source was held up, not just slow."""

GIVEN_UP_AFTER_S: Final = 10.0
"""How long a check waits for a failing source; the orchestrator gives up after 30 s."""


class Feed:
    """Confirms all live prices every `every_s` seconds; `clock` returns seconds, a frozen process's too."""

    def __init__(
        self, source: AsyncEngine | Begins, every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._every_s = every_s
        self._clock = clock
        self._confirmed_at: float | None = None
        self._failing_since: float | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Confirm until `stopping`; a failure is logged, and the next round tries again."""
        await keep_doing("confirming prices", self._confirm, stopping, every_s=self._every_s)

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

    async def _confirm(self) -> None:
        begun_at = self._clock()
        await confirm_prices(self._source)
        self._confirmed_at, self._failing_since = begun_at, None
