"""One batch is one transaction, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from unittest.mock import patch

import asyncpg
import pytest
from sqlalchemy.exc import OperationalError

from saga_kit.messaging.batch import CONTENTIONS_MAX, Effects, Received, RejectedRecord
from saga_kit.messaging.outbox import Outbox, Relay
from saga_kit.runtime.backoff import Backoff
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.errors import Contention, Stopped
from saga_kit.runtime.transactions import Transaction, Transactions
from tests.saga_kit.support import CuttingProxy, FakePublisher, FakeRecord, Item, Schema, Worker, process, received


async def done(schema: Schema) -> list[tuple[str, int]]:
    """Read the committed rows."""
    return [(key, value) for key, value in await schema.rows("SELECT key, value FROM {s}.done ORDER BY n")]


async def test_a_batch_commits_work_and_outbox_together_and_publishes_after(schema: Schema) -> None:
    """Messages are published only after the commit, and the next batch deletes their outbox row."""
    worker, publisher = Worker(schema.name), FakePublisher()
    batch = process(schema, worker, publisher)

    await batch.run(received(Item("a", 1), Item("b", 2)))
    assert await done(schema) == [("a", 1), ("b", 2)]
    assert [m.id for m in publisher.published] == ["a:1", "b:2"]
    assert await schema.rows("SELECT refs FROM {s}.outbox") == [(["a:1", "b:2"],)]

    await batch.run(received(Item("a", 3)))
    assert await schema.rows("SELECT refs FROM {s}.outbox") == [(["a:3"],)]


async def test_nothing_is_published_when_the_transaction_fails(schema: Schema) -> None:
    """A rollback publishes nothing and leaves no outbox row; the second try of the batch publishes and commits once."""
    worker, publisher = Worker(schema.name), FakePublisher()
    worker.fault = lambda call: OSError("network") if call == 1 else None
    publisher.before = lambda: None
    await process(schema, worker, publisher).run(received(Item("a", 1)))
    assert [m.id for m in publisher.published] == ["a:1"]
    assert await done(schema) == [("a", 1)]
    assert len(worker.handled) == 2


@pytest.mark.parametrize("bad", [(3,), (0,), (7,), (2, 3), (0, 7), (1, 6), (0, 1, 2, 3, 4, 5, 6, 7)])
@pytest.mark.parametrize("kind", ["data", "code"])
async def test_halving_isolates_exactly_the_bad_messages_and_keeps_order(
    schema: Schema, bad: tuple[int, ...], kind: str
) -> None:
    """Each bad message alone is parked, and all others are handled once and in order, however many are bad."""
    poison = 5000 if kind == "data" else -1
    items = [Item(f"order{n}", poison if n in bad else n) for n in range(8)]
    worker, publisher = Worker(schema.name), FakePublisher()
    await process(schema, worker, publisher).run(received(*items))

    good = [(f"order{n}", n) for n in range(8) if n not in bad]
    assert await done(schema) == good
    assert sorted(worker.parked) == [f"order{n}" for n in bad]
    assert [m.id for m in publisher.published] == [f"{key}:{value}" for key, value in good]
    assert await schema.rows("SELECT * FROM {s}.dead_letters") == []


async def test_later_messages_in_the_batch_find_the_order_parked(schema: Schema) -> None:
    """Earlier messages of the bad message's order are handled; later ones find the order parked."""
    worker = Worker(schema.name)
    await process(schema, worker, FakePublisher()).run(
        received(Item("a", 1), Item("b", 1), Item("a", 5000), Item("a", 2), Item("b", 2))
    )
    assert await done(schema) == [("a", 1), ("b", 1), ("b", 2)]
    assert list(worker.parked) == ["a"]


async def test_a_bad_message_without_an_order_becomes_a_dead_letter(schema: Schema) -> None:
    """A bad message without an order becomes a dead letter, and the rest of the batch is handled."""
    worker = Worker(schema.name, knows_orders=False)
    await process(schema, worker, FakePublisher()).run(received(Item("a", 1), Item("b", 5000), Item("c", 3)))
    assert await done(schema) == [("a", 1), ("c", 3)]
    [(offset, reason)] = await schema.rows("SELECT record_offset, reason FROM {s}.dead_letters")
    assert offset == 1
    assert reason.startswith("CheckViolationError: new row")


