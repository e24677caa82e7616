"""Publishes again what was accepted and lost, until the orchestrator shows it: no accepted order is ever lost.

Any number of API processes may sweep: a row is leased by one at a time (`SKIP LOCKED`, and a time before which nobody
looks again). What the orchestrator does not show may be lost, or waits in a queue, and every copy would make that
longer. It is lost when what was accepted well after it is shown; of all else, only so much a second is published that
it costs a queue next to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from prometheus_client import Counter

from contracts.envelope import Outgoing
from order_api.messages import cancel_message, request_message
from order_api.store import Store
from saga_kit.backoff import keep_doing
from saga_kit.outbox import Publishes

PAGE: Final = 500
UNSURE_MAX: Final = 100
"""Of what nothing has overtaken, so much is published in one look; after it the next one waits for the interval."""
MARGIN: Final = timedelta(seconds=3)
"""By so much the partitions of a topic may be apart."""
_Missing = tuple[datetime, UUID, Outgoing]
"""What was accepted when, of which order, and its message."""

log = structlog.get_logger(__name__)


class Sweeper:
    """Settles what the orchestrator shows, and publishes the rest again."""

    def __init__(self, store: Store, publisher: Publishes, republished: Counter, *, interval_s: float = 1.0) -> None:
        self._store = store
        self._publisher = publisher
        self._republished = republished
        self._interval_s = interval_s
        self._claims, self._cancels = Front(), Front()

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep until `stopping`; whatever fails is tried again."""
        await keep_doing("sweep", self.sweep, stopping, every_s=self._interval_s)

    async def sweep(self) -> bool:
        """Look at one page of claims and one of cancels; return whether more may be due at once."""
        claims, cancels = await self._store.due_claims(PAGE), await self._store.due_cancels(PAGE)
        requests = [(one.created_at, one.claim.order_id, request_message(one)) for one in claims.missing]
        wishes = [(one.created_at, one.order_id, cancel_message(one)) for one in cancels.missing]
        done = await self._publish("claims", self._claims, claims.shown_until, requests)
        done &= await self._publish("cancels", self._cancels, cancels.shown_until, wishes)
        return done and max(claims.number, cancels.number) == PAGE

    async def _publish(
        self, table: str, front: Front, shown_until: datetime | None, missing: Sequence[_Missing]
    ) -> bool:
        """Publish of what is missing what should be, and have the rest looked at again soon; tell whether all was."""
        lost, waiting = front.parted(shown_until, missing)
        now, later = [*lost, *waiting[:UNSURE_MAX]], waiting[UNSURE_MAX:]
        if now:
            log.info("publishing again what the orchestrator does not show yet", table=table, messages=len(now))
            if await self._publisher.publish([message for _, _, message in now]):
                self._republished.inc(len(now))
            else:
                later = [*now, *later]
        if later:
            await self._store.hand_back(table, [order_id for _, order_id, _ in later])
        return not later


class Front:
    """How far the orchestrator has come: the time of the newest that it is known to show."""

    def __init__(self) -> None:
        self._shown_until: datetime | None = None

    def parted(
        self, shown_until: datetime | None, missing: Sequence[_Missing]
    ) -> tuple[Sequence[_Missing], Sequence[_Missing]]:
        """Tell what was overtaken, so that it must be lost, from what may be waiting still."""
        if shown_until is not None and (self._shown_until is None or shown_until > self._shown_until):
            self._shown_until = shown_until
        if self._shown_until is None:
            return [], missing
        before = self._shown_until - MARGIN
        return [one for one in missing if one[0] < before], [one for one in missing if one[0] >= before]
