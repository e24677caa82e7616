"""Previews an order for a known caller: reads, asks the asset service, and lets the saga's rules decide in memory."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

from contracts.assets import AssetApproved, AssetRefused
from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller
from order_api.orders.publication.messages import asked_for
from order_api.orders.store import Store
from order_api.orders.submission import OrderBody, make_claim, refuse_out_of_time
from order_api.preview.dry_run import DryRun
from order_api.preview.inquiry import Inquiry
from order_api.preview.views import Preview, make_preview


class Previews:
    """Raises the problems that the same order would get; nothing of a preview is stored."""

    def __init__(self, store: Store, inquiry: Inquiry) -> None:
        self._store = store
        self._inquiry = inquiry

    async def preview(self, body: OrderBody, caller: Caller) -> Preview:
        """Say what would become of an order."""
        user_id = body.user_id or caller.user_id
        if not caller.acts_for(user_id):
            raise Problem(Code.OTHER_USER)
        claim = make_claim(uuid4(), user_id, None, body, None)  # as a claim it meets every rule; none is made of it
        now = await self._store.now()
        refuse_out_of_time(body.expires_at, now)
        holder = None
        if body.client_order_id is not None:
            holder = await self._store.find_named(user_id, body.client_order_id)
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
        known = None if holder is None else holder.order or (holder.claimed and holder.claimed.claim)
        return make_preview(request, run, answer, now, duplicate_of=known.order_id if known else None)
