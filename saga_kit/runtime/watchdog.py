"""Ends a process whose event loop turns no more: whatever runs on the loop, the stall watchdog too, can't notice that.

The watchdog is faulthandler's: a thread of C that needs neither the loop nor Python's lock. It says where every thread
stands and ends the process with status 1, for the supervisor to start a new one. The liveness endpoint answers on the
same loop, so it tells a prober the same; this is for those who probe nothing.
"""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

BLOCKED_S: Final = 60.0
"""Far above any pause of a healthy loop, and as long as a stalled consumer is given."""
TURN_S: Final = 5.0


@contextmanager
def watchdog(*, blocked_s: float = BLOCKED_S) -> Iterator[None]:
    """End this process when the running loop does not turn for `blocked_s`, while inside and on the way out of it."""
    turning = asyncio.create_task(_turn(blocked_s))
    try:
        yield
    finally:
        turning.cancel()
        faulthandler.dump_traceback_later(blocked_s, exit=True)  # for what the loop still does when it is closed


async def _turn(blocked_s: float) -> None:
    while True:
        faulthandler.dump_traceback_later(blocked_s, exit=True)
        await asyncio.sleep(min(TURN_S, blocked_s / 4))
