"""Publishes again what was accepted and may be lost, until the orchestrator shows it: no accepted order is ever lost.

Any number of API processes may sweep: a row is leased by one at a time (`SKIP LOCKED`, and a time before which nobody
looks again). What the orchestrator does not show is lost, or waits in the topic, where every copy makes the queue
longer. It is lost for sure when this process could not publish it, or when the orchestrator shows what was accepted
well after it in the same partition. Of all else a look publishes only a few. ADR 28 says why no row tells it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog
from prometheus_client import Counter

from contracts.envelope import Outgoing
from contracts.topics import ORDERS_REQUESTS
from contracts.vocabulary import id_text
from order_api.orders.changes.store import ChangeStore
from order_api.orders.publication.messages import (
    Amend,
    Cancel,
    Claimed,
    Suspension,
    amend_message,
    cancel_message,
    request_message,
    suspension_message,
)
from order_api.orders.publication.unpublished import Unpublished
from order_api.orders.publication.unread import Due, Unread
from order_api.orders.store import Store
from saga_kit.messaging.murmur2 import murmur2, partition_of
from saga_kit.messaging.outbox import Publishes
from saga_kit.runtime.backoff import keep_doing

PAGE: Final = 500
UNSURE_MAX: Final = 100
"""The most that a look publishes of claims that may only wait in the topic, and of the others alike. When there are
more, the next look comes after the interval. Each process looks by itself."""
MARGIN: Final = timedelta(seconds=3)
"""Several producers write to a partition, each a moment after it has accepted an order: by so much the order of their
messages may differ from the order of acceptance."""

log = structlog.get_logger(__name__)


class Unconfirmed(NamedTuple):
    """A message that was accepted here, and whose effect the orchestrator does not show."""

    order_id: UUID
    created_at: datetime
    message: Outgoing


class Lane(NamedTuple):
    """A table of accepted changes that are published until the orchestrator shows them.

    `unconfirmed` makes the message of a row that is not shown, from stored values alone. Whatever a user may ask of an
    order fits in: a table, the conditions on its rows, and a message.
    """

    unread: Unread[Any]
    unconfirmed: Callable[[Any], Unconfirmed]
    read: ReadPositions


class Sweeper:
    """Settles what the orchestrator shows, and publishes the rest again."""

    def __init__(
        self,
        store: Store,
        changes: ChangeStore,
        publisher: Publishes,
        republished: Counter,
        unpublished: Unpublished,
        *,
        interval_s: float = 1.0,
    ) -> None:
        self._publisher = publisher
        self._republished = republished
        self._unpublished = unpublished
        self._interval_s = interval_s
        self._lanes = (
            Lane(store.unread_claims, _request, ReadPositions()),
            Lane(store.unread_cancels, _cancel, ReadPositions()),
            Lane(changes.unread_amends, _amend, ReadPositions()),
            Lane(changes.unread_suspensions, _suspension, ReadPositions()),
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep until `stopping`; whatever fails is tried again."""
        await keep_doing("sweep", self.sweep, stopping, every_s=self._interval_s)

    async def sweep(self) -> bool:
        """Look at one page of each lane; return whether more may be due at once."""
        found = [await lane.unread.due(PAGE) for lane in self._lanes]
        done = [await self._publish(lane, due) for lane, due in zip(self._lanes, found, strict=True)]
        return all(done) and max(due.number for due in found) == PAGE

    async def _publish(self, lane: Lane, due: Due[Any]) -> bool:
        """Publish what is lost and a few of the rest, hand back all others; return whether all were published."""
        unread, read, found = lane.unread, lane.read, [lane.unconfirmed(one) for one in due.missing]
        read.note(due.shown)
        lost: list[Unconfirmed] = []
        unsure: list[Unconfirmed] = []
        for one in found:
            (lost if one.message in self._unpublished or read.are_past(one) else unsure).append(one)
        now, later = [*lost, *unsure[:UNSURE_MAX]], unsure[UNSURE_MAX:]
        if now:
            log.info("publishing again what the orchestrator does not show yet", table=unread.table, messages=len(now))
            messages = [one.message for one in now]
            if await self._publisher.publish(messages):
                self._unpublished.note(messages, published=True)
                self._republished.inc(len(now))
            else:  # this failure does not prove that they are lost: each may have been published before
                later = [*now, *later]
        if later:
            await unread.hand_back([one.order_id for one in later])
        return not later


class ReadPositions:
    """How far the orchestrator has read in each partition: when the newest order that it shows was accepted.

    Each partition has one reader at a time. One that died holds up its partitions, and the others go on.
    """

    def __init__(self) -> None:
        self._read_until: dict[int, datetime] = {}

    def note(self, shown: Sequence[tuple[UUID, datetime]]) -> None:
        """Note which orders are shown, and when they were accepted."""
        for order_id, created_at in shown:
            partition = _partition(order_id)
            self._read_until[partition] = max(created_at, self._read_until.get(partition, created_at))

    def are_past(self, one: Unconfirmed) -> bool:
        """Return whether a message should have been read before what was read, so that it must be lost."""
        read_until = self._read_until.get(_partition(one.order_id))
        return read_until is not None and one.created_at < read_until - MARGIN


def _request(one: Claimed) -> Unconfirmed:
    return Unconfirmed(one.claim.order_id, one.created_at, request_message(one))


def _cancel(one: Cancel) -> Unconfirmed:
    return Unconfirmed(one.order_id, one.created_at, cancel_message(one))


def _amend(one: Amend) -> Unconfirmed:
    return Unconfirmed(one.order_id, one.created_at, amend_message(one))


def _suspension(one: Suspension) -> Unconfirmed:
    return Unconfirmed(one.order_id, one.created_at, suspension_message(one))


def _partition(order_id: UUID) -> int:
    return partition_of(murmur2(id_text(order_id).encode()), ORDERS_REQUESTS.partitions)
