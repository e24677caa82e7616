"""Takes records from the client library so that none is lost, even when the library can't parse one of them.

A record that can't be parsed comes as a `LostRecord`, and so do those after it in its batch; see fetch_limits.py. When
`getmany` raises all the same, it raises for ever. Records that it had taken from other partitions in the same call are
gone, while the positions of those partitions have moved on. So after any error every partition goes back to its first
record that is not handled, and offsets are committed for handled records, never from positions. Then each partition is
read alone, with half as many records after each error, until the broken record is found; a `LostRecord` takes its
place. An error that no record causes (a missing codec, a wrong checksum) stops its partition, and `blocked` reports it.

A handler's `Intake` is applied here. The records of its topic stay in the library's buffer until there is room, and are
taken after all others. Their partitions are never paused: a pause would throw the buffer away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog
from aiokafka import TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import ConsumerStoppedError, CorruptRecordException, KafkaError

from saga_kit.messaging.batch import Intake, Record
from saga_kit.messaging.fetch_limits import NOT_WHOLE, LostRecord, bound_fetches, taking
from saga_kit.runtime.backoff import Backoff
from saga_kit.runtime.errors import describe

RECORDS_MAX: Final = 500
"""Larger transactions hardly raise the number of rows that PostgreSQL writes in a second."""
POLL_TIMEOUT_MS: Final = 1000
"""A wait for records ends with the first record, or after this time."""
NO_ROOM_TIMEOUT_MS: Final = 50
"""The same while there is no room: no record tells that room has come."""
SEARCH_PAUSE_S: Final = 0.005
POSITION_TIMEOUT_S: Final = 0.2
SEARCH_S: Final = 60.0
"""How long partitions are read one by one after an error; far more than one fetch is taken in that time."""

BLOCKED_S: Final = 1.5 * SEARCH_S
"""A partition that can't be read fails again and again; after so long without a failure it counts as readable."""
WRONG_CHECKSUM: Final = "Invalid CRC"
"""aiokafka's message for a batch that was damaged on the network or a disk; another replica may have it whole."""

LOST_TRIES: Final = 3
"""A record is lost when it fails alone so many times in a row; a single failure may be the connection's."""

log = structlog.get_logger(__name__)


