"""Previews an order for a known caller: reads, asks the asset service, and lets the saga's rules decide in memory."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

from contracts.assets import AssetApproved, AssetRefused
from contracts.orders import Order
from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller
from order_api.orders.publication.messages import Claim, asked_for
from order_api.orders.service import refuse_out_of_time, same_order
from order_api.orders.store import Store
from order_api.orders.submission import OrderBody, make_claim
from order_api.orders.views import shown
from order_api.preview.dry_run import DryRun
from order_api.preview.inquiry import Inquiry
from order_api.preview.views import Preview, make_preview, preview_of_existing


class Previews:
    """Raises the problems that the same order would get; nothing of a preview is stored."""

    def __init__(self, store: Store, inquiry: Inquiry) -> None:
        self._store = store
        self._inquiry = inquiry

    async def preview(self, body: OrderBody, caller: Caller) -> Preview:
        """Say what would become of an order; or show the order that the same request has made before."""
        user_id = body.user_id or caller.user_id
        if not caller.acts_for(user_id):
            raise Problem(Code.OTHER_USER)
        claim = make_claim(uuid4(), user_id, None, body, None)  # as a claim it meets every rule; none is made of it
        if (existing := await self._existing(claim, caller)) is not None:
            return preview_of_existing(existing)
        now = await self._store.now()
        refuse_out_of_time(claim, now)
        duplicate_of = await self._duplicate_of(claim)
        request = asked_for(claim)
        run = DryRun(request, now)
        answer: AssetApproved | AssetRefused | None = None
        if (question := run.question) is not None:
            clock = asyncio.get_running_loop().time
            asked_at = clock()
            answer = await self._inquiry.ask(question, now)
            now += timedelta(seconds=clock() - asked_at)
            if answer is not None and not run.answered(answer, now):
                answer = None
        return make_preview(request, run, answer, now, duplicate_of=duplicate_of)

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
