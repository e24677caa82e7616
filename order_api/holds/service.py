"""Holds for services: what is accepted is committed first, then published, and published again until it is answered.

What became of a hold is told by `holds.events`. Each API process follows them from their end, and writes what it hears;
what nobody heard is asked for again, since the same request is always answered by the same event (ADR 40).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import structlog
from prometheus_client import Counter
from uuid_utils.compat import uuid7

from contracts.codec import decode
from contracts.envelope import UnreadableMessage, format_time, read_envelope
from contracts.holds import HoldEvent
from order_api.holds.holds import (
    EXPIRES_AT_RULE,
    Action,
    Asked,
    CaptureBody,
    HoldBody,
    ServiceHold,
    ask_capture,
    ask_for,
    ask_release,
    encode,
    is_captured_so,
    message_of,
    news_of,
)
from order_api.holds.store import Origin, Store
from order_api.http.problems import BrokenRule, Code, Problem, invalid
from order_api.http.tokens import Caller
from saga_kit.messaging.fetch_limits import LostRecord
from saga_kit.messaging.outbox import Publishes
from saga_kit.runtime.backoff import keep_doing

CLAIM_TRIES: Final = 3
"""A key that is taken may be free a moment later: an old one is released, and concurrent twins compete for it."""
PAGE: Final = 500

log = structlog.get_logger(__name__)


class HoldService:
    """Serves services that are known; raises `Problem` for what it refuses."""

    def __init__(self, store: Store, publisher: Publishes, accepted: Counter, *, keys_kept_days: int) -> None:
        self._store = store
        self._publisher = publisher
        self._accepted = accepted
        self._keys_kept_days = keys_kept_days

    async def place(self, body: HoldBody, key: str | None, caller: Caller, origin: Origin) -> tuple[ServiceHold, bool]:
        """Accept a hold; return it, and whether it had been accepted before under the same key."""
        request = ask_for(uuid7(), body)
        message = encode(request)
        for _ in range(CLAIM_TRIES):
            created_at = await self._store.claim(caller.user_id, key, request, message, origin)
            if created_at is not None:
                traceparent = origin.traceparent
                asked = Asked(request.hold_id, Action.PLACE, body.user_id, message, traceparent, created_at)
                await self._publish(asked)
                return await self.hold(request.hold_id, caller), False
            if await self._store.release_key(caller.user_id, key, self._keys_kept_days):
                continue
            if (held := await self._store.holder(caller.user_id, key)) is None:
                raise invalid(BrokenRule("expires_at", f"must be {EXPIRES_AT_RULE}", format_time(body.expires_at)))
            if (held.user_id, held.asset_id, held.amount, held.expires_at) != (
                *(body.user_id, body.asset_id, body.amount, body.expires_at),
            ):
                raise Problem(Code.HOLD_KEY_REUSED, f"it belongs to hold {held.hold_id}", hold_id=held.hold_id)
            return held, True
        raise Problem(Code.UNAVAILABLE)

    async def hold(self, hold_id: UUID, caller: Caller) -> ServiceHold:
        """Return a hold that this service asked for."""
        hold = await self._store.find(caller.user_id, hold_id)
        if hold is None:
            raise Problem(Code.HOLD_NOT_FOUND)
        return hold

    async def capture(self, hold_id: UUID, body: CaptureBody, caller: Caller, origin: Origin) -> ServiceHold:
        """Accept a capture; one that was done just so before is answered with the hold as it is."""
        hold = await self.hold(hold_id, caller)
        if is_captured_so(hold, body):
            return hold
        return await self._ask(hold, Action.CAPTURE, encode(ask_capture(hold, body)), caller, origin)

    async def release(self, hold_id: UUID, caller: Caller, origin: Origin) -> ServiceHold:
        """Accept a release; of a hold that holds nothing any more, the answer is the hold as it is."""
        hold = await self.hold(hold_id, caller)
        request = ask_release(hold)
        if not hold.holds:
            return hold
        return await self._ask(hold, Action.RELEASE, encode(request), caller, origin)

    async def _ask(
        self, hold: ServiceHold, action: Action, message: bytes, caller: Caller, origin: Origin
    ) -> ServiceHold:
        asked = await self._store.ask(hold, action, message, origin)
        if asked is None:
            raise Problem(Code.HOLD_CAPTURE_DIFFERS, hold_id=hold.hold_id)
        await self._publish(asked)
        return await self.hold(hold.hold_id, caller)

    async def _publish(self, asked: Asked) -> None:
        """Publish what is committed. When it fails the sweeper does it: the caller was promised no more."""
        self._accepted.labels(asked.action).inc()
        if not await self._publisher.publish([message_of(asked)]):
            log.warning("a request for a hold is not published yet", hold_id=str(asked.hold_id), action=asked.action)


class HoldListener:
    """Writes down what the events tell."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def hear(self, records: Sequence[Any]) -> None:
        """Write what these events tell of the holds that were asked for here; others are no business of the API."""
        events = [event for record in records if (event := _read(record)) is not None]
        if events:
            await self._store.learn(news_of(events))

    def missed(self) -> None:
        """Do nothing: the sweeper asks again for what was not answered."""


class HoldSweeper:
    """Publishes again what no event has answered, and asks for the end of holds that nobody heard of."""

    def __init__(self, store: Store, publisher: Publishes, republished: Counter, *, interval_s: float) -> None:
        self._store = store
        self._publisher = publisher
        self._republished = republished
        self._interval_s = interval_s

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep until `stopping`; whatever fails is tried again."""
        await keep_doing("sweep holds", self.sweep, stopping, every_s=self._interval_s)

    async def sweep(self) -> bool:
        """Look at one page of each; return whether more may be due at once."""
        if unheard := await self._store.unheard(PAGE):
            # Its time is over, so a release takes nothing from anybody; the answer is the end that was missed.
            await self._store.ask_releases({hold.hold_id: encode(ask_release(hold)) for hold in unheard})
        due = await self._store.due(PAGE)
        if due and not await self._publisher.publish([message_of(asked) for asked in due]):
            await self._store.hand_back(due)
            return False
        self._republished.inc(len(due))
        return PAGE in (len(unheard), len(due))


def _read(record: Any) -> HoldEvent | None:
    """Read an event; None for what is none. The ledger alone may write there, and what was missed is asked again."""
    if isinstance(record, LostRecord):
        return None
    try:
        message = decode(read_envelope(record.headers).type, record.value)
    except UnreadableMessage:
        log.warning("an event of a hold can't be read", partition=record.partition, offset=record.offset)
        return None
    return message if isinstance(message, HoldEvent) else None
