"""Changes of orders that rest: accepts amends, holds and releases, and tells what became of them.

Each is committed, then published; the sweeper publishes it again until the orchestrator has read it. One amend of an
order is under way at a time: a second one would otherwise overtake a first that has to be published again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from contracts.amends import EXPECTED_MAX, AmendRefusal, AmendState, OrderAmendment
from contracts.codec import decoder
from contracts.orders import Order
from contracts.vocabulary import OrderStatus
from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller
from order_api.orders.audit_trail import REPLAYED, Action, Origin
from order_api.orders.changes.bodies import AmendBody, allowed_versions, changes_text
from order_api.orders.changes.outcomes import (
    amend_applied,
    amend_is_over,
    amend_refused,
    is_granted,
    refuse_amend_by_status,
    refuse_unless_resting,
    wish_granted,
)
from order_api.orders.changes.store import ChangeStore, OpenAmend, TakenElsewhere, Wanted
from order_api.orders.publication.messages import Amend, Suspension, Wish, amend_message, suspension_message
from order_api.orders.service import OrderService, address
from order_api.orders.submission import refuse_out_of_time

_ACTIONS: Final = {Wish.HOLD: Action.HOLD, Wish.RELEASE: Action.RELEASE}
_read_changes: Final = decoder(AmendBody).decode


class Changes:
    """Serves known callers and well-formed requests; raises `Problem` for what it refuses."""

    def __init__(self, orders: OrderService, store: ChangeStore) -> None:
        self._orders = orders
        self._store = store

    async def amend(
        self, order_id: UUID, body: AmendBody, key: str | None, if_match: Sequence[str], caller: Caller, origin: Origin
    ) -> tuple[Order, Amend, bool]:
        """Accept an amend; return the order, the amend, and whether it was accepted before under the same key."""
        order = await self._orders.order(order_id, caller)
        try:
            before = await self._store.find_amend(order_id, key) if key is not None else None
            if before is None:
                amend = await self._new_amend(order, body, key, if_match, caller, origin)
                await self._orders.publish(amend_message(amend), order_id)
                return _with_amend(order, amend), amend, False
            _expect_same(order, before, changes_text(body))
        except Problem as problem:
            if problem.code is not Code.NOT_PUBLISHED:
                await self._orders.note(order_id, Action.AMEND, problem.code, origin)
            raise
        await self._orders.note(order_id, Action.AMEND, REPLAYED, origin)
        if not await self._store.read_amend(before):  # perhaps it is not published yet, and a 202 promises that it is
            await self._orders.publish(amend_message(before), order_id)
        return order, before, True

    async def amend_is_over(self, amend: Amend, order: Order) -> bool:
        """Tell whether an order shows what became of an amend, or can never be amended again."""
        return amend_is_over(order, amend.amend_id)

    async def amend_is_applied(self, order: Order, amend: Amend, headers: dict[str, str]) -> bool:
        """Return whether an amend is in force; raise the problem of one that was refused. Not yet known: False."""
        shown = order.amend is not None and order.amend.amend_id == amend.amend_id
        history = [] if shown else await self._store.read_amend(amend)
        return amend_applied(order, amend.amend_id, history, headers)

    async def suspend(
        self, order_id: UUID, wish: Wish, caller: Caller, origin: Origin
    ) -> tuple[Order, Suspension | None]:
        """Accept a hold or a release; return the order, and None in the place of a wish that is granted already."""
        order = await self._orders.order(order_id, caller)
        try:
            refuse_unless_resting(order)
            if await self._is_as_wished(order, wish, caller):
                await self._orders.note(order_id, _ACTIONS[wish], REPLAYED, origin)
                return order, None
        except Problem as problem:
            await self._orders.note(order_id, _ACTIONS[wish], problem.code, origin)
            raise
        one = await self._store.suspend(order_id, order.user_id, caller.name_for(order.user_id), wish, origin)
        await self._orders.publish(suspension_message(one), order_id)
        return order, one

    async def wish_is_over(self, one: Suspension, order: Order) -> bool:
        """Tell whether the history says what became of this very wish, or the order can't be changed any more.

        The order alone does not tell: it may be as wished by another's hold, or before an earlier wish is met.
        """
        return order.status is not OrderStatus.CONFIRMED or bool(await self._store.read_suspension(one))

    async def granted(
        self, one: Suspension, order: Order, caller: Caller, headers: dict[str, str]
    ) -> tuple[Order, bool]:
        """Return the order, and whether a wish was granted: False when that is not known yet.

        Raises the problem of one that was refused.
        """
        history = await self._store.read_suspension(one)
        if history:  # it may say more than the order did when it was read
            order = await self._orders.order(order.order_id, caller)
        return order, wish_granted(order, one.wish, history, headers)

    async def _new_amend(
        self, order: Order, body: AmendBody, key: str | None, if_match: Sequence[str], caller: Caller, origin: Origin
    ) -> Amend:
        """Commit an amend that was not asked for before."""
        allowed = allowed_versions(if_match)
        if allowed is not None and order.version not in allowed:
            raise Problem(Code.VERSION_MISMATCH, f"the order's version is {order.version}", order_id=order.order_id)
        refuse_amend_by_status(order)
        if body.expires_at is not None:
            refuse_out_of_time(body.expires_at, await self._orders.now())
        requested_by = caller.name_for(order.user_id)
        if allowed is not None:  # the saga compares again; a version that is past does not come back
            allowed = [version for version in allowed if version >= order.version][:EXPECTED_MAX]
        wanted = Wanted(order.order_id, key or str(uuid7()), order.user_id, requested_by, allowed, changes_text(body))
        made = await self._store.amend(wanted, origin)
        if isinstance(made, OpenAmend):
            raise amend_refused(order, AmendRefusal.AMEND_IN_PROGRESS, f"amend {made.amend_id} is not decided yet")
        if isinstance(made, TakenElsewhere):
            raise _key_reused(order)
        _expect_same(order, made, wanted.changes)
        return made

    async def _is_as_wished(self, order: Order, wish: Wish, caller: Caller) -> bool:
        """Tell whether there is nothing to do. Raises the problem of a user who would release an operator's hold.

        A wish that is under way the other way is to be met, and so is a user's hold that an operator takes over.
        """
        by_operator = not caller.acts_for(order.user_id)
        state = await self._store.suspension_state(order.order_id)
        if wish is Wish.RELEASE and order.on_hold and state.held_by_operator and not by_operator:
            raise Problem(Code.HELD_BY_OPERATOR, order_id=order.order_id, order_status=order.status)
        if not is_granted(order, wish) or state.open_wish not in {None, wish}:
            return False
        return wish is Wish.RELEASE or state.held_by_operator or not by_operator


def _with_amend(order: Order, amend: Amend) -> Order:
    """Show an amend that was accepted a moment ago on its order."""
    asked = msgspec.structs.asdict(_read_changes(amend.changes))
    return msgspec.structs.replace(order, amend=OrderAmendment(amend.amend_id, AmendState.PENDING, **asked))


def _expect_same(order: Order, before: Amend, changes: str) -> None:
    if before.changes != changes:
        raise _key_reused(order)


def _key_reused(order: Order) -> Problem:
    return Problem(
        Code.IDEMPOTENCY_KEY_REUSED,
        f"it belongs to another amend of order {order.order_id}",
        order_id=order.order_id,
        order=address(order.order_id),
    )
