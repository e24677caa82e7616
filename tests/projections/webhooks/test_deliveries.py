"""What the handler stores: each event once for whom it is, older versions overtaken, whatever changes meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from contracts.vocabulary import OrderStatus
from projections.webhooks import store
from saga_kit.messaging.batch import Received
from saga_kit.runtime.errors import classify
from tests.projections.webhooks.events import event
from tests.projections.webhooks.world import Webhooks

URL = "https://example.com/hook"
P, S = "PENDING", "SUPERSEDED"


async def test_no_subscriber_no_row(webhooks: Webhooks) -> None:
    """Events of users without an endpoint write nothing."""
    await webhooks.endpoint(URL, "bob")
    await webhooks.take(event(1, 1), event(2, 1))
    assert [] == await webhooks.states()


async def test_an_event_is_stored_once(webhooks: Webhooks) -> None:
    """However often it is read, and beside whatever else."""
    await webhooks.endpoint(URL, every_version=True)
    for _ in range(2):
        await webhooks.take(event(1, 1), event(1, 1), event(2, 1))
        await webhooks.take(event(1, 2))
    assert [(1, P, None), (2, P, None), (1, P, None)] == await webhooks.states()


async def test_a_newer_version_overtakes_what_was_not_sent(webhooks: Webhooks) -> None:
    """Within a batch and over batches, and when an old version is read again."""
    await webhooks.endpoint(URL)
    await webhooks.take(event(1, 1))
    await webhooks.take(event(1, 2), event(1, 3))
    assert [(1, S, "version 3 came"), (2, S, "version 3 came"), (3, P, None)] == await webhooks.states()
    await webhooks.execute("DELETE FROM webhooks.deliveries WHERE version < 3")
    await webhooks.take(event(1, 1))
    assert [(1, S, "version 3 came"), (3, P, None)] == await webhooks.states()


async def test_the_end_of_an_order_is_never_overtaken(webhooks: Webhooks) -> None:
    """Not even by a version that should not be there."""
    await webhooks.endpoint(URL)
    way = (OrderStatus.PENDING, OrderStatus.COMPLETED, OrderStatus.COMPLETED)
    await webhooks.take(event(1, 2, way=(OrderStatus.PENDING, OrderStatus.COMPLETED)))
    await webhooks.take(event(1, 3, way=way))
    assert P == (await webhooks.states())[0][1]


async def test_every_version_is_sent_to_who_wants_it(webhooks: Webhooks) -> None:
    """Nothing is overtaken there, while another endpoint of the same user gets states."""
    every = await webhooks.endpoint(URL, every_version=True)
    states = await webhooks.endpoint(URL)
    for version in (1, 2, 3, 4):
        await webhooks.take(event(1, version))
    assert [P] * 4 == [state for _, state, _ in await webhooks.states(every)]
    assert [S, S, S, P] == [state for _, state, _ in await webhooks.states(states)]


async def test_a_change_counts_for_the_next_event(webhooks: Webhooks) -> None:
    """An endpoint that is new, changed, disabled or deleted: at once, not a second later."""
    handler = webhooks.handler()
    await webhooks.take(event(1, 1), handler=handler)
    endpoint_id = await webhooks.endpoint(URL)
    await webhooks.take(event(2, 1), handler=handler)
    await webhooks.api.execute("UPDATE webhooks.endpoints SET event_types = '{order.completed}'")
    await webhooks.changed()
    await webhooks.take(event(3, 1), event(4, 4), handler=handler)
    await webhooks.api.execute("UPDATE webhooks.endpoints SET state = 'DISABLED', disabled_reason = 'by its user'")
    await webhooks.changed()
    await webhooks.take(event(5, 4), handler=handler)
    told = await webhooks.owner.fetch("SELECT order_id FROM webhooks.deliveries ORDER BY 1")
    assert [UUID(int=2), UUID(int=4)] == [row[0] for row in told]
    await webhooks.api.execute("DELETE FROM webhooks.endpoints WHERE endpoint_id = $1", endpoint_id)
    await webhooks.take(event(6, 4), handler=handler)  # it does not know yet, and leaves the endpoint out
    assert [] == await webhooks.states()


async def test_an_endpoint_that_was_given_up_gets_rows_for_a_week(webhooks: Webhooks) -> None:
    """They are sent when its user enables it; after that it costs nothing any more."""
    endpoint_id = await webhooks.endpoint(URL)
    disable = (
        "UPDATE webhooks.endpoints SET state = 'DISABLED', disabled_reason = 'x', disabled_at = now() - $1::interval"
    )
    for number, since in ((1, timedelta(days=6)), (2, timedelta(days=8))):
        await webhooks.execute(disable, since)
        await webhooks.changed()
        await webhooks.take(event(number, 1))
    assert [(1, P, None)] == await webhooks.states(endpoint_id)


async def test_an_endpoint_that_is_being_deleted_holds_up_its_own_events(webhooks: Webhooks) -> None:
    """The batch waits for the deletion, and then leaves it out; nothing refers to what is gone."""
    endpoint_id = await webhooks.endpoint(URL)
    handler = webhooks.handler()
    await webhooks.take(event(1, 1), handler=handler)
    async with webhooks.api.transaction():
        await webhooks.api.execute("DELETE FROM webhooks.endpoints WHERE endpoint_id = $1", endpoint_id)
        taking = asyncio.create_task(webhooks.take(event(2, 1), handler=handler))
        await webhooks.until("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    await taking
    assert [] == await webhooks.states()


async def test_a_lock_that_lasts_holds_up_the_batch_and_loses_nothing(webhooks: Webhooks) -> None:
    """It is an error of the infrastructure: no event becomes a dead letter, and none is written to its topic again."""
    endpoint_id = await webhooks.endpoint(URL)
    handler = webhooks.handler()
    transaction = webhooks.api.transaction()
    await transaction.start()
    await webhooks.api.execute("DELETE FROM webhooks.endpoints WHERE endpoint_id = $1", endpoint_id)
    async with webhooks.transactions.begin() as tx:
        await tx.execute("SET LOCAL lock_timeout = '50ms'")
        with pytest.raises(TimeoutError) as caught:
            await handler.handle(tx, [Received(event(1, 1))])
    assert "infrastructure" == classify(caught.value)
    await transaction.rollback()
    await webhooks.take(event(1, 1), handler=handler)
    assert [(1, P, None)] == await webhooks.states()


async def test_what_waited_for_too_long_is_given_up_and_what_ended_long_ago_is_deleted(webhooks: Webhooks) -> None:
    """After seven days, and after the days that are set; with their attempts, and nothing younger."""
    await webhooks.endpoint(URL, every_version=True)
    await webhooks.take(*(event(1, version) for version in (1, 2, 3, 4)))
    await webhooks.execute(
        "UPDATE webhooks.deliveries SET next_attempt_at = now() - make_interval(days => 5 + version::int, hours => -1)"
    )
    async with webhooks.transactions.alone() as tx:
        assert 2 == await store.give_up_old(tx, 100)
    why = "its endpoint took nothing for 7 days"
    assert [(1, P, None), (2, P, None), (3, "FAILED", why), (4, "FAILED", why)] == await webhooks.states()
    await webhooks.execute("UPDATE webhooks.deliveries SET ended_at = now() - interval '31 days' WHERE version = 3")
    await webhooks.execute(
        "INSERT INTO webhooks.attempts SELECT endpoint_id, event_id, 1, now(), 5, 500, 'x', 'y'"
        " FROM webhooks.deliveries"
    )
    async with webhooks.transactions.alone() as tx:
        assert 1 == await store.delete_ended(tx, 30, 100)
    assert (3, 3) == (len(await webhooks.states()), await webhooks.value("SELECT count(*) FROM webhooks.attempts"))


async def test_codes_are_counted_for_a_day(webhooks: Webhooks) -> None:
    """The process forgets those of the days before; today's still count."""
    await webhooks.execute("INSERT INTO webhooks.codes SELECT 'x', current_date - n, 1 FROM generate_series(0, 2) AS n")
    async with webhooks.sending():
        await webhooks.until("SELECT count(*) = 1 FROM webhooks.codes")
    assert await webhooks.value("SELECT day = current_date FROM webhooks.codes")
