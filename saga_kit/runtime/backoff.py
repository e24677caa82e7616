"""Repeats work: the pause before the next try, and loops that go on after a failed round."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from saga_kit.runtime.errors import Stopped, describe

FIRST_S: Final = 0.1
CAP_S: Final = 5.0
RESTS: Final = 19.0
"""For a round whose cost grows with a table: the rounds then take a twentieth of the time at most."""
LEAVES_WITHIN_S: Final = 1.0
"""How long work that is broken off may take to clean up."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Backoff:
    """The pauses between failing tries: between half of a bound and all of it, and the bound doubles up to `cap_s`."""

    def __init__(
        self, *, first_s: float = FIRST_S, cap_s: float = CAP_S, chance: Callable[[], float] = random.random
    ) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._chance = chance
        self._bound_s = first_s

    def next_s(self) -> float:
        """Return the next pause in seconds."""
        bound_s, self._bound_s = self._bound_s, min(self._bound_s * 2, self._cap_s)
        return bound_s * (0.5 + self._chance() / 2)

    def reset(self) -> None:
        """Start over after a success."""
        self._bound_s = self._first_s


async def pause(stopping: asyncio.Event, seconds: float) -> bool:
    """Sleep until `stopping` at the latest; return whether the process must end."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return stopping.is_set()
    return True


async def unless_stopping(work: Awaitable[T], stopping: asyncio.Event) -> T | None:
    """Do what may hang, and break it off when the process must end; return what comes of it, None when broken off.

    One that does not end when it is cancelled, since its library waits for a server, is left behind.
    """

    async def done() -> T:
        return await work

    working, ending = asyncio.create_task(done()), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        working.cancel()
        await asyncio.wait({working}, timeout=LEAVES_WITHIN_S)
        return None
    finally:
        working.cancel()
        ending.cancel()


async def keep_doing(
    name: str,
    one_round: Callable[[], Awaitable[object]],
    stopping: asyncio.Event,
    *,
    every_s: float,
    rests: float = 0.0,
    woken: asyncio.Event | None = None,
) -> None:
    """Run rounds until `stopping`: the next at once when one returns true (there is more), else after `every_s`.

    The pause is at least `rests` times as long as the round, so that slow rounds come more seldom. A failed round is
    logged and repeated with a backoff. `woken` ends a pause; the round clears it. Raises `Stopped` when a round does.
    """
    backoff = Backoff()
    clock = asyncio.get_running_loop().time
    while not stopping.is_set():
        began = clock()
        try:
            more = await one_round()
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - infrastructure, most likely; the work waits where it is
            log.warning("failed, will try again", what=name, cause=describe(error))
            await pause(stopping, backoff.next_s())
        else:
            backoff.reset()
            if not more:
                pause_s = max(every_s, rests * (clock() - began))
                await (pause(stopping, pause_s) if woken is None else _pause_unless(woken, stopping, pause_s))


async def _pause_unless(woken: asyncio.Event, stopping: asyncio.Event, seconds: float) -> None:
    """Sleep until one of both events at the latest."""
    waits = [asyncio.ensure_future(event.wait()) for event in (woken, stopping)]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
