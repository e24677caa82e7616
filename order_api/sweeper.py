"""Publishes again what was accepted, until the orchestrator shows it: no accepted order is ever lost.

Any number of API processes may sweep: a row is leased by one at a time (`SKIP LOCKED`, and a time before which nobody
looks again). The pauses for one row double, so that an orchestrator that is away finds its queue short when it returns.
"""

from __future__ import annotations

import asyncio
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

log = structlog.get_logger(__name__)


class Sweeper:
    """Settles what the orchestrator shows, and publishes the rest again."""

    def __init__(self, store: Store, publisher: Publishes, republished: Counter, *, interval_s: float = 1.0) -> None:
        self._store = store
        self._publisher = publisher
        self._republished = republished
        self._interval_s = interval_s

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep until `stopping`; whatever fails is tried again."""
        await keep_doing("sweep", self.sweep, stopping, every_s=self._interval_s)

    async def sweep(self) -> bool:
        """Look at one page of claims and one of cancels; return whether more may be due at once."""
        seen_claims, claims = await self._store.due_claims(PAGE)
        published = await self._publish("claims", {c.claim.order_id: request_message(c) for c in claims})
        seen_cancels, cancels = await self._store.due_cancels(PAGE)
        published &= await self._publish("cancels", {c.order_id: cancel_message(c) for c in cancels})
        return published and max(seen_claims, seen_cancels) == PAGE

    async def _publish(self, table: str, messages: dict[UUID, Outgoing]) -> bool:
        if not messages:
            return True
        log.info("publishing again what the orchestrator does not show yet", table=table, messages=len(messages))
        if await self._publisher.publish(list(messages.values())):
            self._republished.inc(len(messages))
            return True
        await self._store.hand_back(table, list(messages))
        return False
