"""Has streams tell their users of endpoints that the process which sends webhooks has given up.

What a stream shows from the database names them, so each stream begins with those of its user, and one that is open
reads again when there is a new one. Such a thing is rare: nobody is told by a message of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final, Protocol

from order_api.live.feed import Feed
from order_api.live.store import Disabling
from saga_kit.runtime.backoff import keep_doing

LOOK_S: Final = 1.0
OVERLAP_S: Final = 60.0
"""How much further back than the last look this one goes: what a transaction writes is seen when it commits."""


class TellsDisabled(Protocol):
    """Whoever knows which endpoints were given up."""

    async def disabled_within(self, seconds: float) -> Collection[Disabling]:
        """Return the endpoints that were given up in the last seconds."""


class DisabledEndpoints:
    """Looks for endpoints that are given up, while anybody follows a user's orders."""

    def __init__(self, feed: Feed, store: TellsDisabled, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._feed = feed
        self._store = store
        self._clock = clock
        self._looked_s: float | None = None
        self._known: frozenset[Disabling] = frozenset()

    async def run(self, stopping: asyncio.Event) -> None:
        """Do so until `stopping`; what the database does not tell now, it tells later."""
        await keep_doing("look for endpoints that are given up", self.look, stopping, every_s=LOOK_S)

    async def look(self) -> None:
        """Have the streams of those read again whose endpoints were given up since the last look."""
        if not self._feed.users_followed:
            self._looked_s, self._known = None, frozenset()
            return
        now_s = self._clock()
        since_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        found = frozenset(await self._store.disabled_within(since_s + OVERLAP_S))
        for user_id in {one.user_id for one in found - self._known}:
            self._feed.missed_of_user(user_id)
        self._looked_s, self._known = now_s, found
