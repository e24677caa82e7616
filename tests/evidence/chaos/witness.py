"""Reads `orders.events` from the beginning. It judges nothing."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from tests.evidence.chaos.reader import Reader

ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED"})


class Told(NamedTuple):
    """One record of the topic, unchanged."""

    key: str
    event_id: str
    value: bytes


class Wire(NamedTuple):
    """The records of each version of each order, in order of arrival, and the faults of the topic itself."""

    told: dict[str, dict[int, list[Told]]]
    faults: list[str]

    @property
    def repeats(self) -> int:
        """How many records repeat a version that was published before."""
        return sum(len(records) - 1 for versions in self.told.values() for records in versions.values())


class Witness(Reader):
    """Knows every version that was published, which orders have ended, and which rest."""

    def __init__(self, kafka: str, topic: str, partitions: int) -> None:
        super().__init__(kafka, topic, partitions)
        self.ended_at: dict[str, float] = {}
        """When the end of each order was first seen (monotonic)."""
        self.resting: dict[str, str] = {}
        """The users of conditional orders whose newest version says that they rest, by order."""
        self.resting_most = 0
        self.wire = Wire({}, self.faults)

    def take(self, record: Any) -> None:
        """Take note of a version; repeats share one object."""
        headers = dict(record.headers() or ())
        told = Told((record.key() or b"").decode(), (headers.get("ce_id") or b"").decode(), record.value() or b"")
        body = json.loads(told.value)
        order_id, version, status = str(body["order_id"]), int(body["version"]), body["status"]
        known = self.wire.told.setdefault(order_id, {}).setdefault(version, [])
        known.append(known[0] if known and known[0] == told else told)
        if status in ENDED:
            self.ended_at.setdefault(order_id, time.monotonic())
            self.resting.pop(order_id, None)
        elif status == "CONFIRMED" and body["order"].get("time_in_force") and order_id not in self.ended_at:
            self.resting[order_id] = body["order"]["user_id"]
            self.resting_most = max(self.resting_most, len(self.resting))
