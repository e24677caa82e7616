"""How far back a look for due rows goes: to just before the last one that saw all, and now and then to the beginning.

Such a look walks an index from what is due longest. Each row that was dealt with leaves an entry behind, and none can
be removed while anybody's snapshot is open (a backup, a forgotten transaction): a look from the beginning costs more
with every row. Claiming a row moves its time forward, so almost nothing is left behind the last look; what is (a row
that was locked, a clock that jumped) waits for the next look at everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

EVER_S: Final = 1e9
"""Further back than any row, in seconds."""
MARGIN_S: Final = 10.0
"""Transactions that make a row due take time to commit; most are within this."""
EVERYTHING_EVERY_S: Final = 10.0
SHARE_MAX: Final = 0.05
"""Looks at everything take no more than this share of the time ..."""
REST_MAX_S: Final = 60.0
"""... unless that would leave what was locked, and is free again, waiting for longer than this."""


@dataclass(slots=True)
class Look:
    """One look; whoever looks tells whether it saw all that was due, or only as many rows as it wanted."""

    back_s: float
    saw_all: bool = False

    @property
    def at_everything(self) -> bool:
        """Whether this look goes back to the beginning."""
        return self.back_s == EVER_S


class LookBack:
    """One process's looks at one table."""

    def __init__(self, *, everything_every_s: float = EVERYTHING_EVERY_S) -> None:
        self._everything_every_s = everything_every_s
        self._seen_until: float | None = None
        self._everything_at = 0.0

    @contextmanager
    def look(self) -> Iterator[Look]:
        """Look; the first one is at everything, and so is the next after one that did not see everything."""
        clock = asyncio.get_running_loop().time
        began = clock()
        everything = self._seen_until is None or began >= self._everything_at
        look = Look(EVER_S if everything else MARGIN_S + began - (self._seen_until or began))
        try:
            yield look
            if everything and not look.saw_all:
                return
        except BaseException:
            look.saw_all = False
            if everything:
                self._rest(began, clock())
            raise
        if everything:
            self._rest(began, clock())
        if look.saw_all:
            self._seen_until = began

    def _rest(self, began: float, ended: float) -> None:
        """Put off the next look at everything, the longer the longer this one took."""
        rest_s = min((ended - began) / SHARE_MAX, REST_MAX_S)  # it may have been an outage that took the time
        self._everything_at = ended + max(self._everything_every_s, rest_s)
        self._seen_until = self._seen_until or began
