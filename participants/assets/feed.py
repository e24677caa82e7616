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
from saga_kit.backoff import keep_doing

LATE_AFTER: Final = 2
"""Intervals without a confirmation after which the source has been held up, and not only slow."""


class Feed:
    """Confirms all live prices every `every_s` seconds; `clock` tells seconds that pass, also while we stand still."""

    def __init__(self, engine: AsyncEngine, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._every_s = every_s
        self._clock = clock
        self._confirmed_at: float | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Confirm until `stopping`; a failure is logged and tried again."""
        await keep_doing("confirming prices", self._confirm, stopping, every_s=self._every_s)

    async def catch_up(self) -> bool:
        """Confirm now if that has not been done for long, or never; tell whether it was so.

        Then what has been read of the prices says how long the source was held up, and not how old they are. Raises
        what the database does; then nobody can judge yet either.
        """
        if self._confirmed_at is not None and self._clock() - self._confirmed_at <= LATE_AFTER * self._every_s:
            return False
        await self._confirm()
        return True

    async def _confirm(self) -> None:
        begun_at = self._clock()
        await confirm_prices(self._engine)
        self._confirmed_at = begun_at
