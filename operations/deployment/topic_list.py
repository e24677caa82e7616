"""The topics as a list that other tools can apply, where our own command may not create them. It asks no broker."""

from __future__ import annotations

import json
from typing import Any, Final

from contracts.topics import TOPICS
from saga_kit.messaging.topic_settings import (
    CLEANUP_POLICY,
    REPLAY_HORIZON_S,
    TIMESTAMP_TYPE,
    Deviation,
    TopicSettings,
    deviations,
    wanted,
)

COPIES: Final = 3
"""What a cluster of several brokers needs, so that one of them may be lost."""
RETENTION_DAYS_MAX: Final = REPLAY_HORIZON_S // 86_400


def topic_list(prefix: str, copies: int) -> list[dict[str, Any]]:
    """Return each topic with its partitions, its copies, and every setting that the protocol relies on."""
    return [
        {
            "name": prefix + topic.name,
            "partitions": topic.partitions,
            "replication_factor": copies,
            "config": wanted(copies, compacted=topic.compacted),
        }
        for topic in TOPICS
    ]


def that_stop_services() -> list[Deviation]:
    """Return a deviation of each setting with which no service starts, as the check itself says it."""
    wrong = dict.fromkeys((TIMESTAMP_TYPE, CLEANUP_POLICY), "-")
    found = deviations(TopicSettings("t", 1, COPIES, wanted(COPIES) | wrong))
    return [one for one in found if one.stops]


def as_json(topics: list[dict[str, Any]]) -> str:
    """Write the list as JSON."""
    return json.dumps(topics, indent=2)


def as_commands(topics: list[dict[str, Any]]) -> str:
    """Write the list as commands of Kafka's own `kafka-topics.sh`, a line each."""
    return "\n".join(_command(topic) for topic in topics)


def _command(topic: dict[str, Any]) -> str:
    settings = " ".join(f"--config {name}={value}" for name, value in topic["config"].items())
    return (
        'kafka-topics.sh --bootstrap-server "$KAFKA" --command-config client.properties --create --if-not-exists '
        f"--topic {topic['name']} --partitions {topic['partitions']} "
        f"--replication-factor {topic['replication_factor']} {settings}"
    )
