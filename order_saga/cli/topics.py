"""Creates the topics, with partitions and the broker's append time, and says what is wrong with those that exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contracts.topics import TOPICS, Topic
from order_saga.cli.reach import out

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

    from saga_kit.settings import KafkaSettings

CONFIG: Final = {"message.timestamp.type": "LogAppendTime"}
"""The age of a request is judged by the broker's clock, not by its producer's."""


async def ensure(settings: KafkaSettings, *, replication: int, check_only: bool) -> list[str]:
    """Create what is missing; return a line for each topic that is not as `contracts.topics` says."""
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(**settings.kafka_client_options())
    await admin.start()
    try:
        existing = await _partitions(admin)
        missing = [topic for topic in TOPICS if settings.kafka_topic_prefix + topic.name not in existing]
        if missing and not check_only:
            await _create(admin, missing, settings.kafka_topic_prefix, replication)
            existing = await _partitions(admin)
        return [line for topic in TOPICS if (line := _fault(topic, settings.kafka_topic_prefix, existing))]
    finally:
        await admin.close()


def _fault(topic: Topic, prefix: str, existing: dict[str, int]) -> str | None:
    name = prefix + topic.name
    if name not in existing:
        return f"{name} is missing, or hidden from this login: 'order-saga topics' creates what is missing"
    out.print(f"{name}: {existing[name]} partitions")
    if existing[name] < topic.partitions:
        return f"{name} has {existing[name]} partitions instead of {topic.partitions}; add some with Kafka's own tools"
    return None


async def _partitions(admin: AIOKafkaAdminClient) -> dict[str, int]:
    names = [name for name in await admin.list_topics() if not name.startswith("__")]
    described = await admin.describe_topics(names) if names else []
    return {topic["topic"]: len(topic["partitions"]) for topic in described}


async def _create(admin: AIOKafkaAdminClient, topics: list[Topic], prefix: str, replication: int) -> None:
    from aiokafka.admin import NewTopic

    wanted = [NewTopic(prefix + topic.name, topic.partitions, replication, topic_configs=CONFIG) for topic in topics]
    answer = await admin.create_topics(wanted)
    for name, code, *told in answer.topic_errors:
        if code not in {0, 36}:  # 36: somebody else created it this moment
            out.print(f"{name}: {told[0] if told else code}")
