"""The lean loop is a fair peer: it sends the same messages as the system, once each, and a crash loses nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple, cast

import asyncpg
import pytest
import pytest_asyncio
from msgspec.structs import astuple

from contracts.codec import decode, encode
from contracts.topics import ORDERS_REQUESTS
from order_saga.core.saga import Incoming
from tests.bench import bare
from tests.bench.answers import replies
from tests.bench.bare import Message
from tests.bench.lean import TABLES, Lean
from tests.bench.lean_core import LAST, Saga, question, read, versions
from tests.order_saga.core import sample
from tests.support.infrastructure import Database

PARTITION = 7


class Record(NamedTuple):
    """A record, with the attributes that the loops read."""

    topic: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    partition: int = PARTITION


def record(message: Message) -> Record:
    """Make the record that a message arrives as."""
    return Record(message.topic, message.value, (("ce_id", message.id.encode()), ("ce_type", message.type.encode())))


def request() -> Record:
    """Ask for the sample's order."""
    message = Message(ORDERS_REQUESTS.name, PARTITION, "", "", "OrderRequested", encode(sample.request()))
    return record(message)


def test_it_says_what_the_system_says() -> None:
    """From request to completion, every command and every version equals the system's, field by field."""
    story, incoming, saga = sample.Story(), request(), None
    for _ in range(4):
        batch = read([incoming])
        if saga is None:
            saga = Saga._make((*astuple(batch.requests[0]), "VALIDATING", None, sample.NOW))
        else:
            [move] = batch.moves
            assert move.phase == saga.phase
            saga = saga._replace(phase=move.following, quote=move.quote or saga.quote)
        heard = cast("Incoming", decode(dict(incoming.headers)["ce_type"].decode(), incoming.value))
        story.tell(sample.requested() if saga.phase == "VALIDATING" else heard)

        told = [decode(event.type, event.value) for event in versions(saga, PARTITION, sample.NOW)]
        assert list(story.decision.events) == told
        asked = [question(saga)] if saga.phase != LAST else []
        assert story.commands == [decode(command.type, command.value) for command in asked]
        for reply in replies(map(record, asked), sample.NOW):
            incoming = record(reply)
    assert saga is not None
    assert saga.phase == LAST


class Wire:
    """Stands in for the broker: stores what is published, or fails."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.broken = False

    async def publish(self, _to: object, _prefix: str, _source: str, messages: Iterable[Message]) -> None:
        """Take the place of `bare.publish`."""
        if self.broken:
            raise ConnectionError
        self.sent += messages

    def answers(self) -> list[Record]:
        """Return the participants' answers to the sent commands, and clear what was sent."""
        commands, self.sent = [message for message in self.sent if message.type != "OrderStatusChanged"], []
        return [record(reply) for reply in replies(map(record, commands), sample.NOW)]

    def told(self) -> list[str]:
        """Name what was sent."""
        return [message.id.removeprefix(f"{sample.ORDER_ID}:") for message in self.sent]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Replace the way to the broker."""
    wire = Wire()
    monkeypatch.setattr(bare, "publish", wire.publish)
    return wire


@pytest_asyncio.fixture
async def connection(database: Database) -> AsyncIterator[Any]:
    """Connect to a database with the loop's tables."""
    connection = await asyncpg.connect(database.url)
    await connection.execute(TABLES)
    yield connection
    await connection.close()


async def test_what_comes_again_moves_nothing(connection: Any, wire: Wire) -> None:
    """A record that is delivered twice, in one batch or in the next, changes nothing and sends nothing more."""
    lean = Lean(connection, cast("Any", None), "")
    records, told = [request()], []
    for _ in range(4):
        await lean.handle([*records, *records])
        await lean.handle(records)
        told += wire.told()
        records = wire.answers()
    assert ["v1", "check", "reserve", "v2", "v3", "settle", "v4"] == told
    assert [("COMPLETED",)] == [tuple(row) for row in await connection.fetch("SELECT phase FROM lean.orders")]


async def test_a_death_before_publishing_loses_nothing(connection: Any, wire: Wire) -> None:
    """The next process publishes what was committed but not published, and repeats every open question."""
    records, told = [request()], []
    for _ in range(4):
        wire.broken = True
        with pytest.raises(ConnectionError):
            await Lean(connection, cast("Any", None), "").handle(records)
        wire.broken = False
        await Lean(connection, cast("Any", None), "").recover()
        told += wire.told()
        records = wire.answers()
    assert ["v1", "check", "reserve", "v2", "v3", "settle", "v4"] == list(dict.fromkeys(told))


async def test_the_outbox_holds_at_most_the_last_batch(connection: Any, wire: Wire) -> None:
    """A batch's events stay until the broker has them and the next batch, or an idle moment, deletes them."""
    lean = Lean(connection, cast("Any", None), "")
    records = [request()]
    for _ in range(4):
        await lean.handle(records)
        records = wire.answers()
        assert await connection.fetchval("SELECT count(*) FROM lean.outbox") == 1
    await lean.sweep()
    assert await connection.fetchval("SELECT count(*) FROM lean.outbox") == 0
