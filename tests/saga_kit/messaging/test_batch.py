"""One batch is one transaction, under every fault."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from unittest.mock import patch

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from saga_kit.messaging.batch import CONTENTIONS_MAX, Effects, Received, RejectedRecord
from saga_kit.messaging.outbox import Outbox, Relay
from saga_kit.runtime.backoff import Backoff
from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.errors import Contention, Stopped
from tests.saga_kit.support import CuttingProxy, FakePublisher, FakeRecord, Item, Schema, Worker, process, received


async def done(schema: Schema) -> list[tuple[str, int]]:
    """Read what is committed."""
    return [(key, value) for key, value in await schema.rows("SELECT key, value FROM {s}.done ORDER BY n")]


async def test_a_batch_commits_work_and_outbox_together_and_publishes_after(schema: Schema) -> None:
    """What is published was committed before, with an outbox row that the next batch deletes."""
    worker, publisher = Worker(schema.name), FakePublisher()
    batch = process(schema, worker, publisher)

    await batch.run(received(Item("a", 1), Item("b", 2)))
    assert await done(schema) == [("a", 1), ("b", 2)]
    assert [m.id for m in publisher.published] == ["a:1", "b:2"]
    assert await schema.rows("SELECT refs FROM {s}.outbox") == [(["a:1", "b:2"],)]

    await batch.run(received(Item("a", 3)))
    assert await schema.rows("SELECT refs FROM {s}.outbox") == [(["a:3"],)]


async def test_nothing_is_published_when_the_transaction_fails(schema: Schema) -> None:
    """A rollback publishes nothing and leaves no outbox row; the same batch again does both once."""
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
    """Each bad message alone is parked; all others are handled once and in order, however many bad ones there are."""
    poison = 5000 if kind == "data" else -1
    items = [Item(f"order{n}", poison if n in bad else n) for n in range(8)]
    worker, publisher = Worker(schema.name), FakePublisher()
    await process(schema, worker, publisher).run(received(*items))

    good = [(f"order{n}", n) for n in range(8) if n not in bad]
    assert await done(schema) == good
    assert sorted(worker.parked) == [f"order{n}" for n in bad]
    assert [m.id for m in publisher.published] == [f"{key}:{value}" for key, value in good]
    assert await schema.rows("SELECT * FROM {s}.dead_letters") == []


async def test_the_messages_of_a_parked_order_that_follow_in_the_batch_meet_it_parked(schema: Schema) -> None:
    """Messages of the bad one's order before it are handled, those after it see the order parked."""
    worker = Worker(schema.name)
    await process(schema, worker, FakePublisher()).run(
        received(Item("a", 1), Item("b", 1), Item("a", 5000), Item("a", 2), Item("b", 2))
    )
    assert await done(schema) == [("a", 1), ("b", 1), ("b", 2)]
    assert list(worker.parked) == ["a"]


async def test_a_bad_message_without_an_order_becomes_a_dead_letter(schema: Schema) -> None:
    """Where there is nothing to park, the record becomes a dead letter, and the rest goes on."""
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
    ],
)
async def test_infrastructure_errors_never_park(schema: Schema, error: Exception) -> None:
    """The world's faults repeat the same whole batch until it is done."""
    worker, publisher = Worker(schema.name), FakePublisher()
    worker.fault = lambda call: error if call <= 3 else None
    items = [Item("a", 1), Item("b", 2)]
    await process(schema, worker, publisher).run(received(*items))
    assert worker.handled == [items] * 4
    assert worker.parked == {}
    assert await done(schema) == [("a", 1), ("b", 2)]
    assert await schema.rows("SELECT * FROM {s}.dead_letters") == []


