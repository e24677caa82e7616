"""Nothing accepted is lost: a claim is published until its order's row exists, a cancel until the order shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from aiokafka.partitioner import DefaultPartitioner
from prometheus_client import Counter

from contracts import codec
from contracts.envelope import Outgoing
from contracts.orders import OrderRequested
from contracts.topics import ORDERS_REQUESTS
from order_api.orders.audit_trail import Origin
from order_api.orders.changes.store import ChangeStore
from order_api.orders.publication.messages import Claim, Claimed, request_message
from order_api.orders.publication.sweeper import Sweeper
from order_api.orders.publication.unpublished import Unpublished
from order_api.orders.store import Store
from order_api.settings import ApiSettings
from saga_kit.runtime.database import create_engine
from tests.order_api.support import Api, Orchestrator, records, running, until


async def test_the_broker_has_the_request_when_the_202_is_sent(settings: ApiSettings, api: Api) -> None:
    """What stands on the topic is what the caller was told, under the order's key."""
    order = (await api.submit({"price": "50000", "client_order_id": "mine"})).json()
    found = await records(settings.kafka_bootstrap_servers, settings.kafka_topic_prefix)
    [record] = [record for record in found if record.key.decode() == order["order_id"]]
    request = codec.decode("OrderRequested", record.value)
    assert isinstance(request, OrderRequested)
    assert (order["order_id"], "alice", "mine") == (str(request.order_id), request.user_id, request.client_order_id)
    assert request.requested_at is not None
    assert datetime.fromisoformat(order["created_at"]) == request.requested_at


