"""Takes events of orders from Kafka and stores a delivery for each endpoint that wants one.

What endpoints want is kept in memory, by user, until the number moves that every change of an endpoint raises. A batch
that concerns nobody writes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from contracts.codec import decode
from contracts.envelope import Envelope, UnreadableMessage
from contracts.orders import OrderStatusChanged
from contracts.topics import ORDERS_EVENTS
from contracts.webhooks import EndpointKind
from projections.webhooks import store
from projections.webhooks.deliveries import Subscription
from projections.webhooks.metrics import WebhookMetrics
from projections.webhooks.subscriptions import deliveries_of
from saga_kit.messaging.batch import Effects, Received, Record
from saga_kit.runtime.transactions import Transaction

USERS_MAX: Final = 50_000
"""Users whose endpoints stay in memory; most have none."""


class WebhookHandler:
    """Handles batches of events. `stored` is told, after the commit, which endpoints have something to be sent."""

    topics: Sequence[str] = (ORDERS_EVENTS.name,)

    def __init__(
        self,
        kinds: Collection[EndpointKind],
        stored: Callable[[Collection[UUID]], None],
        metrics: WebhookMetrics,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kinds = kinds
        self._stored = stored
        self._metrics = metrics
        self._now = now
        self._changes = -1
        self._by_user: OrderedDict[str, list[Subscription]] = OrderedDict()

    def decode(self, envelope: Envelope, record: Record) -> OrderStatusChanged:
        """Read an event; raises `UnreadableMessage` for anything else."""
        message = decode(envelope.type, record.value)
        if not isinstance(message, OrderStatusChanged):
            raise UnreadableMessage(f"{envelope.type} is no event of an order")
        return message

    def comes_again(self, _message: OrderStatusChanged) -> bool:
        """Tell that nobody repeats an event, so that none may be dropped."""
        return False

    async def handle(self, tx: Transaction, messages: Sequence[Received[OrderStatusChanged]]) -> Effects:
        """Store the deliveries of a batch."""
        events = [received.message for received in messages]
        await self._learn(tx, {event.order.user_id for event in events})
        new = deliveries_of(events, self._by_user, self._kinds, self._now())
        self._forget()
        if not new:
            return Effects()
        await store.insert(tx, new)
        endpoint_ids = {one.endpoint_id for one in new}

        def committed() -> None:
            self._metrics.stored.inc(len(new))
            self._stored(endpoint_ids)

        return Effects(after_commit=committed)

    async def park(self, _tx: Transaction, _message: Received[OrderStatusChanged], _reason: str) -> bool:
        """Park nothing: an order goes on whoever is told. The event becomes a dead letter."""
        return False

    async def _learn(self, tx: Transaction, user_ids: set[str]) -> None:
        """Read what these users' endpoints want, unless that is known and nothing has changed since."""
        changes = await store.changes(tx)
        if changes != self._changes:
            self._by_user.clear()
        unknown = user_ids - self._by_user.keys()
        if unknown:
            self._by_user.update(await store.subscriptions(tx, unknown))
        for user_id in user_ids - unknown:
            self._by_user.move_to_end(user_id)
        self._changes = changes

    def _forget(self) -> None:
        while len(self._by_user) > USERS_MAX:
            self._by_user.popitem(last=False)
