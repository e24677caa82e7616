"""Consumes all topics of a process in batches of raw records, and acknowledges a batch only when it is committed.

Every option whose default is a policy is given. FastStream subscribes, loops and stops. Our own poller takes the
records, and offsets are committed for the records that were handled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, NamedTuple, TypeVar

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import KafkaAckableMessage, KafkaMessage
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from contracts.envelope import UnreadableMessage, read_envelope
from saga_kit.messaging.batch import BatchProcess, Handler, Intake, Received, Record, RejectedRecord
from saga_kit.messaging.fetch_limits import FETCHED_BYTES_MAX, LostRecord, size_of
from saga_kit.messaging.fetch_wait import FetchWait
from saga_kit.messaging.offset_commits import OffsetCommits
from saga_kit.messaging.open_transactions import HELD_S, OpenTransactions, explain_held, stable_end, stable_ends
from saga_kit.messaging.poller import POLL_TIMEOUT_MS, POSITION_TIMEOUT_S, RECORDS_MAX, Poller
from saga_kit.messaging.publisher import MESSAGE_BYTES_MAX, Publisher
from saga_kit.messaging.stopping import stop_consumer
from saga_kit.messaging.topic_changes import TopicChanges
from saga_kit.messaging.topic_settings import REPLAY_HORIZON_S
from saga_kit.runtime.backoff import pause
from saga_kit.runtime.errors import CannotStart, Stalled, Stopped, describe
from saga_kit.runtime.settings import METADATA_MAX_AGE_MS, KitSettings
from saga_kit.runtime.telemetry import KitMetrics

M = TypeVar("M")
DRAIN_TIMEOUT_S: Final = 60.0
"""Longer than a statement, a publish and an offset commit may take together: no batch is cut short."""
HEARTBEAT_MAX_MS: Final = 300
"""Members learn of a rebalance by heartbeat. Until all have, every partition of the group stands idle."""
CLOSE_TIMEOUT_S: Final = 5.0
"""A broker answers at once when a member leaves. It learns of one that can't say so when the session times out."""
PARTITION_FETCH_BYTES: Final = 128 * 1024
"""About one batch, so that a partition with a backlog does not fill every fetch."""
UNTAKEN_S: Final = 0.01
"""aiokafka's own pause is 0.1 s: while fetched records are not taken, it fetches nothing for so long. Records that wait
for room must not hold up other partitions."""
WATCH_S: Final = 5.0
STALLED_S: Final = 60.0
"""A consumer without progress is stalled after this time, and a try of a batch that goes on for twice as long hangs."""
QUIET_MAX_S: Final = 15.0
"""A healthy consumer without traffic polls and fetches many times in this time."""

log = structlog.get_logger(__name__)


class Lag(NamedTuple):
    """The next offset of a partition, and how many records come after it."""

    position: int
    behind: int
    """All of them."""
    takeable: int
    """Those before the first open transaction; the others can't be taken before it ends."""


