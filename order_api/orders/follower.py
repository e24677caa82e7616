"""Notifies the requests that wait of the events on `orders.events`, and passes these on to those who follow orders.

An event is published after the commit that it is about, so a request that it wakes finds the change in the database.
When events may have been missed, all waiters are notified, and so are all followers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from contracts.topics import ORDERS_EVENTS
from contracts.vocabulary import OrderStatus
from order_api.orders.waiting import Waiters
from saga_kit.messaging.fetch_limits import LostRecord
from saga_kit.messaging.follower import IDLE_S, TopicFollower
from saga_kit.runtime.settings import KitSettings


class HeardOrder(msgspec.Struct):
    """What is read of an order inside an event. The assets are None where they are not known yet."""

    user_id: str | None = None
    asset_id: str | None = None
    cash_asset_id: str | None = None
    fee_asset_id: str | None = None
    held_asset_id: str | None = None

    def moved_assets(self) -> tuple[str, ...]:
        """Return the assets of which the user's money may have moved: none before an order has had a quote."""
        if self.cash_asset_id is None:
            return ()
        named = (self.asset_id, self.cash_asset_id, self.fee_asset_id, self.held_asset_id)
        return tuple(dict.fromkeys(asset for asset in named if asset is not None))


class Heard(msgspec.Struct):
    """What is read of an event."""

    version: int
    status: OrderStatus
    order: HeardOrder


class FollowsOrders(Protocol):
    """Whoever passes events on to those who follow orders."""

    def wants(self, key: bytes) -> bool:
        """Return whether an event of this order is worth reading."""

    def hear(self, key: bytes, heard: Heard | None, data: bytes) -> None:
        """Take an event, with its body as it came; `heard` is None when that can't be read."""

    def missed(self) -> None:
        """Learn that events may have been missed."""


class Follower(TopicFollower):
    """Follows the events of orders for those who wait for one, and for those who follow orders."""

    def __init__(
        self, settings: KitSettings, waiters: Waiters, feed: FollowsOrders | None = None, *, idle_s: float = IDLE_S
    ) -> None:
        notifier = _Notifier(waiters, feed)
        super().__init__(settings, ORDERS_EVENTS.name, notifier, name="api-follower", idle_s=idle_s)


class _Notifier:
    def __init__(self, waiters: Waiters, feed: FollowsOrders | None) -> None:
        self._waiters = waiters
        self._feed = feed

    async def hear(self, records: Sequence[Any]) -> None:
        for record in records:
            if isinstance(record, LostRecord):  # its order is not known for sure
                self.missed()
                continue
            key = record.key or b""
            waited, followed = key in self._waiters, self._feed is not None and self._feed.wants(key)
            if not (waited or followed):
                continue
            heard = _heard(record.value)
            if waited:  # what can't be read is worth a look of everybody
                version = None if heard is None else heard.version
                self._waiters.notify(key, version, terminal=heard is None or heard.status.terminal)
            if followed and self._feed is not None:
                self._feed.hear(key, heard, record.value or b"")

    def missed(self) -> None:
        self._waiters.notify_all()
        if self._feed is not None:
            self._feed.missed()


def _heard(value: bytes | None) -> Heard | None:
    """Read an event; None for one that can't be read."""
    try:
        return _read(value or b"")
    except (msgspec.MsgspecError, ValueError, RecursionError):  # not JSON, not UTF-8, nested too deep
        return None


_read: Final = msgspec.json.Decoder(Heard).decode
