"""What a stream has not sent yet: of each order the newest version, of each asset the newest price. Pure.

A mailbox is no queue. An event is a snapshot with a version, so a newer one takes the place of an older one of the same
order: a slow reader gets fewer versions, never older ones, and blocks nobody. A mailbox that is full forgets all its
orders, and says that there is a gap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

ORDERS_MAX: Final = 1_000
"""Orders in one mailbox; one more, and it forgets them all."""

Words = Callable[["OrderEvent"], bytes]
"""Writes an event down as a stream sends it."""


class OrderEvent:
    """A version of an order, as everybody gets it. `mark`: what its process had heard of, before it (see `marks`).

    `data` is the body of the message on Kafka. All followers share one object, and what is written of it.
    """

    __slots__ = ("_written", "assets", "data", "key", "mark", "terminal", "version")

    def __init__(
        self, key: bytes, version: int, data: bytes, mark: int, *, terminal: bool = False, assets: tuple[str, ...] = ()
    ) -> None:
        """`key`: the order's id as text; `assets`: those of which the user's money may have moved."""
        self.key = key
        self.version = version
        self.data = data
        self.mark = mark
        self.terminal = terminal
        self.assets = assets
        self._written: dict[Words, bytes] = {}

    def written(self, words: Words) -> bytes:
        """Return the event as `words` writes it. It is written once, however many get it."""
        found = self._written.get(words)
        if found is None:
            found = self._written[words] = words(self)
        return found


class PriceEvent(NamedTuple):
    """The newest price of an asset; `data` is a JSON object."""

    asset_id: str
    data: bytes


class Taken(NamedTuple):
    """What was in a mailbox. A stream says the gap first, then reads again if it must, and sends the events last."""

    orders: list[OrderEvent]
    prices: list[PriceEvent]
    gap: bool
    """Events are lost: the mailbox was full."""
    stale: bool
    """Events may have been missed: read again what the database has."""
    beat: bool
    """It is time for a heartbeat."""


class Mailbox:
    """What one stream has not sent yet. `wake` is called when something comes into an empty one."""

    __slots__ = ("_beat", "_gap", "_orders", "_orders_max", "_prices", "_stale", "_wake", "conflated")

    def __init__(self, wake: Callable[[], None], *, orders_max: int = ORDERS_MAX) -> None:
        self._wake = wake
        self._orders_max = orders_max
        self._orders: dict[bytes, OrderEvent] = {}
        self._prices: dict[str, PriceEvent] = {}
        self._gap = self._stale = self._beat = False
        self.conflated = 0
        """Versions that a newer one has replaced, so that they were not sent."""

    def __len__(self) -> int:
        """Return for how many orders a version waits."""
        return len(self._orders)

    def put(self, event: OrderEvent) -> None:
        """Put a version in. An older one than is there, or the same again, changes nothing."""
        known = self._orders.get(event.key)
        if known is not None:
            if event.version <= known.version:
                return
            self.conflated += 1
            # To the end: whoever has the newer one has all that came before it, as its mark promises.
            del self._orders[event.key]
        elif len(self._orders) >= self._orders_max:
            self._orders.clear()
            self._gap = True
        self._orders[event.key] = event
        self._wake()

    def put_price(self, event: PriceEvent) -> None:
        """Put a price in, in place of an older one."""
        self._prices[event.asset_id] = event
        self._wake()

    def missed(self) -> None:
        """Note that events may have been missed."""
        self._stale = True
        self._wake()

    def beat(self) -> None:
        """Note that it is time for a heartbeat."""
        self._beat = True
        self._wake()

    def take(self) -> Taken:
        """Empty it. Orders come in the order in which their newest version came."""
        taken = Taken(list(self._orders.values()), list(self._prices.values()), self._gap, self._stale, self._beat)
        self._orders.clear()
        self._prices.clear()
        self._gap = self._stale = self._beat = False
        return taken
