"""The database's clock between two looks at it: what decides about age must not ask a host, which may be wrong."""

from __future__ import annotations

import time


class DatabaseClock:
    """Tells the database's time, as often as wanted, from what a look at it has shown. Until then, the host's."""

    def __init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()

    def show(self, epoch_s: float) -> None:
        """Take the database's time as it is at this moment, in seconds since 1970."""
        self._ahead_s = epoch_s - time.monotonic()

    def now_s(self) -> float:
        """Return the database's time in seconds since 1970."""
        return time.monotonic() + self._ahead_s
