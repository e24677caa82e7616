"""Stops a consumer whatever its state: aiokafka's own `stop` can hang, or cancel whoever calls it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from saga_kit.runtime.errors import describe

HANG_UP_TIMEOUT_S: Final = 1.0


async def stop_consumer(stopping: Coroutine[Any, Any, None], consumer: Any, *, timeout_s: float) -> str | None:
    """Run `stopping`, which stops `consumer`, for `timeout_s` at most; return what failed, if it did. Raises nothing.

    After a failure the consumer's connections are closed all the same.
    """
    # In a task of its own: while no broker answers, aiokafka 0.14 passes the cancellation of its own fetches on to
    # whoever stops it, or waits for answers; and FastStream wraps what it raises in a group.
    task = asyncio.create_task(stopping)
    await asyncio.wait({task}, timeout=timeout_s)
    failure = _failure_of(task, timeout_s)
    if failure is not None:
        task.cancel()
        with suppress(Exception):
            async with asyncio.timeout(HANG_UP_TIMEOUT_S):
                await consumer._client.close()  # noqa: SLF001 - there is no other way to it
    return failure


def _failure_of(task: asyncio.Task[None], timeout_s: float) -> str | None:
    if not task.done():
        return f"no answer within {timeout_s:.0f} s"
    if task.cancelled():
        return "the client library gave up"
    error = task.exception()
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return describe(error) if error is not None else None
