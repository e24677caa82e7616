"""The messages that this process could not publish: the sweeper need not guess whether they wait in the topic."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from contracts.envelope import Outgoing

REMEMBERED_MAX: Final = 100_000
"""Ids in memory, the newest. A message that is forgotten is published by the sweeper all the same, only later."""


class Unpublished:
    """Ids of messages of which a publish failed. Another process does not know them, nor the next one."""

    def __init__(self, most: int = REMEMBERED_MAX) -> None:
        self._most = most
        self._ids: OrderedDict[str, None] = OrderedDict()

    def note(self, messages: Iterable[Outgoing], *, published: bool) -> None:
        """Remember messages whose publish failed; forget those that were published."""
        if not published:
            self._ids.update(dict.fromkeys(message.id for message in messages))
            while len(self._ids) > self._most:  # some were stored all the same, and are never asked for
                self._ids.popitem(last=False)
        elif self._ids:
            for message in messages:
                self._ids.pop(message.id, None)

    def __contains__(self, message: Outgoing) -> bool:
        """Return whether the last publish of a message failed."""
        return message.id in self._ids
