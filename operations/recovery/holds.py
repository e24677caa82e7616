"""Carries out again the captures of services' holds that were told, and that come too late when they are read again.

A hold expires by the clock. Its capture was in time then, and money has left the house for it; read again after its
time is over, it would be refused, and the money would be the user's a second time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry

from contracts.codec import decode
from contracts.decimals import Quantity
from contracts.envelope import read_envelope
from contracts.holds import HoldCaptured, HoldCaptureRequested, HoldRequested
from operations.repair.runs import ItemResult, Run
from order_saga.worker import store
from participants.balance.hold_handler import HoldHandler
from saga_kit.messaging.batch import Received
from saga_kit.runtime.transactions import begin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.recovery.staging import Staging
    from saga_kit.runtime.transactions import Transaction

WITHIN: Final = timedelta(hours=1)
"""A hold whose time is over so soon is not left to the service, which may be started later."""


class _RefusedError(Exception):
    """The ledger refuses it; nothing is stored."""


async def capture_again(engine: AsyncEngine, kept: Staging, run: Run, *, dry_run: bool) -> AsyncIterator[ItemResult]:
    """Carry them out by the ledger's own rules, as of a moment when they were in time; a result comes for each."""
    async for told, expires_at in kept.captured(WITHIN):
        name = f"hold:{told.hold_id}"
        if dry_run:
            yield ItemResult(name, done=True, result=f"was told as captured, and expires at {expires_at}")
            continue
        try:
            async with begin(engine) as tx:
                await _capture(tx, told, expires_at)
                await store.note_repair(tx, run.run_id, "capture", name, run.by, "captured as was told")
        except _RefusedError as refused:
            yield ItemResult(name, done=False, result=f"was told as captured, and can't be: {refused}")
        else:
            yield ItemResult(name, done=True, result="captured as was told")


async def _capture(tx: Transaction, told: HoldCaptured, expires_at: datetime) -> None:
    async def in_time(_: Transaction) -> datetime:
        return expires_at - timedelta(seconds=1)

    ledger = HoldHandler(CollectorRegistry(), in_time)
    await ledger.prepare(tx)
    terms = (told.hold_id, told.user_id, told.asset_id, told.amount)
    asked = (HoldRequested(*terms, expires_at), HoldCaptureRequested(*terms, Quantity(told.captured), told.to))
    effects = await ledger.handle(tx, [Received(one) for one in asked])
    answers = [decode(read_envelope(one.outgoing.headers).type, one.outgoing.value) for one in effects.outbox]
    if not isinstance(answers[-1], HoldCaptured):
        reasons = [str(reason) for one in answers if (reason := getattr(one, "reason", None)) is not None]
        raise _RefusedError(reasons[0] if reasons else "it has ended otherwise")
