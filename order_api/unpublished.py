"""What this process knows that it could not publish, so that nobody waits to see whether it only stands in a queue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from contracts.envelope import Outgoing

MOST: Final = 100_000
"""Ids of messages that are kept. What does not fit is published by the sweeper, too, only more slowly."""


class Unpublished:
    """Ids of messages of which a publish failed. Another process does not know them, nor the next one."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def note(self, messages: Iterable[Outgoing], *, published: bool) -> None:
        """Remember, or forget, messages by how their publish went."""
        if published:
            if self._ids:
                self._ids.difference_update(message.id for message in messages)
            return
        for message in messages:
            if len(self._ids) < MOST:
                self._ids.add(message.id)

    def __contains__(self, message: Outgoing) -> bool:
        return message.id in self._ids
