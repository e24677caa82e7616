"""Lets a parked order go on, through the same door as every message: one decision of the core, one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from order_saga import store
from order_saga.core.saga import ResumeRequested
from order_saga.metrics import Metrics
from order_saga.process import Orders
from order_saga.silence import Silence
from order_saga.tables import SCHEMA
from saga_kit.batch import Received
from saga_kit.outbox import Outbox

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine


async def resume(engine: AsyncEngine, order_id: UUID, requested_by: str) -> bool:
    """Resume an order; False when it is not parked.

    Nothing is published from here: its questions fall due at once, so the orchestrator's scanner asks them, and its
    relay sends the events.
    """
    orders = Orders(time_scale=1.0, metrics=Metrics(), silence=Silence())
    async with engine.begin() as tx:
        known = await store.lock(tx, [order_id])
        if order_id not in known or known[order_id].parked_reason is None:
            return False
        effects = await orders.handle(tx, [Received(ResumeRequested(order_id, requested_by))])
        await Outbox(SCHEMA).write(tx, effects.kept)
    return True
