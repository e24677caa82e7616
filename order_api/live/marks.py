"""Moves the mark of the feed on: the time before which every event that was committed has been handed out.

The id of a streamed event is this mark. Whoever comes back with it is shown what was committed from then on, so the
mark must never run ahead. It is taken from the database's clock: the database says until when all events are published,
and the follower, when it has taken all that was in the topic by then. While the broker or the leader of a partition is
away, or an event waits in the outbox, the mark stands still.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from order_api.live.feed import Feed
from saga_kit.runtime.backoff import keep_doing

LOOK_S: Final = 1.0
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def mark_of(at: datetime) -> int:
    """Return a time in microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def time_of(mark: int) -> datetime:
    """Return the time of a mark; raises `OverflowError` for one that no calendar has."""
    return _EPOCH + mark * _MICROSECOND


class TellsPublished(Protocol):
    """Whoever knows the outbox."""

    async def published_until(self) -> datetime:
        """Return the database's time before which every event that was committed is published."""


class Marks:
    """Moves the mark on, about once a second, while anybody follows orders."""

    def __init__(
        self,
        feed: Feed,
        store: TellsPublished,
        complete_at: Callable[[], float],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`complete_at`: when the topic was last read to its ends, in seconds by `clock`."""
        self._feed = feed
        self._store = store
        self._complete_at = complete_at
        self._clock = clock
        self._next: tuple[int, float] | None = None
        """A mark, and when the database gave it: it counts once the topic has been read to its ends after that."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Do so until `stopping`; when the database does not answer, the mark stands still."""
        await keep_doing("mark the stream of events", self.look, stopping, every_s=LOOK_S)

    async def look(self) -> None:
        """Move the mark on if that is possible, and ask for the next one."""
        if self._next is not None and self._complete_at() > self._next[1]:
            self._feed.mark = max(self._feed.mark, self._next[0])
            self._next = None
        if self._next is None and self._feed.followed:
            published = await self._store.published_until()
            self._next = mark_of(published), self._clock()
