"""The topics as a list that other tools can apply, where our own command may not create them. It asks no broker."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Final

from contracts.topics import TOPICS

COPIES: Final = 3
"""What a cluster of several brokers needs to lose none of them's messages."""


class TopicFormat(StrEnum):
    """How the list of topics is written."""

    JSON = "json"
    COMMANDS = "commands"


def topic_list(prefix: str, copies: int) -> list[dict[str, Any]]:
    """Return each topic with its partitions, its copies, and every setting that the protocol relies on."""
    from saga_kit.messaging.topic_settings import wanted

    return [
        {
            "name": prefix + topic.name,
            "partitions": topic.partitions,
            "replication_factor": copies,
            "config": wanted(copies, compacted=topic.compacted),
        }
        for topic in TOPICS
    ]


def written(topics: list[dict[str, Any]], how: TopicFormat) -> str:
    """Write the list: as JSON, or as commands of Kafka's own `kafka-topics.sh`, a line each."""
    if how is TopicFormat.JSON:
        return json.dumps(topics, indent=2)
    return "\n".join(_command(topic) for topic in topics)


def _command(topic: dict[str, Any]) -> str:
    settings = " ".join(f"--config {name}={value}" for name, value in topic["config"].items())
    return (
        'kafka-topics.sh --bootstrap-server "$KAFKA" --command-config client.properties --create --if-not-exists '
        f"--topic {topic['name']} --partitions {topic['partitions']} "
        f"--replication-factor {topic['replication_factor']} {settings}"
    )
