"""A share of the ports for each process of tests: no other one takes a port that is chosen and not yet listened at."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from local_stack import ports

SHARES: Final = 24
LOCKS: Final = Path("/tmp")  # noqa: S108 - the same for all, wherever each has its own files


def take_a_share() -> None:
    """Choose ports from a share that no other process has, as long as this one lives; from all when none is left."""
    everything = ports._CHOICE  # noqa: SLF001 - a stack has no reason to choose otherwise
    size = len(everything) // SHARES
    for number in range(SHARES):
        lock = os.open(LOCKS / f"order-saga-ports-{os.getuid()}-{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:  # the lock is held until the process ends
            ports._CHOICE = everything[number * size : (number + 1) * size]  # noqa: SLF001
            return
