"""Pause a participant: no order asks it, orders that need it wait and say so, and the end of the pause wakes them.

Each batch reads who is paused together with the clock, so a pause applies from the next batch of each orchestrator on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from operations.access.database import rows
from operations.access.errors import Trouble, WrongRequest
from operations.access.words import full_time
from order_saga.core.saga import Participant
from order_saga.worker import store
from saga_kit.runtime import transactions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.repair.runs import Run

WAKE_MAX: Final = 500
"""Orders that are woken at once."""
WAKE_EVERY_S: Final = 1.0
"""Orders that are woken ask at once, past the admission limit: so they are woken no faster than new orders come."""
PASSES_MAX: Final = 3
"""A batch that was under way when the pause ended may still make an order wait: a later pass wakes that one."""
BETWEEN_PASSES_S: Final = 1.0
_PAUSES: Final = "SELECT participant, paused_by, reason, paused_at FROM audit.pauses ORDER BY participant"


async def current(engine: AsyncEngine) -> dict[str, dict[str, Any]]:
    """List the participants that are paused: since when, by whom and why. Each row by its participant's name."""
    return {row["participant"]: row for row in await rows(engine, _PAUSES)}


def participant(name: str) -> Participant:
    """Read a participant's name. Raises `WrongRequest`."""
    try:
        return Participant(name)
    except ValueError:
        raise WrongRequest(f"'{name}' is no participant: {', '.join(sorted(Participant))}") from None


async def begin(engine: AsyncEngine, who: Participant, run: Run, reason: str) -> None:
    """Pause a participant. Raises `Trouble` that says who has paused it already."""
    if await pause(engine, who, run, reason):
        return
    known = (await current(engine)).get(who)
    if known is None:
        raise Trouble(f"{who} was paused until a moment ago: try again")
    since = f"since {full_time(known['paused_at'])} by {known['paused_by']}"
    raise Trouble(f"{who} is paused {since}: {known['reason']}")


async def pause(engine: AsyncEngine, participant: Participant, run: Run, reason: str) -> bool:
    """Pause a participant; False when it was paused already."""
    async with transactions.begin(engine) as tx:
        paused = await store.pause(tx, participant, run.by, reason)
        if paused:
            await store.note_repair(tx, run.run_id, "pause", participant, run.by, reason)
    return paused


async def unpause(engine: AsyncEngine, participant: Participant, run: Run) -> bool:
    """End a pause; False when there was none. Wake the orders that waited with `wake`, however often."""
    async with transactions.begin(engine) as tx:
        ended = await store.unpause(tx, participant)
        if ended:
            await store.note_repair(tx, run.run_id, "unpause", participant, run.by, "asked again")
    return ended


async def wake(engine: AsyncEngine) -> int:
    """Make the orders that wait due at once; return how many. An order that is not woken looks again by itself."""
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
    """Wake as many orders as wait now. One that begins to wait meanwhile is left to the next pass."""
    async with transactions.begin(engine) as tx:
        left = await store.held_back(tx)
    woken = 0
    while left > 0:
        async with transactions.begin(engine) as tx:
            found = await store.wake_held_back(tx, min(left, WAKE_MAX))
        woken += found
        left -= found
        if found < WAKE_MAX:
            break
        await asyncio.sleep(WAKE_EVERY_S)
    return woken
