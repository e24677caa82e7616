"""A row that another transaction locks delays only the messages of its own key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from contracts.envelope import Envelope, Outgoing
from saga_kit.messaging.batch import Effects, Received
from saga_kit.messaging.locked_rows import KEYS_MAX, REMEMBERED_S, LockedKeys
from saga_kit.messaging.outbox import Outbox, Relay
from saga_kit.runtime.transactions import Transaction
from tests.saga_kit.support import FakePublisher, FakeRecord, Item, Schema, Worker, process, until

SENT = 1_700_000_000_000
PUT_OFF_MAX = 3
LONG_S = 18
"""Less than the driver waits for a statement."""


@dataclass
class Accounts(Worker):
    """A handler that first locks the row of each message's key, as a ledger does."""

    comes_again: Any = lambda _: True
    topics: Sequence[str] = ("t",)

    async def handle(self, tx: Transaction, messages: Sequence[Received[Item]]) -> Effects:
        """Lock the rows, then handle."""
        await tx.execute(
            f"SELECT FROM {self.schema}.accounts WHERE owner = ANY($1::text[]) ORDER BY owner FOR UPDATE",
            sorted({one.message.order for one in messages}),
        )
        return await super().handle(tx, messages)

    async def park(self, tx: Transaction, message: Received[Item], reason: str) -> bool:
        """Lock the row, then park."""
        await tx.execute(f"SELECT FROM {self.schema}.accounts WHERE owner = $1 FOR UPDATE", message.message.order)
        return await super().park(tx, message, reason)


def said(*items: tuple[str, int]) -> list[Received[Item]]:
    """Make messages of owners, each in a record with its owner as the key."""
    return [
        Received(
            Item(owner, value),
            Envelope(f"id-{n}", "Item", "/s", None),  # type: ignore[arg-type]  # the time does not matter here
            FakeRecord(topic="sys.t", offset=n, key=owner.encode(), value=b"[]", timestamp=SENT),
        )
        for n, (owner, value) in enumerate(items)
    ]


async def opened(schema: Schema, *owners: str) -> None:
    """Make accounts."""
    await schema.execute("CREATE TABLE {s}.accounts (owner text PRIMARY KEY)")
    for owner in owners:
        await schema.execute(f"INSERT INTO {{s}}.accounts VALUES ('{owner}')")


@asynccontextmanager
async def other_transaction(schema: Schema, statement: str) -> AsyncIterator[None]:
    """Keep another transaction open that has run this statement."""
    async with schema.engine.connect() as connection:
        await connection.exec_driver_sql(statement.format(s=schema.name))
        yield
        await connection.rollback()


async def wait_longer_for_locks(schema: Schema) -> None:
    """Let the sessions that batches use wait for a lock for so long that no slow machine is taken for it."""
    async with schema.transactions.begin() as tx:
        await tx.execute(f"SET lock_timeout = '{LONG_S} s'")


CAROL = "SELECT FROM {s}.accounts WHERE owner = 'carol' FOR UPDATE"


async def done(schema: Schema) -> list[tuple[str, int]]:
    """Read the committed rows in their order."""
    return [(key, value) for key, value in await schema.rows("SELECT key, value FROM {s}.done ORDER BY n")]


async def test_one_locked_row_holds_up_only_its_own_messages(schema: Schema) -> None:
    """While carol's row is locked, 78 of 80 messages are handled; hers are dropped, because they will be sent again."""
    await opened(schema, "alice", "bob", "carol")
    batch = process(schema, Accounts(schema.name), FakePublisher())
    others = [(("alice", "bob")[n % 2], n) for n in range(78)]
    async with other_transaction(schema, CAROL):
        await batch.run(said(*others[:30], ("carol", 100), *others[30:], ("carol", 101)))
        assert others == await done(schema)
    await batch.run(said(("carol", 102)))
    assert ("carol", 102) == (await done(schema))[-1]


async def test_a_key_that_is_known_to_be_locked_delays_no_other_key(schema: Schema) -> None:
    """A batch with a key known to be locked handles all others first and tries that key only briefly."""
    await opened(schema, "alice", "carol")
    batch = process(schema, Accounts(schema.name), FakePublisher())
    async with other_transaction(schema, CAROL):
        await batch.run(said(("carol", 1), ("alice", 2)))
        await wait_longer_for_locks(schema)
        begin = time.monotonic()
        await batch.run(said(("carol", 3), ("alice", 4), ("carol", 5), ("alice", 6)))
        took_s = time.monotonic() - begin
        assert [("alice", 2), ("alice", 4), ("alice", 6)] == await done(schema)
    assert took_s < LONG_S, "no wait for her lock"
    await batch.run(said(("carol", 7), ("carol", 8)))
    assert [("carol", 7), ("carol", 8)] == (await done(schema))[-2:], "in her order, once she is free"


async def test_a_message_that_nobody_sends_again_is_read_again(schema: Schema) -> None:
    """A message that nobody repeats returns to its topic through the outbox with its first time; no order is parked."""
    await opened(schema, "carol")
    worker, publisher = Accounts(schema.name, comes_again=lambda _: False), FakePublisher()
    async with other_transaction(schema, CAROL):
        await process(schema, worker, publisher).run(said(("carol", 1)))
    assert ([], {}, []) == (await done(schema), worker.parked, publisher.published)
    [(refs, payload, wait_s)] = await schema.rows(
        "SELECT refs, payload, extract(epoch FROM available_at - created_at)::float FROM {s}.outbox"
    )
    assert (["sys.t/0@0"], pytest.approx(5, abs=0.5)) == (refs, wait_s)
    header = ("first-appended-at", b"2023-11-14T22:13:20Z")
    assert [Outgoing("t", "carol", "id-0", b"[]", [header])] == msgspec.msgpack.decode(payload, type=list[Outgoing])


