"""Pausing a participant, for as long as it takes: nobody asks it, orders wait and say so, and the end of it wakes them.

Each batch reads who is paused together with the clock, so a pause holds from the next batch of every orchestrator on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from order_saga.worker import store

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.repair import Run
    from order_saga.core.saga import Participant

WAKE_MAX: Final = 500
"""Orders that are woken at once."""
WAKE_EVERY_S: Final = 1.0
"""Whoever wakes asks, whatever the window has room for: so no more than new orders leave room for, as a rule."""
PASSES_MAX: Final = 3
"""A batch that was under way when the pause ended may still make an order wait: a later pass wakes that one."""
BETWEEN_PASSES_S: Final = 1.0


async def pause(engine: AsyncEngine, participant: Participant, run: Run, reason: str) -> bool:
    """Pause a participant; False when it was paused already."""
    async with engine.begin() as tx:
        paused = await store.pause(tx, participant, run.by, reason)
        if paused:
            await store.note_repair(tx, run.run_id, "pause", participant, run.by, reason)
    return paused


async def unpause(engine: AsyncEngine, participant: Participant, run: Run) -> bool:
    """End a pause; False when there was none. Wake the orders that waited with `wake`, however often."""
    async with engine.begin() as tx:
        ended = await store.unpause(tx, participant)
        if ended:
            await store.note_repair(tx, run.run_id, "unpause", participant, run.by, "asked again")
    return ended


async def wake(engine: AsyncEngine) -> int:
    """Make the orders that wait due at once; return how many. One that nobody wakes looks again by itself."""
    woken = 0
    for number in range(PASSES_MAX):
        if number:
            await asyncio.sleep(BETWEEN_PASSES_S)
        found = await _wake_all(engine)
        if not found:
            break
        woken += found
    return woken


async def _wake_all(engine: AsyncEngine) -> int:
    """Wake as many as wait now; those that come to wait meanwhile, or again for another pause, are not waited for."""
    async with engine.begin() as tx:
        left = await store.held_back(tx)
    woken = 0
    while left > 0:
        async with engine.begin() as tx:
            found = await store.wake_held_back(tx, min(left, WAKE_MAX))
        woken += found
        left -= found
        if found < WAKE_MAX:
            break
        await asyncio.sleep(WAKE_EVERY_S)
    return woken
