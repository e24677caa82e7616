"""From a stored delivery to its mark, with real receivers: at least once, bounded, retried, given up and told."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from contracts.webhooks import StoredSecret, origin_of, secret_text, secrets_to
from projections.webhooks import rules, store
from projections.webhooks.deliveries import Attempt, Delivery, Endpoint, Marked
from projections.webhooks.lines import SHARES, Lane
from projections.webhooks.rules import PROBES_AFTER, Answer, next_step
from projections.webhooks.store import Want
from tests.projections.webhooks.events import event
from tests.projections.webhooks.receivers import SEAL, Received, answer, hang, receiving
from tests.projections.webhooks.world import SECRET, Webhooks

ENDED = "SELECT count(*) = $1 FROM webhooks.deliveries WHERE state = 'DELIVERED'"


async def test_what_is_stored_is_sent_and_marked(webhooks: Webhooks) -> None:
    """At once, verified by the standard's library, with one attempt that says what was answered."""
    async with receiving(answer(body=b"thank you")) as receiver, webhooks.sending():
        await webhooks.endpoint(receiver.url)
        await webhooks.take(event(1, 1))
        await receiver.wait_for(1)
        await webhooks.all_ended()
    [got] = receiver.received
    body = Webhook(secret_text(SECRET)).verify(got.body, got.headers)
    assert ("order.pending", str(UUID(int=1)), 1) == (body["type"], body["data"]["order_id"], body["data"]["version"])
    [row] = await webhooks.owner.fetch("SELECT number, status, error, answer, duration_ms FROM webhooks.attempts")
    assert (1, 200, None, "thank you") == tuple(row)[:4]
    assert [(1, "DELIVERED", None)] == await webhooks.states()
    assert await webhooks.value("SELECT attempts = 1 AND leased_until IS NULL FROM webhooks.deliveries")


async def test_what_was_stored_while_nobody_sent_is_found(webhooks: Webhooks) -> None:
    """By another process, before, or by the API."""
    async with receiving() as receiver:
        await webhooks.endpoint(receiver.url)
        await webhooks.take(event(1, 1), event(2, 1))
        async with webhooks.sending():
            await receiver.wait_for(2)
            await webhooks.all_ended()


async def test_what_failed_comes_again_after_its_pause(webhooks: Webhooks) -> None:
    """With the same id and body and a new signature; the reason stands in the delivery until then."""
    async with receiving(answer("500 Oops", b"no")) as receiver, webhooks.sending():
        await webhooks.endpoint(receiver.url)
        await webhooks.take(event(1, 1))
        await webhooks.until("SELECT attempts = 1 FROM webhooks.deliveries")
        # Reckoned from the attempt, not from now: meanwhile some time may have passed.
        pause = await webhooks.value("SELECT next_attempt_at - at FROM webhooks.deliveries, webhooks.attempts")
        assert timedelta(seconds=3) < pause < timedelta(seconds=20)
        assert [(1, "PENDING", "answered 500")] == await webhooks.states()
        receiver.answering = answer()
        await webhooks.due_now()
        await webhooks.all_ended()
    first, second = receiver.received
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    Webhook(secret_text(SECRET)).verify(second.body, second.headers)
    assert (0, None) == tuple(
        await webhooks.owner.fetchrow("SELECT failures_in_row, failing_since FROM webhooks.endpoints")
    )


async def test_after_the_last_attempt_a_delivery_has_failed(webhooks: Webhooks) -> None:
    """Ten attempts, each stored."""
    async with receiving(answer("500 Oops")) as receiver, webhooks.sending():
        await webhooks.endpoint(receiver.url)
        await webhooks.take(event(1, 4))
        for number in range(1, 11):
            await webhooks.until("SELECT count(*) >= $1 FROM webhooks.attempts", number)
            await webhooks.due_now()
        await webhooks.all_ended()
    assert [(4, "FAILED", "given up after 10 attempts; the last one: answered 500")] == await webhooks.states()
    assert 10 == len(receiver.received)