class Consumer(Generic[M]):
    """Consumes a handler's topics and runs its batches. `fail` gets an error for which the process must end.

    `now_s` is the clock for the age of a record, in seconds since 1970.
    """

    def __init__(  # noqa: PLR0913 - all by name, and each a part of the service
        self,
        settings: KitSettings,
        *,
        group: str,
        handler: Handler[M],
        process: BatchProcess[M],
        publisher: Publisher,
        metrics: KitMetrics,
        fail: Callable[[Exception], None],
        stalled_s: float = STALLED_S,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._handler = handler
        self._process = process
        self._publisher = publisher
        self._metrics = metrics
        self._stalled_s = stalled_s
        self._now_s = now_s
        intake: Intake | None = getattr(handler, "intake", None)
        self._poller = Poller(intake and intake._replace(topic=settings.kafka_topic_prefix + intake.topic))
        self._limited = intake is not None
        self._commits = OffsetCommits(self._poller)
        self._batch_since: float | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._fail = fail
        self._given_up = False
        self._topics = [settings.kafka_topic_prefix + topic for topic in handler.topics]
        self._broker = _broker(settings, group)
        self._subscriber: Any = _subscriber(self._broker, settings, group, self._topics, self._poller)
        self._topic_changes = TopicChanges(metrics)
        self._open = OpenTransactions(HELD_S)
        self._fetch_wait = FetchWait(settings.kafka_fetch_max_wait_ms)
        self._subscriber.get_msg = self._poll  # see poller.py: FastStream's would lose records on an error
        self._subscriber(self._on_batch, parser=self._wrap, decoder=_records)

    async def start(self) -> None:
        """Join the group and begin.

        Raises `CannotStart` when a policy is not the one that correctness rests on, or the broker refuses the login.
        """
        for subscriber in self._broker.subscribers:
            if subscriber.ack_policy is not AckPolicy.MANUAL:
                raise CannotStart(f"a subscriber has the ack policy {subscriber.ack_policy}, it must be MANUAL")
        try:
            await self._broker.start()
        except (GroupAuthorizationFailedError, TopicAuthorizationFailedError) as error:
            raise CannotStart(f"the broker gives this login no right to consume: {describe(error)}") from None
        self._topic_changes.look(self._subscriber.consumer, self._topics)
        if self._limited:
            self._subscriber.consumer._fetcher._prefetch_backoff = UNTAKEN_S  # noqa: SLF001 - it is no option of theirs

    async def stop(self, *, drain_s: float = DRAIN_TIMEOUT_S) -> None:
        """Take no more records, let the batch in work end within `drain_s`, and leave the group. Raises nothing."""
        self._given_up = True
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._idle.wait()
                await self._commits.close()
        failure = await stop_consumer(self._broker.stop(), self._subscriber.consumer, timeout_s=CLOSE_TIMEOUT_S)
        if failure is not None:
            log.warning("leaving the group failed", cause=failure)

    def trouble(self) -> str | None:
        """Say why this consumer is not ready, None when it is."""
        consumer = self._subscriber.consumer
        if consumer is None:
            return "no partitions assigned"
        if missing := [topic for topic in self._topics if not consumer.partitions_for_topic(topic)]:
            return f"topics are missing (or hidden from this login): {', '.join(missing)}"
        if not self._poller.joined:
            return "no partitions assigned"
        if blocked := self._poller.blocked():
            tp, reason = next(iter(blocked.items()))
            return f"{len(blocked)} partitions can't be read, such as {tp.topic}/{tp.partition}: {reason}"
        if held := self._open.held():
            tp, one = next(iter(held.items()))
            return f"{len(held)} partitions are held up, one for {one.for_s:.0f} s: {explain_held(tp, one.offset)}"
        now = time.monotonic()
        if self._batch_since is not None:
            age_s, what = now - self._batch_since, "a batch has been in work for {:.0f} s"
        else:
            age_s, what = max(now - self._poller.polled_at, _fetch_age_s(consumer)), "last poll {:.0f} s ago"
        return what.format(age_s) if age_s > QUIET_MAX_S else None

    async def watch(self, stopping: asyncio.Event) -> None:
        """Measure the lag. Raise `Stalled` when there is lag and no progress although the broker answers.

        aiokafka's consumers can hang after a broker's restart while they look alive, and a batch, a timer's too, can
        wait for ever. A new process cures both.
        """
        seen: Mapping[Any, int] = {}
        moved_at = time.monotonic()
        while not await pause(stopping, WATCH_S):
            if (trying_s := self._process.trying_s) > 2 * self._stalled_s:
                raise Stalled(f"a batch hangs: its work began {trying_s:.0f} s ago")
            consumer = self._subscriber.consumer
            if consumer is not None:
                self._poller.read_from_beginning(self._topic_changes.look(consumer, self._topics))
            lags = await _lags(consumer)
            positions = {tp: lag.position for tp, lag in lags.items()}
            if consumer is not None:
                self._open.look(stable_ends(consumer))
            self._metrics.consumer_held_partitions.set(len(self._open.held()))
            self._metrics.consumer_lag_messages.set(sum(one.behind for one in lags.values()))
            self._metrics.consumer_blocked_partitions.set(len(self._poller.blocked()))
            # Records that wait for room, or for the end of a transaction, are no sign of a hang.
            lag = sum(one.takeable for tp, one in lags.items() if not self._poller.waits_for_room(tp))
            behind = bool(positions) and self._batch_since is None and (lag or _fetch_age_s(consumer) > QUIET_MAX_S)
            if not behind or positions != seen:
                seen, moved_at = positions, time.monotonic()
            elif time.monotonic() - moved_at > self._stalled_s and await self._broker_answers():
                raise Stalled(f"{lag} records behind and no progress for {self._stalled_s:.0f} s")

    async def _poll(self, consumer: Any) -> Sequence[Any]:
        records = await self._poller.poll(consumer)
        self._fetch_wait.polled(consumer, records)
        return records

    async def _on_batch(self, records: Sequence[Any]) -> None:
        if self._given_up:
            return  # acknowledging this batch would skip the one that was given up
        self._batch_since = time.monotonic()
        self._idle.clear()
        try:
            readable, unreadable = self._decode(records)
            await self._process.run(readable, unreadable)
            self._poller.handled(records)
            self._commits.request(self._subscriber.consumer, readable)
        except Stopped:
            self._given_up = True
            log.info("stopping with a batch that waits; it will be delivered again", records=len(records))
        except Exception as error:  # noqa: BLE001 - a bug of the kit itself: FastStream would swallow it and go on
            self._given_up = True
            self._fail(error)
        finally:
            self._batch_since = None
            self._idle.set()

    def _decode(self, records: Sequence[Record | LostRecord]) -> tuple[list[Received[M]], list[RejectedRecord]]:
        readable: list[Received[M]] = []
        unreadable: list[RejectedRecord] = []
        oldest = (self._now_s() - REPLAY_HORIZON_S) * 1000
        for record in records:
            if (reason := _refusal(record, oldest)) is not None:
                unreadable.append(RejectedRecord(record, reason))
                continue
            try:
                envelope = read_envelope(record.headers)
                readable.append(Received(self._handler.decode(envelope, record), envelope, record))
            except UnreadableMessage as error:
                unreadable.append(RejectedRecord(record, error.reason))
            except Exception as error:  # noqa: BLE001 - a decoder's bug must cost one record, not the partition
                unreadable.append(RejectedRecord(record, f"can't be decoded: {describe(error)}"))
        return readable, unreadable

    async def _wrap(self, records: tuple[Any, ...]) -> KafkaAckableMessage:
        # FastStream's own parser raises on a header that is not UTF-8, and the next ack would skip the whole batch.
        return KafkaAckableMessage(body=b"", raw_message=records, headers={}, consumer=self._subscriber.consumer)

    async def _broker_answers(self) -> bool:
        try:  # asked over the publisher's connection, which is not the one that may hang
            await self._publisher.missing_topics(())
        except (KafkaError, OSError):
            return False
        return True


def _broker(settings: KitSettings, group: str) -> KafkaBroker:
    return KafkaBroker(
        settings.kafka_bootstrap_servers.split(","),
        client_id=f"{settings.kafka_topic_prefix}{group}",
        consumer_only=True,
        allow_auto_create_topics=False,
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
        apply_types=False,
        graceful_timeout=DRAIN_TIMEOUT_S,
        security=_security(settings),
        logger=None,
    )


def _subscriber(broker: KafkaBroker, settings: KitSettings, group: str, topics: Sequence[str], poller: Poller) -> Any:
    session_ms = int(settings.kafka_session_timeout_s * 1000)
    return broker.subscriber(
        *topics,
        group_id=settings.kafka_topic_prefix + group,
        batch=True,
        max_records=RECORDS_MAX,
        batch_timeout_ms=POLL_TIMEOUT_MS,
        ack_policy=AckPolicy.MANUAL,
        no_reply=True,
        listener=poller,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        check_crcs=True,
        fetch_max_wait_ms=settings.kafka_fetch_max_wait_ms,
        fetch_min_bytes=1,
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
        fetch_max_bytes=FETCHED_BYTES_MAX,
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=min(session_ms // 10, HEARTBEAT_MAX_MS),
        rebalance_timeout_ms=max(session_ms, int(DRAIN_TIMEOUT_S * 1000)),
        max_poll_interval_ms=24 * 3600 * 1000,  # an outage of the database is no reason to leave; see Consumer.watch
    )


def _refusal(record: Record | LostRecord, oldest_ms: float) -> str | None:
    """Say why a record is not even decoded, None when it is."""
    if isinstance(record, LostRecord):
        return record.reason
    if 0 < record.timestamp < oldest_ms:
        return f"older than the replay horizon of {REPLAY_HORIZON_S // 86_400} days"
    if (size := size_of(record)) > MESSAGE_BYTES_MAX:
        return f"too large: {size} bytes, no message has more than {MESSAGE_BYTES_MAX}"
    return None


async def _records(message: KafkaMessage) -> Sequence[Any]:
    # Not the message itself: it stores what it was decoded to. A batch would refer to itself, and stay in memory until
    # the garbage collector runs, which is seldom; see service.py.
    return message.raw_message


async def _lags(consumer: Any) -> dict[TopicPartition, Lag]:
    """Return the lag of each assigned partition for which it is known."""
    lags: dict[TopicPartition, Lag] = {}
    assigned = list(consumer.assignment()) if consumer is not None else []
    for tp, position in zip(assigned, await asyncio.gather(*(_position(consumer, tp) for tp in assigned)), strict=True):
        with suppress(KafkaError, AssertionError):  # during a rebalance; the next call knows it
            if position is None:
                continue
            stable, end = stable_end(consumer, tp)
            lags[tp] = Lag(position, max(0, end - position), max(0, stable - position))
    return lags


async def _position(consumer: Any, tp: Any) -> int | None:
    """Return a partition's next offset; None when it is unknown, during a rebalance or without a leader."""
    try:
        async with asyncio.timeout(POSITION_TIMEOUT_S):
            position: int = await consumer.position(tp)
            return position
    except (TimeoutError, KafkaError):
        return None


def _fetch_age_s(consumer: Any) -> float:
    """Return the seconds since the last answered fetch; 0 before the first."""
    times = [time_ms for tp in consumer.assignment() if (time_ms := consumer.last_poll_timestamp(tp)) is not None]
    return max(0.0, time.time() - max(times) / 1000) if times else 0.0


def _security(settings: KitSettings) -> BaseSecurity | None:
    options = settings.kafka_client_options()
    context, protocol = options.get("ssl_context"), settings.kafka_security_protocol
    if protocol in {"PLAINTEXT", "SSL"}:
        return BaseSecurity(ssl_context=context, use_ssl=protocol == "SSL")
    kind = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}[
        settings.kafka_sasl_mechanism
    ]
    return kind(
        username=options["sasl_plain_username"] or "",
        password=options["sasl_plain_password"] or "",
        ssl_context=context,
        use_ssl=protocol == "SASL_SSL",
    )
