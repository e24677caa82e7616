"""An event loop whose clock jumps to the next timer, so that simulated time costs no waiting."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any, Final

FOREVER_S: Final = 3600.0 * 24


class StandingStill(RuntimeError):  # noqa: N818 - it is what happened
    """No task can go on and no timer is left, so nothing will ever happen."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on a clock of its own that begins at 0. It does no I/O."""

    def __init__(self) -> None:
        self.clock = _Clock()
        super().__init__(self.clock)

    def time(self) -> float:
        """Return the simulated time in seconds."""
        return self.clock.now_s


class _Clock(selectors.BaseSelector):
    """A selector that advances the clock instead of waiting for sockets."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout >= FOREVER_S:
            raise StandingStill("no timer is left, and nobody can go on")
        if timeout > 0:
            self.now_s += timeout
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, 0, events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys
