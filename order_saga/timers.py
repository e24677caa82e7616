"""The scanner: orders whose time has come go through the same door as every other message, as timers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from order_saga import store
from order_saga.core.saga import Incoming, TimerDue
from order_saga.silence import PROBES
from saga_kit.backoff import keep_doing
from saga_kit.batch import Received
from saga_kit.crash_points import CrashPoint, reached

if TYPE_CHECKING:
    import asyncio

    from sqlalchemy.ext.asyncio import AsyncEngine

    from order_saga.silence import Silence
    from saga_kit.batch import BatchProcess

ROUND_MAX: Final = 500
"""Orders of one round: the same knee as a batch of messages."""
WAKE_MAX: Final = 5_000


async def run_timers(
    engine: AsyncEngine,
    process: BatchProcess[Incoming],
    silence: Silence,
    stopping: asyncio.Event,
    *,
    interval_s: float,
) -> None:
    """Scan until told to stop: at once again after a full round, else after `interval_s`."""

    async def scan() -> bool:
        return await _scan(engine, process, silence) == ROUND_MAX

    await keep_doing("timers", scan, stopping, every_s=interval_s)


async def _scan(engine: AsyncEngine, process: BatchProcess[Incoming], silence: Silence) -> int:
    back = silence.take_back()
    async with engine.begin() as tx:
        if back:
            await store.wake(tx, back, WAKE_MAX)
        order_ids = await store.due(tx, ROUND_MAX)
    held_back = silence.held_back()
    timers: list[Received[Incoming]] = [
        Received(TimerDue(order_id, held_back if number >= PROBES else frozenset()))
        for number, order_id in enumerate(order_ids)
    ]
    if timers:
        reached(CrashPoint.TIMERS_FOUND, timers)
        await process.run(timers)
    return len(timers)
