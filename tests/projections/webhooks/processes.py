"""The program of the webhook process for tests, which a file can tell to die at a crash point."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Final

from projections.webhooks.service import run
from saga_kit.runtime.crash_points import watch

DIE_AT: Final = "DIE_AT"
"""The environment variable with the path of a file that names a crash point. It is removed before the death."""


def die(point: StrEnum, work: Collection[object]) -> None:
    """End this process at the point that the file names, if there is work at hand."""
    file = Path(os.environ[DIE_AT])
    if work and file.exists() and file.read_text() == point.name:
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if DIE_AT in os.environ:
        watch(die)
    sys.exit(run())
