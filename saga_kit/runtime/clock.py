"""The database's clock, continued between two reads of it. Ages are judged by it: a host's clock may be wrong."""

from __future__ import annotations

import time


class DatabaseClock:
    """Returns the database's time, computed from the last read; before the first read, the host's time."""

    def __init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()

    def show(self, epoch_s: float) -> None:
        """Set the database's time as it is now, in seconds since 1970."""
        self._ahead_s = epoch_s - time.monotonic()

    def now_s(self) -> float:
        """Return the database's time in seconds since 1970."""
        return time.monotonic() + self._ahead_s
