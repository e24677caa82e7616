"""How long the broker may hold a fetch for which there is no record: longer once none has come for a while.

A fetch is answered at once when a record comes for a partition that it names. It names no partition whose records were
taken after it was sent: while records flow, a long wait would hold up those. Without records it costs nothing but the
time until a new partition is fetched, and saves most of what an idle consumer does.
"""

from __future__ import annotations

import time
from collections.abc import Sized
from typing import Any, Final

IDLE_S: Final = 1.0
IDLE_WAITS: Final = 10
"""After `IDLE_S` without a record, a fetch may be held for so many times as long as otherwise ..."""
IDLE_WAIT_MAX_MS: Final = 1000
"""... but not for longer than this, or than it is set to: a silent fetch must not look like a consumer that hangs."""


class FetchWait:
    """Sets the wait of one consumer's fetches."""

    def __init__(self, wait_ms: int) -> None:
        """`wait_ms`: how long while records flow."""
        self._wait_ms = wait_ms
        self._record_at = time.monotonic()

    def polled(self, consumer: Any, records: Sized) -> None:
        """Set the wait of the next fetch, by what the last poll gave."""
        now = time.monotonic()
        if records:
            self._record_at = now
        idle = now - self._record_at > IDLE_S
        idle_ms = max(self._wait_ms, min(self._wait_ms * IDLE_WAITS, IDLE_WAIT_MAX_MS))
        # No option of theirs changes it while the consumer runs.
        consumer._fetcher._fetch_max_wait_ms = idle_ms if idle else self._wait_ms  # noqa: SLF001
