"""The order service: it accepts orders and cancels, and shows orders. It promises only what is committed.

An order is claimed, then published. When the publish fails, the claim stays and the caller gets a problem that says so:
the sweeper publishes it. Until the orchestrator shows the order, its claim is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from prometheus_client import Counter

from contracts.envelope import Outgoing
from contracts.orders import Order
from contracts.vocabulary import OrderStatus
from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller
from order_api.orders.audit_trail import REPLAYED, Action, Origin
from order_api.orders.batcher import Batcher, Overloaded
from order_api.orders.listing import Page, Wanted, make_page
from order_api.orders.publication.messages import Claim, Claimed, cancel_message, expires_at, request_message
from order_api.orders.publication.unpublished import Unpublished
from order_api.orders.store import Entry, Found, OutOfTime, Store
from order_api.orders.submission import out_of_time
from order_api.orders.views import listed, pending, refuse_late_cancel, shown
from saga_kit.messaging.outbox import Publishes

CLAIM_TRIES: Final = 3
"""A key that is taken may be free a moment later: an old one is released, and concurrent twins compete for it."""


def address(order_id: UUID) -> str:
    """Return the address of an order."""
    return f"/orders/{order_id}"


class OrderService:
    """Serves known callers and well-formed requests; raises `Problem` for what it refuses."""

    def __init__(
        self,
        store: Store,
        publisher: Publishes,
        accepted: Counter,
        *,
        unpublished: Unpublished,
        keys_kept_days: int,
    ) -> None:
        self._store = store
        self._accepted = accepted
        self._unpublished = unpublished
        self._keys_kept_days = keys_kept_days
        self._claims: Batcher[tuple[Claim, Origin], datetime | OutOfTime | None] = Batcher(store.claim)
        self._reads: Batcher[UUID, Found] = Batcher(store.find)

        async def publish(messages: Sequence[Outgoing]) -> list[bool]:
            published = await publisher.publish(messages)
            unpublished.note(messages, published=published)
            return [published] * len(messages)

        self._messages: Batcher[Outgoing, bool] = Batcher(publish)

    async def submit(self, claim: Claim, caller: Caller, origin: Origin) -> tuple[Order, bool]:
        """Accept an order; return it, and whether it had been accepted before under the same keys."""
        for _ in range(CLAIM_TRIES):
            outcome = await self._claims.do((claim, origin))
            if isinstance(outcome, datetime):
                self._accepted.inc()
                claimed = Claimed(claim, outcome)
                await self.publish(request_message(claimed), claim.order_id)
                return pending(claimed), False
            if await self._store.release_key(claim, self._keys_kept_days):
                continue
            if holders := await self._store.holders(claim):  # else a twin has just released the key: try again
                return await self._again(claim, holders, caller, origin), True
            if outcome is not None:  # an order that was accepted in time is answered again later, too
                raise out_of_time(expires_at(claim), outcome.now)
        raise Problem(Code.UNAVAILABLE)

    async def order(self, order_id: UUID, caller: Caller) -> Order:
        """Return an order that this caller may see."""
        return _shown(await self._reads.do(order_id), caller)

    async def named(self, user_id: str, client_order_id: str, caller: Caller) -> Order:
        """Return the order to which a user gave this name."""
        return _shown(await self._store.find_named(user_id, client_order_id), caller)

    async def orders(self, wanted: Wanted, caller: Caller) -> Page:
        """Return a page of a user's orders."""
        user_id = wanted.user_id or caller.user_id
        if not caller.sees(user_id):
            raise Problem(Code.OTHER_USER)
        return make_page([listed(found, user_id) for found in await self._store.page(user_id, wanted)], wanted.limit)

    async def history(self, order_id: UUID, caller: Caller, after: int) -> tuple[list[Entry], bool]:
        """Return a page of what happened to an order, and whether there is more."""
        found = await self._reads.do(order_id)
        if _shown(found, caller) is not found.order:  # it is only claimed, or its id is another user's order
            return [], False
        return await self._store.history(order_id, after)

    async def cancel(self, order_id: UUID, caller: Caller, origin: Origin) -> tuple[Order, bool]:
        """Accept a cancel; return the order, and whether it was cancelled before."""
        order = await self.order(order_id, caller)
        try:
            refuse_late_cancel(order)
        except Problem as problem:
            await self._store.note(order_id, Action.CANCEL, problem.code, origin)
            raise
        over = order.status is OrderStatus.CANCELLED
        if over or order.cancel_requested:
            await self._store.note(order_id, Action.CANCEL, REPLAYED, origin)
        else:
            cancel = await self._store.cancel(order_id, order.user_id, caller.name_for(order.user_id), origin)
            await self.publish(cancel_message(cancel), order_id)
        return (order, True) if over else (msgspec.structs.replace(order, cancel_requested=True), False)

    async def now(self) -> datetime:
        """Return the time by which everything here is judged: the database's."""
        return await self._store.now()

    async def note(self, order_id: UUID, action: Action, outcome: str, origin: Origin) -> None:
        """Add a request that changed nothing to the trail."""
        await self._store.note(order_id, action, outcome, origin)

    async def publish(self, message: Outgoing, order_id: UUID) -> None:
        """Publish what is committed; raise the problem that says that it could not be, and will be."""
        try:
            published = await self._messages.do(message)
        except Overloaded:
            published = False
            self._unpublished.note([message], published=False)
        if not published:
            where = address(order_id)
            raise Problem(Code.NOT_PUBLISHED, instance=where, headers={"location": where}, order_id=order_id)

    async def _again(self, claim: Claim, holders: Sequence[Found], caller: Caller, origin: Origin) -> Order:
        """Return the order that a claim's keys have made before, when it is the very order that is asked for."""
        try:
            found = same_order(claim, holders)
        except Problem as problem:
            for holder in holders:
                if holder.claimed is not None:
                    await self._store.note(holder.claimed.claim.order_id, Action.SUBMIT, problem.code, origin)
            raise
        order = shown(found, caller)
        if order is None or found.claimed is None:
            raise Problem(Code.UNAVAILABLE)
        await self._store.note(order.order_id, Action.SUBMIT, REPLAYED, origin)
        if found.order is None:  # perhaps it is not published yet, and every 202 promises that it is
            await self.publish(request_message(found.claimed), order.order_id)
        return order


def _shown(found: Found | None, caller: Caller) -> Order:
    order = shown(found, caller) if found is not None else None
    if order is None:
        raise Problem(Code.ORDER_NOT_FOUND)
    return order


def same_order(claim: Claim, holders: Sequence[Found]) -> Found:
    """Return the order that has a claim's keys, when it is the very order that is asked for; else raise the problem."""
    claims = {found.claimed.claim.order_id: found.claimed.claim for found in holders if found.claimed is not None}
    if len(claims) > 1:
        raise Problem(Code.KEYS_DISAGREE, order_ids=sorted(claims))
    [(order_id, first)] = claims.items()
    if first.intent != claim.intent:
        by_key = claim.idempotency_key is not None and first.idempotency_key == claim.idempotency_key
        code = Code.IDEMPOTENCY_KEY_REUSED if by_key else Code.CLIENT_ORDER_ID_REUSED
        raise Problem(code, f"it belongs to order {order_id}", order_id=order_id, order=address(order_id))
    return holders[0]
