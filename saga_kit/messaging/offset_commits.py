"""Commits offsets in the background: no batch waits for a commit, and one commit covers all batches since the last.

Handlers tolerate redelivery, so an offset commit that is late, or lost, costs only work. One that is sent while its
member joins the group again costs more. The broker takes it after the join, and refuses it as an old generation's. Then
aiokafka 0.14 forgets who it is and joins once more: at best the group shares out its partitions twice, at worst it
waits for the forgotten member until its session is over, and nobody reads anything meanwhile. So no commit is sent
between the two calls of the group's listener.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from saga_kit.messaging.poller import Poller
from saga_kit.runtime.backoff import pause
from saga_kit.runtime.crash_points import CrashPoint, reached
from saga_kit.runtime.errors import describe

COMMIT_EVERY_S: Final = 0.1
"""A crash repeats the batches of this time at most, and the one in work."""
COMMIT_AGAIN_S: Final = 1.0
"""The pause after a commit that failed."""
COMMIT_TIMEOUT_S: Final = 10.0
LAST_COMMIT_S: Final = 1.0
"""How long the group waits for a commit of this member that is under way before partitions move."""
CLOSE_TIMEOUT_S: Final = 2.0
"""A broker that hangs must not hold up the end of the process: what is not committed is delivered again."""

log = structlog.get_logger(__name__)


class OffsetCommits:
    """Commits the offsets of handled records: at once after an idle time, else every `COMMIT_EVERY_S`."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        poller.before_joining = self._let_it_end
        self._committing = asyncio.Lock()
        self._wanted = False
        self._done: list[object] = []
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def request(self, consumer: Any, done: Sequence[object]) -> None:
        """Ask for a commit of what is handled up to now; `done` are the messages since the last call."""
        self._wanted = True
        self._done += done
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._commit_until_done(consumer))

    async def close(self) -> None:
        """Commit what is not committed yet, within `CLOSE_TIMEOUT_S`. Raises nothing."""
        self._hurry.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)

    async def _commit_until_done(self, consumer: Any) -> None:
        while self._wanted:
            await self._poller.settled.wait()
            self._wanted = False
            done, self._done = self._done, []
            last = self._hurry.is_set()
            committed = await self._commit(consumer, done)
            if not committed and not last:
                self._wanted = True  # no further batch may come to ask for it
            await pause(self._hurry, COMMIT_EVERY_S if committed else COMMIT_AGAIN_S)

    async def _let_it_end(self) -> None:
        """Wait for the commit that is under way, if there is one. None is begun: it could not be called off."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_COMMIT_S), self._committing:
                pass

    async def _send(self, consumer: Any) -> None:
        if offsets := self._poller.offsets(consumer):
            await consumer.commit(offsets)
            self._poller.committed(offsets)

    async def _commit(self, consumer: Any, done: Sequence[object]) -> bool:
        committed = False
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                async with self._committing:
                    if committed := self._poller.settled.is_set():  # it may have waited for the last commit
                        await self._send(consumer)
        except Exception as error:  # noqa: BLE001 - whatever it is, handlers tolerate the redelivery
            log.warning("committing offsets failed", cause=describe(error))
            committed = False
        reached(CrashPoint.OFFSETS_COMMITTED, done)
        return committed
