"""Notices when a topic changes while it is consumed: it is deleted, is back, has other partitions, or began anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import structlog
from aiokafka import TopicPartition

from saga_kit.runtime.telemetry import KitMetrics

log = structlog.get_logger(__name__)


class TopicChanges:
    """Remembers how many partitions each topic had, and the end offset of each partition."""

    def __init__(self, metrics: KitMetrics) -> None:
        self._metrics = metrics
        self._partitions: dict[str, int] = {}
        self._ends: dict[TopicPartition, int] = {}

    def look(self, consumer: Any, topics: Iterable[str]) -> set[TopicPartition]:
        """Compare with the last call and log what changed; return the assigned partitions that began anew."""
        for topic in topics:
            count = len(consumer.partitions_for_topic(topic) or ())
            before = self._partitions.get(topic)
            self._partitions[topic] = count
            if before is not None and before != count:
                change = "missing" if not count else "back" if not before else "partitions"
                self._report(change, topic=topic, partitions=count, before=before)
        ends = {tp: end for tp in consumer.assignment() if (end := consumer.highwater(tp)) is not None}
        anew = {tp for tp, end in ends.items() if end < self._ends.get(tp, 0)}
        for tp in anew:
            self._report("begun_anew", topic=tp.topic, partition=tp.partition, end=ends[tp], before=self._ends[tp])
        self._ends |= ends
        return anew

    def _report(self, change: str, **facts: object) -> None:
        self._metrics.topic_changes.labels(change).inc()
        log.error("a topic has changed while it is read", change=change, **facts)
