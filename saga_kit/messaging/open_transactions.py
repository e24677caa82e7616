"""Transactions that somebody's producer has left open in our topics: a consumer stops in front of the first.

Our own producers have none. Another team's may write in one, and when it hangs its partition stands still until the
broker aborts it, by default within a quarter of an hour. Records of a transaction that was not committed must never be
acted on, so all that can be done is to say where it begins, for a person who can abort it.
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
"""A transaction that is open for so long holds up who reads; a healthy one is over in much less."""
LOOK_AGAIN_S: Final = 2.0
"""Between two looks from outside: what began before the first and is there at the second is no passing one."""
ADVICE: Final = (
    "'kafka-transactions.sh describe-producers --topic {0} --partition {1}' names its producer's id and epoch,"
    " 'kafka-transactions.sh abort --topic {0} --partition {1} --start-offset {2}' ends it"
)

log = structlog.get_logger(__name__)


class Held(NamedTuple):
    """Where the oldest open transaction of a partition begins, and for how many seconds that is known."""

    offset: int
    for_s: float


class OpenTransactions:
    """Remembers since when each partition is held at the same offset, and says so once it is for `held_s`."""

    def __init__(self, held_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without any; `clock` in seconds."""
        self._held_s = held_s
        self._clock = clock
        self._since: dict[TopicPartition, tuple[int, float]] = {}
        self._said: set[TopicPartition] = set()

    def look(self, ends: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """Note each partition's last stable offset and its end; what is not named any more is forgotten."""
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
        """Return the partitions that have been held for long enough, the longest first."""
        now = self._clock()
        held = [(tp, Held(offset, now - since)) for tp, (offset, since) in self._since.items()]
        return dict(sorted((one for one in held if one[1].for_s > self._held_s), key=lambda one: -one[1].for_s))


def stable_ends(consumer: Any) -> dict[TopicPartition, tuple[int, int]]:
    """Return what `stable_end` does, of each assigned partition."""
    return {tp: stable_end(consumer, tp) for tp in consumer.assignment()}


def stable_end(consumer: Any, tp: TopicPartition) -> tuple[int, int]:
    """Return where the first open transaction of a partition begins, and its end, as the last fetch has told them.

    Both are the same when none is open. Raises `KafkaError` for a partition that is not assigned any more.
    """
    end, stable = consumer.highwater(tp) or 0, consumer.last_stable_offset(tp)
    return (end if stable is None or stable < 0 else min(stable, end)), end


def explain_held(tp: TopicPartition, offset: int) -> str:
    """Say what holds a partition up and how to find and end it."""
    return f"an open transaction holds {tp.topic}/{tp.partition} from offset {offset}: {ADVICE.format(*tp, offset)}"


async def find_open(settings: KafkaSettings, topics: Iterable[str]) -> dict[TopicPartition, int]:
    """Look twice from outside; return the partitions that are held, and where the transaction begins.

    `topics` without the system's prefix. Raises `KafkaError`, `OSError` or `TimeoutError` for a broker that can't be
    asked.
    """
    wanted = [settings.kafka_topic_prefix + topic for topic in topics]
    first = await _held(settings, wanted)
    if not first:
        return {}
    await asyncio.sleep(LOOK_AGAIN_S)
    second = await _held(settings, wanted)
    return {tp: offset for tp, offset in first.items() if second.get(tp) == offset}


async def _held(settings: KafkaSettings, topics: Iterable[str]) -> dict[TopicPartition, int]:
    # The stable ends before and after the others: those of a partition that is written to move on meanwhile.
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
