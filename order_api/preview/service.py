"""Previews an order for a known caller: reads, asks the asset service, and lets the saga's rules decide in memory."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from contracts.assets import AssetApproved, AssetRefused, CheckAsset
from contracts.orders import Order
from contracts.vocabulary import id_text
from order_api.http.limits import InFlight
from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller
from order_api.orders.publication.messages import Claim, asked_for
from order_api.orders.service import same_order
from order_api.orders.store import Store
from order_api.orders.submission import OrderBody, make_claim, refuse_out_of_time
from order_api.orders.views import shown
from order_api.orders.waiting import Waiters
from order_api.preview.dry_run import DryRun
from order_api.preview.inquiry import Inquiry
from order_api.preview.views import Preview, make_preview, preview_of_existing


class Previews:
    """Raises the problems that the same order would get; nothing of a preview is stored."""

    def __init__(self, store: Store, inquiry: Inquiry, waiters: Waiters, in_flight: InFlight) -> None:
        self._store = store
        self._inquiry = inquiry
        self._waiters = waiters
        self._in_flight = in_flight

    async def preview(self, body: OrderBody, caller: Caller) -> Preview:
        """Say what would become of an order; or show the order that the same request has made before."""
        user_id = body.user_id or caller.user_id
        if not caller.acts_for(user_id):
            raise Problem(Code.OTHER_USER)
        claim = make_claim(uuid4(), user_id, None, body, None)  # as a claim it meets every rule; none is made of it
        request = asked_for(claim)
        if (existing := await self._existing(claim, caller)) is not None:
            return preview_of_existing(request, existing)
        now = await self._store.now()
        refuse_out_of_time(body.expires_at, now)
        duplicate_of = await self._duplicate_of(claim)
        run = DryRun(request, now)
        answer: AssetApproved | AssetRefused | None = None
        if (question := run.question) is not None:
            clock = asyncio.get_running_loop().time
            asked_at = clock()
            answer = await self._ask(question, now, caller)
            now += timedelta(seconds=clock() - asked_at)
            if answer is not None and not run.answered(answer, now):
                answer = None
        return make_preview(request, run, answer, now, duplicate_of=duplicate_of)

    async def _ask(self, question: CheckAsset, now: datetime, caller: Caller) -> AssetApproved | AssetRefused | None:
        """Ask the asset service. It counts as a request that waits, so no user takes the places of all others."""
        if self._waiters.full(caller.one_user):
            raise Problem(Code.OVERLOADED)
        key = id_text(question.order_id).encode()
        with self._waiters.waiter(key, for_end=True, user_id=caller.one_user), self._in_flight.waiting():
            return await self._inquiry.ask(question, now)

    async def _existing(self, claim: Claim, caller: Caller) -> Order | None:
        """Return the order that was accepted here under this name, as `POST /orders` answers it, problems included."""
        if claim.client_order_id is None or not (holders := await self._store.holders(claim)):
            return None
        return shown(same_order(claim, holders), caller)

    async def _duplicate_of(self, claim: Claim) -> UUID | None:
        """Return the order of another producer that has this name: the orchestrator would refuse a second one."""
        if claim.client_order_id is None:
            return None
        named = await self._store.find_named(claim.user_id, claim.client_order_id)
        return None if named is None or named.order is None else named.order.order_id
