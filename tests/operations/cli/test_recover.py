"""After a restore orders are brought forward to what Kafka has told, groups go back, and what it lost is told again.

The database has lived through a part of a history, and Kafka has all of it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete
from msgspec import structs
from prometheus_client import CollectorRegistry

from contracts.codec import decode, outgoing
from contracts.decimals import Money, Quantity
from contracts.envelope import Outgoing, read_envelope
from contracts.holds import HoldCaptured, HoldCaptureRequested, HoldPlaced, HoldRequested
from contracts.orders import OrderStatusChanged
from contracts.topics import BALANCE_COMMANDS, ORDERS_EVENTS, ORDERS_REQUESTS, TOPICS
from contracts.vocabulary import OrderType, Side
from operations.audit.look import Finding, audit
from operations.recovery.groups import GROUPS
from order_saga.core.commands import command
from order_saga.core.fold import fold
from order_saga.core.saga import Incoming, Requested, Saga
from order_saga.worker import store
from participants.balance.hold_handler import HoldHandler
from participants.balance.service import participant
from participants.balance.store import deposit
from saga_kit.messaging.batch import Received
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.settings import KafkaSettings
from saga_kit.runtime.transactions import Transaction, begin
from tests.operations.cli.support import Terminal, lines
from tests.order_saga.core.sample import (
    ORDER_ID,
    approved,
    cancel,
    conditional,
    fired,
    fitting,
    not_reserved,
    refunded,
    requested,
    reserved,
    settled,
)  # fmt: skip
from tests.order_saga.core.test_fold import of
from tests.support.infrastructure import Infrastructure, kafka_admin

pytestmark = pytest.mark.apache_kafka  # the embedded broker has no groups that can be set back

ALL: Final = {topic.name: 2 for topic in TOPICS}
BUY: Final = (requested(), approved(), reserved(), settled())
FAILS: Final = (requested(Side.SELL), approved(), not_reserved(), refunded())
STOP: Final = (
    conditional(OrderType.STOP_LOSS_SELL, trigger_price="49000"), approved(), reserved(), fired("48900"), settled(),
)  # fmt: skip


class Kafka:
    """The broker's side: what was published of a history that went further than the database knows."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.environment = {
            "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
            "KAFKA_TOPIC_PREFIX": settings.kafka_topic_prefix,
        }
        self.sagas: dict[UUID, Saga] = {}

    async def live(self, number: int, *messages: Incoming) -> list[OrderStatusChanged]:
        """Let an order live through these messages, and publish all that follows; return its versions."""
        now, order_id = datetime.now(UTC), UUID(int=number)
        out: list[Outgoing] = []
        told: list[OrderStatusChanged] = []
        for message in messages:
            mine = _now(of(message, order_id), now)
            if isinstance(mine, Requested):
                out.append(outgoing(mine.request, message_id=str(order_id), source="/test", time=now))
            elif order_id in self.sagas:
                mine = of(fitting(_as_sample(self.sagas[order_id]), _as_sample_message(mine)), order_id)
            folded = fold(self.sagas, [mine], now)
            self.sagas |= folded.sagas
            told += folded.events
            out += [_sent(ask.message, ask.command_id, now) for ask in folded.asks]
            out += [_sent(event, f"{order_id}:v{event.version}", now) for event in folded.events]
        await self.publish(*out)
        return told

    async def publish(self, *messages: Outgoing) -> None:
        """Publish messages."""
        publisher = Publisher(self.settings, timeout_s=30)
        assert await publisher.publish(messages)
        await publisher.stop()

    @asynccontextmanager
    async def member(self, group: str, topic: str) -> AsyncIterator[Any]:
        """Join a service's group."""
        prefix = self.settings.kafka_topic_prefix
        consumer = AIOKafkaConsumer(
            prefix + topic, bootstrap_servers=self.settings.kafka_bootstrap_servers, group_id=prefix + group,
            auto_offset_reset="earliest", enable_auto_commit=False,
        )  # fmt: skip
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def read_all(self, group: str, topic: str) -> None:
        """Have a group have read a topic to its end."""
        async with self._committing(group, topic) as (consumer, tps):
            await consumer.commit(await consumer.end_offsets(tps))

    async def commit(self, group: str, topic: str, offset: int) -> None:
        """Have a group stand there in each partition."""
        async with self._committing(group, topic) as (consumer, tps):
            await consumer.commit(dict.fromkeys(tps, offset))

    async def committed(self, group: str, topic: str) -> dict[int, int | None]:
        """Give the offsets of a group."""
        async with self._committing(group, topic) as (consumer, tps):
            return {tp.partition: await consumer.committed(tp) for tp in tps}

    @asynccontextmanager
    async def _committing(self, group: str, topic: str) -> AsyncIterator[tuple[Any, list[TopicPartition]]]:
        """Work with the offsets of a group without joining it."""
        prefix = self.settings.kafka_topic_prefix
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka_bootstrap_servers, group_id=prefix + group, enable_auto_commit=False
        )
        tps = [TopicPartition(prefix + topic, number) for number in range(ALL[topic])]
        consumer.assign(tps)
        await consumer.start()
        try:
            yield consumer, tps
        finally:
            await consumer.stop()

    async def records(self, topic: str) -> list[Any]:
        """Read what a topic has, decoded, in the order of its partitions."""
        prefix = self.settings.kafka_topic_prefix
        consumer = AIOKafkaConsumer(bootstrap_servers=self.settings.kafka_bootstrap_servers, enable_auto_commit=False)
        tps = [TopicPartition(prefix + topic, number) for number in range(ALL[topic])]
        await consumer.start()
        try:
            consumer.assign(tps)
            await consumer.seek_to_beginning(*tps)
            ends = await consumer.end_offsets(tps)
            found: list[Any] = []
            while any([await consumer.position(tp) < ends[tp] for tp in tps]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += [decode(read_envelope(one.headers).type, one.value) for one in records]
            return found
        finally:
            await consumer.stop()


def _now(message: Incoming, now: datetime) -> Incoming:
    return structs.replace(message, sent_at=now) if isinstance(message, Requested) else message


def _as_sample(saga: Saga) -> Saga:
    return structs.replace(saga, order_id=ORDER_ID)


def _as_sample_message(message: Incoming) -> Incoming:
    return of(message, ORDER_ID)


def _sent(message: Any, message_id: str, now: datetime) -> Outgoing:
    return outgoing(message, message_id=message_id, source="/test", time=now)


@pytest_asyncio.fixture
async def kafka(infrastructure: Infrastructure, topic_prefix: str) -> Kafka:
    """Give a broker with all topics, and nothing in them."""
    await infrastructure.create_topics({topic_prefix + name: number for name, number in ALL.items()})
    settings = KafkaSettings(
        kafka_bootstrap_servers=infrastructure.kafka_bootstrap_servers, kafka_topic_prefix=topic_prefix
    )
    return Kafka(settings)


async def shown(db: Terminal) -> dict[int, tuple[str, int, str]]:
    """Read status, version and phase of every order."""
    found = await db.rows("SELECT order_id, status, version, phase FROM audit.orders")
    return {row["order_id"].int: (row["status"], row["version"], row["phase"]) for row in found}


async def serve(db: Terminal, commands: Sequence[Any]) -> list[Any]:
    """Have the balance service execute commands; return its replies."""
    service = participant()
    async with begin(db.engine) as tx:
        await service.prepare(tx)
        received = [
            Received(service.decode(read_envelope(sent.headers), _Record(sent)))
            for sent in (_sent(one, one.command_id, datetime.now(UTC)) for one in commands)
        ]
        effects = await service.handle(tx, received)
    return [decode(read_envelope(one.outgoing.headers).type, one.outgoing.value) for one in effects.outbox]


class _Record:
    topic, partition, offset, timestamp, key = "", 0, 0, 0, None

    def __init__(self, sent: Outgoing) -> None:
        self.value, self.headers = sent.value, sent.headers


async def test_orders_are_brought_forward_and_end_as_they_were_told(db: Terminal, kafka: Kafka) -> None:
    """An unknown order, one that has waited, one that rested: each ends as told, and its money with it."""
    await deposit(db.engine, "d", "alice", "USD", Money(2000))
    await deposit(db.engine, "e", "alice", "BTC", Money("0.05"))
    told = [(await kafka.live(1, *BUY))[-1], (await kafka.live(2, *FAILS))[-1], (await kafka.live(3, *STOP))[-1]]
    pending = await kafka.live(4, requested())
    await kafka.live(5, *STOP[:3])
    await db.begin(2, Side.SELL)
    for number in (3, 5):
        await db.tell(*(_now(of(one, UUID(int=number)), datetime.now(UTC)) for one in STOP[:2]))
    commands = await kafka.records(BALANCE_COMMANDS.name)
    [first] = [one for one in commands if one.order_id.int == 5]
    await serve(db, [one for one in commands if one.order_id.int in {3, 5} and type(one).__name__ == "ReserveBalance"])
    for number in (3, 5):
        await db.tell(of(fitting_reserved(), UUID(int=number)))
    assert first is not None

    audited = await db.cli("audit", "--told", "--json", **kafka.environment)
    assert {UUID(int=number) for number in (1, 2, 3, 4)} == {
        UUID(one["order_id"]) for one in json.loads(audited.out) if "has told" in one["what"]
    }
    looked = await db.cli("recover", "database", "--dry-run", **kafka.environment)
    assert (0, 4) == (looked.code, len([line for line in looked.out.splitlines() if "was told" in line]))
    assert 3 == len(await shown(db)), "a dry run changes nothing"
    done = await db.cli("recover", "database", "--yes", "--by", "ann", **kafka.environment)
    assert 0 == done.code, done.err
    assert {
        1: ("PROCESSING", 3, "SETTLING"), 2: ("PENDING", 1, "REFUNDING"), 3: ("PROCESSING", 3, "SETTLING"),
        4: ("CANCELLED", 2, "CANCELLED"), 5: ("CONFIRMED", 2, "WORKING"),
    } == await shown(db)  # fmt: skip
    assert [5] == [row["order_id"].int for row in await db.rows("SELECT order_id FROM orders.resting")]

    commands = await kafka.records(BALANCE_COMMANDS.name)
    await db.execute("UPDATE orders.orders SET due_at = now() WHERE due_at IS NOT NULL")
    asked = await db.scan()
    assert ["1:settle", "2:refund", "3:settle"] == [one[34:].lstrip("0") for one in asked]
    await serve(db, commands)
    sagas = await questions(db)
    for reply in await serve(db, sagas):
        await db.tell(reply)
    ends = await shown(db)
    assert [(one.status, one.version) for one in told] == [ends[number][:2] for number in (1, 2, 3)]
    assert pending[-1].version + 1 == ends[4][1]
    await db.execute("DELETE FROM orders.outbox")  # as the relay does when it has sent them
    assert [] == await wrong(db)


async def test_groups_read_again_what_came_since_then(db: Terminal, kafka: Kafka) -> None:
    """Requests and commands are read again from that time on, never skipped; answers are not; a second run is idle."""
    await kafka.live(1, *BUY)
    await db.begin(9)
    for group, (again, others) in GROUPS.items():
        for topic in (*again, *others):
            await kafka.read_all(group, topic.name)
    await kafka.live(2, *BUY)
    done = await db.cli("recover", "database", "--yes", "--json", **kafka.environment)
    assert 0 == done.code, done.err
    summary = lines(done)[-1]["summary"]
    assert {"orchestrator", "balance", "webhooks"} == {one["group"] for one in summary["groups"]}
    for group, (again, others) in GROUPS.items():
        for topic in again:
            assert {0} == set((await kafka.committed(group, topic.name)).values()), topic.name
        for topic in others:
            offsets = await kafka.committed(group, topic.name)
            assert 2 <= len(await kafka.records(topic.name)) - 1 or 0 <= sum(filter(None, offsets.values()))
    assert 1 <= sum(filter(None, (await kafka.committed("assets", "assets.commands")).values()))
    repeated = await db.cli("recover", "database", "--yes", "--json", **kafka.environment)
    assert (0, 1) == (repeated.code, len(lines(repeated))), "nothing is behind any more"
    assert [] == lines(repeated)[0]["summary"]["groups"]


async def test_it_refuses_while_a_service_reads_and_a_time_that_can_not_be(db: Terminal, kafka: Kafka) -> None:
    """The group is named; so is the newest thing that the database knows."""
    empty = await db.cli("recover", "database", "--yes", **kafka.environment)
    assert (2, True) == (empty.code, "say from when on with --since" in empty.err)
    await db.begin(1)
    late = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    too_late = await db.cli("recover", "database", "--since", late, "--yes", **kafka.environment)
    assert (2, True) == (too_late.code, "later than the newest thing" in too_late.err)
    for wrong in ("yesterday", "2026-01-31T12:00:00", "0001-01-01T00:00:00Z"):
        assert 2 == (await db.cli("recover", "database", "--since", wrong, "--yes", **kafka.environment)).code
    async with kafka.member("orchestrator", ORDERS_REQUESTS.name) as consumer:
        while not consumer.assignment():
            await consumer.getmany(timeout_ms=100)
        for words in (("database",), ("kafka", "--since", "2026-01-31T12:00:00Z")):
            refused = await db.cli("recover", *words, "--yes", **kafka.environment)
            assert 1 == refused.code
            assert "stop all services first" in refused.err
            assert "orchestrator (" in refused.err


async def test_an_order_that_has_ended_otherwise_is_named(db: Terminal, kafka: Kafka) -> None:
    """Services that started without a recovery have made another history: exit 1, and nothing is changed."""
    await kafka.live(1, *BUY)
    await db.begin(1, Side.BUY, cancel())
    before = await shown(db)
    done = await db.cli("recover", "database", "--yes", **kafka.environment)
    assert (1, before) == (done.code, await shown(db))
    assert "can't be done: it is CANCELLED at version 2, and what was told excludes that" in done.out


async def test_topics_that_have_lost_records_are_named(db: Terminal, kafka: Kafka) -> None:
    """What retention took is not read: it goes on only when it is told to."""
    await db.begin(1)
    await kafka.live(2, *BUY)
    prefix = kafka.settings.kafka_topic_prefix
    ends = {topic: len(await kafka.records(topic)) for topic in (ORDERS_EVENTS.name,)}
    async with kafka_admin(kafka.settings.kafka_bootstrap_servers) as admin:
        tps = {TopicPartition(prefix + ORDERS_EVENTS.name, number): RecordsToDelete(-1) for number in range(2)}
        await admin.delete_records(tps)
        idle = await db.cli("recover", "database", "--dry-run", **kafka.environment)
        assert 0 == idle.code, "what a week ago was deleted is of no concern"
        short = {"retention.ms": "60000"}
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, prefix + ORDERS_EVENTS.name, configs=short)]
        )
    assert 4 == ends[ORDERS_EVENTS.name]
    refused = await db.cli("recover", "database", "--yes", **kafka.environment)
    assert (1, True) == (refused.code, f"only {prefix}orders.events from " in refused.err)
    taken = await db.cli("recover", "database", "--yes", "--incomplete", **kafka.environment)
    assert 0 == taken.code, taken.err
    assert "CANCELLED" == (await shown(db))[2][0] or "REFUNDING" == (await shown(db))[2][2]


