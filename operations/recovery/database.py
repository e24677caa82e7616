"""Brings a restored database to what Kafka has told: orders forward, prices' numbers on, consumer groups back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from contracts.assets import AssetPriceChanged
from contracts.topics import (
    ASSETS_PRICES,
    ASSETS_REPLIES,
    BALANCE_COMMANDS,
    HOLDS_EVENTS,
    ORDERS_EVENTS,
    ORDERS_REQUESTS,
)
from operations.access.errors import Trouble, WrongRequest
from operations.access.words import full_time
from operations.recovery import forgotten, groups, topics
from operations.recovery.holds import capture_again
from operations.recovery.orders import ask_back, bring_forward
from operations.recovery.staging import staging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.recovery.groups import Rewound
    from operations.recovery.staging import Staging
    from operations.recovery.topics import Span
    from operations.repair.runs import ItemResult, Run
    from saga_kit.runtime.settings import KafkaSettings

MARGIN: Final = timedelta(hours=1)
"""So long before the newest thing that the database knows; reading more is harmless, and only slower."""


class Plan(NamedTuple):
    """From when on Kafka is read, what the database knows last, and what topics have lost since then."""

    since: datetime
    newest: datetime | None
    lost: str


class Progress(NamedTuple):
    """What was read so far."""

    records: int
    unreadable: int


async def plan(engine: AsyncEngine, settings: KafkaSettings, since: datetime | None, *, incomplete: bool) -> Plan:
    """Find out from when on to read, once nobody reads any more.

    Raises `Trouble` while a service runs, and when topics have lost what came since then, unless `incomplete`;
    `WrongRequest` for a time that is later than what the database knows, or when it knows nothing to reckon from.
    """
    await groups.check_nobody_reads(settings)
    newest = await forgotten.newest(engine)
    if since is None and newest is None:
        raise WrongRequest("the database knows of no order: say from when on with --since")
    if since is not None and newest is not None and since > newest:
        raise WrongRequest(f"--since is later than the newest thing that the database knows, {full_time(newest)}")
    chosen = since or (newest - MARGIN if newest is not None else None)
    assert chosen is not None  # noqa: S101 - one of the two is there
    names = {topic.name for again, _ in groups.GROUPS.values() for topic in again if not topic.compacted}
    async with topics.connected(settings) as consumer:
        found = await topics.spans(consumer, sorted(settings.kafka_topic_prefix + name for name in names), chosen)
        lost = await topics.oldest(consumer, await _cut(settings, found, chosen))
    if lost and not incomplete:
        raise Trouble(f"topics no longer have all since {full_time(chosen)}, only {lost}: see --incomplete")
    return Plan(chosen, newest, lost)


async def _cut(settings: KafkaSettings, found: Mapping[Any, Span], since: datetime) -> dict[Any, Span]:
    """Choose the partitions that may have lost records since then: by their age, or by the size of what they keep."""
    from saga_kit.messaging.topic_settings import RETENTION_MS, look_once

    names = {tp.topic.removeprefix(settings.kafka_topic_prefix) for tp, span in found.items() if span.cut}
    age_ms = (datetime.now(UTC) - since).total_seconds() * 1000
    kept = {one.name: one.settings for one in await look_once(settings, sorted(names))} if names else {}

    def keeps_all(topic: str) -> bool:
        own = kept[topic]
        if own is None:
            return False
        return int(own.get("retention.bytes", -1)) < 0 and not 0 <= int(own.get(RETENTION_MS, 0)) < age_ms

    return {tp: span for tp, span in found.items() if span.cut and not keeps_all(tp.topic)}


async def recover(
    engine: AsyncEngine,
    settings: KafkaSettings,
    since: datetime,
    run: Run,
    *,
    dry_run: bool,
    progress: Callable[[Progress], None],
) -> AsyncIterator[ItemResult]:
    """Bring forward every order that is behind, and give the result of each. Then it is time to `go_back`.

    Also the services' holds whose capture would come too late, and holds that their orders would leave in the ledger.
    """
    async with staging(engine) as kept:
        await _read(settings, since, kept, progress)
        async for result in bring_forward(engine, kept, run, dry_run=dry_run):
            yield result
        async for result in ask_back(engine, kept, run, dry_run=dry_run):
            yield result
        if await kept.has_ledger():
            await _read_holds(settings, since, kept)
            async for result in capture_again(engine, kept, run, dry_run=dry_run):
                yield result


async def go_back(engine: AsyncEngine, settings: KafkaSettings, since: datetime, *, dry_run: bool) -> list[Rewound]:
    """Have the services read again what came since then, and number prices behind those that were told."""
    if not dry_run:
        await forgotten.number_on(engine, await _prices(settings, since))
    return await groups.rewind(settings, since, every_topic=False, dry_run=dry_run)


async def _read(settings: KafkaSettings, since: datetime, kept: Staging, progress: Callable[[Progress], None]) -> None:
    """Read what was told and sent, and then what belongs to it."""
    prefix, seen = settings.kafka_topic_prefix, Progress(0, 0)
    for names, take in (
        ((ORDERS_EVENTS.name, BALANCE_COMMANDS.name), kept.take_told),
        ((ORDERS_REQUESTS.name, ASSETS_REPLIES.name), kept.take_known),
    ):
        async with topics.connected(settings) as consumer:
            found = await topics.spans(consumer, [prefix + name for name in names], since)
            async for records in topics.read(consumer, found):
                read, unreadable = topics.readable(records)
                await take(read)
                seen = Progress(seen.records + len(records), seen.unreadable + unreadable)
                progress(seen)
        if take == kept.take_told:
            await kept.close_told()


async def _read_holds(settings: KafkaSettings, since: datetime, kept: Staging) -> None:
    async with topics.connected(settings) as consumer:
        found = await topics.spans(consumer, [settings.kafka_topic_prefix + HOLDS_EVENTS.name], since)
        async for records in topics.read(consumer, found):
            await kept.take_holds(topics.readable(records)[0])


async def _prices(settings: KafkaSettings, since: datetime) -> dict[str, int]:
    """Read the highest number of each asset's prices that was told since then."""
    highest: dict[str, int] = {}
    async with topics.connected(settings) as consumer:
        found = await topics.spans(consumer, [settings.kafka_topic_prefix + ASSETS_PRICES.name], since)
        async for records in topics.read(consumer, found):
            for one in topics.readable(records)[0]:
                if isinstance(one.message, AssetPriceChanged):
                    asset_id = one.message.asset_id
                    highest[asset_id] = max(one.message.sequence, highest.get(asset_id, 0))
    return highest
