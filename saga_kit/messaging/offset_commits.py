"""Commits offsets beside the work: batches never wait for it, and one commit serves all that came to an end meanwhile.

Guards absorb whatever is delivered again, so a commit that comes late, or never, only costs work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import structlog

from saga_kit.messaging.poller import Poller
from saga_kit.runtime.backoff import pause
from saga_kit.runtime.crash_points import CrashPoint, reached
from saga_kit.runtime.errors import describe

COMMIT_EVERY_S: Final = 0.1
"""What a crash repeats at most, besides the batch at hand."""
COMMIT_AGAIN_S: Final = 1.0
"""After one that failed."""
COMMIT_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
"""A broker that hangs must not hold up the end: what is not committed is delivered again."""

log = structlog.get_logger(__name__)


class OffsetCommits:
    """Commits what the poller knows to be handled: at once after a pause, else at most every `COMMIT_EVERY_S`."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._moved = False
        self._done: list[object] = []
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def move(self, consumer: Any, done: Sequence[object]) -> None:
        """Have committed, soon, what was handled up to now; `done` are the messages since the last call."""
        self._moved = True
        self._done += done
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow(consumer))

    async def close(self) -> None:
        """Commit now what is not committed yet, unless that takes longer than ending may. Raises nothing."""
        self._hurry.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)

    async def _follow(self, consumer: Any) -> None:
        while self._moved:
            self._moved = False
            done, self._done = self._done, []
            last = self._hurry.is_set()
            committed = await self._commit(consumer, done)
            if not committed and not last:
                self._moved = True  # a topic that has gone quiet moves it no more
            await pause(self._hurry, COMMIT_EVERY_S if committed else COMMIT_AGAIN_S)

    async def _commit(self, consumer: Any, done: Sequence[object]) -> bool:
        committed = True
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                if offsets := self._poller.offsets(consumer):
                    await consumer.commit(offsets)
        except Exception as error:  # noqa: BLE001 - whatever it is: what is delivered again is absorbed by the guards
            log.warning("committing offsets failed", cause=describe(error))
            committed = False
        reached(CrashPoint.OFFSETS_COMMITTED, done)
        return committed
