"""What streams say besides orders, and the framing that writes it down: server-sent events, or messages of a WebSocket.

What a stream sends is made in one place, `service`; a framing only writes it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from contracts.vocabulary import Instant
from order_api.live.mailbox import OrderEvent, PriceEvent
from order_api.live.marks import time_of
from order_api.live.streams import Why


class Heartbeat(msgspec.Struct, frozen=True):
    """The stream is alive. Every version that was committed before `complete_until` has been sent on it."""

    at: Instant
    complete_until: Instant | None


class Gap(msgspec.Struct, frozen=True):
    """Orders that have changed since then may be missing. `list` is where a client finds them, as far as there is."""

    since: Instant | None
    list: str | None


class AccountHint(msgspec.Struct, frozen=True):
    """The user's balances of these assets may have changed: they are worth a look."""

    assets: tuple[str, ...]


class Bye(msgspec.Struct, frozen=True):
    """The stream ends; the client may come back with the id that it had last."""

    why: Why


class Framing(ABC):
    """Writes what a stream says: each result is a whole event."""

    @abstractmethod
    def event(self, name: str, data: bytes, event_id: str | None = None) -> bytes:
        """Write an event, whose data is JSON."""

    @abstractmethod
    def order(self, event: OrderEvent, mark: int) -> Sequence[bytes]:
        """Write a version of an order, and which balances may have moved with it.

        The stream has all that was committed before `mark`, so the id is no older. Without any mark there is no id.
        """

    @abstractmethod
    def version(self, event: OrderEvent) -> bytes:
        """Write a version of an order in the stream of that order: its id is the version."""

    def begin(self) -> Sequence[bytes]:
        """Write what comes before everything else."""
        return ()

    def price(self, event: PriceEvent) -> bytes:
        """Write a price."""
        return self.event("price", event.data)

    def heartbeat(self, mark: int) -> bytes:
        """Write a heartbeat: an event, since a comment is invisible to a script in a browser."""
        return self.event("heartbeat", as_json(Heartbeat(datetime.now(UTC), time_of(mark) if mark else None)))

    def gap(self, since: int, where: str | None) -> bytes:
        """Write that what has changed since a mark may be missing; `where` lists it."""
        return self.event("gap", as_json(Gap(time_of(since) if since else None, where)))


MARK: Final = re.compile(r"t([0-9]{1,17})")
"""The id of an event of a stream of orders."""
VERSION: Final = re.compile(r"[0-9]{1,9}")
"""The id of an event of the stream of one order."""


def write_id(mark: int) -> str:
    """Write the id of an event: opaque to clients."""
    return f"t{mark}"


as_json: Final = msgspec.json.Encoder().encode
SAID: Final = frozenset({"shutdown", "expired", "age", "unavailable"})
"""Why a stream ends that its client did not end, and that has not come to its own end."""
