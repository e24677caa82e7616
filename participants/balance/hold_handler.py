"""The handler of the holds of services: batches from `holds.requests`, and holds whose time has come.

It is the kit's participant handler with a clock: rows are locked in one order, a batch is folded in memory in message
order, each row is written once, and what was asked for before this ledger began is never executed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from contracts.codec import decode, outgoing
from contracts.envelope import Envelope, UnreadableMessage
from contracts.holds import (
    HoldCaptureRefused,
    HoldEvent,
    HoldRefusal,
    HoldRefused,
    HoldReleaseRefused,
    HoldRequest,
    HoldRequested,
)
from contracts.topics import HOLDS_REQUESTS
from participants.balance.hold_store import ServiceHolds, ServiceLedger, due, read_now
from participants.balance.service_holds import PREFIX, Asked, Expiry, ServiceHold, command_of, judge, refuse, stored_id
from participants.balance.tables import SCHEMA
from saga_kit.messaging.batch import BatchProcess, Effects, Received, Record
from saga_kit.messaging.outbox import OutboxMessage
from saga_kit.participant.handler import BEFORE_START
from saga_kit.participant.ledger_start import LedgerStart, made_at
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.transactions import Begins, Transaction, alone

SOURCE: Final = "/balance"
EXPIRED_MAX: Final = 500
"""Holds of one round of the scanner: as many as a batch of messages."""
ELSEWHERE: Final = "asked for before this ledger began: the one before must end it, or hand it over"


class HoldHandler:
    """Answers requests for holds beside the saga. `registry` gets the count of events, by type.

    `read_now` is the clock by which holds expire: the database's, unless old requests are done again.
    """

    topics: Sequence[str] = (HOLDS_REQUESTS.name,)

    def __init__(
        self, registry: CollectorRegistry, read_now: Callable[[Transaction], Awaitable[datetime]] = read_now
    ) -> None:
        self._read_now = read_now
        self._holds = ServiceHolds()
        self._start = LedgerStart(SCHEMA)
        self._began_at: datetime | None = None
        self._events = Counter("hold_events", "Events of services' holds, by type.", ["type"], registry=registry)

    def decode(self, envelope: Envelope, record: Record) -> HoldRequest:
        """Read one request; raises `UnreadableMessage` for anything else."""
        message = decode(envelope.type, record.value)
        if not isinstance(message, HoldRequest):
            raise UnreadableMessage(f"{envelope.type} asks nothing of a hold")
        return message

    def comes_again(self, _message: Asked) -> bool:
        """Say that nobody promises to repeat a request: the batch must not drop one that a locked row holds up."""
        return False

    async def prepare(self, tx: Transaction) -> None:
        """Read when the ledger began, before the first batch. Raises `CannotStart` when it must not answer."""
        self._began_at = await self._start.read(tx)

    async def handle(self, tx: Transaction, messages: Sequence[Received[Asked]]) -> Effects:
        """Fold the batch in message order; every event goes through the outbox."""
        everything, messages = messages, [received for received in messages if not self._is_earlier(made_at(received))]
        dropped = {BEFORE_START: len(everything) - len(messages)} if len(everything) > len(messages) else {}
        if not messages:
            return Effects(dropped=dropped)
        ledger = ServiceLedger()
        await ledger.lock(tx, [command_of(received.message) for received in messages])
        known = await self._holds.lock(tx, {stored_id(received.message) for received in messages})
        now = await self._read_now(tx)
        holds: dict[str, ServiceHold] = dict(known)
        events: list[tuple[HoldEvent, Received[Asked]]] = []
        for received in messages:
            asked = received.message
            hold_id = stored_id(asked)
            if (elsewhere := self._elsewhere(asked)) is not None and hold_id not in holds:
                events.append((elsewhere, received))
                continue
            verdict = judge(asked, holds.get(hold_id), ledger, now)
            if verdict.hold is not None:
                holds[hold_id] = verdict.hold
            events += [(event, received) for event in verdict.events]
        self._holds.save(tx, known, holds)
        await ledger.save(tx)
        return Effects(
            outbox=[
                message_of(event, now, received.envelope.traceparent if received.envelope is not None else None)
                for event, received in events
            ],
            dropped=dropped,
            after_commit=lambda: self._count(event for event, _ in events),
        )

    async def park(self, tx: Transaction, message: Received[Asked], reason: str) -> bool:  # noqa: ARG002
        """Park nothing: a hold has no saga. A request that can't be handled becomes a dead letter."""
        return False

    def _elsewhere(self, asked: Asked) -> HoldEvent | None:
        """Answer what is asked of a hold that another ledger may hold: nothing moves, and nothing is stored."""
        if isinstance(asked, Expiry | HoldRequested) or not self._is_earlier(asked.hold_asked_at):
            return None
        return refuse(asked, HoldRefusal.HOLD_CONFLICT, ELSEWHERE)

    def _is_earlier(self, at: datetime | None) -> bool:
        return self._began_at is not None and at is not None and at < self._began_at

    def _count(self, events: Iterable[HoldEvent]) -> None:
        for event in events:
            self._events.labels(type(event).__name__).inc()


async def run_expiries(
    source: Begins, process: BatchProcess[Asked], stopping: asyncio.Event, *, interval_s: float
) -> None:
    """End holds whose time has come until told to stop, looking every `interval_s`."""

    async def expire() -> bool:
        async with alone(source) as tx:
            found = await due(tx, EXPIRED_MAX)
        await process.run([Received(expiry) for expiry in found])
        return len(found) == EXPIRED_MAX

    await keep_doing("expiries of holds", expire, stopping, every_s=interval_s)


def message_of(event: HoldEvent, at: datetime, traceparent: str | None = None) -> OutboxMessage:
    """Put an event into its envelope; the same event has the same id."""
    hold_id = f"{PREFIX}{event.hold_id}"
    message_id = ":".join([hold_id, type(event).__name__, *_of_refusal(event)])
    message = outgoing(event, message_id=message_id, source=SOURCE, time=at, traceparent=traceparent)
    return OutboxMessage(hold_id, message)


def _of_refusal(event: HoldEvent) -> Iterator[str]:
    """Give what else names a refusal: of one hold there may be several."""
    if isinstance(event, HoldRefused | HoldCaptureRefused | HoldReleaseRefused):
        yield event.reason_code
    if isinstance(event, HoldCaptureRefused):
        yield f"{event.capture:f}:{event.to}"
