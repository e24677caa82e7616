"""The work behind the door: accept an order, accept a cancel, show an order. It promises only what is committed.

An order is claimed, then published. A claim that could not be published is kept and the caller told so: the sweeper
publishes it, and until the orchestrator has it the claim itself is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from prometheus_client import Counter

from contracts.envelope import Outgoing
from contracts.orders import Order
from contracts.vocabulary import OPERATOR_PREFIX, OrderStatus
from order_api.batcher import Batcher, Overloaded
from order_api.messages import Claim, Claimed, cancel_message, request_message
from order_api.orders import pending, refuse_late_cancel, shown
from order_api.problems import Code, Problem
from order_api.store import Entry, Found, Store
from order_api.tokens import Caller
from saga_kit.outbox import Publishes


def address(order_id: UUID) -> str:
    """Say where an order is found."""
    return f"/orders/{order_id}"


class Desk:
    """Serves callers who are known and requests that are well formed; raises `Problem` for what it refuses."""

    def __init__(self, store: Store, publisher: Publishes, accepted: Counter) -> None:
        self._store = store
        self._accepted = accepted
        self._claims: Batcher[Claim, datetime | None] = Batcher(store.claim)

        async def publish(messages: Sequence[Outgoing]) -> list[bool]:
            return [await publisher.publish(messages)] * len(messages)

        self._messages: Batcher[Outgoing, bool] = Batcher(publish)

    async def submit(self, claim: Claim, caller: Caller) -> tuple[Order, bool]:
        """Accept an order; return it, and whether it is one that was accepted before under the same keys."""
        created_at = await self._claims.do(claim)
        if created_at is not None:
            self._accepted.inc()
            claimed = Claimed(claim, created_at)
            await self._publish(request_message(claimed), claim.order_id)
            return pending(claimed), False
        found = _same_order(claim, await self._store.holders(claim))
        order = shown(found, caller)
        if order is None or found.claimed is None:
            raise Problem(Code.UNAVAILABLE)
        if found.order is None:  # perhaps nobody has published it yet: whoever says "accepted" has seen it published
            await self._publish(request_message(found.claimed), order.order_id)
        return order, True

    async def order(self, order_id: UUID, caller: Caller) -> Order:
        """Return an order that this caller may see."""
        order = shown(await self._store.find(order_id), caller)
        if order is None:
            raise Problem(Code.ORDER_NOT_FOUND)
        return order

    async def history(self, order_id: UUID, caller: Caller, after: int) -> tuple[list[Entry], bool]:
        """Return a page of what happened to an order, and whether there is more."""
        found = await self._store.find(order_id)
        order = shown(found, caller)
        if order is None:
            raise Problem(Code.ORDER_NOT_FOUND)
        if order is not found.order:  # only claimed, or its id is another user's order: nothing happened to it
            return [], False
        return await self._store.history(order_id, after)

    async def cancel(self, order_id: UUID, caller: Caller) -> tuple[Order, bool]:
        """Accept a cancel; return the order, and whether it is over already (cancelled before)."""
        order = await self.order(order_id, caller)
        if order.status is OrderStatus.CANCELLED:
            return order, True
        refuse_late_cancel(order)
        if not order.cancel_requested:
            requested_by = order.user_id if caller.acts_for(order.user_id) else OPERATOR_PREFIX + caller.user_id
            cancel = await self._store.cancel(order_id, order.user_id, requested_by)
            await self._publish(cancel_message(cancel), order_id)
        return msgspec.structs.replace(order, cancel_requested=True), False

    async def _publish(self, message: Outgoing, order_id: UUID) -> None:
        try:
            published = await self._messages.do(message)
        except Overloaded:
            published = False
        if not published:
            where = address(order_id)
            raise Problem(Code.NOT_PUBLISHED, instance=where, headers={"location": where}, order_id=order_id)


def _same_order(claim: Claim, holders: Sequence[Found]) -> Found:
    """Return the order that has a claim's keys, when it is the very order that is asked for; else raise the problem."""
    claims = {found.claimed.claim.order_id: found.claimed.claim for found in holders if found.claimed is not None}
    if not claims:  # its holder is gone again
        raise Problem(Code.UNAVAILABLE)
    if len(claims) > 1:
        raise Problem(Code.KEYS_DISAGREE, order_ids=sorted(claims))
    [(order_id, first)] = claims.items()
    if first.intent != claim.intent:
        by_key = claim.idempotency_key is not None and first.idempotency_key == claim.idempotency_key
        code = Code.IDEMPOTENCY_KEY_REUSED if by_key else Code.CLIENT_ORDER_ID_REUSED
        raise Problem(code, f"it belongs to order {order_id}", order_id=order_id, order=address(order_id))
    return holders[0]
