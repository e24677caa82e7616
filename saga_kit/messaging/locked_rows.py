"""Rows that somebody else holds locked: whose messages they hold up, so that these hold up nobody else.

A message belongs to its record's key: the account owner, the order. While one of a key's rows is locked, the key's
messages are tried apart from all others, after them and for a moment only. In memory: a new process learns it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

LOCK_TIMEOUT_MS: Final = 200
"""How long a batch that is taken apart waits for a lock; far longer than our own transactions hold one."""
REMEMBERED_S: Final = 120.0
"""How long a key is tried apart after it was last locked: longer than anything waits until it is asked again."""
KEYS_MAX: Final = 10_000


class Key(NamedTuple):
    """What orders messages: a topic's key."""

    topic: str
    key: bytes | None


Message = TypeVar("Message", bound=Any)
"""A `saga_kit.messaging.batch.Received`."""


class LockedKeys:
    """The keys of which a row was locked lately; `clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[Key, float] = {}

    def split(self, messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
        """Part the messages of keys that are free from those of locked ones, each in their order."""
        if not self._until:
            return list(messages), []
        now = self._clock()
        self._until = {key: until for key, until in self._until.items() if until > now}
        free: list[Message] = []
        locked: list[Message] = []
        for message in messages:
            (locked if key_of(message) in self._until else free).append(message)
        return free, locked

    def note(self, message: Message) -> None:
        """Remember that a row which this message needs is locked."""
        key = key_of(message)
        if key is not None and (key in self._until or len(self._until) < KEYS_MAX):
            self._until[key] = self._clock() + REMEMBERED_S

    def forget(self, messages: Iterable[Message]) -> None:
        """Note that these messages met no lock."""
        for message in messages if self._until else ():
            key = key_of(message)
            if key is not None:
                self._until.pop(key, None)


def key_of(message: Message) -> Key | None:
    """Return what a message belongs to; None for a service's own (a timer), which comes again by itself."""
    return None if message.record is None else Key(message.record.topic, message.record.key)
