"""The consumer groups of the services: who is in them, where they stand, and how they go back to a time.

Only topics that ask for something are read again. Answers are not: they were given by services that stand at another
time now, so whoever still waits for one asks again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from contracts.topics import (
    ASSETS_COMMANDS,
    ASSETS_PRICES,
    ASSETS_REPLIES,
    BALANCE_COMMANDS,
    BALANCE_REPLIES,
    HOLDS_REQUESTS,
    ORDERS_CANCELS,
    ORDERS_CHANGES,
    ORDERS_EVENTS,
    ORDERS_REQUESTS,
    Topic,
)
from operations.access.errors import Trouble
from operations.recovery.topics import connected, spans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from datetime import datetime

    from saga_kit.runtime.settings import KafkaSettings

GROUPS: Final[dict[str, tuple[tuple[Topic, ...], tuple[Topic, ...]]]] = {
    "orchestrator": ((ORDERS_REQUESTS,), (BALANCE_REPLIES, ASSETS_REPLIES)),
    "cancels": ((ORDERS_CANCELS, ORDERS_CHANGES), ()),
    "triggers": ((ASSETS_PRICES,), ()),
    "balance": ((BALANCE_COMMANDS,), ()),
    "holds": ((HOLDS_REQUESTS,), ()),
    "assets": ((), (ASSETS_COMMANDS,)),
    "webhooks": ((ORDERS_EVENTS,), ()),
}
"""Of each group, the topics that are read again, and those that are not."""


COORDINATED_WITHIN_S: Final = 60.0
LOOK_EVERY_S: Final = 0.2


class Rewound(NamedTuple):
    """How many partitions of a group's topic went back, and how many records will be read again."""

    group: str
    topic: str
    partitions: int
    records: int


async def members(settings: KafkaSettings) -> list[str]:
    """Name the groups that have members, with the hosts of these. Raise `Trouble` where the broker can't tell."""
    from aiokafka.errors import IncompatibleBrokerVersion

    prefix = settings.kafka_topic_prefix
    try:
        async with _admin(settings) as admin:
            # One by one: the library (0.14) can't read an answer about several.
            answers = [
                answer
                for name in GROUPS
                for answer in await _asked(partial(admin.describe_consumer_groups, [prefix + name]))
            ]
    except IncompatibleBrokerVersion as error:
        raise Trouble(
            "this broker, like that of the local stack, can't tell who is in a consumer group: it takes Apache Kafka"
        ) from error
    found = []
    for answer in answers:
        for _error, name, _state, _kind, _protocol, those, *_ in answer.groups:
            hosts = sorted({str(one[2]).lstrip("/") for one in those})
            found += [f"{name} ({', '.join(hosts)})"] if hosts else []
    return sorted(found)


async def check_nobody_reads(settings: KafkaSettings) -> None:
    """Raise `Trouble` while a service reads: it would commit over what is set here.

    A service that was killed is a member until its session is over, and anew when the broker is started meanwhile.
    """
    if found := await members(settings):
        raise Trouble(
            f"stop all services first: these groups have members: {'; '.join(found)}. One that was killed is a member"
            " until its session is over (KAFKA_SESSION_TIMEOUT_S, 10 s by default): try again then"
        )


async def rewind(settings: KafkaSettings, since: datetime, *, every_topic: bool, dry_run: bool) -> list[Rewound]:
    """Have the groups read again what came since then; none ever skips anything.

    An offset beyond the end of its partition, which has become shorter, goes to that end. `every_topic`: answers are
    read again as well, since these too may have been lost.
    """
    done: list[Rewound] = []
    prefix = settings.kafka_topic_prefix
    async with _admin(settings) as admin, connected(settings) as consumer:
        for group, (again, others) in GROUPS.items():
            topics = [prefix + topic.name for topic in (*again, *(others if every_topic else ()))]
            committed = await _committed(admin, prefix + group)
            found = await spans(consumer, topics, since)
            offsets = {tp: span.start for tp, span in found.items() if committed.get(tp, -1) > span.start}
            if offsets and not dry_run:
                await _commit(settings, prefix + group, offsets)
            for topic in topics:
                mine = {tp: offset for tp, offset in offsets.items() if tp.topic == topic}
                records = sum(min(committed[tp], found[tp].end) - offset for tp, offset in mine.items())
                done += [Rewound(group, topic, len(mine), records)] if mine else []
    return done


async def _committed(admin: Any, group: str) -> Mapping[Any, int]:
    answer = await _asked(partial(admin.list_consumer_group_offsets, group))
    return {tp: int(at.offset) for tp, at in answer.items()}


async def _commit(settings: KafkaSettings, group: str, offsets: Mapping[Any, int]) -> None:
    """Set offsets of a group that has no member; the broker refuses it while there is one."""
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        **settings.kafka_client_options(),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="none",
    )
    consumer.assign(list(offsets))
    await consumer.start()
    try:
        await consumer.commit(dict(offsets))
    finally:
        await consumer.stop()


@asynccontextmanager
async def _admin(settings: KafkaSettings) -> AsyncIterator[Any]:
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(**settings.kafka_client_options())
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _asked(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask a coordinator of groups; a broker that has just started, or was never asked, has none for a moment."""
    from aiokafka.errors import (
        GroupCoordinatorNotAvailableError,
        GroupLoadInProgressError,
        NotCoordinatorForGroupError,
    )

    until = time.monotonic() + COORDINATED_WITHIN_S
    while True:
        try:
            return await ask()
        except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError):
            if time.monotonic() > until:
                raise
            await asyncio.sleep(LOOK_EVERY_S)