async def test_a_silent_endpoint_gets_probes_and_everything_when_it_is_back(
    webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it fails, hardly anything is tried; its first success makes all of it due."""
    monkeypatch.setattr(rules, "PROBE_FIRST_S", 300.0)  # only this test lets a pause be over
    async with receiving(answer("500 Oops")) as receiver, webhooks.sending():
        endpoint_id = await webhooks.endpoint(receiver.url)
        await webhooks.take(*(event(number, 4) for number in range(1, 41)))
        await webhooks.until("SELECT failures_in_row >= 5 FROM webhooks.endpoints")
        await webhooks.until("SELECT NOT EXISTS (SELECT FROM webhooks.deliveries WHERE leased_until IS NOT NULL)")
        tried = len(receiver.received)
        assert PROBES_AFTER <= tried <= PROBES_AFTER + 4
        assert await webhooks.value("SELECT paused_until > now() + interval '200 seconds' FROM webhooks.endpoints")
        await webhooks.take(event(41, 4))
        await webhooks.execute("UPDATE webhooks.endpoints SET paused_until = NULL")
        await receiver.wait_for(tried + 1)
        await webhooks.until("SELECT failures_in_row > $1 FROM webhooks.endpoints", tried)
        assert tried + 1 == len(receiver.received)
        receiver.answering = answer()
        await webhooks.execute("UPDATE webhooks.endpoints SET paused_until = NULL")
        await webhooks.all_ended()
    assert 41 == len(await webhooks.states(endpoint_id))
    assert await webhooks.value(ENDED, 41)


async def test_410_disables_an_endpoint_and_the_others_are_told(webhooks: Webhooks) -> None:
    """At once and with the reason; those who did not ask for it are not told, and it gets nothing any more."""
    async with receiving(answer("410 Gone")) as gone, receiving() as other, receiving() as deaf, webhooks.sending():
        endpoint_id = await webhooks.endpoint(gone.url)
        await webhooks.endpoint(other.url, types=["order.failed", "webhook.disabled"])
        await webhooks.endpoint(deaf.url, types=["order.failed"])
        await webhooks.endpoint(other.url, "bob")
        before = await webhooks.value("SELECT version FROM webhooks.changes")
        await webhooks.take(event(1, 1))
        await other.wait_for(1)
        await webhooks.take(event(2, 1))
        await webhooks.until("SELECT count(*) = 1 FROM webhooks.deliveries WHERE state = 'DELIVERED'")
    [told] = other.received
    body = json.loads(told.body)
    assert ("webhook.disabled", str(endpoint_id), origin_of(gone.url)) == (
        body["type"], body["data"]["endpoint_id"], body["data"]["url"],
    )  # fmt: skip
    Webhook(secret_text(SECRET)).verify(told.body, told.headers)
    assert "." not in told.headers["webhook-id"]
    assert ("DISABLED", "it answered 410: it is gone", True, before + 1) == tuple(
        await webhooks.owner.fetchrow(
            """
            SELECT state, disabled_reason, disabled_at IS NOT NULL, version
            FROM webhooks.endpoints, webhooks.changes WHERE endpoint_id = $1""",
            endpoint_id,
        )
    )
    assert (1, 0) == (len(gone.received), len(deaf.received))
    assert 2 == await webhooks.value("SELECT count(*) FROM webhooks.deliveries WHERE state = 'PENDING'")


async def test_five_days_of_failures_disable_an_endpoint_and_enabling_sends_what_waited(webhooks: Webhooks) -> None:
    """Whatever came meanwhile, too."""
    async with receiving(answer("500 Oops")) as receiver, webhooks.sending():
        await webhooks.endpoint(receiver.url)
        await webhooks.execute(
            "UPDATE webhooks.endpoints SET failures_in_row = 20, failing_since = now() - interval '121 hours'"
        )
        await webhooks.take(event(1, 4))
        await webhooks.until("SELECT state = 'DISABLED' FROM webhooks.endpoints")
        reason = await webhooks.value("SELECT disabled_reason FROM webhooks.endpoints")
        assert "every attempt has failed for 5 days; the last one: answered 500" == reason
        await webhooks.take(event(2, 4))
        receiver.answering = answer()
        await webhooks.api.execute(
            """
            UPDATE webhooks.endpoints SET state = 'ACTIVE', disabled_reason = NULL, disabled_at = NULL,
                failing_since = NULL, failures_in_row = 0, paused_until = NULL"""
        )
        await webhooks.changed()
        await webhooks.due_now()
        await webhooks.all_ended()
    assert await webhooks.value(ENDED, 2)


async def test_a_version_that_comes_during_an_attempt_overtakes_it_only_when_that_fails(webhooks: Webhooks) -> None:
    """What was delivered is delivered; what failed is not tried again."""
    for status, state in (("200 OK", "DELIVERED"), ("500 Oops", "SUPERSEDED")):
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slowly(
            got: Received, writer: asyncio.StreamWriter,
            begun: asyncio.Event = begun, go_on: asyncio.Event = go_on, status: str = status,
        ) -> None:  # fmt: skip
            begun.set()
            await go_on.wait()
            await answer(status)(got, writer)

        async with receiving(slowly) as receiver, webhooks.sending():
            endpoint_id = await webhooks.endpoint(receiver.url)
            await webhooks.take(event(1, 1))
            await begun.wait()
            await webhooks.take(event(1, 2))
            receiver.answering = answer()
            go_on.set()
            await webhooks.until(
                "SELECT count(*) = 2 FROM webhooks.deliveries WHERE endpoint_id = $1 AND ended_at IS NOT NULL",
                endpoint_id,
            )
        assert [(1, state), (2, "DELIVERED")] == [one[:2] for one in await webhooks.states(endpoint_id)]
        await webhooks.execute("DELETE FROM webhooks.endpoints")
        await webhooks.changed()


async def test_a_version_that_was_locked_when_a_newer_one_came_is_overtaken_when_it_fails(webhooks: Webhooks) -> None:
    """It was being marked or claimed just then, so the newer one could not overtake it itself."""
    async with receiving(answer("500 Oops")) as receiver:
        await webhooks.endpoint(receiver.url)
        await webhooks.take(event(1, 1))
        async with webhooks.owner.transaction():
            await webhooks.execute("SELECT FROM webhooks.deliveries FOR NO KEY UPDATE")
            await webhooks.take(event(1, 2))
        assert [(1, "PENDING"), (2, "PENDING")] == [one[:2] for one in await webhooks.states()]
        async with webhooks.sending():
            await webhooks.until("SELECT count(*) = 2 FROM webhooks.attempts")
    assert [(1, "SUPERSEDED", "version 2 came"), (2, "PENDING", "answered 500")] == await webhooks.states()


async def test_what_waits_for_its_next_try_is_due_when_its_endpoint_answers_again(webhooks: Webhooks) -> None:
    """Not hours later: the pause was for an endpoint that is silent."""
    async with receiving() as receiver:
        await webhooks.endpoint(receiver.url)
        await webhooks.take(event(1, 4), event(2, 4))
        await webhooks.execute("UPDATE webhooks.endpoints SET failing_since = now(), failures_in_row = 7")
        await webhooks.execute(
            "UPDATE webhooks.deliveries SET attempts = 3, next_attempt_at = now() + interval '5 hours'"
            " WHERE order_id = (SELECT max(order_id::text)::uuid FROM webhooks.deliveries)"
        )
        async with webhooks.sending():
            await webhooks.all_ended()
        assert 2 == len(receiver.received)


async def test_an_endpoint_that_is_deleted_during_an_attempt_leaves_nothing_behind(webhooks: Webhooks) -> None:
    """Its deliveries and attempts go with it, and the others are marked."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(got: Received, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await go_on.wait()
        await answer()(got, writer)

    async with receiving(slowly) as receiver, receiving() as other, webhooks.sending():
        gone = await webhooks.endpoint(receiver.url)
        await webhooks.endpoint(other.url)
        await webhooks.take(event(1, 1))
        await begun.wait()
        await webhooks.api.execute("DELETE FROM webhooks.endpoints WHERE endpoint_id = $1", gone)
        await webhooks.changed()
        go_on.set()
        await webhooks.all_ended()
        await webhooks.take(event(2, 1))
        await webhooks.until(ENDED, 2)
    assert 2 == await webhooks.value("SELECT count(*) FROM webhooks.attempts")


async def test_dead_endpoints_cost_the_others_nothing(webhooks: Webhooks) -> None:
    """Thirty that hang, more than there are slots for: one that answers gets everything at once."""
    async with receiving(hang) as dead, receiving() as receiver, webhooks.sending(attempt_s=600, in_flight_max=20):
        for _ in range(30):
            await webhooks.endpoint(dead.url, "bob")
        await webhooks.endpoint(receiver.url)
        await webhooks.take(event(1000, 4))
        await webhooks.until(ENDED, 1)
        await webhooks.take(*(event(number, 4, "bob") for number in range(1, 11)))
        share = 20 // SHARES[Lane.NEW]
        await dead.wait_for(share)
        await webhooks.take(*(event(number, 4) for number in range(2000, 2100)))
        await receiver.wait_for(101, within_s=120)
        assert share == len(dead.received)
        for sender in webhooks.senders:  # so that the end does not wait for them
            for task in sender._tasks:  # noqa: SLF001 - nothing else ends an attempt early
                task.cancel()


async def test_two_processes_share_the_work_and_keep_its_bounds(webhooks: Webhooks) -> None:
    """Each delivery is sent once, and an endpoint has at most four attempts at once, of both together."""
    at_once: Counter[int] = Counter()
    most: Counter[int] = Counter()

    async def counted(got: Received, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        at_once[port] += 1
        most[port] = max(most[port], at_once[port])
        await asyncio.sleep(0.002)
        at_once[port] -= 1
        await answer()(got, writer)

    async with receiving(counted) as one, receiving(counted) as two, webhooks.sending(), webhooks.sending():
        for receiver in (one, two):
            await webhooks.endpoint(receiver.url)
        for batch in range(10):
            await webhooks.take(*(event(batch * 100 + number, 4) for number in range(100)))
        await webhooks.all_ended()
    for receiver in (one, two):
        ids = Counter(got.headers["webhook-id"] for got in receiver.received)
        assert (1000, {1}) == (len(ids), set(ids.values()))
        assert most[receiver.port] <= 4


async def test_a_lease_that_ran_out_is_somebody_elses(webhooks: Webhooks) -> None:
    """While it holds, nobody else claims anything of the endpoint; then it is sent once more.

    A late mark of the first process is only kept when that one had delivered it.
    """
    endpoint_id = await webhooks.endpoint("https://example.com/")
    await webhooks.take(event(1, 4), event(2, 4))
    [(endpoint, [first])] = await _claim(webhooks, endpoint_id, 1)
    assert [] == await _claim(webhooks, endpoint_id, 4)
    await webhooks.execute(
        "UPDATE webhooks.deliveries SET leased_until = now() - interval '1 s', next_attempt_at = now() - interval '1 h'"
        " WHERE leased_until IS NOT NULL"
    )
    [(_, [second])] = await _claim(webhooks, endpoint_id, 1)
    assert first.event_id == second.event_id
    await _mark(webhooks, first, Answer(500, 0.1))
    assert [("PENDING", True, 1)] == await _stored(webhooks, first)
    await _mark(webhooks, first, Answer(200, 0.1))
    assert [("DELIVERED", False, 1)] == await _stored(webhooks, first)
    await _mark(webhooks, second, Answer(500, 0.1))
    assert [("DELIVERED", False, 1)] == await _stored(webhooks, first)
    assert endpoint.endpoint_id == endpoint_id


async def test_while_a_secret_is_replaced_under_load_every_delivery_verifies(webhooks: Webhooks) -> None:
    """With the old secret before, with both meanwhile, with the new one after; never with none."""
    new = bytes(range(100, 132))
    async with receiving() as receiver, webhooks.sending():
        await webhooks.endpoint(receiver.url)
        for batch in range(12):
            await webhooks.take(*(event(batch * 50 + number, 4) for number in range(50)))
            if batch == 4:
                await webhooks.until("SELECT count(*) > 0 FROM webhooks.deliveries WHERE state = 'DELIVERED'")
                ends = datetime.now(UTC) + timedelta(hours=24)
                stored = [StoredSecret(SEAL.seal(new)), StoredSecret(SEAL.seal(SECRET), ends)]
                await webhooks.api.execute("UPDATE webhooks.endpoints SET secrets = $1", secrets_to(stored))
                await webhooks.changed()
            if batch == 8:
                await webhooks.until(ENDED, 450)
                await webhooks.api.execute(
                    "UPDATE webhooks.endpoints SET secrets = $1", secrets_to([StoredSecret(SEAL.seal(new))])
                )
                await webhooks.changed()
        await webhooks.all_ended()
    by = [(_verifies(SECRET, got), _verifies(new, got)) for got in receiver.received]
    assert 600 == len(by)
    assert {(True, False), (True, True), (False, True)} == set(by)


async def test_at_the_end_what_is_under_way_is_marked_and_the_rest_is_free(webhooks: Webhooks) -> None:
    """No lease is left behind by a process that ends in an orderly way."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(got: Received, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await go_on.wait()
        await answer()(got, writer)

    async with receiving(slowly) as receiver:
        await webhooks.endpoint(receiver.url)
        async with webhooks.sending():
            await webhooks.take(*(event(number, 4) for number in range(1, 51)))
            await begun.wait()
            asyncio.get_running_loop().call_later(0.2, go_on.set)
    assert not await webhooks.value("SELECT count(*) FROM webhooks.deliveries WHERE leased_until IS NOT NULL")
    assert 1 == await webhooks.value("SELECT count(*) FROM webhooks.deliveries WHERE state = 'DELIVERED'")


async def test_no_text_of_an_answer_holds_up_the_marks(webhooks: Webhooks) -> None:
    """Whatever a courier hands over: what the database can't store is left out, and the rest is kept."""

    class Odd:
        async def send(self, _endpoint: Endpoint, _delivery: Delivery) -> Answer:
            return Answer(None, 0.1, "no\0pe\ud800\n" + "x" * 10_000, "\0ok")

    async with webhooks.sending(Odd()):
        await webhooks.endpoint("https://example.com/")
        await webhooks.take(event(1, 4))
        await webhooks.until("SELECT attempts = 1 FROM webhooks.deliveries")
    told = await webhooks.owner.fetchrow("SELECT left(error, 6), length(error), answer FROM webhooks.attempts")
    assert ("nopexx", 500, "ok") == tuple(told)


async def test_a_courier_that_raises_costs_one_attempt(webhooks: Webhooks) -> None:
    """A bug in one kind of endpoint neither stops the sender nor loses a slot."""

    class Broken:
        async def send(self, _endpoint: Endpoint, _delivery: Delivery) -> Answer:
            raise RuntimeError("a bug")

    async with webhooks.sending(Broken()):
        await webhooks.endpoint("https://example.com/")
        await webhooks.take(event(1, 4))
        await webhooks.until("SELECT attempts = 1 FROM webhooks.deliveries")
        await webhooks.due_now()
        await webhooks.until("SELECT attempts = 2 FROM webhooks.deliveries")


async def _claim(webhooks: Webhooks, endpoint_id: UUID, rows: int) -> list[tuple[Endpoint, list[Delivery]]]:
    async with webhooks.transactions.begin() as tx:
        return await store.claim(tx, [Want(endpoint_id, rows, 0)])


async def _mark(webhooks: Webhooks, delivery: Delivery, given: Answer) -> None:
    step = next_step(delivery.attempts + 1, given, 0.5)
    async with webhooks.transactions.begin() as tx:
        await store.mark(tx, [Marked(Attempt(delivery, given, 0.0), step.state, step.delay_s, step.reason)], 0.0)


async def _stored(webhooks: Webhooks, delivery: Delivery) -> list[tuple[str, bool, int]]:
    rows = await webhooks.owner.fetch(
        "SELECT state, leased_until IS NOT NULL, attempts FROM webhooks.deliveries WHERE event_id = $1",
        delivery.event_id,
    )
    return [tuple(row) for row in rows]


def _verifies(secret: bytes, got: Received) -> bool:
    try:
        Webhook(secret_text(secret)).verify(got.body, got.headers)
    except WebhookVerificationError:
        return False
    return True
