"""Plain Kafka clients, by librdkafka: what any producer or consumer needs, with none of the system's code."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition
from confluent_kafka import Producer as LibraryProducer

PARTITIONS = 12
SENT_WITHIN_S = 120.0

Headers = list[tuple[str, bytes]]


class Message(NamedTuple):
    """What a producer sends. The topic has no prefix; with the partition -1 the key decides."""

    topic: str
    key: str
    value: bytes
    headers: Headers
    partition: int = -1


class Record(NamedTuple):
    """What a consumer gets."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes | None]]

    @property
    def type(self) -> str:
        """The CloudEvents type."""
        return (dict(self.headers)["ce_type"] or b"").decode()

    @property
    def body(self) -> Any:
        """The JSON body."""
        return json.loads(self.value)


class Place(NamedTuple):
    """Where the broker has stored a message."""

    partition: int
    offset: int


def cloud_event(kind: str, message_id: str | None = None) -> Headers:
    """Write the headers that a message must bear: CloudEvents 1.0 in Kafka's binary mode."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", (message_id or str(uuid.uuid4())).encode()),
        ("ce_source", b"a-plain-client"),
        ("ce_type", kind.encode()),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
        ("content-type", b"application/json"),
    ]


def message(topic: str, key: str, kind: str, body: dict[str, Any], *, partition: int = -1) -> Message:
    """Write a message with a JSON body."""
    return Message(topic, key, json.dumps(body).encode(), cloud_event(kind), partition)


class Producer:
    """Sends messages, partitioned by murmur2 as Java's clients do, and says where each of them lies."""

    def __init__(self, kafka_bootstrap_servers: str, prefix: str) -> None:
        self._prefix = prefix
        self._library = LibraryProducer(
            {
                "bootstrap.servers": kafka_bootstrap_servers,
                "partitioner": "murmur2_random",
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": int(SENT_WITHIN_S * 1000),
                "log_level": 0,
            }
        )

    async def send(self, *messages: Message) -> list[Place]:
        """Send all, in order; return when the broker has stored every one of them."""
        return await asyncio.to_thread(self._send, [(0.0, message) for message in messages])

    async def send_timed(self, *messages: tuple[float, Message]) -> list[Place]:
        """Send each message so many seconds after the call; the earliest comes first."""
        return await asyncio.to_thread(self._send, sorted(messages, key=lambda timed: timed[0]))

    def _send(self, messages: list[tuple[float, Message]]) -> list[Place]:
        places: dict[int, Place] = {}
        errors: list[Any] = []

        def note(number: int) -> Callable[[Any, Any], None]:
            def delivered(error: Any, stored: Any) -> None:
                if error is not None:
                    errors.append(error)
                else:
                    places[number] = Place(stored.partition(), stored.offset())

            return delivered

        begin = time.monotonic()
        for number, (after_s, each) in enumerate(messages):
            while (early_s := begin + after_s - time.monotonic()) > 0:
                self._library.poll(min(early_s, 0.01))
            self._library.produce(
                self._prefix + each.topic,
                key=each.key,
                value=each.value,
                headers=list(each.headers),
                partition=each.partition,
                on_delivery=note(number),
            )
            self._library.poll(0)
        self._library.flush(SENT_WITHIN_S)
        assert (len(messages), []) == (len(places), errors)
        return [places[number] for number in range(len(messages))]


def consumer_of(
    kafka_bootstrap_servers: str,
    topic: str,
    partitions: int = PARTITIONS,
    *,
    from_end: bool = False,
    more: Mapping[str, str | int] = MappingProxyType({}),
) -> Consumer:
    """Make a consumer of all partitions of a topic, of the library that the system does not use."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka_bootstrap_servers,
            "group.id": f"reader-{uuid.uuid4()}",  # the library requires a group; nothing is ever committed
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 100,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
            **more,
        }
    )
    begin = OFFSET_END if from_end else OFFSET_BEGINNING
    consumer.assign([TopicPartition(topic, partition, begin) for partition in range(partitions)])
    return consumer


class Follower:
    """Reads a topic in a thread of its own and keeps all records; it waits while the broker is away."""

    def __init__(self, kafka_bootstrap_servers: str, topic: str, *, from_end: bool = False) -> None:
        self.records: list[Record] = []
        self._stopping = threading.Event()
        self._consumer = consumer_of(kafka_bootstrap_servers, topic, from_end=from_end)
        self._thread = threading.Thread(target=self._read, name=f"follower of {topic}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading; the records remain available."""
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def _read(self) -> None:
        while not self._stopping.is_set():
            try:
                for each in self._consumer.consume(500, 0.1):
                    if each.error() is None:
                        self._note(_record(each))
            except KafkaException:  # the broker is away
                self._stopping.wait(0.1)

    def _note(self, record: Record) -> None:
        self.records.append(record)


class Events(Follower):
    """Follows `orders.events`: per order and version, each body that was seen.

    What it returns is its reader's own: the thread that follows goes on meanwhile.
    """

    def __init__(self, kafka_bootstrap_servers: str, prefix: str) -> None:
        self._bodies: dict[str, dict[int, list[Any]]] = {}
        self._lock = threading.Lock()
        super().__init__(kafka_bootstrap_servers, f"{prefix}orders.events")

    def told(self) -> dict[str, dict[int, list[Any]]]:
        """Return everything."""
        with self._lock:
            return {order_id: _copy(versions) for order_id, versions in self._bodies.items()}

    def versions(self, order_id: str) -> dict[int, list[Any]]:
        """Return the bodies of each version seen of an order."""
        with self._lock:
            return _copy(self._bodies.get(order_id, {}))

    def of(self, order_id: str) -> list[Any]:
        """Return one body for each version seen, by version."""
        return [bodies[0] for _, bodies in sorted(self.versions(order_id).items())]

    def statuses(self, order_id: str) -> list[str]:
        """Return the status of each version seen."""
        return [event["status"] for event in self.of(order_id)]

    def _note(self, record: Record) -> None:
        body = record.body
        with self._lock:
            self._bodies.setdefault(body["order_id"], {}).setdefault(body["version"], []).append(body)
        super()._note(record)


def _copy(versions: dict[int, list[Any]]) -> dict[int, list[Any]]:
    return {version: list(bodies) for version, bodies in versions.items()}


def _record(consumed: Any) -> Record:
    headers = list(consumed.headers() or ())
    return Record(consumed.partition(), consumed.offset(), consumed.key(), consumed.value() or b"", headers)
