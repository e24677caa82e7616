"""A message that was committed is never lost: outbox, relay and lease."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from contracts.envelope import Outgoing
from saga_kit.messaging.outbox import Outbox, OutboxMessage, Relay
from saga_kit.runtime.errors import OversizeMessage
from tests.saga_kit.support import FakePublisher, Schema, message, until


def messages(*refs: str, delay_s: float = 0.0) -> list[OutboxMessage]:
    """Make outbox messages."""
    return [OutboxMessage(ref, message(ref, "v"), delay_s) for ref in refs]


async def write(
    schema: Schema, outbox: Outbox, messages: Sequence[OutboxMessage], sent: Sequence[int] = ()
) -> list[int]:
    """Write messages in a transaction."""
    async with schema.transactions.begin() as tx:
        return outbox.write(tx, messages, sent)


async def rolled_back(schema: Schema, outbox: Outbox, messages: Sequence[OutboxMessage], sent: Sequence[int]) -> None:
    """Write messages in a transaction that fails after that."""
    async with schema.transactions.begin() as tx:
        outbox.write(tx, messages, sent)
        await tx.flush()
        raise OSError("rolled back")


async def test_one_transaction_is_one_row(schema: Schema) -> None:
    """All messages of a transaction share one row, which an audit finds by their refs, with unchanged bytes."""
    outbox = Outbox(schema.name, grace_s=0)
    [outbox_id] = await write(schema, outbox, messages("a", "b"))
    assert await schema.rows("SELECT outbox_id, refs FROM {s}.outbox") == [(outbox_id, ["a", "b"])]
    publisher = FakePublisher()
    assert await Relay(schema.transactions, schema.name, outbox, publisher).relay_once() == 1
    assert publisher.published == [one.outgoing for one in messages("a", "b")]


LONG_S = 600.0
"""A time that does not pass by itself during a test."""


async def pass_by(schema: Schema, seconds: float) -> None:
    """Let time pass for what is stored."""
    await schema.execute(f"UPDATE {{s}}.outbox SET available_at = available_at - interval '{seconds} seconds'")


async def test_a_crash_after_the_commit_and_before_publishing_loses_nothing(schema: Schema) -> None:
    """After its process died, a row is sent by any relay once the grace time is over, and then deleted."""
    await write(schema, Outbox(schema.name, grace_s=LONG_S), messages("a"))
    publisher = FakePublisher()
    relay = Relay(schema.transactions, schema.name, Outbox(schema.name), publisher)  # of another process
    assert await relay.relay_once() == 0
    await pass_by(schema, LONG_S)
    assert await relay.relay_once() == 1
    assert [m.id for m in publisher.published] == ["a:v"]
    assert await schema.rows("SELECT * FROM {s}.outbox") == []


async def test_sent_rows_are_deleted_with_the_next_write_or_rolled_back_with_it(schema: Schema) -> None:
    """Sent rows are deleted in the transaction of the next write, and a rollback brings them back."""
    outbox = Outbox(schema.name)
    first = await write(schema, outbox, messages("a"))
    with pytest.raises(OSError, match="rolled back"):
        await rolled_back(schema, outbox, messages("b"), first)
    assert await schema.rows("SELECT refs FROM {s}.outbox") == [(["a"],)]
    second = await write(schema, outbox, messages("b"), first)
    assert await schema.rows("SELECT refs FROM {s}.outbox") == [(["b"],)]
    assert await write(schema, outbox, [], second) == []
    assert await schema.rows("SELECT refs FROM {s}.outbox") == []


async def test_a_delayed_message_is_not_published_from_memory_and_not_early(schema: Schema) -> None:
    """A delayed message is not published from memory, and the relay sends it only after the delay."""
    outbox = Outbox(schema.name, grace_s=0)
    ids = await write(schema, outbox, [*messages("now"), *messages("later", delay_s=LONG_S)])
    assert len(ids) == 1
    publisher = FakePublisher()
    relay = Relay(schema.transactions, schema.name, outbox, publisher)
    assert await relay.relay_once() == 1
    assert [m.id for m in publisher.published] == ["now:v"]
    assert await relay.relay_once() == 0
    await pass_by(schema, LONG_S)
    assert await relay.relay_once() == 1
    assert [m.id for m in publisher.published] == ["now:v", "later:v"]


async def test_two_relays_never_publish_a_row_at_once(schema: Schema) -> None:
    """When several relays work on one table, exactly one of them publishes each row."""
    outbox = Outbox(schema.name, grace_s=0)
    for number in range(100):
        await write(schema, outbox, messages(f"m{number}"))

    publishing: set[int] = set()
    several = asyncio.Event()

    class SlowPublisher(FakePublisher):
        async def publish(self, messages: Sequence[Outgoing]) -> bool:
            publishing.add(id(self))
            if len(publishing) > 1:
                several.set()
            async with asyncio.timeout(20):  # a relay whose session is slow to come has its share all the same
                await several.wait()
            return await super().publish(messages)

    publishers = [SlowPublisher() for _ in range(4)]
    relays = [Relay(schema.transactions, schema.name, Outbox(schema.name), publisher) for publisher in publishers]

    async def drain(relay: Relay) -> None:
        while await relay.relay_once():
            pass

    await asyncio.gather(*(drain(relay) for relay in relays))
    sent = [m.id for publisher in publishers for m in publisher.published]
    assert sorted(sent) == sorted(f"m{number}:v" for number in range(100))
    assert sum(bool(publisher.published) for publisher in publishers) > 1


async def test_a_relay_that_died_with_its_claim_is_replaced_after_the_lease(schema: Schema) -> None:
    """During a relay's lease only that relay may send a claimed row; after it any relay may."""
    outbox = Outbox(schema.name, grace_s=0)
    await write(schema, outbox, messages("a"))

    class Dies(FakePublisher):
        async def publish(self, _: Sequence[Outgoing]) -> bool:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Relay(schema.transactions, schema.name, outbox, Dies(), lease_s=LONG_S).relay_once()
    publisher = FakePublisher()
    relay = Relay(schema.transactions, schema.name, outbox, publisher)
    assert await relay.relay_once() == 0
    await pass_by(schema, LONG_S)
    assert await relay.relay_once() == 1
    assert [m.id for m in publisher.published] == ["a:v"]


