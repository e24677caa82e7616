"""Names each place between two effects at which a process can crash, so that a test can end the process there.

In production there is no watcher, and passing a point costs one function call a batch. A watcher that ends the process
(in a simulation, the actor) leaves behind what a crash at that place leaves behind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import StrEnum


class CrashPoint(StrEnum):
    """The places, in the order in which a batch, the relay and the timers pass them."""

    BATCH_TAKEN = "batch taken"
    """Records are polled and decoded; no transaction has begun."""
    BATCH_HANDLED = "batch handled"
    """The handler has decided; hardly anything is sent to the database, and nothing is committed."""
    BATCH_WRITTEN = "batch written"
    """All is written, and not committed, unless that was the whole transaction: see `Transaction.flush`."""
    BATCH_COMMITTED = "batch committed"
    """All is committed; nothing is published."""
    PUBLISH_BEGUN = "publish begun"
    """Some messages are handed to the client library; none is acknowledged as far as we know."""
    PUBLISHED = "published"
    """The broker has acknowledged; this process has not noted yet that it may delete the outbox rows."""
    BATCH_FINISHED = "batch finished"
    """Committed and published; the offsets are not committed."""
    OFFSETS_COMMITTED = "offsets committed"
    """The broker knows that the batch is done; the outbox rows wait for the next batch to delete them."""
    SET_ASIDE_WRITTEN = "set aside written"
    """A bad message's order is parked, or the message is a dead letter; not committed."""
    SET_ASIDE_COMMITTED = "set aside committed"
    """That is committed; the offsets are not."""
    RELAY_CLAIMED = "relay claimed"
    """Outbox rows are leased; nothing is published."""
    RELAY_PUBLISHED = "relay published"
    """They are published; the rows are still there."""
    RELAY_DELETED = "relay deleted"
    """Their deletion is committed."""
    SWEPT = "swept"
    """Rows that were published from memory are deleted because no batch came to do it; not committed."""
    TIMERS_FOUND = "timers found"
    """Due orders are listed and their rows are free again; no timer has been handled."""


Watcher = Callable[[StrEnum, Collection[object]], None]
"""Called with the point and the work at hand: messages (`Received`, `Outgoing`, `RawMessage`) or outbox ids.

A service may name points of its own, in another enum.
"""

_watcher: Watcher | None = None


def reached(point: StrEnum, work: Collection[object] = ()) -> None:
    """Call the watcher, if a test has set one."""
    if _watcher is not None:
        _watcher(point, work)


def watch(watcher: Watcher | None) -> None:
    """Set the watcher of this process; None removes it."""
    global _watcher  # noqa: PLW0603 - one process, one watcher; a parameter would go through every part for tests alone
    _watcher = watcher
