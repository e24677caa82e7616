"""Requests that wait at the same time share one round trip: to the database, or to the broker.

A lone request goes at once. While a batch is under way, the next one gathers. So batches grow with the load, and no
request waits for a timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

BATCH_SIZE_MAX: Final = 500
WAITING_MAX: Final = 5_000


class Overloaded(OSError):  # noqa: N818 - it names a state
    """Too many wait already; an infrastructure error like any other."""


class Batcher(Generic[T, R]):
    """Calls `work` with the items that have gathered. It returns one result for each, in order, or fails for all."""

    def __init__(
        self,
        work: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        batch_size_max: int = BATCH_SIZE_MAX,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._work = work
        self._batch_size_max = batch_size_max
        self._waiting_max = waiting_max
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def do(self, item: T) -> R:
        """Return the result for one item; raise what its batch raised, or `Overloaded`."""
        if len(self._waiting) >= self._waiting_max:
            raise Overloaded(f"{self._waiting_max} requests wait already")
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run())
        return await result

    async def _run(self) -> None:
        while self._waiting:
            batch = self._waiting[: self._batch_size_max]
            del self._waiting[: self._batch_size_max]
            try:
                results = await self._work([item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 - each who waits gets it
                if isinstance(error, TimeoutError):  # whoever waits behind it would wait as long again, for the same
                    batch += self._waiting
                    self._waiting.clear()
                for _, waiter in batch:
                    if not waiter.done():
                        waiter.set_exception(error)
                continue
            for (_, waiter), result in zip(batch, results, strict=True):
                if not waiter.done():
                    waiter.set_result(result)
