"""Checks the settings of topics: what each must be, and with which deviation a service must not work.

With its producers' timestamps a topic says nothing of a record's age: a fast clock makes an old price look fresh. A
compacted topic loses commands, so only one of values that change, such as prices, may be compacted. A topic that
retains records beyond the replay horizon delivers orders whose rows are gone. With three replicas, a write that only
one of them has can be lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IncompatibleBrokerVersion, for_code

from saga_kit.messaging.fetch_limits import FETCHED_BYTES_MAX
from saga_kit.runtime.errors import CannotStart
from saga_kit.runtime.settings import METADATA_MAX_AGE_MS

if TYPE_CHECKING:
    from saga_kit.runtime.settings import KafkaSettings

REPLAY_HORIZON_S: Final = 30 * 86_400
"""Rows recognise a repeat, and may be deleted after this time; a topic's retention must be below it."""
TIMESTAMP_TYPE: Final = "message.timestamp.type"
CLEANUP_POLICY: Final = "cleanup.policy"
RETENTION_MS: Final = "retention.ms"
MIN_IN_SYNC: Final = "min.insync.replicas"
BYTES_MAX: Final = "max.message.bytes"
COMPACTION_LAG_MS: Final = "min.compaction.lag.ms"
"""Whoever was away for less still reads every value, also those that were replaced."""
BATCH_BYTES_MIN: Final = 1024 * 1024
"""Twice our own largest message."""
MAJORITY_FROM: Final = 3
"""From so many replicas on, a write needs two of them."""
NO_SUCH_REQUEST: Final = "the broker does not tell settings (the embedded one has none)"
_DAY_MS: Final = 86_400_000
_WEEK_MS: Final = 7 * _DAY_MS
_SET_ON_TOPIC: Final = 1
"""The protocol's number for a value that was set for this topic."""
_NOT_THERE: Final = 3
"""The protocol's number for a topic that the broker does not know, perhaps not yet."""

log = structlog.get_logger(__name__)


class TopicSettings(NamedTuple):
    """A topic as the broker describes it. `settings` is None when the broker does not give them; `untold` says why."""

    name: str
    partitions: int
    copies: int
    settings: Mapping[str, str] | None
    own: Mapping[str, str] = {}
    """Those of `settings` that were set for this topic."""
    untold: str = ""
    exists: bool = True
    compacted: bool = False
    """Whether it is to be."""


class Deviation(NamedTuple):
    """A setting that is not as it must be. With `stops`, no service may work with it."""

    topic: str
    setting: str
    found: str
    wanted: str
    why: str
    stops: bool = False

    def __str__(self) -> str:
        return f"{self.topic}: {self.setting} is {self.found}, it must be {self.wanted}: {self.why}"


def wanted(copies: int, *, compacted: bool = False) -> dict[str, str]:
    """Return the settings of a new topic with so many replicas."""
    cleanup = {CLEANUP_POLICY: "compact", COMPACTION_LAG_MS: str(_DAY_MS)} if compacted else {CLEANUP_POLICY: "delete"}
    return cleanup | {
        TIMESTAMP_TYPE: "LogAppendTime",
        RETENTION_MS: str(_WEEK_MS),
        MIN_IN_SYNC: "2" if copies >= MAJORITY_FROM else "1",
        BYTES_MAX: str(BATCH_BYTES_MIN),
    }


def deviations(topic: TopicSettings) -> list[Deviation]:
    """List what is wrong; settings that the broker does not give are not judged."""
    found, name = topic.settings or {}, topic.name
    wrong: list[Deviation] = []

    def expect(setting: str, good: bool, must: str, why: str, *, stops: bool = False) -> None:  # noqa: FBT001 - local
        if setting in found and not good:
            wrong.append(Deviation(name, setting, found[setting], must, why, stops))

    kind, policy = found.get(TIMESTAMP_TYPE), found.get(CLEANUP_POLICY)
    why = "orders are too old or not by the broker's clock, not by their producer's"
    expect(TIMESTAMP_TYPE, kind == "LogAppendTime", "LogAppendTime", why, stops=True)
    if topic.compacted:
        expect(CLEANUP_POLICY, policy == "compact", "compact", "the newest value of each key must stay")
        unread = "values go that a reader who is behind has not read: a price among them fires nothing"
        lag = int(found.get(COMPACTION_LAG_MS, "0"))
        expect(COMPACTION_LAG_MS, lag >= _DAY_MS, f"at least {_DAY_MS}", unread)
    else:
        expect(CLEANUP_POLICY, policy == "delete", "delete", "compaction loses messages", stops=True)
        retention = int(found.get(RETENTION_MS, "0"))
        most = f"from 1 to {REPLAY_HORIZON_S * 1000}"
        kept = 0 < retention <= REPLAY_HORIZON_S * 1000
        expect(RETENTION_MS, kept, most, "orders are remembered as seen for 30 days")
    least = 2 if topic.copies >= MAJORITY_FROM else 1
    in_sync = int(found.get(MIN_IN_SYNC, "0"))
    must = f"at least {least}" if in_sync < least else f"at most {topic.copies}, the number of copies"
    why = "what is acknowledged must outlive a broker" if in_sync < least else "nothing can be written"
    expect(MIN_IN_SYNC, least <= in_sync <= topic.copies, must, why)
    size = int(found.get(BYTES_MAX, "0"))
    why = "messages of ours have up to 512 KiB, and a fetch has room for 8 MiB"
    expect(BYTES_MAX, BATCH_BYTES_MIN <= size <= FETCHED_BYTES_MAX, f"{BATCH_BYTES_MIN} to {FETCHED_BYTES_MAX}", why)
    return wrong