class Poller(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Polls one consumer, and remembers which records were handled and when the last poll was."""

    def __init__(self, intake: Intake | None = None) -> None:
        """`intake`: whose records wait for room; its topic is with the system's prefix."""
        bound_fetches()
        self._intake = intake
        self._blocked: dict[TopicPartition, tuple[float, str]] = {}
        self.polled_at = time.monotonic()
        self.joined = False
        """Whether the group has told once which partitions are this member's. A surplus member has none, and waits."""
        self.settled = asyncio.Event()
        """Set unless this member is joining its group again."""
        self.settled.set()
        self.before_joining: Callable[[], Awaitable[None]] | None = None
        """Called when the group is about to share out its partitions anew. Raises nothing."""
        self._handled: dict[tuple[str, int], int] = {}
        self._uncommitted: set[tuple[str, int]] = set()
        """The partitions of which more is handled than is committed."""
        self._must_rewind = False
        self._search_until = 0.0
        self._most: dict[TopicPartition, int] = {}
        """How many records to take at once from a partition with an error."""
        self._tries: dict[TopicPartition, int] = {}
        """How many times in a row a partition's next record failed."""
        self._from_beginning: set[TopicPartition] = set()
        self._backoff = Backoff()

    async def poll(self, consumer: Any) -> Sequence[Any]:
        """Return the next records, in order within each partition; none after an error."""
        self.polled_at = time.monotonic()
        try:
            if self._from_beginning:
                await self._to_beginning(consumer)
            with taking():
                if self._must_rewind:
                    await self._rewind(consumer)
                # A member without partitions has nothing to search, but must poll: the library raises its errors there.
                if self.polled_at < self._search_until and consumer.assignment():
                    return await self._search(consumer)
                records = await self._fetch(consumer)
        except ConsumerStoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, no record may be skipped
            log.warning("poll failed, going back to what is not handled", cause=describe(error))
            self._must_rewind = True
            self._search_until = time.monotonic() + SEARCH_S
            await asyncio.sleep(self._backoff.next_s())
            return ()
        self._backoff.reset()
        return records

    def waits_for_room(self, tp: TopicPartition) -> bool:
        """Tell whether no record of this partition is taken because there is no room."""
        return self._intake is not None and tp.topic == self._intake.topic and self._intake.room() <= 0

    def handled(self, records: Sequence[Record]) -> None:
        """Remember records whose batch is committed."""
        for record in records:  # in order, so the last one of a partition counts
            end = record.next_offset if isinstance(record, LostRecord) else record.offset + 1
            self._handled[record.topic, record.partition] = end
            self._uncommitted.add((record.topic, record.partition))

    def read_from_beginning(self, tps: Collection[TopicPartition]) -> None:
        """Read these partitions from their beginning: the handled records were of a topic that was deleted."""
        self._from_beginning.update(tps)

    def blocked(self) -> dict[TopicPartition, str]:
        """Return the partitions that can't be read now, and why."""
        since = time.monotonic() - BLOCKED_S
        return {tp: reason for tp, (at, reason) in self._blocked.items() if at > since}

    def offsets(self, consumer: Any) -> dict[TopicPartition, int]:
        """Return the offsets to commit: the next one of every assigned partition that has moved since `committed`."""
        return {tp: self._handled[tp] for tp in consumer.assignment() if tp in self._uncommitted}

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Remember offsets that the broker has."""
        self._uncommitted -= {tp for tp, offset in offsets.items() if self._handled.get(tp) == offset}

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:  # noqa: ARG002 - aiokafka's interface
        """Let the last commit end. A batch in flight goes on, and row locks decide between two members."""
        self.settled.clear()
        if self.before_joining is not None:
            await self.before_joining()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:  # noqa: ARG002 - aiokafka's interface
        """Forget everything: another member may have committed offsets of these partitions."""
        self.joined = True
        self.settled.set()
        self._handled.clear()
        self._uncommitted.clear()
        self._most.clear()
        self._tries.clear()
        self._blocked.clear()

    async def _to_beginning(self, consumer: Any) -> None:
        anew, self._from_beginning = self._from_beginning & consumer.assignment(), set()
        for tp in anew:
            self._handled.pop(tp, None)
            self._uncommitted.discard(tp)
        if anew:
            with suppress(TimeoutError):
                async with asyncio.timeout(POSITION_TIMEOUT_S):
                    await consumer.seek_to_beginning(*anew)

    async def _fetch(self, consumer: Any) -> list[Any]:
        """Return what is there, up to a batch; wait for the first record when there is none."""
        if self._intake is None:
            return _flat(await consumer.getmany(timeout_ms=POLL_TIMEOUT_MS, max_records=RECORDS_MAX))
        unlimited, limited = self._parted(consumer)
        if not unlimited and not limited:  # a member without partitions
            return _flat(await consumer.getmany(timeout_ms=POLL_TIMEOUT_MS, max_records=1))
        found = []
        if unlimited:  # the library takes an empty list for all partitions
            found = _flat(await consumer.getmany(*unlimited, timeout_ms=0, max_records=RECORDS_MAX))
        room = min(self._intake.room(), RECORDS_MAX - len(found)) if limited else 0
        if room > 0:
            found += _flat(await consumer.getmany(*limited, timeout_ms=0, max_records=room))
        if found:
            return found
        if room > 0:
            return _flat(await consumer.getmany(timeout_ms=POLL_TIMEOUT_MS, max_records=room))
        timeout_ms = NO_ROOM_TIMEOUT_MS if limited else POLL_TIMEOUT_MS
        if unlimited:
            return _flat(await consumer.getmany(*unlimited, timeout_ms=timeout_ms, max_records=RECORDS_MAX))
        await asyncio.sleep(NO_ROOM_TIMEOUT_MS / 1000)
        return []

    def _parted(self, consumer: Any) -> tuple[list[TopicPartition], list[TopicPartition]]:
        """Return the assigned partitions without a limit, and those of the intake's topic."""
        unlimited: list[TopicPartition] = []
        limited: list[TopicPartition] = []
        for tp in consumer.assignment():
            (limited if self._intake is not None and tp.topic == self._intake.topic else unlimited).append(tp)
        return unlimited, limited

    async def _rewind(self, consumer: Any) -> None:
        untouched = []
        for tp in consumer.assignment():
            offset = self._handled.get(tp)
            if offset is None:
                offset = await consumer.committed(tp)
            if offset is None:
                untouched.append(tp)
            else:
                consumer.seek(tp, offset)
        if untouched:
            with suppress(TimeoutError):  # one without a leader is found later; the others do not wait for it
                async with asyncio.timeout(POSITION_TIMEOUT_S):
                    await consumer.seek_to_beginning(*untouched)
        self._must_rewind = False

    async def _search(self, consumer: Any) -> Sequence[Any]:
        """Take from each partition alone, so that an error names its partition and the others go on."""
        found: list[Any] = []
        unlimited, limited = self._parted(consumer)
        for tp in unlimited:
            if len(found) < RECORDS_MAX:
                found += await self._take(consumer, tp, RECORDS_MAX - len(found))
        room = min(self._intake.room(), RECORDS_MAX - len(found)) if self._intake is not None else 0
        for tp in limited:
            if room > 0:
                taken = await self._take(consumer, tp, room)
                found += taken
                room -= len(taken)
        if not found:
            await asyncio.sleep(SEARCH_PAUSE_S)
        return found

    async def _take(self, consumer: Any, tp: TopicPartition, room: int) -> list[Any]:
        """Take records of one partition; after an error half as many, until one record alone fails."""
        most = min(self._most.get(tp, RECORDS_MAX), room)
        try:
            async with asyncio.timeout(POSITION_TIMEOUT_S):
                position = await consumer.position(tp)
        except TimeoutError:  # the library waits for ever for a partition without a leader
            return []
        try:
            batches = await consumer.getmany(tp, timeout_ms=0, max_records=most)
        except ConsumerStoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - the library's parser; its errors are of no one type
            if type(error) is RuntimeError:  # raised by uvloop when the connection was closed meanwhile
                consumer.seek(tp, position)
                return []
            if _is_no_records_fault(error):
                self._block(tp, describe(error))
                return []
            self._search_until = time.monotonic() + SEARCH_S
            self._most[tp] = max(1, most // 2)
            self._tries[tp] = self._tries.get(tp, 0) + 1 if most == 1 else 0
            if self._tries[tp] < LOST_TRIES:
                consumer.seek(tp, position)
                return []
            self._tries[tp] = 0
            consumer.seek(tp, position + 1)
            reason = f"{NOT_WHOLE}can't be parsed: {describe(error)}"
            return [LostRecord(tp.topic, tp.partition, position, reason)]
        self._tries[tp] = 0
        records = _flat(batches)
        if records:
            self._blocked.pop(tp, None)
            self._most[tp] = min(most * 2, RECORDS_MAX)
        return records

    def _block(self, tp: TopicPartition, reason: str) -> None:
        if tp not in self.blocked():
            log.error("a partition can't be read, and waits", topic=tp.topic, partition=tp.partition, cause=reason)
        self._blocked[tp] = time.monotonic(), reason


def _is_no_records_fault(error: Exception) -> bool:
    """Tell an error that waiting may cure (a connection, a missing codec, a checksum) from one of the parser."""
    if isinstance(error, CorruptRecordException):
        return WRONG_CHECKSUM in str(error)
    return isinstance(error, KafkaError | OSError | MemoryError)


def _flat(batches: Mapping[TopicPartition, list[Any]]) -> list[Any]:
    return [record for records in batches.values() for record in records]