async def test_what_kafka_lost_is_told_again(db: Terminal, kafka: Kafka) -> None:
    """The newest version of each order, as its row shows it, under its own id; and offsets beyond an end go to it."""
    await db.begin(1, Side.BUY, approved(), reserved())
    await db.begin(2, Side.BUY, cancel())
    await db.execute("DELETE FROM orders.outbox")
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    looked = await db.cli("recover", "kafka", "--since", since, "--dry-run", **kafka.environment)
    assert (0, "2 orders and 0 holds would be told again\n") == (looked.code, looked.out)
    done = await db.cli("recover", "kafka", "--since", since, "--yes", **kafka.environment)
    assert 0 == done.code, done.err
    sent = await written(db, "orders")
    assert {(1, 3, "PROCESSING", "CONFIRMED"), (2, 2, "CANCELLED", "PENDING")} == {
        (one.order_id.int, one.version, one.status, one.previous_status) for one in sent
    }
    later = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
    none = await db.cli("recover", "kafka", "--since", later, "--yes", "--json", **kafka.environment)
    assert 0 == lines(none)[-1]["summary"]["orders"]


async def test_what_became_of_a_services_hold_is_told_again(db: Terminal, kafka: Kafka) -> None:
    """A hold that is held, one that was captured and one that was refused."""
    await deposit(db.engine, "d", "alice", "USD", Money(100))
    service, ends = HoldHandler(CollectorRegistry()), datetime.now(UTC) + timedelta(days=1)
    terms = [(UUID(int=number), "alice", "USD", Quantity(amount)) for number, amount in ((1, 10), (2, 20), (3, 900))]
    messages: list[Any] = [
        *(HoldRequested(*one, ends) for one in terms),
        HoldCaptureRequested(*terms[1], Quantity(5), "@fees"),
    ]
    async with begin(db.engine) as tx:
        effects = await service.handle(tx, [Received(one) for one in messages])
    events = {one.outgoing.id: one.outgoing.value for one in effects.outbox}
    done = await db.cli("recover", "kafka", "--since", "2026-01-31T12:00:00Z", "--yes", **kafka.environment)
    assert (0, True) == (done.code, "0 orders and 3 holds are told again" in done.out)
    again = await outgoing_of(db, "balances")
    assert 3 == len(again)
    assert {one.id: one.value for one in again}.items() <= events.items()


