"""Give logins their rights on the broker, as a file lists them. No right is ever taken away: that is for people to do.

A line of the file is `login may what...`; `may` is `read`, `write` or `inspect` (see their settings) for topics, `join`
for consumer groups, `number` for `kafka-cluster`: a producer that may write to no topic gets its number by that, which
others have with their topics. Names are without `KAFKA_TOPIC_PREFIX`. Rights to see what one may read, write or join
come with these.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from operations.access.errors import Trouble, WrongRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from saga_kit.runtime.settings import KafkaSettings

_LITERAL: Final = 3
"""A name stands for itself, and is no prefix."""
_ALLOW: Final = 3
_ANY_HOST: Final = "*"


class AclResource(IntEnum):
    """What a right is about, by the protocol's number."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4


class AclOperation(IntEnum):
    """What may be done, by the protocol's number."""

    READ = 3
    WRITE = 4
    DESCRIBE_CONFIGS = 10
    IDEMPOTENT_WRITE = 12


MAY: Final = {
    "read": (AclResource.TOPIC, AclOperation.READ),
    "write": (AclResource.TOPIC, AclOperation.WRITE),
    "inspect": (AclResource.TOPIC, AclOperation.DESCRIBE_CONFIGS),
    "join": (AclResource.GROUP, AclOperation.READ),
    "number": (AclResource.CLUSTER, AclOperation.IDEMPOTENT_WRITE),
}


class Right(NamedTuple):
    """One login may do one thing to one topic or group."""

    login: str
    may: str
    name: str


def read(text: str) -> list[Right]:
    """Read a list of rights; raises `WrongRequest` for a line that is not of that form."""
    rights: list[Right] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words and (len(words) < 3 or words[1] not in MAY):  # noqa: PLR2004 - login, may, what
            raise WrongRequest(f"line {number} must be 'login may what...', where may is one of {', '.join(MAY)}")
        rights += (Right(words[0], words[1], name) for name in words[2:])
    return rights


async def grant(settings: KafkaSettings, rights: Sequence[Right]) -> None:
    """Create every right; those that exist already stay. Raises `Trouble` for one that is refused."""
    from aiokafka.client import AIOKafkaClient

    client = AIOKafkaClient(**settings.kafka_client_options())
    await client.bootstrap()
    try:
        for right in rights:
            await _create(client, right, settings.kafka_topic_prefix)
    finally:
        await client.close()


async def _create(client: object, right: Right, prefix: str) -> None:
    from aiokafka.errors import for_code
    from aiokafka.protocol.admin import CreateAclsRequest

    resource, operation = MAY[right.may]
    name = right.name if resource is AclResource.CLUSTER else prefix + right.name
    request = CreateAclsRequest(resource, name, _LITERAL, f"User:{right.login}", _ANY_HOST, operation, _ALLOW)
    answer = await client.send(client.get_random_node(), request)  # type: ignore[attr-defined]
    for code, message in answer.creation_responses:
        if code:
            raise Trouble(f"{right.login} {right.may} {right.name}: {message or for_code(code).__name__}")


def summary(rights: Sequence[Right]) -> Iterable[str]:
    """Say in a line for each login what it may do."""
    for login in dict.fromkeys(right.login for right in rights):
        own = [right for right in rights if right.login == login]
        rows = (f"{may} {', '.join(r.name for r in own if r.may == may)}" for may in MAY if may in {r.may for r in own})
        yield f"{login}: {'; '.join(rows)}"
