"""Read the topic of prices for some seconds and say how good the feed is, asset by asset."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from contracts.assets import AssetPriceChanged
from contracts.codec import decode
from contracts.decimals import is_multiple
from contracts.envelope import UnreadableMessage, read_envelope
from contracts.topics import ASSETS_PRICES
from operations.access.errors import Trouble

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from saga_kit.runtime.settings import KafkaSettings

RATE_MAX: Final = 50.0
"""Messages a second of one asset; above that a feed should conflate."""
HEARTBEAT_MAX_S: Final = 10.0
SKEW_MAX_S: Final = 1.0


@dataclass(slots=True)
class AssetFeed:
    """What was seen of one asset. Ages and skew are in seconds; a skew above 0 is a source whose clock is ahead."""

    asset_id: str
    messages: int = 0
    changes: int = 0
    gaps: int = 0
    backward: int = 0
    off_tick: int = 0
    wrong_key: int = 0
    sequence: int = 0
    silence_s: float = 0.0
    age_max_s: float = 0.0
    skew_max_s: float = 0.0
    sources: set[str] = field(default_factory=set)
    _last_s: float = 0.0

    def see(self, event: AssetPriceChanged, source: str, appended_at: datetime, tick: Decimal | None) -> None:
        """Take note of a message."""
        self.sources.add(source)
        at_s = appended_at.timestamp()
        if self.messages:
            self.silence_s = max(self.silence_s, at_s - self._last_s)
            self.gaps += event.sequence > self.sequence + 1
            self.backward += event.sequence < self.sequence
        self.changes += event.sequence > self.sequence
        self.sequence, self._last_s = max(self.sequence, event.sequence), at_s
        self.messages += 1
        self.off_tick += tick is not None and not is_multiple(event.price, tick)
        age_s = at_s - (event.confirmed_at or event.as_of).timestamp()
        self.age_max_s, self.skew_max_s = max(self.age_max_s, age_s), max(self.skew_max_s, -age_s)

    def faults(self, seconds: float) -> list[str]:
        """List what a feed must not do, in words."""
        checks = {
            f"{self.backward} messages had a lower sequence than one before": self.backward,
            f"{self.off_tick} prices are off the tick": self.off_tick,
            f"{self.wrong_key} records have another key than the asset": self.wrong_key,
            f"several producers: {', '.join(sorted(self.sources))}": len(self.sources) > 1,
            f"{self.messages / seconds:.0f} messages a second, conflate to {RATE_MAX:g}": (
                self.messages / seconds > RATE_MAX
            ),
            f"silent for {self.silence_s:.1f} s, repeat the newest price every {HEARTBEAT_MAX_S:g} s": (
                self.silence_s > HEARTBEAT_MAX_S
            ),
            f"the source's clock is {self.skew_max_s:.1f} s ahead": self.skew_max_s > SKEW_MAX_S,
        }
        return [words for words, wrong in checks.items() if wrong]

    def row(self, seconds: float) -> dict[str, Any]:
        """Say it for programs."""
        return {
            "asset_id": self.asset_id,
            "messages_per_second": round(self.messages / seconds, 1),
            "changes": self.changes,
            "gaps": self.gaps,
            "backward": self.backward,
            "off_tick": self.off_tick,
            "age_max_s": round(self.age_max_s, 2),
            "skew_max_s": round(self.skew_max_s, 2),
            "producers": sorted(self.sources),
            "faults": self.faults(seconds),
        }


async def listen(settings: KafkaSettings, seconds: float, ticks: Mapping[str, Decimal]) -> list[dict[str, Any]]:
    """Read new records of `assets.prices` for some seconds; return what was seen of each asset, by its name.

    It joins no group and commits nothing. `ticks`: of the assets whose prices are checked. Raises `Trouble` for a
    topic that is missing, and when a record can't be read at all.
    """
    from aiokafka import AIOKafkaConsumer

    topic = settings.kafka_topic_prefix + ASSETS_PRICES.name
    consumer = AIOKafkaConsumer(
        **settings.kafka_client_options(), auto_offset_reset="latest", enable_auto_commit=False, group_id=None
    )
    seen: dict[str, AssetFeed] = {}
    await consumer.start()
    try:
        partitions = await _partitions(consumer, topic)
        consumer.assign(partitions)
        await consumer.seek_to_end(*partitions)
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            found = await consumer.getmany(timeout_ms=int(min(left_s, 0.5) * 1000) + 1)
            for records in found.values():
                _take(records, seen, ticks)
    finally:
        await consumer.stop()
    return [seen[asset_id].row(seconds) for asset_id in sorted(seen)]


async def _partitions(consumer: Any, topic: str) -> list[Any]:
    from aiokafka import TopicPartition

    cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - asked by name, a topic would be created
    if found := cluster.partitions_for_topic(topic):
        return [TopicPartition(topic, number) for number in sorted(found)]
    raise Trouble(f"there is no topic {topic}, or this login may not see it ('order-saga topics' creates it)")


def _take(records: Sequence[Any], seen: dict[str, AssetFeed], ticks: Mapping[str, Decimal]) -> None:
    for record in records:
        try:
            envelope = read_envelope(record.headers)
            event = decode(envelope.type, record.value)
        except UnreadableMessage as error:
            place = f"{record.topic}/{record.partition}@{record.offset}"
            raise Trouble(f"{place} can't be read, so no order would see it: {error}") from None
        if isinstance(event, AssetPriceChanged):
            one = seen.setdefault(event.asset_id, AssetFeed(event.asset_id))
            one.wrong_key += record.key != event.asset_id.encode()
            appended_at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
            one.see(event, envelope.source, appended_at, ticks.get(event.asset_id))
