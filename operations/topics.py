"""Creates the topics, sets what promises rest on, and says what is wrong with those that exist."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from contracts.topics import TOPICS, Topic
from operations.cli.reach import Trouble, err, out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka.admin import AIOKafkaAdminClient

    from saga_kit.messaging.topic_settings import TopicSettings
    from saga_kit.runtime.settings import KafkaSettings

VISIBLE_WITHIN_S: Final = 60.0
"""A cluster has a topic a moment after it said so, each of its brokers a moment later than the one that was asked."""
_LOOK_EVERY_S: Final = 0.2
_EXISTS: Final = 36
"""The protocol's number for a topic that somebody else has created this moment."""


async def ensure(settings: KafkaSettings, *, replication: int, check_only: bool) -> list[str]:
    """Create and set what is not as it should be; return a line for each thing that is still wrong.

    Several at once do no harm: each waits until the cluster has what any of them created.
    """
    from aiokafka.admin import AIOKafkaAdminClient

    from saga_kit.messaging.topic_settings import look
    from saga_kit.runtime.settings import METADATA_MAX_AGE_MS

    admin = AIOKafkaAdminClient(**settings.kafka_client_options(), metadata_max_age_ms=METADATA_MAX_AGE_MS)
    await admin.start()
    names = [settings.kafka_topic_prefix + topic.name for topic in TOPICS]
    try:
        found = await look(admin, names)
        refused: set[str] = set()
        if not check_only:
            if missing := {one.name for one in found if not one.exists}:
                refused = await _create(admin, missing, settings.kafka_topic_prefix, replication)
                found = await _visible(admin, names, missing - refused)
            found = await _set(admin, names, found)
    finally:
        await admin.close()
    _tell_untold(found)
    return [line for topic, one in zip(TOPICS, found, strict=True) for line in _faults(topic, one)]


def _faults(topic: Topic, found: TopicSettings) -> list[str]:
    from saga_kit.messaging.topic_settings import deviations

    if not found.partitions:
        return [f"{found.name} is missing, or hidden from this login: 'order-saga topics' creates what is missing"]
    out.print(f"{found.name}: {found.partitions} partitions")
    wrong = [str(one) for one in deviations(found)]
    if found.partitions < topic.partitions:
        few = f"{found.name} has {found.partitions} partitions instead of {topic.partitions}"
        wrong.append(f"{few}; add some with Kafka's own tools")
    return wrong


def _tell_untold(found: Sequence[TopicSettings]) -> None:
    if untold := [one for one in found if one.partitions and one.settings is None]:
        names = ", ".join(one.name for one in untold)
        hint = "a login needs the right to describe their settings ('inspect' in deploy/acls.txt)"
        err.print(f"the settings of {names} can't be seen and are not checked: {untold[0].untold}; {hint}")


async def _create(admin: AIOKafkaAdminClient, names: set[str], prefix: str, replication: int) -> set[str]:
    """Create topics; return those that the broker refuses."""
    from aiokafka.admin import NewTopic
    from aiokafka.errors import for_code

    from saga_kit.messaging.topic_settings import wanted

    partitions = {prefix + topic.name: topic.partitions for topic in TOPICS}
    configs = wanted(replication)
    answer = await admin.create_topics(
        [NewTopic(name, partitions[name], replication, topic_configs=configs) for name in sorted(names)]
    )
    refused: set[str] = set()
    for name, code, *told in answer.topic_errors:
        if code not in {0, _EXISTS}:
            out.print(f"{name}: {(told and told[0]) or for_code(code).__name__}", markup=False)
            refused.add(name)
    return refused


async def _visible(admin: AIOKafkaAdminClient, names: Sequence[str], created: set[str]) -> list[TopicSettings]:
    """Wait until every topic that was created has leaders; return all. Raises `Trouble` when that takes too long."""
    from saga_kit.messaging.topic_settings import look

    until = time.monotonic() + VISIBLE_WITHIN_S
    while True:
        found = await look(admin, names)
        late = [one.name for one in found if one.name in created and not one.exists]
        if not late:
            return found
        if time.monotonic() > until:
            raise Trouble(
                f"the cluster has accepted {', '.join(late)} and does not have them {VISIBLE_WITHIN_S:.0f} s later"
            )
        await asyncio.sleep(_LOOK_EVERY_S)


async def _set(admin: AIOKafkaAdminClient, names: Sequence[str], found: list[TopicSettings]) -> list[TopicSettings]:
    """Set what deviates, and keep what else was set for a topic; return all topics as they are then."""
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
    from aiokafka.errors import for_code

    from saga_kit.messaging.topic_settings import deviations, look, wanted

    changes = {
        one.name: dict(one.own) | {each.setting: wanted(one.copies)[each.setting] for each in deviations(one)}
        for one in found
        if deviations(one)
    }
    if not changes:
        return found
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, configs=configs) for name, configs in changes.items()]
    for answer in await admin.alter_configs(asked):
        for code, told, _, name in answer.resources:
            if code:
                out.print(f"{name}: {told or for_code(code).__name__}", markup=False)
                changes.pop(name, None)
    until = time.monotonic() + VISIBLE_WITHIN_S
    while True:
        now = await look(admin, names)
        if time.monotonic() > until or not any(deviations(one) for one in now if one.name in changes):
            return now
        await asyncio.sleep(_LOOK_EVERY_S)
