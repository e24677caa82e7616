"""The poller finds records that the client library can't parse, while other partitions are read as before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition

from saga_kit.messaging.batch import Intake
from saga_kit.messaging.fetch_limits import LostRecord
from saga_kit.messaging.poller import RECORDS_MAX, Poller
from tests.saga_kit.support import FakeRecord

GOOD, BAD = TopicPartition("t", 0), TopicPartition("t", 1)


class FailingConsumer:
    """A fake consumer that raises at bad records for ever, past the records taken before, as aiokafka's does."""

    def __init__(
        self, bad: set[int], records: int, *, limited: str = "t", partitions: tuple[TopicPartition, ...] = (GOOD, BAD)
    ) -> None:
        """Make a consumer; `limited` is the topic of the partition with bad records."""
        self._bad, self._records = bad, records
        self._bad_one = BAD._replace(topic=limited)
        self._positions = {self._bad_one if tp == BAD else tp: 0 for tp in partitions}

    def add(self, records: int) -> None:
        """Add so many records to each partition."""
        self._records += records

    def assignment(self) -> set[TopicPartition]:
        """Return all partitions."""
        return set(self._positions)

    async def position(self, tp: TopicPartition) -> int:
        """Return the next offset."""
        return self._positions[tp]

    async def committed(self, tp: TopicPartition) -> None:
        """Return that nothing was committed."""

    async def seek_to_beginning(self, *tps: TopicPartition) -> None:
        """Go back to the beginning."""
        self._positions |= dict.fromkeys(tps, 0)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Go to an offset."""
        self._positions[tp] = offset

    async def getmany(self, *tps: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:  # noqa: ARG002
        """Take records from one partition after the other."""
        assert max_records >= 1, "the library refuses less"
        taken: dict[TopicPartition, list[Any]] = {}
        for tp in tps or tuple(self._positions):
            last = min(self._records, self._positions[tp] + max_records - sum(map(len, taken.values())))
            for offset in range(self._positions[tp], last):
                if tp == self._bad_one and offset in self._bad:
                    raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
                self._positions[tp] = offset + 1
                taken.setdefault(tp, []).append(FakeRecord(tp.topic, tp.partition, offset))
        return taken


@pytest.mark.parametrize(
    "error", [RuntimeError("the handler is closed"), OSError("reset"), ValueError("once"), MemoryError("full")]
)
async def test_a_transient_error_loses_no_record(error: Exception) -> None:
    """A connection error during the search for a bad record does not count as another bad record."""
    poller, consumer = Poller(), FailingConsumer({3}, 50)
    real, calls = consumer.getmany, 0

    async def getmany(*tps: TopicPartition, timeout_ms: int, max_records: int) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise error
        return await real(*tps, timeout_ms=timeout_ms, max_records=max_records)

    consumer.getmany = getmany  # type: ignore[method-assign]
    seen: list[Any] = []
    while len(seen) < 100:
        taken = await poller.poll(consumer)
        poller.handled(taken)
        seen += taken
    assert [3] == [record.offset for record in seen if isinstance(record, LostRecord)]


async def _poll_until_all(bad: set[int], records: int) -> tuple[list[Any], int, int]:
    """Poll until all records came; return them, the number of polls, and the polls until the good one was read."""
    poller, consumer = Poller(), FailingConsumer(bad, records)
    seen: list[Any] = []
    polls = good_after = 0
    while len(seen) < 2 * records:
        polls += 1
        taken = await poller.poll(consumer)
        poller.handled(taken)
        seen += taken
        if not good_after and sum(record.partition == GOOD.partition for record in seen) == records:
            good_after = polls
    return seen, polls, good_after


async def test_every_record_comes_once_and_in_order_and_a_lost_one_in_its_place() -> None:
    """Each record comes once and in order, unless it was not handled yet; exactly the bad ones are lost."""
    bad = {0, 7, 8, 9, 300, 999}
    seen, _, _ = await _poll_until_all(bad, 1000)
    for tp in (GOOD, BAD):
        assert list(range(1000)) == [record.offset for record in seen if record.partition == tp.partition]
    assert bad == {record.offset for record in seen if isinstance(record, LostRecord)}


async def test_many_bad_records_slow_no_other_partition() -> None:
    """During the search for 500 bad records in a row, the other partition is read in whole batches."""
    _, polls, good_after = await _poll_until_all(set(range(500)), 2000)
    assert good_after <= 2000 / 500 + 3
    assert polls > 3 * 500, "only the bad records take three polls each"


async def _taken(poller: Poller, consumer: FailingConsumer) -> list[tuple[int, int]]:
    records = await poller.poll(consumer)
    poller.handled(records)
    return [(record.partition, record.offset) for record in records]


async def test_an_intake_takes_what_it_has_room_for_after_all_others() -> None:
    """Other topics are read first and whole; of the intake's topic at most as many records as there is room for."""
    room = [0]
    consumer = FailingConsumer(set(), 300, limited="u")
    poller = Poller(Intake("u", lambda: room[0]))
    assert [(0, offset) for offset in range(300)] == await _taken(poller, consumer)
    assert poller.waits_for_room(BAD._replace(topic="u"))
    assert [] == await _taken(poller, consumer)
    room[0] = 7
    assert not poller.waits_for_room(BAD._replace(topic="u"))
    assert [(1, offset) for offset in range(7)] == await _taken(poller, consumer)
    room[0] = 1000
    consumer.add(400)
    both = await _taken(poller, consumer)
    assert [(0, offset) for offset in range(300, 700)] == both[:400]
    assert [(1, offset) for offset in range(7, 107)] == both[400:]
    assert RECORDS_MAX == len(both)


