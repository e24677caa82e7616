"""Publishes again what was accepted and lost, until the orchestrator shows it: no accepted order is ever lost.

Any number of API processes may sweep: a row is leased by one at a time (`SKIP LOCKED`, and a time before which nobody
looks again). What the orchestrator does not show may be lost, or waits in a queue, and every copy would make that
longer. It is lost when this process could not publish it, or when what was accepted well after it in the same partition
is shown; of all else, only so much a second is published that it costs a queue next to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog
from prometheus_client import Counter

from contracts.envelope import Outgoing
from contracts.topics import ORDERS_REQUESTS
from contracts.vocabulary import id_text
from order_api.orders.messages import cancel_message, request_message
from order_api.orders.store import Looked, Store
from order_api.orders.unpublished import Unpublished
from saga_kit.messaging.murmur2 import murmur2, partition_of
from saga_kit.messaging.outbox import Publishes
from saga_kit.runtime.backoff import keep_doing

PAGE: Final = 500
UNSURE_MAX: Final = 100
"""Of the claims that may only be waiting, and of such cancels, a look publishes so many at most; when there were more,
the next look comes after the interval. Each process looks by itself."""
MARGIN: Final = timedelta(seconds=3)
"""Several producers write to a partition, and none of them at the moment of accepting: by so much they may differ."""

log = structlog.get_logger(__name__)


class Missing(NamedTuple):
    """What the orchestrator does not show."""

    order_id: UUID
    created_at: datetime
    message: Outgoing


class Sweeper:
    """Settles what the orchestrator shows, and publishes the rest again."""

    def __init__(
        self,
        store: Store,
        publisher: Publishes,
        republished: Counter,
        unpublished: Unpublished,
        *,
        interval_s: float = 1.0,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._republished = republished
        self._unpublished = unpublished
        self._interval_s = interval_s
        self._claims, self._cancels = Front(), Front()

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep until `stopping`; whatever fails is tried again."""
        await keep_doing("sweep", self.sweep, stopping, every_s=self._interval_s)

    async def sweep(self) -> bool:
        """Look at one page of claims and one of cancels; return whether more may be due at once."""
        claims, cancels = await self._store.due_claims(PAGE), await self._store.due_cancels(PAGE)
        requests = [Missing(one.claim.order_id, one.created_at, request_message(one)) for one in claims.missing]
        wishes = [Missing(one.order_id, one.created_at, cancel_message(one)) for one in cancels.missing]
        done = await self._publish("claims", self._claims, claims, requests)
        done &= await self._publish("cancels", self._cancels, cancels, wishes)
        return done and max(claims.number, cancels.number) == PAGE

    async def _publish(self, table: str, front: Front, looked: Looked[Any], missing: Sequence[Missing]) -> bool:
        """Publish of what is missing what should be, and have the rest looked at again soon; tell whether all was."""
        front.move(looked.shown)
        lost: list[Missing] = []
        waiting: list[Missing] = []
        for one in missing:
            (lost if one.message in self._unpublished or front.is_past(one) else waiting).append(one)
        now, later = [*lost, *waiting[:UNSURE_MAX]], waiting[UNSURE_MAX:]
        if now:
            log.info("publishing again what the orchestrator does not show yet", table=table, messages=len(now))
            messages = [one.message for one in now]
            if await self._publisher.publish(messages):
                self._unpublished.note(messages, published=True)
                self._republished.inc(len(now))
            else:  # what only may be waiting was published once, and is not known to be lost by this
                later = [*now, *later]
        if later:
            await self._store.hand_back(table, [one.order_id for one in later])
        return not later


class Front:
    """How far the orchestrator has come in each partition: when the newest was accepted that it is known to have read.

    Partitions have readers of their own: one that died holds up its partitions, and the others go on.
    """

    def __init__(self) -> None:
        self._read_until: dict[int, datetime] = {}

    def move(self, shown: Sequence[tuple[UUID, datetime]]) -> None:
        """Note what was read."""
        for order_id, created_at in shown:
            partition = _partition(order_id)
            self._read_until[partition] = max(created_at, self._read_until.get(partition, created_at))

    def is_past(self, missing: Missing) -> bool:
        """Tell whether what is missing should have been read before what was read, so that it must be lost."""
        read_until = self._read_until.get(_partition(missing.order_id))
        return read_until is not None and missing.created_at < read_until - MARGIN


def _partition(order_id: UUID) -> int:
    return partition_of(murmur2(id_text(order_id).encode()), ORDERS_REQUESTS.partitions)
