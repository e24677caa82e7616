"""Remembers the keys whose rows another transaction holds locked, so that their messages hold up no other key.

A record's key is what its message is about: the account owner, the order. While a row of a key is locked, a batch tries
the key's messages apart, after all others and with a short lock timeout. This is kept in memory: a new process finds it
out again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

LOCK_TIMEOUT_MS: Final = 200
"""How long a part of a batch waits for a lock; our own transactions hold one for far less."""
REMEMBERED_S: Final = 120.0
"""How long a key is tried apart after it was last locked. Every question is repeated sooner."""
KEYS_MAX: Final = 10_000


class RecordKey(NamedTuple):
    """A topic and a key: messages of one are handled in order."""

    topic: str
    key: bytes | None


Message = TypeVar("Message", bound=Any)
"""A `saga_kit.messaging.batch.Received`."""


class LockedKeys:
    """The keys of which a row was found locked lately; `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[RecordKey, float] = {}

    def split(self, messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
        """Return the messages of free keys and those of locked keys, each in their order."""
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
        """Forget the keys of these messages: they found no lock."""
        for message in messages if self._until else ():
            key = key_of(message)
            if key is not None:
                self._until.pop(key, None)


def key_of(message: Message) -> RecordKey | None:
    """Return the key of a message; None for a timer, which has no record and fires again."""
    return None if message.record is None else RecordKey(message.record.topic, message.record.key)
