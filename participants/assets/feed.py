"""The reference price source: it stands by every live price, again and again, until the service stops.

When it fails (no database, say), prices grow stale and orders are refused; that is what confirming is for. After an
outage the source comes first: the orders that waited for the database are judged by prices that it has confirmed since.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from participants.assets.store import confirm_prices
from saga_kit.runtime.backoff import keep_doing

LATE_AFTER: Final = 2
"""Intervals without a confirmation after which the source has been held up, and not only slow."""

GIVEN_UP_AFTER_S: Final = 10.0
"""For so long a check waits for a source that fails, well below the orchestrator's patience of 30 s."""


class Feed:
    """Confirms all live prices every `every_s` seconds; `clock` tells seconds that pass, also while we stand still."""

    def __init__(self, engine: AsyncEngine, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._every_s = every_s
        self._clock = clock
        self._confirmed_at: float | None = None
        self._failing_since: float | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Confirm until `stopping`; a failure is logged and tried again."""
        await keep_doing("confirming prices", self._confirm, stopping, every_s=self._every_s)

    async def catch_up(self) -> bool:
        """Confirm now if that has not been done for long, or never; tell whether it was so.

        Then what has been read of the prices says how long the source was held up, and not how old they are. Raises
        what the database does, for `GIVEN_UP_AFTER_S` at most: a source that can't confirm for a cause of its own is
        stale, and holds up no judgement.
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
        await confirm_prices(self._engine)
        self._confirmed_at, self._failing_since = begun_at, None
