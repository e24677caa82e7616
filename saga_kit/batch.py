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

from contracts.envelope import Envelope, Outgoing
from saga_kit.backoff import Backoff, pause
from saga_kit.crash_points import CrashPoint, reached
from saga_kit.errors import Contention, Stopped, classify, describe
from saga_kit.outbox import Kept, Outbox, Publishes
from saga_kit.publisher import check_sizes
from saga_kit.telemetry import Metrics
from saga_kit.tracing import handling

M = TypeVar("M")
CONTENTIONS_MAX: Final = 10
"""Whoever wrote a row first has committed, so the next try sees it; a batch that goes on losing fights with itself."""
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
    def headers(self) -> Sequence[tuple[str, bytes]]: ...  # noqa: D102


Unreadable = tuple[Record, str]
"""A record that can't be decoded, and why."""


class Received(msgspec.Struct, Generic[M], frozen=True):
    """A message with what it came in; a message of the service's own (a timer) has neither envelope nor record."""

    message: M
    envelope: Envelope | None = None
    record: Record | None = None


class Effects(msgspec.Struct, frozen=True):
    """What a batch has to send and to keep.

    `messages` are published from memory only (questions: the saga asks again until answered); `kept` go through the
    outbox; `letters` are records that could be read but belong to nothing known. `dropped` counts messages that nobody
    may act on, by the reason. `committed` is called once, after the commit.
    """

    messages: list[Outgoing] = []
    kept: list[Kept] = []
    letters: list[Unreadable] = []
    dropped: dict[str, int] = {}
    committed: Callable[[], None] | None = None


class Intake(NamedTuple):
    """The one topic of which a handler takes only what it has room for; its other topics always flow."""

    topic: str
    """Without the system's prefix."""
    room: Callable[[], int]
    """How many records of it may be taken now. It must never stay at 0 for good."""


class Handler(Protocol[M]):
    """A service's work on a batch. It owns no transaction: the kit begins, commits, repeats.

    A handler that must not take on as much as there is has an attribute `intake`, an `Intake`. One that must look at
    its database before its first batch has a method `prepare`, of a transaction.
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


class StoresLetters(Protocol):
    """Where records go that nobody can handle."""

    async def write(self, tx: AsyncConnection, letters: Sequence[Unreadable]) -> None:
        """Store them."""


class BatchProcess(Generic[M]):
    """Runs a handler's batches, one at a time: the consumer's and the timers' go through the same door."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        handler: Handler[M],
        outbox: Outbox,
        dead_letters: StoresLetters,
        publisher: Publishes,
        metrics: Metrics,
        stopping: asyncio.Event,
    ) -> None:
        self._engine = engine
        self._handler = handler
        self._outbox = outbox
        self._dead_letters = dead_letters
        self._publisher = publisher
        self._metrics = metrics
        self._stopping = stopping
        self._turn = asyncio.Lock()
        self._trying_since: float | None = None

    @property
    def trying_s(self) -> float:
        """For how long the present try of a batch goes on; 0 between tries, since an outage is waited for.

        All that a try waits for has a limit of its own, except what a handler waits for: one that goes on and on hangs.
        """
        return 0.0 if self._trying_since is None else time.monotonic() - self._trying_since

    async def run(self, messages: Sequence[Received[M]], unreadable: Sequence[Unreadable] = ()) -> None:
        """Handle all messages; return when everything is committed, and published or left to the relay.

        Raises `Stopped` (and nothing else) when the process shall end before that: then acknowledge nothing.
        """
        if not messages and not unreadable:
            return
        async with self._turn:
            self._metrics.batch_size.observe(len(messages) + len(unreadable))
            with self._metrics.batch_duration_seconds.time(), handling(messages):
                await self._finish(messages, unreadable)

    async def _finish(self, messages: Sequence[Received[M]], unreadable: Sequence[Unreadable]) -> None:
        backoff, contentions = Backoff(), 0
        if unreadable:
            # Why is kept with the letter: it may quote what somebody sent.
            log.warning("records can't be read", records=len(unreadable), first=_name(unreadable[0][0]))
        parts = [messages]  # the next one last
        while parts:
            part = parts.pop()
            try:
                with self._trying():
                    await self._commit(part, unreadable)
                unreadable = ()
            except Exception as error:  # noqa: BLE001 - the one place where faults are sorted
                cause = classify(error)
                contentions = contentions + 1 if isinstance(error, Contention) else 0
                if contentions > CONTENTIONS_MAX:
                    contentions, cause = CONTENTIONS_MAX - 1, "poison"
                if cause == "infrastructure" or not part:  # storing a letter has no message to blame
                    await self._wait_out(backoff, error)
                    parts.append(part)
                elif unreadable:
                    parts += [part, []]  # the letters first, alone
                elif len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                else:
                    await self._set_aside(part[0], error)
            else:
                backoff.reset()

    async def _commit(self, messages: Sequence[Received[M]], unreadable: Sequence[Unreadable]) -> None:
        sent = self._outbox.sent
        reached(CrashPoint.BATCH_TAKEN, messages)
        async with self._engine.begin() as tx:
            effects = await self._handler.handle(tx, messages) if messages else Effects()
            check_sizes(effects.messages)
            reached(CrashPoint.BATCH_HANDLED, messages)
            if letters := [*unreadable, *effects.letters]:
                await self._dead_letters.write(tx, letters)
            rows = await self._outbox.write(tx, effects.kept, sent)
            reached(CrashPoint.BATCH_WRITTEN, messages)
        reached(CrashPoint.BATCH_COMMITTED, messages)
        self._outbox.forget(sent)
        for why, number in effects.dropped.items():
            self._metrics.messages_dropped.labels(why).inc(number)
        now = [*(kept.outgoing for kept in effects.kept if not kept.delay_s), *effects.messages]
        if await self._publisher.publish(now):
            reached(CrashPoint.PUBLISHED, messages)
            self._outbox.remember(rows)
        if effects.committed is not None:
            _tell(effects.committed)
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
                            await self._dead_letters.write(tx, [(message.record, reason)])
                        reached(CrashPoint.SET_ASIDE_WRITTEN, [message])
                break
            except Exception as fault:  # noqa: BLE001 - sorted as above
                if classify(fault) == "poison" and outcome == "parked":
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


def _tell(committed: Callable[[], None]) -> None:
    try:
        committed()
    except Exception:  # its batch is committed, so nobody may take this for a fault of the batch
        log.exception("a handler's callback failed")


def _name(record: Record | None) -> str | None:
    return None if record is None else f"{record.topic}/{record.partition}@{record.offset}"
