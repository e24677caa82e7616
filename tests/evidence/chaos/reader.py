"""Reads a topic from the beginning, with a library that the system does not use. It judges nothing."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, Self

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # it is there

from tests.e2e.wire import consumer_of


class Reader(ABC):
    """Reads in a thread of its own and waits while the broker is away; a subclass takes each record in `take`."""

    def __init__(self, kafka: str, topic: str, partitions: int) -> None:
        self.faults: list[str] = []
        """What is wrong with the topic itself: records that are missing or can't be read."""
        self._next = dict.fromkeys(range(partitions), 0)
        self._kafka, self._topic = kafka, topic
        self._stopping = threading.Event()
        more: dict[str, str | int] = {
            "auto.offset.reset": "error",  # what is gone is a fault
            "fetch.wait.max.ms": 50,
            "socket.timeout.ms": 10_000,
        }
        self._consumer = consumer_of(kafka, topic, partitions, more=more)
        self._thread = threading.Thread(target=self._read, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    @abstractmethod
    def take(self, record: Any) -> None:
        """Take note of a record. Raises `ValueError`, `KeyError` or `TypeError` for one that can't be read."""

    def positions(self) -> dict[int, int]:
        """Return the next offset of each partition."""
        return dict(self._next)

    def ends(self) -> dict[int, int]:
        """Ask the broker, with a new client, where each partition ends. Raises `KafkaException` or `TimeoutError`."""
        admin = AdminClient({"bootstrap.servers": self._kafka, "socket.timeout.ms": 5_000, "log_level": 0})
        latest = {TopicPartition(self._topic, number): OffsetSpec.latest() for number in self._next}  # type: ignore[no-untyped-call]  # the same
        asked = admin.list_offsets(latest, request_timeout=5)
        return {tp.partition: end.result(timeout=10).offset for tp, end in asked.items()}

    def has_read(self, ends: dict[int, int]) -> bool:
        """Tell whether it has come to these offsets."""
        return all(self._next[number] >= end for number, end in ends.items())

    def has_read_all(self) -> bool:
        """Tell whether it is at the end of every partition."""
        try:
            return self.has_read(self.ends())
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
                        self.faults.append(f"records are gone that the witness had not read: {error}")
            except KafkaException:  # the broker is away
                self._stopping.wait(0.1)

    def _note(self, record: Any) -> None:
        number, offset = record.partition(), record.offset()
        if offset != self._next[number]:
            self.faults.append(f"partition {number}: offset {offset} follows {self._next[number] - 1}")
        self._next[number] = offset + 1
        try:
            self.take(record)
        except (ValueError, KeyError, TypeError):
            self.faults.append(f"partition {number}, offset {offset} can't be read: {(record.value() or b'')[:200]!r}")
