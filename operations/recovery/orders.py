"""Brings orders forward to what Kafka has told of them: by their saga, many in a transaction, with a note for each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from contracts.balance import RefundBalance
from contracts.codec import outgoing
from operations.repair.runs import TRIES_MAX, ItemResult, Run
from order_saga.core.behind import is_behind
from order_saga.core.saga import Phase, Step
from order_saga.worker import store
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.market import open_batch
from order_saga.worker.metrics import SagaMetrics
from order_saga.worker.process import SOURCE, SagaHandler
from order_saga.worker.tables import SCHEMA
from saga_kit.messaging.outbox import AT_ONCE_S, Outbox, OutboxMessage
from saga_kit.runtime.errors import classify, describe
from saga_kit.runtime.transactions import begin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

    from contracts.balance import ReserveBalance
    from operations.recovery.staging import Staging
    from order_saga.core.fold import Folded
    from order_saga.core.saga import RecoveryRequested, Saga
    from saga_kit.runtime.transactions import Transaction

ACTION: Final = "recover"


async def bring_forward(engine: AsyncEngine, kept: Staging, run: Run, *, dry_run: bool) -> AsyncIterator[ItemResult]:
    """Bring every order forward that is behind; a result comes for each of these. Started again, it goes on."""
    async for page in kept.pages(run.by):
        for result in await _page(engine, page, run, dry_run=dry_run):
            yield result


async def ask_back(engine: AsyncEngine, kept: Staging, run: Run, *, dry_run: bool) -> AsyncIterator[ItemResult]:
    """Have the ledger refund what it may hold for orders that ended without money, when it reads that again.

    So it is after the ledger alone was restored: what it refused then it may hold now.
    """
    async for page in kept.unknown_to_the_ledger():
        if not dry_run:
            async with begin(engine) as tx:
                await _ask_back(tx, page, run)
        for one in page:
            yield ItemResult(str(one.order_id), done=True, result="the ledger does not know its hold: it is refunded")


async def _ask_back(tx: Transaction, page: Sequence[ReserveBalance], run: Run) -> None:
    now = (await store.take(tx, [])).now
    messages = []
    for one in page:
        command_id = f"{one.order_id}:{Step.REFUND}"
        refund = RefundBalance(
            command_id, one.order_id, one.hold_id, one.user_id, one.asset_id, one.amount, one.hold_asked_at
        )
        sent = outgoing(refund, message_id=command_id, source=SOURCE, time=now)
        messages.append(OutboxMessage(command_id, sent, AT_ONCE_S))
        await store.note_repair(tx, run.run_id, "refund", str(one.order_id), run.by, "asked back")
    Outbox(SCHEMA).write(tx, messages)


async def _page(
    engine: AsyncEngine, requests: Sequence[RecoveryRequested], run: Run, *, dry_run: bool
) -> list[ItemResult]:
    """Do it to many orders at once; when one of them can't be stored, to each alone."""
    for tried in range(1, TRIES_MAX + 1):
        try:
            return await (_look(engine, requests) if dry_run else _decide(engine, requests, run))
        except Exception as error:
            cause = classify(error)
            if cause == "poison" and len(requests) > 1:
                alone = [await _page(engine, [one], run, dry_run=dry_run) for one in requests]
                return [result for results in alone for result in results]
            if cause == "poison":
                return [ItemResult(str(requests[0].order_id), done=False, result=f"can't be done: {describe(error)}")]
            if tried == TRIES_MAX:
                raise
            await asyncio.sleep(0.2 * 2**tried)
    raise AssertionError("unreachable")


async def _decide(engine: AsyncEngine, requests: Sequence[RecoveryRequested], run: Run) -> list[ItemResult]:
    orders = SagaHandler(time_scale=1.0, metrics=SagaMetrics(), breaker=CircuitBreaker())
    async with begin(engine) as tx:
        taken, refused = await _named_by_others(tx, requests)
        folded = await orders.recover(tx, taken)
        results = [*refused, *_results(folded)]
        for result in results:
            await store.note_repair(tx, run.run_id, ACTION, result.item, run.by, result.result)
        return results


async def _look(engine: AsyncEngine, requests: Sequence[RecoveryRequested]) -> list[ItemResult]:
    """Say what is behind, and by what."""
    async with begin(engine) as tx:
        known = (await open_batch(tx, [one.order_id for one in requests])).taken.known
    return [
        ItemResult(str(one.order_id), done=True, result=_would_be(known.get(one.order_id), one))
        for one in requests
        if is_behind(known.get(one.order_id), one)
    ]


async def _named_by_others(
    tx: Transaction, requests: Sequence[RecoveryRequested]
) -> tuple[list[RecoveryRequested], list[ItemResult]]:
    """Leave out orders whose client order id another order has here: that is another history than was told."""
    names = {one.order_id: name for one in requests if (name := _client_order_id(one)) is not None}
    opened = await open_batch(tx, [one.order_id for one in requests], list(names.values()))
    holders = opened.taken.holders
    taken, refused = [], []
    for one in requests:
        holder = holders.get(names[one.order_id]) if one.order_id in names else None
        known = opened.taken.known.get(one.order_id)
        if holder in {None, one.order_id} or (known is not None and known.phase is not Phase.NEW):
            taken.append(one)
        else:
            words = f"can't be done: order {holder} has its client order id"
            refused.append(ItemResult(str(one.order_id), done=False, result=words))
    return taken, refused


def _client_order_id(request: RecoveryRequested) -> tuple[str, str] | None:
    """Name what a forgotten order holds, unless it was told that another order does."""
    order = request.told[-1].order if request.told else None
    if order is None:
        asked = None if request.request is None else request.request.request
        name = None if asked is None else asked.client_order_id
    else:
        name = None if order.reason_code == "DUPLICATE_CLIENT_ORDER_ID" else order.client_order_id
    return None if name is None else (request.user_id, name)


def _results(folded: Folded) -> list[ItemResult]:
    results = []
    for order_id, row in folded.history.items():
        last = next((one for one in reversed(row.entries) if one.name == "RecoveryRequested"), None)
        if last is None or last.detail.get("why") == "duplicate":
            continue
        if last.kind == "ignored":
            words = f"can't be done: it is {_stands(folded.sagas[order_id])}, and what was told excludes that"
            results.append(ItemResult(str(order_id), done=False, result=words))
        else:
            results.append(_result(order_id, folded.sagas[order_id], last.detail))
    return results


def _result(order_id: UUID, saga: Saga, told: dict[str, Any] | Any) -> ItemResult:
    said = f"{told['status']} was told" if "status" in told else "its commands were sent"
    words = f"{said}: it is {_stands(saga)}"
    if saga.parked_reason is not None:
        return ItemResult(str(order_id), done=False, result=f"{words}, parked: {saga.parked_reason}")
    return ItemResult(str(order_id), done=True, result=words)


def _stands(saga: Saga) -> str:
    ends = {Phase.SETTLING: ", and settles", Phase.REFUNDING: ", and refunds"}.get(saga.phase, "")
    return f"{saga.status} at version {saga.version}{ends}"


def _would_be(saga: Saga | None, request: RecoveryRequested) -> str:
    here = "unknown here" if saga is None or saga.status is None else f"here {saga.status} at version {saga.version}"
    if not request.told:
        return f"commands were sent that it does not know; {here}"
    last = request.told[-1]
    return f"{last.status} was told as version {last.version}; {here}"
