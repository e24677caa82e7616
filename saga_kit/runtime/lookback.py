"""Limits how far back a query for due rows searches an index: to shortly before the last query that saw all of them.

A handled row leaves a dead entry in the index of due times. PostgreSQL can't remove it while any snapshot is open (a
backup, a forgotten transaction), so a query from the beginning costs more with every row. Claiming a row moves its due
time forward, so hardly any due row is older than the last query. A row that is (it was locked, or a clock jumped) is
found by a full query, which runs now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

EVER_S: Final = 1e9
"""Seconds; further back than any row."""
MARGIN_S: Final = 10.0
"""A transaction that makes a row due takes time to commit, usually less than this."""
EVERYTHING_EVERY_S: Final = 10.0
SHARE_MAX: Final = 0.05
"""Full queries take no more than this share of the time ..."""
REST_MAX_S: Final = 60.0
"""... but a row that was locked waits no longer than this for the next one."""


@dataclass(slots=True)
class Look:
    """One query. The caller sets `saw_all` when it got every due row, and was not cut off by a limit."""

    back_s: float
    saw_all: bool = False

    @property
    def at_everything(self) -> bool:
        """Whether it searches from the beginning."""
        return self.back_s == EVER_S


class LookBack:
    """The queries of one process on one table."""

    def __init__(self, *, everything_every_s: float = EVERYTHING_EVERY_S) -> None:
        self._everything_every_s = everything_every_s
        self._seen_until: float | None = None
        self._everything_at = 0.0

    @contextmanager
    def look(self) -> Iterator[Look]:
        """Begin a query. The first is a full one, and so is the one after a full query that did not see everything."""
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
        """Plan the next full query; the longer this one took, the later."""
        rest_s = min((ended - began) / SHARE_MAX, REST_MAX_S)  # bounded: an outage may have taken the time
        self._everything_at = ended + max(self._everything_every_s, rest_s)
        self._seen_until = self._seen_until or began