async def look(
    admin: AIOKafkaAdminClient, names: Sequence[str], compacted: Collection[str] = ()
) -> list[TopicSettings]:
    """Describe topics without creating any; one that the broker does not have has `exists` False.

    `compacted`: the names of those that are to be.
    Raises `KafkaError` or `OSError` when it can't be reached.
    """
    existing = await admin.list_topics()
    there = [name for name in names if name in existing]
    shapes = {one["topic"]: one["partitions"] for one in await admin.describe_topics(there)} if there else {}
    told = await _told(admin, there)
    found = (_topic(name, shapes.get(name, ()), told.get(name)) for name in names)
    return [one._replace(compacted=one.name in compacted) for one in found]


async def look_once(
    settings: KafkaSettings, names: Iterable[str], compacted: Iterable[str] = ()
) -> list[TopicSettings]:
    """Describe topics with a client of its own; names are without the prefix."""
    admin = AIOKafkaAdminClient(**settings.kafka_client_options(), metadata_max_age_ms=METADATA_MAX_AGE_MS)
    await admin.start()
    try:
        prefix = settings.kafka_topic_prefix
        return await look(admin, [prefix + name for name in names], {prefix + name for name in compacted})
    finally:
        await admin.close()


async def check(settings: KafkaSettings, names: Iterable[str], compacted: Iterable[str] = ()) -> int:
    """Log what is wrong with topics and return how many settings are; names are without the prefix.

    `compacted`: those of the names that are to be compacted.
    Raises `CannotStart` for a deviation with which no service may work, and whatever `look` raises.
    """
    found = [one for one in await look_once(settings, names, compacted) if one.exists]
    untold = [one for one in found if one.settings is None]
    if untold:
        say = log.info if untold[0].untold == NO_SUCH_REQUEST else log.warning
        topics = ", ".join(one.name for one in untold)
        say("the settings of topics can't be seen and are not checked", topics=topics, cause=untold[0].untold)
    wrong = [deviation for one in found for deviation in deviations(one)]
    for deviation in wrong:
        log.error("a topic is not set as it must be", deviation=str(deviation))
    if stopping := [str(deviation) for deviation in wrong if deviation.stops]:
        raise CannotStart(f"{'; '.join(stopping)} ('order-saga topics' sets it)")
    return len(wrong)


async def _told(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, Any]:
    if not names:
        return {}
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    try:
        answers = await admin.describe_configs(asked)
    except IncompatibleBrokerVersion:
        return dict.fromkeys(names)
    return {one[3]: one for answer in answers for one in answer.resources}


def _topic(name: str, partitions: Sequence[Mapping[str, Any]], told: Any) -> TopicSettings:
    led = [one for one in partitions if one["leader"] >= 0]
    copies = min((len(one["replicas"]) for one in led), default=0)
    exists = bool(partitions) and len(led) == len(partitions)
    if told is None:
        return TopicSettings(name, len(partitions), copies, None, untold=NO_SUCH_REQUEST, exists=exists)
    code, _, _, _, entries = told
    if code:
        exists = exists and code != _NOT_THERE
        return TopicSettings(name, len(partitions), copies, None, untold=for_code(code).__name__, exists=exists)
    settings = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
    own = {entry[0]: entry[1] for entry in entries if entry[1] is not None and entry[3] == _SET_ON_TOPIC}
    return TopicSettings(name, len(partitions), copies, settings, own, exists=exists)