async def test_a_row_that_cannot_be_sent_does_not_hold_up_the_others(schema: Schema) -> None:
    """After a failure rows are sent one by one, so only the bad row stays and the others are not repeated for ever."""
    outbox = Outbox(schema.name, grace_s=0)
    for name in ("good1", "bad", "good2", "good3"):
        await write(schema, outbox, messages(name))

    class Picky(FakePublisher):
        async def publish(self, messages: Sequence[Outgoing]) -> bool:
            bad = any(m.key == "bad" for m in messages)
            self.published += [m for m in messages if m.key != "bad"]
            return not bad

    publisher = Picky()
    relay = Relay(schema.transactions, schema.name, outbox, publisher)
    for _ in range(6):
        await relay.relay_once()
        await schema.execute("UPDATE {s}.outbox SET available_at = least(available_at, now())")  # as if time had passed
    assert await schema.rows("SELECT refs FROM {s}.outbox") == [(["bad"],)]
    assert [m.key for m in publisher.published].count("good2") <= 3


async def test_a_row_that_cannot_be_read_holds_up_only_itself(schema: Schema) -> None:
    """One unreadable row stays for an operator and is tried seldom; its nineteen neighbours are each sent once."""
    outbox, publisher = Outbox(schema.name, grace_s=0), FakePublisher()
    for n in range(19):
        await write(schema, outbox, messages(f"m{n}"))
        if n == 7:
            await schema.execute(
                "INSERT INTO {s}.outbox (due_at, available_at, refs, payload)"
                " VALUES (now(), now() - interval '1 s', '{{}}', 'no message')"
            )
    relay = Relay(schema.transactions, schema.name, outbox, publisher)
    assert 19 == await relay.relay_once()
    assert [f"m{n}:v" for n in range(19)] == [m.id for m in publisher.published]
    assert 0 == await relay.relay_once()
    [(payload, wait_s)] = await schema.rows(
        "SELECT payload, extract(epoch FROM available_at - now())::float FROM {s}.outbox"
    )
    assert (b"no message", True) == (payload, wait_s > 500)


async def test_an_idle_process_deletes_its_acknowledged_rows(schema: Schema) -> None:
    """If no next batch comes, the relay deletes the acknowledged rows and does not send them again."""
    outbox, publisher, stopping = Outbox(schema.name, grace_s=60), FakePublisher(), asyncio.Event()
    outbox.remember(await write(schema, outbox, messages("a")))
    task = asyncio.create_task(Relay(schema.transactions, schema.name, outbox, publisher, poll_s=0.02).run(stopping))
    await until(lambda: not outbox.sent)
    stopping.set()
    await task
    assert await schema.rows("SELECT * FROM {s}.outbox") == []
    assert publisher.published == []


async def test_the_claim_uses_the_index(schema: Schema) -> None:
    """The claim reads only due rows: the index can use the clock function in its condition."""
    relay = Relay(schema.transactions, schema.name, Outbox(schema.name), FakePublisher())
    sql = relay._claim_sql.replace("$1", "30").replace("$2", "20").replace("$3", "10")  # noqa: SLF001 - the statement is what counts
    async with schema.engine.connect() as connection:
        await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = "\n".join(row[0] for row in await connection.exec_driver_sql("EXPLAIN " + sql))
    assert "Index Cond: ((available_at <=" in plan


async def test_an_oversize_message_is_refused_before_it_is_stored(schema: Schema) -> None:
    """A message that the broker would refuse for ever is refused before it is stored in the outbox."""
    with pytest.raises(OversizeMessage):
        await write(schema, Outbox(schema.name), [OutboxMessage("a", message("a", "x" * 600_000))])