async def test_offsets_beyond_the_end_go_to_the_end(db: Terminal, kafka: Kafka) -> None:
    """A topic that was made anew is read from its beginning, not from where the old one was left."""
    await db.begin(1)
    await kafka.live(2, requested())
    topic = ORDERS_REQUESTS.name
    await kafka.commit("orchestrator", topic, 1_000)
    later = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
    assert 0 == (await db.cli("recover", "kafka", "--since", later, "--yes", **kafka.environment)).code
    ends = {0, len(await kafka.records(topic))}
    assert set((await kafka.committed("orchestrator", topic)).values()) == ends


async def wrong(db: Terminal) -> list[Finding]:
    """Audit all but the age of what waits to be sent: no service runs here that would send it."""
    return [one for one in await audit(db.engine, settle_s=0) if one.invariant != "I9"]


async def outgoing_of(db: Terminal, schema: str) -> list[Outgoing]:
    """Read the messages in an outbox."""
    found = await db.rows(f"SELECT payload FROM {schema}.outbox ORDER BY outbox_id")
    return [one for row in found for one in msgspec.msgpack.decode(row["payload"], type=list[Outgoing])]


async def written(db: Terminal, schema: str) -> list[Any]:
    """Read them, decoded."""
    return [decode(read_envelope(one.headers).type, one.value) for one in await outgoing_of(db, schema)]


