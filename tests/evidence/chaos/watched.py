"""What clients were told in a run, by streams and webhooks, as plain values for the checker. No I/O."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Any, NamedTuple

MOVING = frozenset({"watermark", "trigger_price"})


class Way(StrEnum):
    """How a client came to see a version. All but `LIVE` show what the database has at that time."""

    FIRST = "first"
    """A stream showed it when it began."""
    LIVE = "live"
    LISTED = "listed"
    """Read at the address that a gap names, or by its id after a gap."""


class Seen(NamedTuple):
    """A version of an order that a client has seen; `order` is the digest of all that was said of it."""

    order_id: str
    version: int
    user_id: str
    order: str
    way: Way


@dataclass
class Watch:
    """Everything that one client has seen of the orders of its user, in that order."""

    user_id: str
    by: str
    seen: list[Seen] = field(default_factory=list)
    streams: int = 0
    """Connections that came to be live, one after the other."""
    gaps: int = 0
    highest: dict[str, int] = field(default_factory=dict)
    """The highest version of each order."""

    def note(self, order: dict[str, Any], way: Way) -> None:
        """Note an order as it was shown."""
        order_id, version = str(order["order_id"]), int(order["version"])
        self.seen.append(Seen(order_id, version, order["user_id"], digest(order), way))
        self.highest[order_id] = max(version, self.highest.get(order_id, 0))


class Hooked(NamedTuple):
    """A webhook that came to the endpoint of a user. `fault`: why it does not verify, if so."""

    user_id: str
    webhook_id: str
    body: bytes
    fault: str | None = None


@dataclass
class Watched:
    """All clients of a run. `every`: the users who want every version by webhook; others want ends at least."""

    watches: list[Watch] = field(default_factory=list)
    hooked: list[Hooked] = field(default_factory=list)
    hooks: set[str] = field(default_factory=set)
    """The users that have an endpoint."""
    every: set[str] = field(default_factory=set)

    def counted(self) -> Counter[str]:
        """Count what there was."""
        return Counter(
            {
                **{f"clients by {by}": number for by, number in Counter(one.by for one in self.watches).items()},
                "streams": sum(one.streams for one in self.watches),
                "versions seen by streams": sum(len(one.seen) for one in self.watches),
                "gaps said": sum(one.gaps for one in self.watches),
                "webhooks": len(self.hooked),
                "webhooks that came again": len(self.hooked) - len({one[:2] for one in self.hooked}),
            }
        )


def digest(order: dict[str, Any]) -> str:
    """Return a short text that is the same for the same version of an order: many thousands are kept.

    It leaves out what moves without a new version: the watermark of a trailing stop, and its trigger.
    """
    moving = MOVING if str(order.get("order_type")).startswith("TRAILING_STOP") else frozenset[str]()
    lasting = {name: value for name, value in order.items() if name not in moving}
    return blake2b(json.dumps(lasting, sort_keys=True).encode(), digest_size=12).hexdigest()
