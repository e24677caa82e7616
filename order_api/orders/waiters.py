"""Who waits for which order. Nothing here reads a table or asks anybody: a bell is rung, and whoever waits looks again.

A bell may ring too often, which costs a look; one that is missed costs a wait to its end, where everybody looks anyway.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

WAITING_MAX: Final = 10_000
"""Requests that wait at the same time in one process; further ones are answered without waiting."""


class Bell:
    """One who waits: for the order's end, or for any version but the one that is `known`."""

    def __init__(self, *, for_end: bool) -> None:
        self.known = -1
        self._for_end = for_end
        self._rung = asyncio.Event()

    def ring(self, version: int | None = None, *, terminal: bool = True) -> None:
        """Wake who waits, when this version is worth a look; None always is."""
        if version is None or (terminal if self._for_end else version != self.known):
            self._rung.set()

    async def rung(self, deadline: float) -> bool:
        """Wait to be rung, at most until the loop's time `deadline`; return whether it was, and be silent again."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True


class Waiters:
    """All who wait, by the key of the order's events (its id as the record's bytes have it)."""

    def __init__(self, *, waiting_max: int = WAITING_MAX, waiting_per_user_max: int = WAITING_MAX) -> None:
        self._waiting_max = waiting_max
        self._waiting_per_user_max = waiting_per_user_max
        self._users: Counter[str] = Counter()
        self._bells: dict[bytes, set[Bell]] = {}
        self.closed = False
        self.waiting = 0

    def full(self, user_id: str | None) -> bool:
        """Tell whether this user may wait no more: so many do already, or the process is about to end.

        None stands for one who speaks for many and counts with all.
        """
        mine = 0 if user_id is None else self._users[user_id]
        return self.closed or self.waiting >= self._waiting_max or mine >= self._waiting_per_user_max

    def __contains__(self, key: bytes | None) -> bool:
        """Tell whether anybody waits for this order."""
        return key in self._bells

    @contextmanager
    def bell(self, key: bytes, *, for_end: bool, user_id: str | None = None) -> Iterator[Bell]:
        """Hang up a bell for an order, for as long as the context lasts; it counts for the user, if one is given."""
        bell = Bell(for_end=for_end)
        bells = self._bells.setdefault(key, set())
        bells.add(bell)
        self.waiting += 1
        self._users[user_id or ""] += 1
        try:
            yield bell
        finally:
            self.waiting -= 1
            self._users[user_id or ""] -= 1
            if not self._users[user_id or ""]:
                del self._users[user_id or ""]
            bells.discard(bell)
            if not bells:
                del self._bells[key]

    def wake(self, key: bytes, version: int | None = None, *, terminal: bool = True) -> None:
        """Ring for all who wait for this order."""
        for bell in self._bells.get(key, ()):
            bell.ring(version, terminal=terminal)

    def wake_all(self) -> None:
        """Ring for everybody: something may have been missed."""
        for bells in self._bells.values():
            for bell in bells:
                bell.ring()

    def close(self) -> None:
        """Let nobody wait any longer: whoever does is answered with what there is."""
        self.closed = True
        self.wake_all()
