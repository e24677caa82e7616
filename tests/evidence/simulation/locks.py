"""Locks by number, shared or exclusive, as PostgreSQL's advisory locks: whoever waits goes in the order of asking.

A lock that is asked for waits behind whoever holds a conflicting one, and behind whoever asked before for a conflicting
one: so a waiting exclusive lock holds back later shared ones, and is not starved by them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

Number = tuple[int, int]


class Asked(NamedTuple):
    """A lock that somebody waits for."""

    owner: Hashable
    exclusive: bool
    granted: asyncio.Event


class NumberedLocks:
    """Who holds which number, and who waits for it."""

    def __init__(self) -> None:
        self._held: dict[Number, dict[Hashable, bool]] = defaultdict(dict)
        """Of each number, the owners, and whether they hold it exclusively."""
        self._queues: dict[Number, list[Asked]] = defaultdict(list)

    def take(self, number: Number, owner: Hashable, *, exclusive: bool) -> Asked | None:
        """Take a lock and return None, or join the queue; the event that is returned tells when it is granted."""
        mine = self._held[number].get(owner)
        if mine is not None and (mine or not exclusive):
            return None
        if self._is_free(number, owner, exclusive=exclusive, ahead=self._queues[number]):
            self._held[number][owner] = exclusive
            return None
        asked = Asked(owner, exclusive, asyncio.Event())
        self._queues[number].append(asked)
        return asked

    def give_up(self, number: Number, asked: Asked) -> None:
        """Leave the queue; those behind may go on."""
        self._queues[number] = [one for one in self._queues[number] if one is not asked]
        self._grant(number)

    def blockers(self, number: Number, asked: Asked) -> Iterator[Hashable]:
        """Name those for whom a waiting owner waits."""
        yield from (
            owner
            for owner, exclusive in self._held[number].items()
            if owner is not asked.owner and (exclusive or asked.exclusive)
        )
        for one in self._queues[number]:
            if one is asked:
                return
            if one.exclusive or asked.exclusive:
                yield one.owner

    def release(self, owner: Hashable) -> None:
        """Release every lock of an owner, whether held or waited for."""
        for number in [number for number, held in self._held.items() if owner in held]:
            del self._held[number][owner]
            self._grant(number)
        for number, queue in list(self._queues.items()):
            for asked in queue:
                if asked.owner is owner:
                    self.give_up(number, asked)

    def _grant(self, number: Number) -> None:
        waiting, self._queues[number] = self._queues[number], []
        for asked in waiting:
            if self._is_free(number, asked.owner, exclusive=asked.exclusive, ahead=self._queues[number]):
                self._held[number][asked.owner] = asked.exclusive
                asked.granted.set()
            else:
                self._queues[number].append(asked)

    def _is_free(self, number: Number, owner: Hashable, *, exclusive: bool, ahead: list[Asked]) -> bool:
        held = [mode for one, mode in self._held[number].items() if one is not owner]
        waited = [one.exclusive for one in ahead]
        return not any(exclusive or mode for mode in (*held, *waited))
