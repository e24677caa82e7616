"""Trying again: how long to wait before the next try, and loops that go on whatever a round of them meets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from saga_kit.runtime.errors import Stopped, describe

FIRST_S: Final = 0.1
CAP_S: Final = 5.0
RESTS: Final = 19.0
"""For a round whose cost grows with a table: it takes no more than a twentieth of the time."""

log = structlog.get_logger(__name__)


class Backoff:
    """The pauses of one failing thing: the bound doubles up to `cap_s`; a pause is between half of it and all of it."""

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
        """Begin anew: the thing worked."""
        self._bound_s = self._first_s


async def pause(stopping: asyncio.Event, seconds: float) -> bool:
    """Sleep, but not past `stopping`; return whether the process shall end."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return stopping.is_set()
    return True


async def keep_doing(
    name: str,
    one_round: Callable[[], Awaitable[object]],
    stopping: asyncio.Event,
    *,
    every_s: float,
    rests: float = 0.0,
) -> None:
    """Do rounds until `stopping`: the next at once when one returns something true (more to do), else after `every_s`.

    It rests at least `rests` times as long as a round took, so that a round that takes ever longer comes more seldom.
    A failure is logged and tried again, later and later. Raises `Stopped` when a round does.
    """
    backoff = Backoff()
    clock = asyncio.get_running_loop().time
    while not stopping.is_set():
        began = clock()
        try:
            more = await one_round()
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - the world's fault, most likely; the work waits where it is
            log.warning("failed, will try again", what=name, cause=describe(error))
            await pause(stopping, backoff.next_s())
        else:
            backoff.reset()
            if not more:
                await pause(stopping, max(every_s, rests * (clock() - began)))
