"""Notifies the requests that wait of the events on `orders.events`.

An event is published after the commit that it is about, so a request that it wakes finds the change in the database.
When events may have been missed, all waiters are notified.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from contracts.topics import ORDERS_EVENTS
from contracts.vocabulary import OrderStatus
from order_api.orders.waiting import Waiters
from saga_kit.messaging.fetch_limits import LostRecord
from saga_kit.messaging.follower import IDLE_S, TopicFollower
from saga_kit.runtime.settings import KitSettings


class _Event(msgspec.Struct):
    version: int
    status: OrderStatus


class Follower(TopicFollower):
    """Follows the events of orders for those who wait for one."""

    def __init__(self, settings: KitSettings, waiters: Waiters, *, idle_s: float = IDLE_S) -> None:
        super().__init__(settings, ORDERS_EVENTS.name, _Notifier(waiters), name="api-follower", idle_s=idle_s)


class _Notifier:
    def __init__(self, waiters: Waiters) -> None:
        self._waiters = waiters

    async def hear(self, records: Sequence[Any]) -> None:
        for record in records:
            if isinstance(record, LostRecord):  # its order is not known for sure
                self._waiters.notify_all()
            elif record.key in self._waiters:
                self._waiters.notify(record.key, **_relevance(record.value))

    def missed(self) -> None:
        self._waiters.notify_all()


def _relevance(value: bytes | None) -> dict[str, Any]:
    """Return the version of an event; nothing for one that can't be read, so that every waiter looks."""
    try:
        event = _read(value or b"")
    except (msgspec.MsgspecError, ValueError, RecursionError):  # not JSON, not UTF-8, nested too deep
        return {}
    return {"version": event.version, "terminal": event.status.terminal}


_read: Final = msgspec.json.Decoder(_Event).decode
