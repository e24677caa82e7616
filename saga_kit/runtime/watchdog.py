"""Ends a process whose event loop is blocked. Nothing that runs on the loop, the stall check included, can notice that.

The watchdog is faulthandler's: a thread of C that needs neither the loop nor Python's global lock. It prints the stack
of every thread and ends the process with status 1; the supervisor starts a new one. The liveness endpoint runs on the
same loop, so it fails too; the watchdog is for those who probe nothing.
"""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

BLOCKED_S: Final = 60.0
"""Far above any pause of a healthy loop; a stalled consumer has as long."""
REARM_S: Final = 5.0


@contextmanager
def watchdog(*, blocked_s: float = BLOCKED_S) -> Iterator[None]:
    """End this process when its loop is blocked for `blocked_s`, inside this context and while the loop is closed."""
    rearming = asyncio.create_task(_rearm(blocked_s))
    try:
        yield
    finally:
        rearming.cancel()
        faulthandler.dump_traceback_later(blocked_s, exit=True)  # for what still runs while the loop is closed


async def _rearm(blocked_s: float) -> None:
    while True:
        faulthandler.dump_traceback_later(blocked_s, exit=True)
        await asyncio.sleep(min(REARM_S, blocked_s / 4))
