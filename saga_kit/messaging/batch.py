"""Runs a batch of messages in one transaction. No other module begins one for messages, or handles its failures.

    BEGIN  handle -> dead letters -> outbox  COMMIT -> publish from memory -> the caller acknowledges

`BatchProcess.run` returns when the batch is committed; only then may the caller acknowledge it. After an infrastructure
error the same batch runs again. A commit whose outcome is unknown is such an error: the handler tolerates the repeat.
After an error of one message the batch is halved, in message order, until that message is found and set aside alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec
import structlog

from contracts.envelope import Envelope, Outgoing, first_appended
from saga_kit.messaging.locked_rows import LOCK_TIMEOUT_MS, LockedKeys, key_of
from saga_kit.messaging.outbox import Outbox, OutboxMessage, Publishes
from saga_kit.messaging.publisher import check_sizes
from saga_kit.runtime.backoff import Backoff, pause
from saga_kit.runtime.crash_points import CrashPoint, reached
from saga_kit.runtime.errors import Cause, Contention, Stopped, classify, describe
from saga_kit.runtime.telemetry import KitMetrics
from saga_kit.runtime.tracing import handling
from saga_kit.runtime.transactions import Begins, Transaction

M = TypeVar("M")
CONTENTIONS_MAX: Final = 10
"""Who wrote a row first has committed, so the next try sees it. A batch that goes on losing conflicts with itself."""
PUT_OFF_S: Final = 5.0
"""A message that a locked row holds up is read again after this time."""
PUT_OFF_MAX: Final = 50
"""Keys that one batch puts off. When there are more, a whole table is locked, and the batch waits for it."""
SHORT_LOCK_TIMEOUT: Final = f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'"

log = structlog.get_logger(__name__)


class Record(Protocol):
    """A raw Kafka record (aiokafka's ConsumerRecord): `topic` with the prefix, `timestamp` in epoch milliseconds."""

    @property
    def topic(self) -> str: ...  # noqa: D102 - see the class
    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...  # noqa: D102


class RejectedRecord(NamedTuple):
    """A record that becomes a dead letter, and why: it can't be decoded, or belongs to nothing known."""

    record: Record
    reason: str


class Received(msgspec.Struct, Generic[M], frozen=True):
    """A message, its envelope and its record; a message that the service made itself (a timer) has neither of them."""

    message: M
    envelope: Envelope | None = None
    record: Record | None = None


class Effects(msgspec.Struct, frozen=True):
    """What a batch wants sent and stored.

    `messages` are published from memory only: whoever sends them sends them again until they are answered. `outbox`
    messages are stored with the batch and reach the broker at least once. `dead_letters` are records that can be read
    but belong to nothing known. `dropped` counts the messages that must not be acted on, by reason. `after_commit` is
    called once, when the batch is committed.
    """

    messages: list[Outgoing] = []
    outbox: list[OutboxMessage] = []
    dead_letters: list[RejectedRecord] = []
    dropped: dict[str, int] = {}
    after_commit: Callable[[], None] | None = None


class Intake(NamedTuple):
    """Limits how much a handler takes from one topic, so that a backlog waits in Kafka. Other topics have no limit."""

    topic: str
    """Without the system's prefix."""
    room: Callable[[], int]
    """Return how many records of the topic may be taken now. It must not stay at 0 for ever."""


class Handler(Protocol[M]):
    """A service's work on a batch. It owns no transaction: the kit begins it, commits it, and runs the batch again.

    A handler may have three members more. `intake`, an `Intake`, limits what it takes from one topic. `prepare(tx)`
    runs once, before the first batch. `comes_again(message)` tells whether the sender repeats this message until it is
    answered; without it, the kit takes every message for repeated.
    """

    @property
    def topics(self) -> Sequence[str]:
        """The topics to consume, without the system's prefix."""

    def decode(self, envelope: Envelope, record: Record) -> M:
        """Read one record. `record.value` may be None. Raises `UnreadableMessage`: the record becomes a dead letter."""

    async def handle(self, tx: Transaction, messages: Sequence[Received[M]]) -> Effects:
        """Handle the whole batch in `tx`, in message order. Tolerate repeats; it may run again after a rollback."""

    async def park(self, tx: Transaction, message: Received[M], reason: str) -> bool:
        """Stop, in `tx`, what the message belongs to, until a person lets it go on.

        Return False when it belongs to nothing; the message becomes a dead letter then.
        """


class StoresDeadLetters(Protocol):
    """Stores records that can't be handled."""

    async def write(self, tx: Transaction, rejected: Sequence[RejectedRecord]) -> None:
        """Store them."""


class BatchProcess(Generic[M]):
    """Runs a handler's batches, one at a time, whether they come from the consumer or from a timer."""

    def __init__(
        self,
        *,
        transactions: Begins,
        handler: Handler[M],
        outbox: Outbox,
        dead_letters: StoresDeadLetters,
        publisher: Publishes,
        metrics: KitMetrics,
        stopping: asyncio.Event,
    ) -> None:
        self._transactions = transactions
        self._handler = handler
        self._outbox = outbox
        self._dead_letters = dead_letters
        self._publisher = publisher
        self._metrics = metrics
        self._stopping = stopping
        self._comes_again: Callable[[M], bool] = getattr(handler, "comes_again", lambda _message: True)
        self._locked = LockedKeys()
        self._one_at_a_time = asyncio.Lock()
        self._trying_since: float | None = None

    @property
    def trying_s(self) -> float:
        """Seconds since the current try of a batch began; 0 between tries, while an outage is waited for.

        Everything that a try waits for has a limit, except what the handler itself waits for. So a very long try hangs.
        """
        return 0.0 if self._trying_since is None else time.monotonic() - self._trying_since

    async def run(self, messages: Sequence[Received[M]], unreadable: Sequence[RejectedRecord] = ()) -> None:
        """Handle all messages; return when all is committed, and is published or left to the relay.

        Raises `Stopped`, and nothing else, when the process must end before that. Then acknowledge nothing.
        """
        if not messages and not unreadable:
            return
        async with self._one_at_a_time:
            self._metrics.batch_size.observe(len(messages) + len(unreadable))
            with self._metrics.batch_duration_seconds.time(), handling(messages):
                await self._finish(messages, unreadable)

    async def _finish(self, messages: Sequence[Received[M]], unreadable: Sequence[RejectedRecord]) -> None:
        failures = _Failures(Backoff())
        if unreadable:
            # The reason stands in the dead letter, not in the log: it may quote what somebody sent.
            log.warning("records can't be read", records=len(unreadable), first=_name(unreadable[0][0]))
        free, locked = self._locked.split(messages)
        parts = [_Part(locked, short_locks=True), _Part(free)] if locked else [_Part(messages)]  # taken from the end
        while parts:
            part = parts.pop()
            if not part.messages and not unreadable:
                continue
            try:
                with self._trying():
                    await self._commit(part.messages, unreadable, short_locks=part.short_locks)
                unreadable = ()
            except Exception as error:  # noqa: BLE001 - the one place that classifies errors
                cause = failures.cause(error)
                if unreadable and part.messages and cause != "infrastructure":
                    parts += [part, _Part([])]  # store the dead letters first, alone
                else:
                    await self._go_on(parts, part, failures, cause, error)
            else:
                failures.backoff.reset()
                if part.short_locks:
                    self._locked.forget(part.messages)

    async def _go_on(
        self, parts: list[_Part[M]], part: _Part[M], failures: _Failures, cause: Cause, error: Exception
    ) -> None:
        """Go on after a failed part: wait, halve it, or put off or set aside its only message."""
        if cause == "infrastructure" or not part.messages:  # storing dead letters failed, which is no message's fault
            await self._wait_out(failures.backoff, error)
            parts.append(part)
        elif len(part.messages) > 1:
            parts += part.halves(short_locks=part.short_locks or cause == "locked")
        elif cause == "locked":
            failures.put_off += 1
            await self._put_off(_take_key(parts, part.messages[0]), error)
        else:
            await self._set_aside(part.messages[0], error)

    async def _put_off(self, messages: Sequence[Received[M]], error: Exception) -> None:
        """Put off the messages of one key, whose row another transaction holds locked, so that the others go on.

        Messages that their sender repeats are dropped. The others go into the outbox, which publishes them to their
        own topic once more; a header keeps the time at which the broker first had them.
        """
        self._locked.note(messages[0])
        again = [_read_again(message, self._handler.topics) for message in messages if not self._again(message)]
        backoff = Backoff()
        while again:
            try:
                with self._trying():
                    async with self._transactions.begin() as tx:
                        self._outbox.write(tx, again)
                break
            except Exception as fault:  # noqa: BLE001 - these messages were read before, so none is poison
                await self._wait_out(backoff, fault)
        self._metrics.messages_put_off.labels("later").inc(len(again))
        self._metrics.messages_put_off.labels("asked_again").inc(len(messages) - len(again))
        first = messages[0].record
        log.warning("a locked row holds up one key", cause=describe(error), messages=len(messages), record=_name(first))

    def _again(self, message: Received[M]) -> bool:
        return message.record is None or self._comes_again(message.message)

    async def _commit(
        self, messages: Sequence[Received[M]], unreadable: Sequence[RejectedRecord], *, short_locks: bool = False
    ) -> None:
        reached(CrashPoint.BATCH_TAKEN, messages)
        async with self._transactions.begin() as tx:
            if short_locks:
                await tx.execute(SHORT_LOCK_TIMEOUT)
            effects = await self._handler.handle(tx, messages) if messages else Effects()
            check_sizes(effects.messages)
            reached(CrashPoint.BATCH_HANDLED, messages)
            if rejected := [*unreadable, *effects.dead_letters]:
                await self._dead_letters.write(tx, rejected)
            # Sent rows are deleted with what is written anyway; a batch without a transaction needs none for them.
            sent = [] if tx.is_empty and not effects.outbox else self._outbox.sent
            rows = self._outbox.write(tx, effects.outbox, sent)
            await tx.flush(last=True)
            reached(CrashPoint.BATCH_WRITTEN, messages)
        reached(CrashPoint.BATCH_COMMITTED, messages)
        self._outbox.forget(sent)
        for why, number in effects.dropped.items():
            self._metrics.messages_dropped.labels(why).inc(number)
        now = [*(one.outgoing for one in effects.outbox if not one.delay_s), *effects.messages]
        if await self._publisher.publish(now):
            reached(CrashPoint.PUBLISHED, messages)
            self._outbox.remember(rows)
        if effects.after_commit is not None:
            _call(effects.after_commit)
        reached(CrashPoint.BATCH_FINISHED, messages)

    async def _set_aside(self, message: Received[M], error: Exception) -> None:
        """Park what a bad message belongs to, or store the message as a dead letter; wait for the infrastructure."""
        reason = describe(error)
        outcome = "parked"
        backoff = Backoff()
        while True:
            try:
                with self._trying():
                    async with self._transactions.begin() as tx:
                        if outcome == "parked" and not await self._handler.park(tx, message, reason):
                            outcome = "dead_letter"
                        if outcome == "dead_letter" and message.record is not None:
                            await self._dead_letters.write(tx, [RejectedRecord(message.record, reason)])
                        await tx.flush(last=True)
                        reached(CrashPoint.SET_ASIDE_WRITTEN, [message])
                break
            except Exception as fault:  # noqa: BLE001 - classified like those above
                cause = classify(fault)
                if cause == "locked" and outcome == "parked":
                    await self._put_off([message], fault)  # its order can be parked when the message comes again
                    return
                if cause == "poison" and outcome == "parked":
                    outcome = "dead_letter"  # not even parking can be done with it
                else:
                    await self._wait_out(backoff, fault)
        if outcome == "dead_letter" and message.record is None:
            outcome = "dropped"  # a timer fires again
        reached(CrashPoint.SET_ASIDE_COMMITTED, [message])
        self._metrics.messages_set_aside.labels(outcome).inc()
        log.error("a message can't be handled", outcome=outcome, reason=reason, record=_name(message.record))

    @contextmanager
    def _trying(self) -> Iterator[None]:
        self._trying_since = time.monotonic()
        try:
            yield
        finally:
            self._trying_since = None

    async def _wait_out(self, backoff: Backoff, error: Exception) -> None:
        self._metrics.batch_retries.inc()
        delay_s = backoff.next_s()
        log.warning("batch failed, will try again", cause=describe(error), delay_s=round(delay_s, 2))
        if await pause(self._stopping, delay_s):
            raise Stopped("asked to stop while a batch waits for its infrastructure") from error


class _Failures(msgspec.Struct):
    """The failures of one batch so far."""

    backoff: Backoff
    contentions: int = 0
    put_off: int = 0

    def cause(self, error: Exception) -> Cause:
        """Classify an error. Endless contention counts as poison, and too many locked keys as infrastructure."""
        cause = classify(error)
        if isinstance(error, Contention):
            self.contentions += 1
            if self.contentions > CONTENTIONS_MAX:
                self.contentions = CONTENTIONS_MAX - 1  # each half may still lose once to another process
                return "poison"
        else:
            self.contentions = 0
        return "infrastructure" if cause == "locked" and self.put_off >= PUT_OFF_MAX else cause


class _Part(msgspec.Struct, Generic[M]):
    """A part of a batch, committed by itself. `short_locks`: it waits for a lock for `LOCK_TIMEOUT_MS` only."""

    messages: Sequence[Received[M]]
    short_locks: bool = False

    def halves(self, *, short_locks: bool) -> list[_Part[M]]:
        """Cut it in two; the first half comes last, since parts are taken from the end."""
        middle = len(self.messages) // 2
        return [_Part(self.messages[middle:], short_locks), _Part(self.messages[:middle], short_locks)]


def _take_key(parts: list[_Part[M]], message: Received[M]) -> list[Received[M]]:
    """Take all messages of this message's key out of the parts: they need the same row."""
    key, taken = key_of(message), [message]
    for part in reversed(parts) if key is not None else ():
        taken += [one for one in part.messages if key_of(one) == key]
        part.messages = [one for one in part.messages if key_of(one) != key]
    return taken


def _read_again(message: Received[M], topics: Sequence[str]) -> OutboxMessage:
    """Make a copy of a message for its own topic; `topics` are those that the handler reads."""
    record = message.record
    assert record is not None  # noqa: S101 - a timer is never put off this way
    topic = next(topic for topic in topics if record.topic.endswith(topic))
    key = (record.key or b"").decode(errors="replace")
    headers = [(name, value or b"") for name, value in record.headers]  # Kafka allows a header without a value
    headers += first_appended(record.timestamp, record.headers)
    outgoing = Outgoing(topic, key, message.envelope.id if message.envelope else "", record.value or b"", headers)
    return OutboxMessage(f"{_name(record)}", outgoing, PUT_OFF_S)


def _call(after_commit: Callable[[], None]) -> None:
    try:
        after_commit()
    except Exception:  # the batch is committed, so this is no failure of the batch
        log.exception("a handler's callback failed")


def _name(record: Record | None) -> str | None:
    return None if record is None else f"{record.topic}/{record.partition}@{record.offset}"