async def test_what_is_read_again_keeps_a_header_without_a_value(schema: Schema) -> None:
    """Kafka allows a header without a value; through the outbox it becomes empty, and the message is sent."""
    await opened(schema, "carol")
    worker, publisher = Accounts(schema.name, comes_again=lambda _: False), FakePublisher()
    record = FakeRecord(topic="sys.t", key=b"carol", headers=[("mine", None), ("other", b"x")])
    outbox = Outbox(schema.name)
    async with other_transaction(schema, CAROL):
        await process(schema, worker, publisher, outbox=outbox).run([Received(Item("carol", 1), None, record)])
    await schema.execute("UPDATE {s}.outbox SET available_at = now() - interval '1 s'")
    assert 1 == await Relay(schema.transactions, schema.name, outbox, publisher).relay_once()
    assert [[("mine", b""), ("other", b"x")]] == [message.headers[:2] for message in publisher.published]


async def test_a_message_of_the_services_own_is_dropped(schema: Schema) -> None:
    """A message of the service itself, such as a timer, is dropped, because it comes again by itself."""
    await opened(schema, "carol")
    worker = Accounts(schema.name, comes_again=lambda _: False)
    async with other_transaction(schema, CAROL):
        await process(schema, worker, FakePublisher()).run([Received(Item("carol", 1))])
    assert [] == await schema.rows("SELECT 1 FROM {s}.outbox")


async def test_poison_whose_order_is_locked_waits_for_it(schema: Schema) -> None:
    """Poison whose order is locked can't be parked now; it does not delay others and is parked when it comes again."""
    await opened(schema, "alice", "carol")
    worker = Accounts(schema.name)
    batch = process(schema, worker, FakePublisher())
    async with other_transaction(schema, CAROL):
        await batch.run(said(("carol", -1), ("alice", 1)))
        assert ([("alice", 1)], {}) == (await done(schema), worker.parked)
    await batch.run(said(("carol", -1)))
    assert {"carol"} == worker.parked.keys()


async def test_a_locked_outbox_row_holds_up_no_batch(schema: Schema) -> None:
    """A batch skips locked outbox rows when it deletes sent rows, and leaves them to the relay."""
    await opened(schema, "alice")
    outbox = Outbox(schema.name)
    batch = process(schema, Accounts(schema.name), FakePublisher(), outbox=outbox)
    await batch.run(said(("alice", 1)))
    assert 1 == len(outbox.sent)
    await wait_longer_for_locks(schema)
    async with other_transaction(schema, "SELECT FROM {s}.outbox FOR UPDATE"):
        begin = time.monotonic()
        await batch.run(said(("alice", 2)))
        assert time.monotonic() - begin < LONG_S
    assert 2 == len(await schema.rows("SELECT 1 FROM {s}.outbox"))
    await batch.run(said(("alice", 3)))
    assert [("alice", 1), ("alice", 2), ("alice", 3)] == await done(schema)


def test_keys_are_forgotten_when_they_are_free_or_were_not_locked_for_long() -> None:
    """Remembered keys are bounded in time and number; a message without a record has no key."""
    now = 0.0
    keys = LockedKeys(lambda: now)
    carol, alice = said(("carol", 1), ("alice", 2))
    keys.note(carol)
    keys.note(Received(Item("carol", 1)))
    assert ([alice], [carol]) == keys.split([carol, alice])
    keys.forget([carol])
    assert ([carol, alice], []) == keys.split([carol, alice])
    keys.note(carol)
    now = REMEMBERED_S + 1
    assert ([carol], []) == keys.split([carol])
    for one in said(*((f"owner-{n}", n) for n in range(KEYS_MAX + 5))):
        keys.note(one)
    assert KEYS_MAX == len(keys.split(said(*((f"owner-{n}", n) for n in range(KEYS_MAX + 5))))[1])


async def test_a_table_that_is_locked_is_waited_for(schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    """If more keys are locked than a batch may put off, the rest of the batch waits as a whole."""
    monkeypatch.setattr("saga_kit.messaging.batch.PUT_OFF_MAX", PUT_OFF_MAX)
    owners = [f"owner-{n:03}" for n in range(PUT_OFF_MAX + 5)]
    await opened(schema, *owners)
    worker = Accounts(schema.name)
    batch = process(schema, worker, FakePublisher())
    async with other_transaction(schema, "LOCK TABLE {s}.accounts IN ACCESS EXCLUSIVE MODE"):
        running = asyncio.create_task(batch.run(said(*((owner, 1) for owner in owners))))
        await until(lambda: batch_has_waited(batch), within_s=60)
        assert not running.done()
    await running
    assert len(owners) - PUT_OFF_MAX == len(await done(schema))


def batch_has_waited(batch: Any) -> bool:
    """Tell whether a batch has backed off."""
    return bool(batch._metrics.batch_retries._value.get())  # noqa: SLF001 - the counter's value has no other name here