@pytest.mark.parametrize(
    "error",
    [
        OSError("reset"),
        TimeoutError(),
        OperationalError("x", None, Exception("y"), connection_invalidated=True),
        asyncpg.ConnectionDoesNotExistError("x"),
        asyncpg.InterfaceError("x"),
    ],
)
async def test_infrastructure_errors_never_park(schema: Schema, error: Exception) -> None:
    """An infrastructure error repeats the same whole batch until it succeeds."""
    worker, publisher = Worker(schema.name), FakePublisher()
    worker.fault = lambda call: error if call <= 3 else None
    items = [Item("a", 1), Item("b", 2)]
    await process(schema, worker, publisher).run(received(*items))
    assert worker.handled == [items] * 4
    assert worker.parked == {}
    assert await done(schema) == [("a", 1), ("b", 2)]
    assert await schema.rows("SELECT * FROM {s}.dead_letters") == []


@pytest.mark.parametrize("loses", [CONTENTIONS_MAX, CONTENTIONS_MAX + 4, 10**6])
async def test_a_message_that_always_loses_a_race_stops_no_partition(schema: Schema, loses: int) -> None:
    """A lost race is run again; a message that always loses is parked alone, and all others are handled.

    No message is parked after its first lost race alone, however often the whole batch lost before it was divided.
    """
    worker, tries = Worker(schema.name), 0

    def fault(_: int) -> Exception | None:
        nonlocal tries
        tries += 1
        contends = "bad" in {item.order for item in worker.handled[-1]} and tries <= loses
        return Contention("somebody else was first") if contends else None

    worker.fault = fault
    batch = process(schema, worker, FakePublisher())
    with patch("saga_kit.messaging.batch.Backoff", lambda: Backoff(first_s=0.001, cap_s=0.001)):
        await batch.run(received(Item("a", 1), Item("bad", 2), Item("c", 3)))
    ends = loses < 10**6
    assert ([("a", 1), ("bad", 2), ("c", 3)] if ends else [("a", 1), ("c", 3)]) == await done(schema)
    assert ([] if ends else ["bad"]) == list(worker.parked)


async def test_a_stop_during_an_outage_raises_and_commits_nothing(schema: Schema) -> None:
    """A batch that is told to stop during its back-off raises `Stopped`, so that its offsets are not committed."""
    worker, stopping = Worker(schema.name), asyncio.Event()
    worker.fault = lambda _: OSError("down")
    task = asyncio.create_task(process(schema, worker, FakePublisher(), stopping=stopping).run(received(Item("a", 1))))
    while not worker.handled:
        await asyncio.sleep(0.01)
    stopping.set()
    with pytest.raises(Stopped):
        await task
    assert await done(schema) == []


async def test_a_commit_whose_answer_is_lost_is_run_again(schema: Schema) -> None:
    """If the connection dies between PostgreSQL's commit and its answer, the batch runs again before it returns."""
    url = parse_database_url(schema.url)
    proxy = CuttingProxy(url.host or "localhost", url.port or 5432)
    transactions = Transactions(url.set(host="127.0.0.1", port=await proxy.start()), application_name="cut")
    worker, publisher = Worker(schema.name), FakePublisher()
    batch = process(schema, worker, publisher, transactions=transactions)
    await batch.run(received(Item("warm", 0)))
    proxy.armed = True
    await batch.run(received(Item("a", 1)))
    assert proxy.cuts == 1
    # This handler has no guard, so the repeat is visible: committed twice, never parked, published.
    assert await done(schema) == [("warm", 0), ("a", 1), ("a", 1)]
    assert worker.parked == {}
    assert [m.id for m in publisher.published] == ["warm:0", "a:1"]
    # The first commit's row stays: it was not acknowledged, so the relay will send it.
    assert len(await schema.rows("SELECT outbox_id FROM {s}.outbox WHERE refs = '{a:1}'")) == 2
    await transactions.close()
    await proxy.stop()


async def test_what_was_not_acknowledged_stays_for_the_relay(schema: Schema) -> None:
    """If the broker's answer is unknown, the outbox row stays and the relay sends it."""
    outbox = Outbox(schema.name, grace_s=0.05)
    publisher = FakePublisher(works=False)
    batch = process(schema, Worker(schema.name), publisher, outbox=outbox)
    await batch.run(received(Item("a", 1)))
    assert outbox.sent == []
    publisher.works = True
    relay = Relay(schema.transactions, schema.name, outbox, publisher)
    while not await relay.relay_once():
        await asyncio.sleep(0.02)
    assert [m.id for m in publisher.published] == ["a:1"]
    assert await schema.rows("SELECT * FROM {s}.outbox") == []