@pytest.mark.parametrize("loses", [CONTENTIONS_MAX, CONTENTIONS_MAX + 4, 10**6])
async def test_a_message_that_contends_with_nobody_stops_no_partition(schema: Schema, loses: int) -> None:
    """A lost race is run again; a message that loses whatever is tried is set aside alone, and the others go on.

    Nothing is set aside after its first lost race alone, however often the batch lost before it was taken apart.
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
    """Asked to end while it backs off, a batch raises `Stopped`, so that nobody acknowledges it."""
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
    """PostgreSQL committed, the connection died before the answer: the batch runs again, and only then returns."""
    url = parse_database_url(schema.url)
    proxy = CuttingProxy(url.host or "localhost", url.port or 5432)
    engine = create_engine(url.set(host="127.0.0.1", port=await proxy.start()), application_name="cut")
    worker, publisher = Worker(schema.name), FakePublisher()
    batch = process(schema, worker, publisher, engine=engine)
    await batch.run(received(Item("warm", 0)))
    proxy.armed = True
    await batch.run(received(Item("a", 1)))
    assert proxy.cuts == 1
    # This handler has no guard, so the repeat can be seen: committed twice, parked never, published.
    assert await done(schema) == [("warm", 0), ("a", 1), ("a", 1)]
    assert worker.parked == {}
    assert [m.id for m in publisher.published] == ["warm:0", "a:1"]
    # The first commit's row is not forgotten: nobody has acknowledged it, so the relay will send it.
    assert len(await schema.rows("SELECT outbox_id FROM {s}.outbox WHERE refs = '{a:1}'")) == 2
    await engine.dispose()
    await proxy.stop()


async def test_what_was_not_acknowledged_stays_for_the_relay(schema: Schema) -> None:
    """When the broker's answer is unknown, the row stays and the relay sends it; nothing is lost."""
    outbox = Outbox(schema.name, grace_s=0.05)
    publisher = FakePublisher(works=False)
    batch = process(schema, Worker(schema.name), publisher, outbox=outbox)
    await batch.run(received(Item("a", 1)))
    assert outbox.sent == []
    publisher.works = True
    relay = Relay(schema.engine, schema.name, outbox, publisher)
    while not await relay.relay_once():
        await asyncio.sleep(0.02)
    assert [m.id for m in publisher.published] == ["a:1"]
    assert await schema.rows("SELECT * FROM {s}.outbox") == []


async def test_unreadable_records_are_stored_in_the_batches_transaction(schema: Schema) -> None:
    """Dead letters commit with the batch; when the batch is poisoned they are stored all the same, once."""
    worker = Worker(schema.name)
    rejected = [RejectedRecord(FakeRecord(offset=7, value=b"\xff"), "no JSON")]
    await process(schema, worker, FakePublisher()).run(received(Item("a", 5000), Item("b", 1)), rejected)
    assert await done(schema) == [("b", 1)]
    assert await schema.rows("SELECT record_offset, value FROM {s}.dead_letters") == [(7, b"\xff")]
    await process(schema, worker, FakePublisher()).run([], rejected)
    assert len(await schema.rows("SELECT * FROM {s}.dead_letters")) == 1


async def test_a_handlers_reason_with_a_nul_can_still_be_stored(schema: Schema) -> None:
    """What makes a message bad (a NUL) must not make its dead letter bad."""
    worker = Worker(schema.name, knows_orders=False)
    await process(schema, worker, FakePublisher()).run(received(Item("nul\0", 1), Item("b", 1)))
    assert await done(schema) == [("b", 1)]
    assert len(await schema.rows("SELECT * FROM {s}.dead_letters")) == 1


async def test_an_oversize_question_is_refused_before_the_commit_too(schema: Schema) -> None:
    """What is published from memory only is measured as well: it would be refused again and again."""

    class Asks(Worker):
        async def handle(self, tx: AsyncConnection, messages: Sequence[Received[Item]]) -> Effects:
            effects = await super().handle(tx, messages)
            return Effects(messages=[one.outgoing for one in effects.outbox])

    worker, publisher = Asks(schema.name, padding={"big": 600_000}), FakePublisher()
    await process(schema, worker, publisher).run(received(Item("big", 1), Item("b", 1)))
    assert await done(schema) == [("b", 1)]
    assert list(worker.parked) == ["big"]
    assert [m.id for m in publisher.published] == ["b:1"]


async def test_a_callback_that_raises_after_the_commit_blames_no_message(schema: Schema) -> None:
    """`committed` is told once; its error is no fault of the batch, which is committed and not run again."""
    told: list[int] = []

    class Tells(Worker):
        async def handle(self, tx: AsyncConnection, messages: Sequence[Received[Item]]) -> Effects:
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
