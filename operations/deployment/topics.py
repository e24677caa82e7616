"""Create the topics, set the settings that the protocol relies on, and say what is wrong with the topics that exist."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.topics import TOPICS, Topic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka.admin import AIOKafkaAdminClient

    from saga_kit.messaging.topic_settings import TopicSettings
    from saga_kit.runtime.settings import KafkaSettings

VISIBLE_WITHIN_S: Final = 60.0
"""A cluster accepts a topic before all of its brokers know it."""
_LOOK_EVERY_S: Final = 0.2
_EXISTS: Final = 36
"""The protocol's number for a topic that another client has just created."""


class Topics(NamedTuple):
    """What was done and found, in words. `late`: topics that the cluster has accepted and not shown in time."""

    refused: list[str]
    partitions: list[str]
    unseen: str
    wrong: list[str]
    late: list[str]


async def ensure(settings: KafkaSettings, *, replication: int, check_only: bool) -> Topics:
    """Create and set what is not as it should be; say what is still wrong.

    Several at once do no harm: each waits until the cluster shows what any of them created.
    """
    from aiokafka.admin import AIOKafkaAdminClient

    from saga_kit.messaging.topic_settings import look
    from saga_kit.runtime.settings import METADATA_MAX_AGE_MS

    admin = AIOKafkaAdminClient(**settings.kafka_client_options(), metadata_max_age_ms=METADATA_MAX_AGE_MS)
    await admin.start()
    names = [settings.kafka_topic_prefix + topic.name for topic in TOPICS]
    compacted = {settings.kafka_topic_prefix + topic.name for topic in TOPICS if topic.compacted}
    refused: dict[str, str] = {}
    late: list[str] = []
    try:
        found = await look(admin, names, compacted)
        if not check_only:
            if missing := {one.name for one in found if not one.exists}:
                refused = await _create(admin, missing, settings.kafka_topic_prefix, replication)
                found, late = await _visible(admin, names, missing - refused.keys())
                found = [one._replace(compacted=one.name in compacted) for one in found]
            if not late:
                found, unset = await _set(admin, names, compacted, found)
                refused |= unset
    finally:
        await admin.close()
    return _describe(refused, found, late)


def _describe(refused: dict[str, str], found: Sequence[TopicSettings], late: list[str]) -> Topics:
    lines = [f"{name}: {why}" for name, why in refused.items()]
    if late:
        return Topics(lines, [], "", [], late)
    partitions = [f"{one.name}: {one.partitions} partitions" for one in found if one.partitions]
    wrong = [line for topic, one in zip(TOPICS, found, strict=True) for line in _faults(topic, one)]
    return Topics(lines, partitions, _unseen(found), wrong, [])


def _faults(topic: Topic, found: TopicSettings) -> list[str]:
    from saga_kit.messaging.topic_settings import deviations

    if not found.partitions:
        return [f"{found.name} is missing, or hidden from this login: 'order-saga topics' creates what is missing"]
    wrong = [str(one) for one in deviations(found)]
    if found.partitions < topic.partitions:
        few = f"{found.name} has {found.partitions} partitions instead of {topic.partitions}"
        wrong.append(f"{few}; add some with Kafka's own tools")
    return wrong


def _unseen(found: Sequence[TopicSettings]) -> str:
    unseen = [one for one in found if one.partitions and one.settings is None]
    if not unseen:
        return ""
    names = ", ".join(one.name for one in unseen)
    hint = "a login needs the right to describe their settings ('inspect' in deploy/acls.txt)"
    return f"the settings of {names} can't be seen and are not checked: {unseen[0].untold}; {hint}"


async def _create(admin: AIOKafkaAdminClient, names: set[str], prefix: str, replication: int) -> dict[str, str]:
    """Create topics; return those that the broker refuses, and why."""
    from aiokafka.admin import NewTopic
    from aiokafka.errors import for_code

    from saga_kit.messaging.topic_settings import wanted

    partitions = {prefix + topic.name: topic.partitions for topic in TOPICS}
    compacted = {prefix + topic.name for topic in TOPICS if topic.compacted}
    answer = await admin.create_topics(
        [
            NewTopic(
                name,
                partitions[name],
                replication,
                topic_configs=wanted(replication, compacted=name in compacted),
            )
            for name in sorted(names)
        ]
    )
    return {
        name: (message and message[0]) or for_code(code).__name__
        for name, code, *message in answer.topic_errors
        if code not in {0, _EXISTS}
    }


async def _visible(
    admin: AIOKafkaAdminClient, names: Sequence[str], created: set[str]
) -> tuple[list[TopicSettings], list[str]]:
    """Wait until every topic that was created has leaders; return all topics, and those that take too long."""
    from saga_kit.messaging.topic_settings import look

    until = time.monotonic() + VISIBLE_WITHIN_S
    while True:
        found = await look(admin, names)
        late = [one.name for one in found if one.name in created and not one.exists]
        if not late or time.monotonic() > until:
            return found, late
        await asyncio.sleep(_LOOK_EVERY_S)


async def _set(
    admin: AIOKafkaAdminClient, names: Sequence[str], compacted: set[str], found: list[TopicSettings]
) -> tuple[list[TopicSettings], dict[str, str]]:
    """Set what deviates, and leave a topic's other settings as they are.

    Return all topics as they are then, and those whose settings the broker refuses, with its reason.
    """
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
    from aiokafka.errors import for_code

    from saga_kit.messaging.topic_settings import deviations, look, wanted

    changes = {
        one.name: dict(one.own)
        | {each.setting: wanted(one.copies, compacted=one.compacted)[each.setting] for each in deviations(one)}
        for one in found
        if deviations(one)
    }
    refused: dict[str, str] = {}
    if not changes:
        return found, refused
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, configs=configs) for name, configs in changes.items()]
    for answer in await admin.alter_configs(asked):
        for code, message, _, name in answer.resources:
            if code:
                refused[name] = message or for_code(code).__name__
                changes.pop(name, None)
    until = time.monotonic() + VISIBLE_WITHIN_S
    while True:
        now = await look(admin, names, compacted)
        if time.monotonic() > until or not any(deviations(one) for one in now if one.name in changes):
            return now, refused
        await asyncio.sleep(_LOOK_EVERY_S)
