"""One batch is one transaction: the only place that begins one for messages, and that says what happens when it fails.

    BEGIN  handle -> dead letters -> outbox  COMMIT -> publish from memory -> the caller acknowledges

Returning means committed, so only then may the caller acknowledge. A fault of the world is waited out with the same
batch; a commit whose outcome is unknown is such a fault, and the handler's guards absorb the repeat. A fault of one
message is found by halving the batch, in order, and set aside alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.envelope import Envelope, Outgoing, first_appended
from saga_kit.messaging.locked_rows import LOCK_TIMEOUT_MS, LockedKeys, key_of
from saga_kit.messaging.outbox import Outbox, OutboxMessage, Publishes
from saga_kit.messaging.publisher import check_sizes
from saga_kit.runtime.backoff import Backoff, pause
from saga_kit.runtime.crash_points import CrashPoint, reached
from saga_kit.runtime.errors import Cause, Contention, Stopped, classify, describe
from saga_kit.runtime.telemetry import KitMetrics
from saga_kit.runtime.tracing import handling

M = TypeVar("M")
CONTENTIONS_MAX: Final = 10
"""Whoever wrote a row first has committed, so the next try sees it; a batch that goes on losing fights with itself."""
PUT_OFF_S: Final = 5.0
"""After this, a message that a locked row held up is read again."""
PUT_OFF_MAX: Final = 50
"""Keys that one batch puts off; with more it is a table that is locked, and the batch waits as a whole."""
HURRY: Final = f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'"

log = structlog.get_logger(__name__)


class Record(Protocol):
    """A raw Kafka record (aiokafka's ConsumerRecord): `topic` with the prefix, `timestamp` in epoch milliseconds."""

    @property
    def topic(self) -> str: ...  # noqa: D102 - the protocol's docstring says what is to be said
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
    """A message with what it came in; a message of the service's own (a timer) has neither envelope nor record."""

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
    """The one topic of which a handler takes only what it has room for; its other topics always flow."""

    topic: str
    """Without the system's prefix."""
    room: Callable[[], int]
    """How many records of it may be taken now. It must never stay at 0 for good."""


class Handler(Protocol[M]):
    """A service's work on a batch. It owns no transaction: the kit begins, commits, repeats.

    A handler that must not take on as much as there is has an attribute `intake`, an `Intake`. One that must look at
    its database before its first batch has a method `prepare`, of a transaction. One to whom not every message comes
    again by itself (a question is asked again until it is answered) has a method `comes_again` that tells which do.
    """

    @property
    def topics(self) -> Sequence[str]:
        """The topics to consume, without the system's prefix."""

    def decode(self, envelope: Envelope, record: Record) -> M:
        """Read one record; `UnreadableMessage` makes it a dead letter. `record.value` may be None."""

    async def handle(self, tx: AsyncConnection, messages: Sequence[Received[M]]) -> Effects:
        """Do the whole batch in `tx`, in message order, tolerating repeats. May run again after a rollback."""

    async def park(self, tx: AsyncConnection, message: Received[M], reason: str) -> bool:
        """Set aside, in `tx`, what the message belongs to; False when there is none: it becomes a dead letter."""


class StoresDeadLetters(Protocol):
    """Where records go that nobody can handle."""

    async def write(self, tx: AsyncConnection, letters: Sequence[RejectedRecord]) -> None:
        """Store them."""


class BatchProcess(Generic[M]):
    """Runs a handler's batches, one at a time: the consumer's and the timers' go through the same door."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        handler: Handler[M],
        outbox: Outbox,
        dead_letters: StoresDeadLetters,
        publisher: Publishes,
        metrics: KitMetrics,
        stopping: asyncio.Event,
    ) -> None:
        self._engine = engine
        self._handler = handler
        self._outbox = outbox
        self._dead_letters = dead_letters
        self._publisher = publisher
        self._metrics = metrics
        self._stopping = stopping
        self._comes_again: Callable[[M], bool] = getattr(handler, "comes_again", lambda _message: True)
        self._locked = LockedKeys()
        self._turn = asyncio.Lock()
        self._trying_since: float | None = None

    @property
    def trying_s(self) -> float:
        """For how long the present try of a batch goes on; 0 between tries, since an outage is waited for.

        All that a try waits for has a limit of its own, except what a handler waits for: one that goes on and on hangs.
        """
        return 0.0 if self._trying_since is None else time.monotonic() - self._trying_since

    async def run(self, messages: Sequence[Received[M]], unreadable: Sequence[RejectedRecord] = ()) -> None:
        """Handle all messages; return when everything is committed, and published or left to the relay.

        Raises `Stopped` (and nothing else) when the process shall end before that: then acknowledge nothing.
        """
        if not messages and not unreadable:
            return
        async with self._turn:
            self._metrics.batch_size.observe(len(messages) + len(unreadable))
            with self._metrics.batch_duration_seconds.time(), handling(messages):
                await self._finish(messages, unreadable)

    async def _finish(self, messages: Sequence[Received[M]], unreadable: Sequence[RejectedRecord]) -> None:
        course = _Course(Backoff())
        if unreadable:
            # Why is kept with the letter: it may quote what somebody sent.
            log.warning("records can't be read", records=len(unreadable), first=_name(unreadable[0][0]))
        free, locked = self._locked.split(messages)
        parts = [_Part(locked, hurried=True), _Part(free)] if locked else [_Part(messages)]  # the next one last
        while parts:
            part = parts.pop()
            if not part.messages and not unreadable:
                continue
            try:
                with self._trying():
                    await self._commit(part.messages, unreadable, hurried=part.hurried)
                unreadable = ()
            except Exception as error:  # noqa: BLE001 - the one place where faults are sorted
                cause = course.cause(error)
                if unreadable and part.messages and cause != "infrastructure":
                    parts += [part, _Part([])]  # the letters first, alone
                else:
                    await self._go_on(parts, part, course, cause, error)
            else:
                course.backoff.reset()
                if part.hurried:
                    self._locked.forget(part.messages)

    async def _go_on(
        self, parts: list[_Part[M]], part: _Part[M], course: _Course, cause: Cause, error: Exception
    ) -> None:
        """Do what a failed part calls for: wait, look for the message by halves, or put that one off or aside."""
        if cause == "infrastructure" or not part.messages:  # storing a letter has no message to blame
            await self._wait_out(course.backoff, error)
            parts.append(part)
        elif len(part.messages) > 1:
            parts += part.halves(hurried=part.hurried or cause == "locked")
        elif cause == "locked":
            course.put_off += 1
            await self._put_off(_take_key(parts, part.messages[0]), error)
        else:
            await self._set_aside(part.messages[0], error)

    async def _put_off(self, messages: Sequence[Received[M]], error: Exception) -> None:
        """Let the messages of one key wait for a row that somebody else holds locked, and the others go on.

        Most are simply dropped, for they come again by themselves. The others are read again from their topic: the
        outbox keeps them until they are published there once more, as old as they are.
        """
        self._locked.note(messages[0])
        kept = [_read_again(message, self._handler.topics) for message in messages if not self._again(message)]
        backoff = Backoff()
        while kept:
            try:
                with self._trying():
                    async with self._engine.begin() as tx:
                        await self._outbox.write(tx, kept)
                break
            except Exception as fault:  # noqa: BLE001 - sorted as above; these were read before, so none is poison
                await self._wait_out(backoff, fault)
        self._metrics.messages_put_off.labels("later").inc(len(kept))
        self._metrics.messages_put_off.labels("asked_again").inc(len(messages) - len(kept))
        first = messages[0].record
        log.warning("a locked row holds up one key", cause=describe(error), messages=len(messages), record=_name(first))

    def _again(self, message: Received[M]) -> bool:
        return message.record is None or self._comes_again(message.message)

    async def _commit(
        self, messages: Sequence[Received[M]], unreadable: Sequence[RejectedRecord], *, hurried: bool = False
    ) -> None:
        sent = self._outbox.sent
        reached(CrashPoint.BATCH_TAKEN, messages)
        async with self._engine.begin() as tx:
            if hurried:
                await tx.exec_driver_sql(HURRY)
            effects = await self._handler.handle(tx, messages) if messages else Effects()
            check_sizes(effects.messages)
            reached(CrashPoint.BATCH_HANDLED, messages)
            if letters := [*unreadable, *effects.dead_letters]:
                await self._dead_letters.write(tx, letters)
            rows = await self._outbox.write(tx, effects.outbox, sent)
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
            _tell(effects.after_commit)
        reached(CrashPoint.BATCH_FINISHED, messages)

    async def _set_aside(self, message: Received[M], error: Exception) -> None:
        """Park what one bad message belongs to, or keep the message as a dead letter; wait out the world's faults."""
        reason = describe(error)
        outcome = "parked"
        backoff = Backoff()
        while True:
            try:
                with self._trying():
                    async with self._engine.begin() as tx:
                        if outcome == "parked" and not await self._handler.park(tx, message, reason):
                            outcome = "dead_letter"
                        if outcome == "dead_letter" and message.record is not None:
                            await self._dead_letters.write(tx, [RejectedRecord(message.record, reason)])
                        reached(CrashPoint.SET_ASIDE_WRITTEN, [message])
                break
            except Exception as fault:  # noqa: BLE001 - sorted as above
                cause = classify(fault)
                if cause == "locked" and outcome == "parked":
                    await self._put_off([message], fault)  # its order can be parked when the message comes again
                    return
                if cause == "poison" and outcome == "parked":
                    outcome = "dead_letter"  # not even parking can be done with it
                else:
                    await self._wait_out(backoff, fault)
        if outcome == "dead_letter" and message.record is None:
            outcome = "dropped"  # a timer comes again by itself
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


class _Course(msgspec.Struct):
    """What has happened to one batch so far; tell it each fault once."""

    backoff: Backoff
    contentions: int = 0
    put_off: int = 0

    def cause(self, error: Exception) -> Cause:
        """Sort a fault; one that is the world's again and again is a message's, and too many locks are the world's."""
        cause = classify(error)
        if isinstance(error, Contention):
            self.contentions += 1
            if self.contentions > CONTENTIONS_MAX:
                self.contentions = CONTENTIONS_MAX - 1  # each half may still lose once to somebody else
                return "poison"
        else:
            self.contentions = 0
        return "infrastructure" if cause == "locked" and self.put_off >= PUT_OFF_MAX else cause


class _Part(msgspec.Struct, Generic[M]):
    """A part of a batch that is committed by itself; a hurried one waits for no lock longer than a moment."""

    messages: Sequence[Received[M]]
    hurried: bool = False

    def halves(self, *, hurried: bool) -> list[_Part[M]]:
        """Part it in two, the first one last."""
        middle = len(self.messages) // 2
        return [_Part(self.messages[middle:], hurried), _Part(self.messages[:middle], hurried)]


def _take_key(parts: list[_Part[M]], message: Received[M]) -> list[Received[M]]:
    """Take what belongs to a message's key out of all parts: it would meet the same lock."""
    key, taken = key_of(message), [message]
    for part in reversed(parts) if key is not None else ():
        taken += [one for one in part.messages if key_of(one) == key]
        part.messages = [one for one in part.messages if key_of(one) != key]
    return taken


def _read_again(message: Received[M], topics: Sequence[str]) -> OutboxMessage:
    """Make of a message what its topic will bring once more; `topics` are those that the handler reads."""
    record = message.record
    assert record is not None  # noqa: S101 - what has no record comes again by itself
    topic = next(topic for topic in topics if record.topic.endswith(topic))
    key = (record.key or b"").decode(errors="replace")
    headers = [(name, value or b"") for name, value in record.headers]  # Kafka allows a header without a value
    headers += first_appended(record.timestamp, record.headers)
    outgoing = Outgoing(topic, key, message.envelope.id if message.envelope else "", record.value or b"", headers)
    return OutboxMessage(f"{_name(record)}", outgoing, PUT_OFF_S)


def _tell(committed: Callable[[], None]) -> None:
    try:
        committed()
    except Exception:  # its batch is committed, so nobody may take this for a fault of the batch
        log.exception("a handler's callback failed")


def _name(record: Record | None) -> str | None:
    return None if record is None else f"{record.topic}/{record.partition}@{record.offset}"
