"""The topics of a real cluster: several commands may create and set them at once, and every service checks them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from contracts.topics import ASSETS_PRICES, ORDERS_REQUESTS, TOPICS
from saga_kit.messaging.topic_settings import TopicSettings, check, deviations, look, wanted
from saga_kit.runtime.errors import CannotStart
from saga_kit.runtime.settings import KafkaSettings
from tests.e2e.system import command, eventually
from tests.support.infrastructure import Database, Infrastructure, kafka_admin


def _environment(infrastructure: Infrastructure, prefix: str) -> Mapping[str, str]:
    return {"KAFKA_BOOTSTRAP_SERVERS": infrastructure.kafka_bootstrap_servers, "KAFKA_TOPIC_PREFIX": prefix}


@pytest.mark.parametrize(
    ("setting", "value", "copies", "stops"),
    [
        ("message.timestamp.type", "CreateTime", 3, True),
        ("cleanup.policy", "compact", 3, True),
        ("cleanup.policy", "compact,delete", 3, True),
        ("retention.ms", "-1", 3, False),
        ("retention.ms", str(30 * 86_400_000 + 1), 3, False),
        ("min.insync.replicas", "1", 3, False),
        ("min.insync.replicas", "2", 1, False),
        ("min.insync.replicas", "4", 3, False),
        ("max.message.bytes", "1000", 3, False),
        ("max.message.bytes", "100000000", 3, False),
    ],
)
def test_each_setting_that_a_promise_rests_on_is_judged(setting: str, value: str, copies: int, stops: bool) -> None:  # noqa: FBT001 - a table
    """The settings that we make are accepted; each value that breaks a promise is reported, with its topic."""
    assert [] == deviations(TopicSettings("t", 12, copies, wanted(copies)))
    [found] = deviations(TopicSettings("t", 12, copies, wanted(copies) | {setting: value}))
    assert ("t", setting, value, stops) == (found.topic, found.setting, found.found, found.stops)
    assert f"t: {setting} is {value}, it must be" in str(found)


def test_a_topic_of_values_is_compacted() -> None:
    """The newest price of each asset stays, so its topic must not drop it; that stops no service."""
    good = wanted(1, compacted=True)
    assert {"compact", str(86_400_000)} == {good["cleanup.policy"], good["min.compaction.lag.ms"]}
    assert [] == deviations(TopicSettings("t", 12, 1, good, compacted=True))
    [found] = deviations(TopicSettings("t", 12, 1, wanted(1), compacted=True))
    assert ("cleanup.policy", "delete", False) == (found.setting, found.found, found.stops)
    [found] = deviations(TopicSettings("t", 12, 1, good | {"min.compaction.lag.ms": "0"}, compacted=True))
    assert ("min.compaction.lag.ms", "0", False) == (found.setting, found.found, found.stops)


@pytest.mark.apache_kafka
async def test_a_topic_that_was_there_keeps_unread_prices_for_as_long(
    infrastructure: Infrastructure, topic_prefix: str
) -> None:
    """Where somebody else created the topic of prices, it is compacted, and none is removed before it is a day old."""
    name = topic_prefix + ASSETS_PRICES.name
    await infrastructure.create_topics({name: 12})
    assert 0 == (await command("topics", env=_environment(infrastructure, topic_prefix))).code
    async with kafka_admin(infrastructure.kafka_bootstrap_servers) as admin:
        [prices] = await look(admin, [name], [name])
    assert prices.settings is not None
    told = [prices.settings[name] for name in ("cleanup.policy", "min.compaction.lag.ms")]
    assert ["compact", "86400000"] == told


@pytest.mark.apache_kafka
async def test_several_at_once_create_the_topics_and_find_nothing_missing(
    infrastructure: Infrastructure, topic_prefix: str
) -> None:
    """Of four commands at once, later ones wait for the topics that the first creates, and all succeed."""
    environment = _environment(infrastructure, topic_prefix)
    told = await asyncio.gather(*(command("topics", env=environment) for _ in range(4)))
    assert [(0, "")] * 4 == [(one.code, one.err) for one in told]
    checked = await command("topics", "--check", env=environment)
    assert (0, "") == (checked.code, checked.err)
    assert len(TOPICS) == len(checked.out.splitlines())


@pytest.mark.apache_kafka
async def test_topics_that_another_tool_creates_from_the_list_pass_the_check(
    infrastructure: Infrastructure, topic_prefix: str
) -> None:
    """`--print` asks no broker, and what is created from its list is as `--check` wants it."""
    environment = _environment(infrastructure, topic_prefix)
    nowhere = {"KAFKA_BOOTSTRAP_SERVERS": "", "KAFKA_TOPIC_PREFIX": topic_prefix}
    listed = await command("topics", "--print", "json", env=nowhere)
    async with kafka_admin(infrastructure.kafka_bootstrap_servers) as admin:
        await admin.create_topics(
            [
                NewTopic(one["name"], one["partitions"], one["replication_factor"], topic_configs=one["config"])
                for one in json.loads(listed.out)
            ]
        )

    async def is_well() -> bool:
        checked = await command("topics", "--check", env=environment)
        return (0, "") == (checked.code, checked.err)

    await eventually(is_well, "the cluster shows them, and nothing deviates")


async def test_the_list_is_the_same_as_commands() -> None:
    """A line for each topic creates it with its prefix, its copies and each of its settings."""
    told = await command("topics", "--print", "commands", "--replication", "3", env={"KAFKA_TOPIC_PREFIX": "c7."})
    lines = told.out.splitlines()
    assert [f"c7.{topic.name}" for topic in TOPICS] == [line.split(" --topic ")[1].split()[0] for line in lines]
    for topic, line in zip(TOPICS, lines, strict=True):
        assert f"--partitions {topic.partitions} --replication-factor 3" in line
        for name, value in wanted(3, compacted=topic.compacted).items():
            assert f"--config {name}={value}" in line
    refused = await command("topics", "--print", "json", env={"KAFKA_TOPIC_PREFIX": "a b"})
    assert 2 == refused.code
    assert refused.err.startswith("order-saga: KAFKA_TOPIC_PREFIX: ")


@pytest.mark.apache_kafka
async def test_what_deviates_is_named_and_set(infrastructure: Infrastructure, topic_prefix: str) -> None:
    """`--check` names each wrong setting, exits with 1 and changes nothing; without it only these settings change."""
    environment = _environment(infrastructure, topic_prefix)
    assert 0 == (await command("topics", env=environment)).code
    name = topic_prefix + ORDERS_REQUESTS.name
    wrong = {"message.timestamp.type": "CreateTime", "cleanup.policy": "compact", "retention.ms": "-1"}
    async with kafka_admin(infrastructure.kafka_bootstrap_servers) as admin:
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, configs=wrong | {"segment.ms": "123456789"})]
        )
        await eventually(lambda: _is_set(admin, name, wrong), "the broker shows the settings")
        for _ in range(2):
            told = await command("topics", "--check", env=environment)
            assert 1 == told.code
            assert set(wrong) == {setting for setting in wanted(3) if f"{name}: {setting} is " in told.err}
        settings = KafkaSettings(
            kafka_bootstrap_servers=infrastructure.kafka_bootstrap_servers, kafka_topic_prefix=topic_prefix
        )
        with pytest.raises(CannotStart, match=r"message.timestamp.type is CreateTime.*cleanup.policy is compact"):
            await check(settings, [ORDERS_REQUESTS.name])
        assert 0 == (await command("topics", env=environment)).code
        assert 0 == (await command("topics", "--check", env=environment)).code
        assert 0 == await check(settings, [ORDERS_REQUESTS.name])
        [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    assert ["123456789"] == [entry[1] for entry in answer.resources[0][4] if entry[0] == "segment.ms"]


@pytest.mark.apache_kafka
async def test_a_service_does_not_start_on_a_topic_of_its_producers_times(
    infrastructure: Infrastructure, topic_prefix: str, database: Database
) -> None:
    """A service ends with status 1 and names topic and setting: producers could set the age of an order there."""
    environment = _environment(infrastructure, topic_prefix)
    assert 0 == (await command("topics", env=environment)).code
    name = f"{topic_prefix}balance.commands"
    async with kafka_admin(infrastructure.kafka_bootstrap_servers) as admin:
        wrong = {"message.timestamp.type": "CreateTime"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=wrong)])
        await eventually(lambda: _is_set(admin, name, wrong), "the broker shows the setting")
    own = {"DATABASE_URL": database.url_of("balance"), "HTTP_PORT": "0"}
    ended = await command("balance", env={**environment, **own})
    assert 1 == ended.code
    assert f"{name}: message.timestamp.type is CreateTime, it must be LogAppendTime" in ended.err.splitlines()[-1]


async def _is_set(admin: AIOKafkaAdminClient, topic: str, wanted: dict[str, str]) -> bool:
    """Tell whether the broker shows settings of a topic: it takes them before it does."""
    [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    shown = {entry[0]: entry[1] for entry in answer.resources[0][4]}
    return wanted.items() <= shown.items()
