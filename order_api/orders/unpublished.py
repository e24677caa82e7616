"""What this process knows that it could not publish, so that nobody waits to see whether it only stands in a queue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from contracts.envelope import Outgoing

MOST: Final = 100_000
"""Ids of messages that are kept, the newest. What is forgotten is published by the sweeper, too, only more slowly."""


class Unpublished:
    """Ids of messages of which a publish failed. Another process does not know them, nor the next one."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._ids: OrderedDict[str, None] = OrderedDict()

    def note(self, messages: Iterable[Outgoing], *, published: bool) -> None:
        """Remember, or forget, messages by how their publish went."""
        if not published:
            self._ids.update(dict.fromkeys(message.id for message in messages))
            while len(self._ids) > self._most:  # some were stored all the same, and nobody asks for them again
                self._ids.popitem(last=False)
        elif self._ids:
            for message in messages:
                self._ids.pop(message.id, None)

    def __contains__(self, message: Outgoing) -> bool:
        """Tell whether the last publish of a message failed."""
        return message.id in self._ids
