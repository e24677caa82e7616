"""Finds transactions that a producer has left open in our topics: a consumer can't read past the first of them.

Our own producers use none. When a producer of another team hangs in a transaction, its partition stands still until the
broker aborts the transaction, within 15 minutes by default. Records of a transaction that is not committed must never
be acted on. So this module only reports where the transaction begins, to a person who can abort it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

if TYPE_CHECKING:
    from saga_kit.runtime.settings import KafkaSettings

HELD_S: Final = 15.0
"""A transaction that is open for so long is reported; a healthy one ends much sooner."""
LOOK_AGAIN_S: Final = 2.0
"""Pause between two checks of `find_open`: a transaction that both of them find is no passing one."""
ADVICE: Final = (
    "'kafka-transactions.sh describe-producers --topic {0} --partition {1}' names its producer's id and epoch,"
    " 'kafka-transactions.sh abort --topic {0} --partition {1} --start-offset {2}' ends it"
)

log = structlog.get_logger(__name__)


class Held(NamedTuple):
    """The offset at which the oldest open transaction of a partition begins, and for how many seconds that is known."""

    offset: int
    for_s: float


class OpenTransactions:
    """Remembers since when each partition is held up at one offset, and logs it after `held_s`."""

    def __init__(self, held_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`held_s`: when to report a partition; `clock` returns seconds."""
        self._held_s = held_s
        self._clock = clock
        self._since: dict[TopicPartition, tuple[int, float]] = {}
        self._said: set[TopicPartition] = set()

    def look(self, ends: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """Take each partition's last stable offset and its end; forget the partitions that are not named."""
        now, before = self._clock(), self._since
        self._since = {
            tp: known if (known := before.get(tp)) is not None and known[0] == stable else (stable, now)
            for tp, (stable, end) in ends.items()
            if stable < end
        }
        held = self.held()
        for tp in held.keys() - self._said:
            log.error("a partition can't be read on", cause=explain_held(tp, held[tp].offset))
        self._said = set(held)

    def held(self) -> dict[TopicPartition, Held]:
        """Return the partitions that have been held up for `held_s`, the longest first."""
        now = self._clock()
        held = [(tp, Held(offset, now - since)) for tp, (offset, since) in self._since.items()]
        return dict(sorted((one for one in held if one[1].for_s > self._held_s), key=lambda one: -one[1].for_s))


def stable_ends(consumer: Any) -> dict[TopicPartition, tuple[int, int]]:
    """Return `stable_end` of each assigned partition."""
    return {tp: stable_end(consumer, tp) for tp in consumer.assignment()}


def stable_end(consumer: Any, tp: TopicPartition) -> tuple[int, int]:
    """Return the last stable offset of a partition and its end, as the last fetch reported them.

    They are equal when no transaction is open. Raises `KafkaError` for a partition that is not assigned any more.
    """
    end, stable = consumer.highwater(tp) or 0, consumer.last_stable_offset(tp)
    return (end if stable is None or stable < 0 else min(stable, end)), end


def explain_held(tp: TopicPartition, offset: int) -> str:
    """Say which transaction holds up a partition, and how to find and end it."""
    return f"an open transaction holds {tp.topic}/{tp.partition} from offset {offset}: {ADVICE.format(*tp, offset)}"


async def find_open(settings: KafkaSettings, topics: Iterable[str]) -> dict[TopicPartition, int]:
    """Ask the broker twice; return the partitions that are held up, and the offset at which the transaction begins.

    `topics` are without the system's prefix. Raises `KafkaError`, `OSError` or `TimeoutError` when the broker can't be
    reached.
    """
    wanted = [settings.kafka_topic_prefix + topic for topic in topics]
    first = await _held(settings, wanted)
    if not first:
        return {}
    await asyncio.sleep(LOOK_AGAIN_S)
    second = await _held(settings, wanted)
    return {tp: offset for tp, offset in first.items() if second.get(tp) == offset}


async def _held(settings: KafkaSettings, topics: Iterable[str]) -> dict[TopicPartition, int]:
    # The stable ends are read before and after the others: a partition that is written to moves on meanwhile.
    stable = await _ends(settings, topics, "read_committed")
    ends = await _ends(settings, topics, "read_uncommitted")
    again = await _ends(settings, topics, "read_committed")
    return {tp: offset for tp, offset in stable.items() if offset < ends[tp] and again.get(tp) == offset}


async def _ends(settings: KafkaSettings, topics: Iterable[str], isolation: str) -> dict[TopicPartition, int]:
    consumer: Any = AIOKafkaConsumer(
        **settings.kafka_client_options(), client_id="order-saga-transactions", isolation_level=isolation
    )
    try:
        await consumer.start()
        cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - asked by name, a topic would be created
        partitions = [TopicPartition(topic, n) for topic in topics for n in cluster.partitions_for_topic(topic) or ()]
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions) if partitions else {}
        return ends
    finally:
        with suppress(Exception):
            await consumer.stop()
