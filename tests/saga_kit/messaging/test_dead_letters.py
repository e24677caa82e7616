"""Dead letters are stored with every byte until a person decides."""

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
    """Keeps raw messages."""

    def __init__(self, *, works: bool = True) -> None:
        self.works = works
        self.sent: list[RawMessage] = []

    async def publish_raw(self, messages: Sequence[RawMessage]) -> bool:
        """Keep them."""
        self.sent += messages
        return self.works


async def write(schema: Schema, *rejected: tuple[FakeRecord, str]) -> None:
    """Write dead letters in a transaction."""
    async with schema.engine.begin() as tx:
        await DeadLetters(schema.name).write(tx, rejected)


async def test_a_letter_keeps_every_byte(schema: Schema) -> None:
    """Key, value, repeated and broken headers, names with a NUL, nulls: all come back as they were."""
    nothing = FakeRecord(offset=1, key=None, value=None, headers=())
    await write(schema, (ODD, "why\0 " + "x" * 2000), (nothing, "empty"))
    first, second = await DeadLetters(schema.name).page(schema.engine)
    assert (first.topic, first.partition, first.record_offset, first.record_timestamp) == ODD[:4]
    assert (first.key, first.value, first.headers) == (ODD.key, ODD.value, list(ODD.headers))
    assert first.reason.startswith("why xxx")
    assert len(first.reason) <= 500
    assert (second.key, second.value, second.headers, second.reason) == (None, None, [], "empty")


async def test_a_redelivered_record_makes_no_second_letter(schema: Schema) -> None:
    """The same record again is the same dead letter; the same offset of a topic made anew (another time) is another."""
    await write(schema, (ODD, "a"))
    await write(schema, (ODD, "b"), (ODD._replace(timestamp=1), "c"))
    assert [letter.reason for letter in await DeadLetters(schema.name).page(schema.engine)] == ["a", "c"]


async def test_replay_publishes_the_same_record_once(schema: Schema) -> None:
    """A replayed dead letter goes out with its own bytes and is closed; what was not sent stays open.

    It is told when the broker first had it, so that publishing it again makes it no younger.
    """
    dead_letters: Any = DeadLetters(schema.name)
    await write(schema, (ODD, "a"))
    [letter] = await dead_letters.page(schema.engine)
    assert await dead_letters.replay(schema.engine, Publisher(works=False), letter.dead_letter_id) is False
    publisher = Publisher()
    assert await dead_letters.replay(schema.engine, publisher, letter.dead_letter_id) is True
    first = ("first-appended-at", format_time(datetime.fromtimestamp(ODD.timestamp / 1000, UTC)).encode())
    assert publisher.sent == [RawMessage(ODD.topic, ODD.key, ODD.value, [*ODD.headers, first])]
    assert await dead_letters.replay(schema.engine, publisher, letter.dead_letter_id) is False
    assert len(publisher.sent) == 1
    assert await dead_letters.page(schema.engine) == []
    [closed] = await dead_letters.page(schema.engine, closed=True)
    assert closed.replayed_at is not None


async def test_a_record_that_is_replayed_twice_keeps_its_first_time(schema: Schema) -> None:
    """The header that it was sent with stays the only one; a time that the broker did not know is not made up."""
    dead_letters: Any = DeadLetters(schema.name)
    known = ODD._replace(headers=[("first-appended-at", b"2026-01-01T00:00:00Z")])
    await write(schema, (known, "a"), (ODD._replace(offset=1, timestamp=-1), "b"))
    publisher = Publisher()
    for letter in await dead_letters.page(schema.engine):
        assert await dead_letters.replay(schema.engine, publisher, letter.dead_letter_id) is True
    assert [known.headers, list(ODD.headers)] == [message.headers for message in publisher.sent]


async def test_discard_closes_but_keeps(schema: Schema) -> None:
    """A discarded dead letter is out of the list, its bytes stay; ids that do not exist are False or None."""
    dead_letters = DeadLetters(schema.name)
    await write(schema, (ODD, "a"), (ODD._replace(offset=2), "b"))
    [first, _] = await dead_letters.page(schema.engine)
    assert await dead_letters.discard(schema.engine, first.dead_letter_id) is True
    assert await dead_letters.discard(schema.engine, first.dead_letter_id) is False
    assert await dead_letters.discard(schema.engine, 999) is False
    assert [letter.reason for letter in await dead_letters.page(schema.engine)] == ["b"]
    found = await dead_letters.get(schema.engine, first.dead_letter_id)
    assert found is not None
    assert found.value == ODD.value
    assert await dead_letters.get(schema.engine, 999) is None


async def test_a_letter_that_the_database_refuses_costs_its_own_bytes_alone(schema: Schema) -> None:
    """Of many, the one is found by halves; its place and the reason stay, the others are stored whole."""
    await schema.execute("ALTER TABLE {s}.dead_letters ADD CHECK (value IS NULL OR octet_length(value) < 100)")
    records = [FakeRecord(offset=number, value=b"x" * (200 if number == 5 else 10)) for number in range(20)]
    await write(schema, *((record, "why") for record in records))
    stored = await DeadLetters(schema.name).page(schema.engine)
    assert [None if number == 5 else 10 for number in range(20)] == [letter.value_bytes for letter in stored]
    assert [5] == [letter.record_offset for letter in stored if not letter.is_whole]
    assert stored[5].reason.endswith(": why")


async def test_letters_are_written_in_parts(schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    """No statement has more than so many bytes, whatever comes at once, unless one dead letter alone has."""
    sizes: list[int] = []
    dead_letters = DeadLetters(schema.name)
    write_part = dead_letters._write  # noqa: SLF001 - to see its parts

    async def spy(tx: Any, part: Any) -> None:
        sizes.append(sum(len(record.value) for record, _ in part))
        await write_part(tx, part)

    monkeypatch.setattr(dead_letters, "_write", spy)
    async with schema.engine.begin() as tx:
        await dead_letters.write(tx, [(FakeRecord(offset=number, value=b"x" * 900_000), "why") for number in range(7)])
    assert [1_800_000] * 3 + [900_000] == sizes
    assert 7 == len(await dead_letters.page(schema.engine))
