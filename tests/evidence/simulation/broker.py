"""A simulated Kafka: partitioned logs, groups that rebalance, committed offsets, behind an unreliable network.

A published message may be stored late, twice, in another order, or, where the protocol allows it, never; the publisher
may get an error for a message that was stored. A stored message is delivered at least once to each group.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError

if TYPE_CHECKING:
    from contracts.envelope import Outgoing
    from saga_kit.messaging.poller import Poller

PARTITIONS: Final = 3


class Record(NamedTuple):
    """A stored message."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Network(Protocol):
    """What happens to messages on their way."""

    def journeys(self, topic: str) -> Iterable[float]:
        """Return the delay in seconds of each copy of a message; without any, the message is lost."""


class Broker:
    """The logs, and the groups that read them."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        """Begin empty; `clock_ms` is the broker's own clock, in epoch milliseconds."""
        self.logs: dict[TopicPartition, list[Record]] = defaultdict(list)
        self.groups: dict[str, Group] = {}
        self.appended: list[Callable[[Record], None]] = []
        self._clock_ms = clock_ms

    def send(self, network: Network, messages: Sequence[Outgoing]) -> None:
        """Send messages through a network."""
        loop = asyncio.get_running_loop()
        for message in messages:
            for delay_s in network.journeys(message.topic):
                if delay_s:
                    loop.call_later(delay_s, self.append, message)
                else:
                    self.append(message)

    def append(self, message: Outgoing) -> None:
        """Store a message."""
        tp = TopicPartition(message.topic, sum(message.key.encode()) % PARTITIONS)
        log = self.logs[tp]
        value, headers = message.value, message.headers
        record = Record(tp.topic, tp.partition, len(log), self._clock_ms(), message.key.encode(), value, headers)
        log.append(record)
        for tell in self.appended:
            tell(record)
        for group in self.groups.values():
            group.wake(tp)


class Group:
    """A consumer group: its members, their partitions and the committed offsets."""

    def __init__(self, broker: Broker, topics: Sequence[str]) -> None:
        self._broker = broker
        self._partitions = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
        self.committed: dict[TopicPartition, int] = {}
        self.members: list[Member] = []
        self.generation = 0

    async def join(self, member: Member) -> None:
        """Add a member."""
        self.members.append(member)
        await self.rebalance()

    async def leave(self, member: Member) -> None:
        """Remove a member that leaves or has died."""
        if member in self.members:
            self.members.remove(member)
            member.positions = {}
            await self.rebalance()

    async def rebalance(self) -> None:
        """Reassign the partitions; every member begins at the committed offsets, whatever batch it still handles."""
        self.generation += 1
        for number, member in enumerate(self.members):
            mine = self._partitions[number :: len(self.members)]
            member.generation = self.generation
            member.positions = {tp: self.committed.get(tp, 0) for tp in mine}
            await member.poller.on_partitions_assigned(set(mine))
            member.news.set()

    def wake(self, tp: TopicPartition) -> None:
        """Wake the member that reads a partition: it has a new record."""
        for member in self.members:
            if tp in member.positions:
                member.news.set()


class Member:
    """Stands in for an aiokafka consumer, as the kit's poller uses it."""

    def __init__(self, broker: Broker, group: Group, poller: Poller, most: Callable[[], int]) -> None:
        """`most` draws how many records the next poll may take at most: batches are cut anywhere."""
        self._broker = broker
        self.group = group
        self._most = most
        self.poller = poller
        self.positions: dict[TopicPartition, int] = {}
        self.generation = 0
        self.news = asyncio.Event()

    def assignment(self) -> set[TopicPartition]:
        """Return the partitions that are this member's, as far as it knows."""
        return set(self.positions)

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Record]]:  # noqa: ARG002 - aiokafka's
        """Take the next records."""
        room, taken = min(self._most(), max_records), {}
        for tp in sorted(self.positions):
            log, position = self._broker.logs.get(tp, []), self.positions[tp]
            if records := log[position : position + room]:
                taken[tp] = records
                self.positions[tp] = position + len(records)
                room -= len(records)
        return taken

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Commit offsets; fail when the group has rebalanced since this member was assigned its partitions."""
        if self not in self.group.members or self.generation != self.group.generation:
            raise CommitFailedError("the group has rebalanced")
        self.group.committed.update(offsets)

    def position(self, tp: TopicPartition) -> Any:
        """Return the next offset to be taken."""
        return self.positions[tp]
