"""Signals of processes that tests start."""

from __future__ import annotations

import signal


def heed_ctrl_c() -> None:
    """Handle SIGINT again, as a `preexec_fn`: a shell has its background jobs ignore it, and so their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
