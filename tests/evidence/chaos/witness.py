"""Reads `orders.events` from the beginning, with a library that the system does not use. It judges nothing."""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any, NamedTuple, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # it is there

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


class Witness:
    """Reads in a thread of its own; it waits while the broker is away."""

    def __init__(self, kafka: str, topic: str, partitions: int) -> None:
        self.ended_at: dict[str, float] = {}
        """When the end of each order was first seen (monotonic)."""
        self.wire = Wire({}, [])
        self._next = dict.fromkeys(range(partitions), 0)
        self._kafka, self._topic = kafka, topic
        self._stopping = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": f"witness-{uuid.uuid4()}",  # the library requires a group; nothing is ever committed
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
                "socket.timeout.ms": 10_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in self._next])
        self._thread = threading.Thread(target=self._read, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def positions(self) -> dict[int, int]:
        """Return the next offset of each partition."""
        return dict(self._next)

    def has_read_all(self) -> bool:
        """Tell whether it is at the end of every partition, which a new client asks the broker for."""
        admin = AdminClient({"bootstrap.servers": self._kafka, "socket.timeout.ms": 5_000, "log_level": 0})
        latest = {TopicPartition(self._topic, number): OffsetSpec.latest() for number in self._next}  # type: ignore[no-untyped-call]  # the same
        try:
            asked = admin.list_offsets(latest, request_timeout=5)
            return {tp.partition: end.result(timeout=10).offset for tp, end in asked.items()} == self._next
        except (KafkaException, TimeoutError):
            return False

    def _read(self) -> None:
        while not self._stopping.is_set():
            try:
                for each in self._consumer.consume(500, 0.1):
                    error = each.error()
                    if error is None:
                        self._note(each)
                    elif error.name() == "_AUTO_OFFSET_RESET":
                        self.wire.faults.append(f"records are gone that the witness had not read: {error}")
            except KafkaException:  # the broker is away
                self._stopping.wait(0.1)

    def _note(self, record: Any) -> None:
        number, offset = record.partition(), record.offset()
        if offset != self._next[number]:
            self.wire.faults.append(f"partition {number}: offset {offset} follows {self._next[number] - 1}")
        self._next[number] = offset + 1
        headers = dict(record.headers() or ())
        told = Told((record.key() or b"").decode(), (headers.get("ce_id") or b"").decode(), record.value() or b"")
        try:
            body = json.loads(told.value)
            order_id, version, status = str(body["order_id"]), int(body["version"]), body["status"]
        except (ValueError, KeyError, TypeError):
            self.wire.faults.append(f"partition {number}, offset {offset} can't be read: {told.value[:200]!r}")
            return
        known = self.wire.told.setdefault(order_id, {}).setdefault(version, [])
        known.append(known[0] if known and known[0] == told else told)  # repeats share one object
        if status in ENDED:
            self.ended_at.setdefault(order_id, time.monotonic())