class Idle(Worker):
    """Works without the transaction that it is given."""

    async def handle(self, tx: Transaction, messages: Sequence[Received[Item]]) -> Effects:  # noqa: ARG002
        """Do nothing."""
        return Effects()


async def test_a_batch_that_writes_nothing_begins_no_transaction_to_delete_sent_rows(schema: Schema) -> None:
    """Rows that the broker has wait for a batch that writes, or for the sweep."""
    outbox = Outbox(schema.name)
    await process(schema, Worker(schema.name), FakePublisher(), outbox=outbox).run(received(Item("a", 1)))
    await process(schema, Idle(schema.name), FakePublisher(), outbox=outbox).run(received(Item("b", 2)))
    assert len(outbox.sent) == 1
    assert await schema.rows("SELECT refs FROM {s}.outbox") == [(["a:1"],)]
    await process(schema, Worker(schema.name), FakePublisher(), outbox=outbox).run(received(Item("c", 3)))
    assert await schema.rows("SELECT refs FROM {s}.outbox") == [(["c:3"],)]


async def test_unreadable_records_are_stored_in_the_batches_transaction(schema: Schema) -> None:
    """Dead letters commit with the batch; if the batch contains poison they are stored anyway, once."""
    worker = Worker(schema.name)
    rejected = [RejectedRecord(FakeRecord(offset=7, value=b"\xff"), "no JSON")]
    await process(schema, worker, FakePublisher()).run(received(Item("a", 5000), Item("b", 1)), rejected)
    assert await done(schema) == [("b", 1)]
    assert await schema.rows("SELECT record_offset, value FROM {s}.dead_letters") == [(7, b"\xff")]
    await process(schema, worker, FakePublisher()).run([], rejected)
    assert len(await schema.rows("SELECT * FROM {s}.dead_letters")) == 1


async def test_a_handlers_reason_with_a_nul_can_still_be_stored(schema: Schema) -> None:
    """A NUL makes a message bad, but its dead letter can be stored."""
    worker = Worker(schema.name, knows_orders=False)
    await process(schema, worker, FakePublisher()).run(received(Item("nul\0", 1), Item("b", 1)))
    assert await done(schema) == [("b", 1)]
    assert len(await schema.rows("SELECT * FROM {s}.dead_letters")) == 1


async def test_an_oversize_question_is_refused_before_the_commit_too(schema: Schema) -> None:
    """The size limit also applies to messages that are published without the outbox; they would be refused for ever."""

    class Asks(Worker):
        async def handle(self, tx: Transaction, messages: Sequence[Received[Item]]) -> Effects:
            effects = await super().handle(tx, messages)
            return Effects(messages=[one.outgoing for one in effects.outbox])

    worker, publisher = Asks(schema.name, padding={"big": 600_000}), FakePublisher()
    await process(schema, worker, publisher).run(received(Item("big", 1), Item("b", 1)))
    assert await done(schema) == [("b", 1)]
    assert list(worker.parked) == ["big"]
    assert [m.id for m in publisher.published] == ["b:1"]


async def test_a_callback_that_raises_after_the_commit_blames_no_message(schema: Schema) -> None:
    """`after_commit` is called once; its error does not run the committed batch again and blames no message."""
    told: list[int] = []

    class Tells(Worker):
        async def handle(self, tx: Transaction, messages: Sequence[Received[Item]]) -> Effects:
            effects = await super().handle(tx, messages)

            def committed() -> None:
                told.append(len(messages))
                raise RuntimeError("a bug in a counter")

            return Effects(outbox=effects.outbox, after_commit=committed)

    worker = Tells(schema.name)
    await process(schema, worker, FakePublisher()).run(received(Item("a", 1), Item("b", 2)))
    assert told == [2]
    assert worker.parked == {}
    assert await done(schema) == [("a", 1), ("b", 2)]


async def test_a_message_that_no_broker_would_take_is_refused_before_the_commit(schema: Schema) -> None:
    """An oversize message parks its order instead of blocking the outbox for ever."""
    worker, publisher = Worker(schema.name, padding={"big": 600_000}), FakePublisher()
    await process(schema, worker, publisher).run(received(Item("big", 1), Item("b", 1)))
    assert await done(schema) == [("b", 1)]
    assert list(worker.parked) == ["big"]
    assert [m.id for m in publisher.published] == ["b:1"]
