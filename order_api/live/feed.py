"""Hands each event to the mailboxes of those who follow its user, its order, or all orders; and prices likewise.

The follower of `orders.events` feeds it. It reads no database and waits for nothing, so no slow reader holds it up.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from order_api.live.mailbox import Mailbox, OrderEvent, PriceEvent
from order_api.orders.follower import Heard

_NOBODY: Final[AbstractSet[Mailbox]] = frozenset()


class _Followers:
    """Mailboxes by what they follow."""

    def __init__(self) -> None:
        self._of: dict[Hashable, set[Mailbox]] = {}

    def add(self, what: Hashable, mailbox: Mailbox) -> None:
        self._of.setdefault(what, set()).add(mailbox)

    def remove(self, what: Hashable, mailbox: Mailbox) -> None:
        followers = self._of.get(what)
        if followers is not None:
            followers.discard(mailbox)
            if not followers:
                del self._of[what]

    def of(self, what: Hashable) -> AbstractSet[Mailbox]:
        return self._of.get(what, _NOBODY)

    def __iter__(self) -> Iterator[Mailbox]:
        for followers in self._of.values():
            yield from followers

    def __bool__(self) -> bool:
        return bool(self._of)


class Feed:
    """Who follows what. A mailbox may follow several things, and gets each event once."""

    def __init__(self) -> None:
        self.mark = 0
        """Microseconds since 1970, by the database: each event that was committed before it has been handed out."""
        self._users, self._orders, self._assets = _Followers(), _Followers(), _Followers()
        self._all: set[Mailbox] = set()
        self._owners: dict[tuple[bytes, Mailbox], str] = {}
        """Whose each order is, for those who follow it alone."""
        self._prices: dict[str, PriceEvent] = {}

    @property
    def followed(self) -> bool:
        """Whether anybody follows any order."""
        return bool(self._all or self._users or self._orders)

    @property
    def users_followed(self) -> bool:
        """Whether anybody follows the orders of a user."""
        return bool(self._users)

    def follow_user(self, user_id: str, mailbox: Mailbox) -> None:
        """Put the events of a user's orders into a mailbox from now on."""
        self._users.add(user_id, mailbox)

    def leave_user(self, user_id: str, mailbox: Mailbox) -> None:
        """Undo `follow_user`; it does no harm where there is nothing to undo, as with the others."""
        self._users.remove(user_id, mailbox)

    def follow_order(self, order_id: str, user_id: str, mailbox: Mailbox) -> None:
        """Put the events of one order (its id as text) of a user into a mailbox from now on.

        Another producer may have used the id that a claim was given. When an event shows the order as another user's,
        it is kept back, and the mailbox is told to look again.
        """
        key = order_id.encode()
        self._owners[key, mailbox] = user_id
        self._orders.add(key, mailbox)

    def leave_order(self, order_id: str, mailbox: Mailbox) -> None:
        """Undo `follow_order`."""
        key = order_id.encode()
        self._owners.pop((key, mailbox), None)
        self._orders.remove(key, mailbox)

    def follow_all(self, mailbox: Mailbox) -> None:
        """Put the events of all orders into a mailbox from now on."""
        self._all.add(mailbox)

    def leave_all(self, mailbox: Mailbox) -> None:
        """Undo `follow_all`."""
        self._all.discard(mailbox)

    def follow_prices(self, asset_ids: Iterable[str], mailbox: Mailbox) -> None:
        """Put the prices of these assets into a mailbox from now on."""
        for asset_id in asset_ids:
            self._assets.add(asset_id, mailbox)

    def leave_prices(self, asset_ids: Iterable[str], mailbox: Mailbox) -> None:
        """Undo `follow_prices`."""
        for asset_id in asset_ids:
            self._assets.remove(asset_id, mailbox)

    def wants(self, key: bytes) -> bool:
        """Return whether an event of this order may be for anybody: only then it is worth reading."""
        return bool(self._all or self._users) or bool(self._orders.of(key))

    def hear(self, key: bytes, heard: Heard | None, data: bytes) -> None:
        """Hand out an event; `heard` is what was read of it. When its user can't be read, everybody looks."""
        if heard is None or heard.order.user_id is None:
            self.missed()
            return
        order = heard.order
        mailboxes = {*self._all, *self._users.of(order.user_id)}
        for mailbox in self._orders.of(key):
            if self._owners[key, mailbox] == order.user_id:
                mailboxes.add(mailbox)
            else:
                mailbox.missed()
        if not mailboxes:
            return
        event = OrderEvent(
            key, heard.version, data, self.mark, terminal=heard.status.terminal, assets=order.moved_assets()
        )
        for mailbox in mailboxes:
            mailbox.put(event)

    def missed(self) -> None:
        """Have everybody who follows orders read again: events may have been missed."""
        for mailbox in {*self._all, *self._users, *self._orders}:
            mailbox.missed()

    def missed_of_user(self, user_id: str) -> None:
        """Have everybody who follows a user's orders read again: there is something that no event tells."""
        for mailbox in self._users.of(user_id):
            mailbox.missed()

    def hear_prices(self, prices: Mapping[str, bytes]) -> None:
        """Keep the newest price of each asset until `hand_out_prices`; `prices` are JSON objects by asset."""
        for asset_id, data in prices.items():
            if self._assets.of(asset_id):
                self._prices[asset_id] = PriceEvent(asset_id, data)

    def hand_out_prices(self) -> None:
        """Hand out the prices that have come since the last time. Its caller decides how often that may be."""
        prices, self._prices = self._prices, {}
        for asset_id, event in prices.items():
            for mailbox in self._assets.of(asset_id):
                mailbox.put_price(event)