def fitting_reserved() -> Any:
    """Report that a sell's quantity is held."""
    return structs.replace(reserved(), amount=Money("0.01"))


async def questions(db: Terminal) -> list[Any]:
    """Build the commands of all open questions."""
    async with begin(db.engine) as tx:
        ids = [row["order_id"] for row in await db.rows("SELECT order_id FROM orders.orders WHERE due_at IS NOT NULL")]
        found = await store.look_up(tx, ids)
    return [command(saga, one.step) for saga in found for one in saga.progress.open()]


async def test_a_capture_that_was_told_is_carried_out_although_its_hold_has_expired(db: Terminal, kafka: Kafka) -> None:
    """A known hold and an unknown one: the money has left the house. One that can't be captured is named."""
    await deposit(db.engine, "d", "alice", "USD", Money(100))
    await db.begin(1)
    now = datetime.now(UTC)
    terms = [(UUID(int=number), "alice", "USD", Quantity(amount)) for number, amount in ((1, 10), (2, 20), (3, 900))]

    async def then(_: Transaction) -> datetime:
        return now - timedelta(hours=2)

    expires = now - timedelta(minutes=10)
    async with begin(db.engine) as tx:
        await HoldHandler(CollectorRegistry(), then).handle(tx, [Received(HoldRequested(*terms[0], expires))])
    for one in terms:
        captured = HoldCaptured(*one, Money(5), "@fees", Money(one[3] - 5))
        for event in (HoldPlaced(*one, expires), captured):
            await kafka.publish(_sent(event, f"hold:{one[0]}:{type(event).__name__}", now))
    looked = await db.cli("recover", "database", "--dry-run", **kafka.environment)
    assert 3 == len([line for line in looked.out.splitlines() if "was told as captured" in line])
    done = await db.cli("recover", "database", "--yes", **kafka.environment)
    assert (1, 2) == (done.code, len([line for line in done.out.splitlines() if "captured as was told" in line]))
    assert f"hold:{UUID(int=3)}: was told as captured, and can't be: 900 USD needed, 90 available" in done.out
    [account] = await db.rows("SELECT available, held FROM audit.accounts WHERE asset_id = 'USD'")
    assert (90, 0) == (account["available"], account["held"])
    assert 1 == (await db.cli("recover", "database", "--yes", **kafka.environment)).code
    assert [] == await wrong(db)


async def test_a_hold_that_an_ended_order_would_leave_in_an_older_ledger_is_asked_back(
    db: Terminal, kafka: Kafka
) -> None:
    """Only the ledger was restored: the reservation that it refused then it may hold now."""
    await kafka.live(1, *FAILS)
    order_id = UUID(int=1)
    for message in FAILS:
        await db.tell(_now(of(message, order_id), datetime.now(UTC)))
    await db.execute("DELETE FROM orders.outbox")
    done = await db.cli("recover", "database", "--yes", **kafka.environment)
    assert (0, True) == (done.code, f"{order_id}: the ledger does not know its hold: it is refunded" in done.out)
    [refund] = await written(db, "orders")
    assert ("RefundBalance", order_id) == (type(refund).__name__, refund.order_id)
    await deposit(db.engine, "d", "alice", "BTC", Money(1))
    commands = await kafka.records(BALANCE_COMMANDS.name)
    await serve(db, [one for one in commands if type(one).__name__ == "ReserveBalance"])
    assert [{"state": "HELD"}] == await db.rows("SELECT state FROM audit.holds")
    await serve(db, [refund])
    assert [] == await wrong(db)