async def test_a_member_with_only_the_intakes_partitions_waits_for_room() -> None:
    """A member with only the intake's partitions must not poll without room: no partition means all to the library."""
    room = [0]
    consumer = FailingConsumer(set(), 10, limited="u", partitions=(BAD,))
    poller = Poller(Intake("u", lambda: room[0]))
    assert [] == await _taken(poller, consumer)
    room[0] = 3
    assert [(1, 0), (1, 1), (1, 2)] == await _taken(poller, consumer)


async def test_a_search_for_what_cannot_be_read_keeps_to_the_room() -> None:
    """The search after an error takes at most the intake's room of its records and loses none."""
    most, room = 0, 5
    seen: list[Any] = []
    consumer = FailingConsumer({3, 20}, 50, limited="u")
    poller = Poller(Intake("u", lambda: room))
    for number in range(200):
        room = 5 * (number % 2)
        taken = await poller.poll(consumer)
        poller.handled(taken)
        most = max(most, sum(record.partition == BAD.partition for record in taken))
        seen += taken
    assert most == 5
    assert list(range(50)) == [record.offset for record in seen if record.partition == BAD.partition]
    assert [3, 20] == [record.offset for record in seen if isinstance(record, LostRecord)]


async def test_a_partition_without_a_leader_holds_up_no_search() -> None:
    """The library never returns the position of a partition without a leader; the others are searched anyway."""
    consumer = FailingConsumer({0}, 20)
    real = consumer.position

    async def position(tp: TopicPartition) -> int:
        if tp == GOOD:
            await asyncio.Event().wait()
        return await real(tp)

    consumer.position = position  # type: ignore[method-assign]
    poller = Poller()
    seen: list[tuple[int, int]] = []
    async with asyncio.timeout(60):
        while len(seen) < 20:
            seen += [one for one in await _taken(poller, consumer) if one[0] == BAD.partition]
    assert [(1, offset) for offset in range(20)] == seen


async def test_a_spare_member_is_polled() -> None:
    """A member without partitions polls, because only then the library keeps it in the group and reports errors."""
    consumer = FailingConsumer(set(), 0, partitions=())
    calls: list[int] = []

    async def getmany(*tps: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:  # noqa: ARG001
        calls.append(len(tps))
        return {}

    consumer.getmany = getmany  # type: ignore[method-assign]
    assert [] == await _taken(Poller(Intake("u", lambda: 0)), consumer)
    assert [0] == calls


async def test_a_spare_member_is_polled_after_an_error() -> None:
    """A member without partitions polls after an error too, because only a poll reports a further error."""
    consumer = FailingConsumer(set(), 0, partitions=())
    errors: list[Exception] = [OSError("one"), OSError("another")]

    async def getmany(*tps: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:  # noqa: ARG001
        if errors:
            raise errors.pop()
        return {}

    consumer.getmany = getmany  # type: ignore[method-assign]
    poller = Poller()
    for _ in range(3):
        assert [] == await _taken(poller, consumer)
    assert [] == errors


async def test_going_back_waits_for_no_partition_without_a_leader() -> None:
    """The library waits for the beginning of a partition without a leader; the others are read at once."""
    consumer = FailingConsumer(set(), 20, partitions=(GOOD,))
    real, fails = consumer.getmany, [OSError("once")]

    async def getmany(*tps: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        if fails:
            raise fails.pop()
        return await real(*tps, timeout_ms=timeout_ms, max_records=max_records)

    async def seek_to_beginning(*_tps: TopicPartition) -> None:
        await asyncio.Event().wait()

    consumer.getmany, consumer.seek_to_beginning = getmany, seek_to_beginning  # type: ignore[method-assign]
    poller = Poller()
    async with asyncio.timeout(30):
        assert [] == await _taken(poller, consumer)
        assert [(0, offset) for offset in range(20)] == await _taken(poller, consumer)
