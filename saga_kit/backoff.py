"""How long to wait before the next try: growing, capped, jittered, and over at once when the process shall end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

FIRST_S: Final = 0.1
CAP_S: Final = 5.0


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