async def test_a_publish_that_fails_is_a_503_with_the_address_and_is_kept(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """The outcome is unknown but kept: the 503 says where to look, and the sweeper publishes the very same message."""
    async with running(settings, grace_s=0.05) as api:
        api.wire.works = False
        answer = await api.submit(key="k")
        problem = answer.json()
        assert (503, "not-published") == (answer.status_code, problem["code"])
        assert f"/orders/{problem['order_id']}" == problem["instance"] == answer.headers["location"]
        assert int(answer.headers["retry-after"]) > 0
        shown = await api.get(problem["instance"])
        assert (200, "PENDING", 0) == (shown.status_code, shown.json()["status"], shown.json()["version"])
        await until(lambda: len(api.wire.batches) >= 2)
        api.wire.works = True
        await orchestrator.run("UPDATE api.claims SET next_publish_at = now()")
        found = await until(lambda: _records_of(settings, problem["order_id"]))
        assert [dict(api.wire.asked[0].headers)] * len(found) == [dict(record.headers) for record in found]
        assert {api.wire.asked[0].value} == {record.value for record in found}


async def _records_of(settings: ApiSettings, order_id: str) -> list[object]:
    found = await records(settings.kafka_bootstrap_servers, settings.kafka_topic_prefix)
    return [record for record in found if record.key.decode() == order_id]


async def test_a_claim_that_nobody_published_is_published(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """A process that dies between claim and publish loses nothing: any other process's sweeper publishes its claim."""
    async with running(settings.model_copy(update={"api_sweep_interval_s": 60.0})) as dying:
        dying.wire.may_go_on.clear()
        posting = asyncio.create_task(dying.submit(key="k"))
        await until(lambda: dying.wire.asked)
        [never_sent] = dying.wire.asked
        assert 1 == len(await orchestrator.run("SELECT FROM api.claims"))  # committed before anything is published
        async with running(settings, grace_s=0.01) as other:
            await orchestrator.run("UPDATE api.claims SET next_publish_at = now()")
            await until(lambda: other.wire.asked)
            assert never_sent == other.wire.asked[0]
            assert await until(lambda: _records_of(settings, never_sent.key))
        dying.wire.may_go_on.set()
        await posting


async def test_the_sweeper_stops_when_the_order_exists(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """A claim is looked at until its order's row exists; then it is settled, and never published again."""
    async with running(settings, grace_s=0.01) as api:
        order_id = (await api.submit()).json()["order_id"]
        await until(lambda: len(api.wire.asked) >= 3)
        assert 0 < await api.metric("orders_published_again_total")
        await orchestrator.shows(order_id)
        await until(lambda: orchestrator.run("SELECT FROM api.claims WHERE settled"))
        published = len(api.wire.asked)
        await orchestrator.run("UPDATE api.claims SET next_publish_at = now()")
        other = (await api.submit(user="bob")).json()["order_id"]
        await until(lambda: [m.key for m in api.wire.asked].count(other) >= 2)  # the sweeper has been here
        assert {other} == {message.key for message in api.wire.asked[published:]}


async def test_a_stub_does_not_settle_a_claim(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """The row of a cancel that came first is no order: its request is still published."""
    async with running(settings, grace_s=0.01) as api:
        order_id = (await api.submit()).json()["order_id"]
        await orchestrator.shows(order_id, phase="NEW", version=0)
        seen = len(api.wire.asked)
        await until(lambda: len(api.wire.asked) > seen)
        assert [] == await orchestrator.run("SELECT FROM api.claims WHERE settled")


async def test_sweepers_share_what_is_due(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """Each due row is leased by one sweeper at a time, and the pauses of one row double: no storm."""
    engine = create_engine(settings.sqlalchemy_url, application_name="api", pool_size=8)
    store = Store(engine, grace_s=60)
    async with running(settings) as api:
        await asyncio.gather(*(api.submit() for _ in range(40)))
    await orchestrator.run("UPDATE api.claims SET next_publish_at = now(), created_at = now() - interval '100 s'")
    pages = await asyncio.gather(*(store.unread_claims.due(10) for _ in range(8)))
    leased = [claimed.claim.order_id for page in pages for claimed in page.missing]
    while more := (await store.unread_claims.due(10)).missing:
        leased += [claimed.claim.order_id for claimed in more]
    assert (40, 40) == (len(leased), len(set(leased)))
    [row] = await orchestrator.run(
        "SELECT bool_and(next_publish_at - created_at >= interval '200 s') AS doubled,"
        " bool_and(next_publish_at - now() <= now() - created_at) AS no_more FROM api.claims"
    )
    assert (True, True) == (row["doubled"], row["no_more"])  # as long again as it had existed when it was leased
    await orchestrator.run("UPDATE api.claims SET next_publish_at = now(), created_at = now() - interval '1 day'")
    await store.unread_claims.due(40)
    [row] = await orchestrator.run("SELECT max(next_publish_at - now()) AS most FROM api.claims")
    assert row["most"].total_seconds() <= 300
    await engine.dispose()


class Taken:
    """A broker that takes everything while it works."""

    def __init__(self) -> None:
        self.works = True
        self.asked: list[Outgoing] = []

    async def publish(self, messages: Sequence[Outgoing]) -> bool:
        """Take them, or not."""
        if self.works:
            self.asked += messages
        return self.works


async def test_a_queue_is_not_made_longer(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """Of many that nothing has overtaken, few are published at once, the others looked at soon: they wait in a queue.

    When the orchestrator shows one that came well after them, those of its partition were lost; others' reader is late.
    """
    engine = create_engine(settings.sqlalchemy_url, application_name="api")
    wire = Taken()
    sweeper = Sweeper(
        Store(engine), ChangeStore(engine), wire, Counter("published_again", "", registry=None), Unpublished()
    )
    async with running(settings.model_copy(update={"api_sweep_interval_s": 60.0})) as api:
        answers = await asyncio.gather(*(api.submit() for _ in range(250)))
    due = "next_publish_at = now(), created_at = now() - interval '100 s'"
    for wire.works in (False, True):  # a broker that goes away has not lost what waits
        await orchestrator.run(f"UPDATE api.claims SET {due}")
        assert not await sweeper.sweep()  # another page would be no better
    assert 100 == len(wire.asked)
    [row] = await orchestrator.run("SELECT count(*) FROM api.claims WHERE next_publish_at < now() + interval '3 s'")
    assert 150 == row["count"]

    newest = answers[0].json()["order_id"]
    await orchestrator.shows(newest)
    await orchestrator.run(f"UPDATE api.claims SET {due}")
    await orchestrator.run("UPDATE api.claims SET created_at = now() - interval '96 s' WHERE order_id = $1", newest)
    wire.asked.clear()
    assert await sweeper.sweep() is False  # a page that is not full
    ids = {answer.json()["order_id"] for answer in answers} - {newest}
    lost = {order_id for order_id in ids if _partition(order_id) == _partition(newest)}
    assert 0 < len(lost) < 100
    assert lost <= {message.key for message in wire.asked}
    assert len(lost) + 100 == len(wire.asked)
    await engine.dispose()


def _partition(order_id: str) -> int:
    count = ORDERS_REQUESTS.partitions
    partition: int = DefaultPartitioner()(order_id.encode(), list(range(count)), list(range(count)))
    return partition


async def test_what_could_not_be_published_waits_in_no_queue(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """After an outage of the broker all that its callers were told is not published goes out at once."""
    async with running(settings) as api:
        api.wire.works = False
        answers = await asyncio.gather(*(api.submit() for _ in range(250)))
        assert {503} == {answer.status_code for answer in answers}
        tried = len(api.wire.batches)
        await orchestrator.run("UPDATE api.claims SET next_publish_at = now()")
        await until(lambda: len(api.wire.batches) > tried)  # and what the sweeper could not publish is still known
        assert 250 == len(api.wire.batches[-1])
        handed_back = "SELECT FROM api.claims WHERE next_publish_at > now() + interval '0.5 s' HAVING count(*) = 250"
        await until(lambda: orchestrator.run(handed_back))  # else it and the next statement meet
        api.wire.works = True
        tried = len(api.wire.batches)
        await orchestrator.run("UPDATE api.claims SET next_publish_at = now()")
        await until(lambda: len(api.wire.batches) > tried)
        assert 250 == len(api.wire.batches[tried])


async def test_a_cancel_that_nobody_read_proves_nothing_lost(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """An order that ended by itself settles its cancel, which may still stand in the queue, with others before it."""
    engine = create_engine(settings.sqlalchemy_url, application_name="api")
    store = Store(engine)
    async with running(settings.model_copy(update={"api_sweep_interval_s": 60.0})) as api:
        ended, read = [(await api.submit()).json()["order_id"] for _ in range(2)]
        for order_id in (ended, read):
            await orchestrator.shows(order_id)
            await api.cancel(order_id)
    await orchestrator.shows(ended, phase="COMPLETED")
    await orchestrator.shows(read, cancel_requested=True)
    await orchestrator.run("UPDATE api.cancels SET next_publish_at = now()")
    looked = await store.unread_cancels.due(10)
    assert (2, [], [read]) == (looked.number, looked.missing, [str(order_id) for order_id, _ in looked.shown])
    await engine.dispose()


async def test_a_deadlock_between_processes_costs_nobody_an_order(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """Two processes claim the same two names in different orders: one loses the deadlock, and asks again."""
    engine = create_engine(settings.sqlalchemy_url, application_name="api", pool_size=3)
    store = Store(engine)

    def claims(*names: tuple[str, str]) -> list[tuple[Claim, Origin]]:
        made = [Claim(uuid4(), "alice", key, name, "", b"{}", None) for key, name in names]
        return [(claim, Origin("alice", "", None, None)) for claim in made]

    # Whoever holds the middle key lets both get their first name, and makes both wait before their second.
    async with engine.connect() as holding:
        await holding.begin()
        await holding.exec_driver_sql(
            "INSERT INTO api.claims (order_id, user_id, idempotency_key, intent, request, next_publish_at)"
            " SELECT gen_random_uuid(), 'alice', key, '', '', now() FROM unnest(ARRAY['b', 'e']) AS key"
        )
        one = asyncio.create_task(store.claim(claims(("a", "first"), ("b", "x"), ("c", "second"))))
        other = asyncio.create_task(store.claim(claims(("d", "second"), ("e", "y"), ("f", "first"))))
        await until(lambda: _waiting(orchestrator, 2))
        await holding.rollback()
        got = [*(await one), *(await other)]
    assert 4 == sum(time is not None for time in got)  # each of the four names once
    await engine.dispose()


async def _waiting(orchestrator: Orchestrator, number: int) -> bool:
    [row] = await orchestrator.run(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO api.claims%'"
    )
    return bool(row["count"] == number)


PAST_CANCEL: list[dict[str, Any]] = [
    {"cancel_requested": True},
    {"phase": "SETTLING"},
    {"phase": "COMPLETED"},
    {"phase": "FAILED"},
]


async def test_what_could_not_be_published_is_due_again_soon(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """A sweep that fails gives its rows back: when the broker returns, nothing waits for its doubled pause."""
    async with running(settings) as api:
        order_id = (await api.submit()).json()["order_id"]
        await orchestrator.shows(order_id)
        await api.cancel(order_id)
        await api.submit()
        api.wire.works = False
        seen = len(api.wire.batches)
        for table in ("claims", "cancels"):
            old = "next_publish_at = now(), created_at = now() - interval '200 s'"
            await orchestrator.run(f"UPDATE api.{table} SET {old} WHERE NOT settled")
        await until(lambda: len(api.wire.batches) >= seen + 2)
        for table in ("claims", "cancels"):
            soon = f"SELECT FROM api.{table} WHERE NOT settled AND next_publish_at < now() + interval '3 s'"
            await until(lambda sql=soon: orchestrator.run(sql))


async def test_a_cancel_is_published_until_the_order_shows_it(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """An accepted cancel goes out again until the order shows it or is past it."""
    async with running(settings, grace_s=0.01) as api:
        orders = [(await api.submit()).json()["order_id"] for _ in PAST_CANCEL]
        for order_id in orders:
            await orchestrator.shows(order_id)
        api.wire.works = False
        for order_id in orders:
            answer = await api.cancel(order_id)
            assert (503, f"/orders/{order_id}") == (answer.status_code, answer.json()["instance"])
        api.wire.works = True
        first = len(api.wire.asked)
        cancels = {f"{order_id}:cancel:alice" for order_id in orders}
        await until(lambda: cancels <= {message.id for message in api.wire.asked[first:]}, 20)
        for order_id, end in zip(orders, PAST_CANCEL, strict=True):
            await orchestrator.shows(order_id, **end)
        await until(lambda: _all_settled(orchestrator, len(orders)))


async def _all_settled(orchestrator: Orchestrator, number: int) -> bool:
    return number == len(await orchestrator.run("SELECT FROM api.cancels WHERE settled"))


async def test_an_id_that_another_producer_took(api: Api, orchestrator: Orchestrator) -> None:
    """Its claim's user reads FAILED / ORDER_ID_TAKEN; the owner of the order that exists, and an operator, see that."""
    posted = (await api.submit(key="k")).json()
    path = f"/orders/{posted['order_id']}"
    await orchestrator.shows(posted["order_id"], user_id="mallory", asset_id="ETH")
    history = "INSERT INTO orders.history VALUES ($1::text::uuid, 1, now(), 0, 1, ARRAY['>PENDING'], $2::text::jsonb)"
    await orchestrator.run(history, posted["order_id"], '[{"kind": "status", "name": "PENDING", "version": 1}]')
    taken = (await api.get(path)).json()
    assert ("FAILED", "ORDER_ID_TAKEN", 1) == (taken["status"], taken["reason_code"], taken["version"])
    assert ("alice", "BTC", posted["created_at"]) == (taken["user_id"], taken["asset_id"], taken["created_at"])
    assert taken["updated_at"] >= taken["created_at"]
    assert [] == (await api.get(path + "/history")).json()["history"]
    assert 409 == (await api.cancel(posted["order_id"])).status_code
    assert taken == (await api.submit(key="k")).json()
    for viewer in ({"user": "mallory", "scope": "orders:read"}, {"user": "ops", "scope": "orders:operate"}):
        assert 1 == len((await api.get(path + "/history", **viewer)).json()["history"])
        seen = (await api.get(path, **viewer)).json()
        assert ("mallory", "ETH", "PENDING") == (seen["user_id"], seen["asset_id"], seen["status"])
    assert 404 == (await api.get(path, user="bob")).status_code


def test_a_claims_message_is_made_from_stored_values_alone() -> None:
    """The same claim gives the same bytes for ever, and a field that a later rule refuses still goes out as it is."""
    time = datetime(2025, 1, 2, 3, 4, 5, 6000, tzinfo=UTC)
    body = (
        b'{"order_id":"00000000-0000-0000-0000-000000000001","user_id":"a","quantity":"1","requested_at":null,"new":1}'
    )
    claim = Claim(UUID(int=1), "a", None, None, "", body, None)
    message = request_message(Claimed(claim, time))
    assert body.replace(b"null", b'"2025-01-02T03:04:05.006000Z"') == message.value
    assert "00000000-0000-0000-0000-000000000001:request" == message.id
