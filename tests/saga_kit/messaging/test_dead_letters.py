"""Dead letters are stored with every byte until an operator replays or discards them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.envelope import format_time
from saga_kit.messaging.dead_letters import DeadLetters
from saga_kit.messaging.publisher import RawMessage
from tests.saga_kit.support import FakeRecord, Schema

ODD = FakeRecord(
    topic="sys.orders",
    partition=3,
    offset=2**40,
    key=b"\x00\xff",
    value=bytes(range(256)),
    headers=[("a", b"\xff\xfe"), ("a", b""), ("nul\0", b"1"), ("é", b"2")],
)


class Publisher:
    """A fake publisher that stores raw messages."""

    def __init__(self, *, works: bool = True) -> None:
        self.works = works
        self.sent: list[RawMessage] = []

    async def publish_raw(self, messages: Sequence[RawMessage]) -> bool:
        """Store the messages if it works."""
        self.sent += messages
        return self.works


async def write(schema: Schema, *rejected: tuple[FakeRecord, str]) -> None:
    """Write dead letters in a transaction."""
    async with schema.transactions.begin() as tx:
        await DeadLetters(schema.name).write(tx, rejected)


async def test_a_dead_letter_keeps_every_byte(schema: Schema) -> None:
    """Key, value, repeated and broken headers, names with a NUL, and nulls are all stored and returned unchanged."""
    nothing = FakeRecord(offset=1, key=None, value=None, headers=())
    await write(schema, (ODD, "why\0 " + "x" * 2000), (nothing, "empty"))
    first, second = await DeadLetters(schema.name).page(schema.engine)
    assert (first.topic, first.partition, first.record_offset, first.record_timestamp) == ODD[:4]
    assert (first.key, first.value, first.headers) == (ODD.key, ODD.value, list(ODD.headers))
    assert first.reason.startswith("why xxx")
    assert len(first.reason) <= 500
    assert (second.key, second.value, second.headers, second.reason) == (None, None, [], "empty")


async def test_a_redelivered_record_makes_no_second_dead_letter(schema: Schema) -> None:
    """A redelivered record is the same dead letter; the same offset with another timestamp is another one."""
    await write(schema, (ODD, "a"))
    await write(schema, (ODD, "b"), (ODD._replace(timestamp=1), "c"))
    assert [dead_letter.reason for dead_letter in await DeadLetters(schema.name).page(schema.engine)] == ["a", "c"]


async def test_replay_publishes_the_same_record_once(schema: Schema) -> None:
    """A replayed dead letter is published with its own bytes and closed; one that could not be sent stays open.

    A header carries the time when the broker first had the record, so that replaying does not make it younger.
    """
    dead_letters: Any = DeadLetters(schema.name)
    await write(schema, (ODD, "a"))
    [dead_letter] = await dead_letters.page(schema.engine)
    assert await dead_letters.replay(schema.engine, Publisher(works=False), dead_letter.dead_letter_id) is False
    publisher = Publisher()
    assert await dead_letters.replay(schema.engine, publisher, dead_letter.dead_letter_id) is True
    first = ("first-appended-at", format_time(datetime.fromtimestamp(ODD.timestamp / 1000, UTC)).encode())
    assert publisher.sent == [RawMessage(ODD.topic, ODD.key, ODD.value, [*ODD.headers, first])]
    assert await dead_letters.replay(schema.engine, publisher, dead_letter.dead_letter_id) is False
    assert len(publisher.sent) == 1
    assert await dead_letters.page(schema.engine) == []
    [closed] = await dead_letters.page(schema.engine, closed=True)
    assert closed.replayed_at is not None


async def test_a_record_that_is_replayed_twice_keeps_its_first_time(schema: Schema) -> None:
    """A record that has the header keeps it; a record without a known time gets none."""
    dead_letters: Any = DeadLetters(schema.name)
    known = ODD._replace(headers=[("first-appended-at", b"2026-01-01T00:00:00Z")])
    await write(schema, (known, "a"), (ODD._replace(offset=1, timestamp=-1), "b"))
    publisher = Publisher()
    for dead_letter in await dead_letters.page(schema.engine):
        assert await dead_letters.replay(schema.engine, publisher, dead_letter.dead_letter_id) is True
    assert [known.headers, list(ODD.headers)] == [message.headers for message in publisher.sent]


async def test_discard_closes_a_dead_letter_and_keeps_its_bytes(schema: Schema) -> None:
    """A discarded dead letter leaves the list and keeps its bytes; an unknown id gives False or None."""
    dead_letters = DeadLetters(schema.name)
    await write(schema, (ODD, "a"), (ODD._replace(offset=2), "b"))
    [first, _] = await dead_letters.page(schema.engine)
    assert await dead_letters.discard(schema.engine, first.dead_letter_id) is True
    assert await dead_letters.discard(schema.engine, first.dead_letter_id) is False
    assert await dead_letters.discard(schema.engine, 999) is False
    assert [dead_letter.reason for dead_letter in await dead_letters.page(schema.engine)] == ["b"]
    found = await dead_letters.get(schema.engine, first.dead_letter_id)
    assert found is not None
    assert found.value == ODD.value
    assert await dead_letters.get(schema.engine, 999) is None


async def test_a_dead_letter_that_the_database_refuses_loses_only_its_own_bytes(schema: Schema) -> None:
    """Halving finds the one refused dead letter: its position and reason are stored, all others are stored whole."""
    await schema.execute("ALTER TABLE {s}.dead_letters ADD CHECK (value IS NULL OR octet_length(value) < 100)")
    records = [FakeRecord(offset=number, value=b"x" * (200 if number == 5 else 10)) for number in range(20)]
    await write(schema, *((record, "why") for record in records))
    stored = await DeadLetters(schema.name).page(schema.engine)
    assert [None if number == 5 else 10 for number in range(20)] == [dead_letter.value_bytes for dead_letter in stored]
    assert [5] == [dead_letter.record_offset for dead_letter in stored if not dead_letter.is_whole]
    assert stored[5].reason.endswith(": why")


async def test_dead_letters_are_written_in_parts(schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each statement has at most so many bytes, unless a single dead letter is larger."""
    sizes: list[int] = []
    dead_letters = DeadLetters(schema.name)
    write_part = dead_letters._write  # noqa: SLF001 - to see its parts

    async def spy(tx: Any, part: Any) -> None:
        sizes.append(sum(len(record.value) for record, _ in part))
        await write_part(tx, part)

    monkeypatch.setattr(dead_letters, "_write", spy)
    async with schema.transactions.begin() as tx:
        await dead_letters.write(tx, [(FakeRecord(offset=number, value=b"x" * 900_000), "why") for number in range(7)])
    assert [1_800_000] * 3 + [900_000] == sizes
    assert 7 == len(await dead_letters.page(schema.engine))
