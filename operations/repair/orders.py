"""Repair orders: resume, ask again, cancel, amend, hold, release. A repair and its note are one transaction.

The order decides as it does for every other message, by the orchestrator's own handler. Nothing is published from here:
questions that fall due are asked by the orchestrator's scanner, and events, cancels and changes leave through its
outbox. Whether a cancel or a change comes in time each order judges by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from msgspec import structs

from contracts.amends import OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested
from contracts.codec import outgoing
from contracts.orders import OrderCancelRequested
from contracts.vocabulary import OPERATOR_PREFIX
from operations.repair.order_filter import ChosenOrder, OrderFilter, matching, named
from operations.repair.runs import DONE_BEFORE, Pace, Result, Run, rest_of, work_off
from order_saga.core.saga import AskAgainRequested, Phase, ResumeRequested
from order_saga.worker import store
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.market import open_batch
from order_saga.worker.metrics import SagaMetrics
from order_saga.worker.process import SagaHandler
from order_saga.worker.tables import SCHEMA
from saga_kit.messaging.batch import Received
from saga_kit.messaging.outbox import AT_ONCE_S, Outbox, OutboxMessage
from saga_kit.runtime.transactions import begin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.repair.runs import ItemResult
    from order_saga.core.saga import Saga
    from saga_kit.runtime.transactions import Transaction

SOURCE: Final = "order-saga/operator"
Sent = OrderCancelRequested | OrderAmendRequested | OrderHoldRequested | OrderReleaseRequested


class Asked(NamedTuple):
    """What a change says besides its order: an amend's new terms by their names, why an order is put on hold."""

    changes: Mapping[str, Any] = MappingProxyType({})
    reason: str | None = None


PLAINLY: Final = Asked()


async def repair(
    engine: AsyncEngine, action: str, chosen: Sequence[UUID] | OrderFilter, run: Run, pace: Pace, asked: Asked = PLAINLY
) -> AsyncIterator[ItemResult]:
    """Repair the orders of these ids, or those that match a filter; `action` is one of those of `order_filter`.

    A result comes for each order, done or not. Started again with the same run, it goes on.
    """
    targets = _targets(engine, action, chosen, run)
    rest = await rest_of(engine, run, action, pace)
    async for result in work_off(targets, partial(_act, engine, action, run, asked), rest):
        yield result


def _targets(
    engine: AsyncEngine, action: str, chosen: Sequence[UUID] | OrderFilter, run: Run
) -> AsyncIterator[ChosenOrder]:
    if isinstance(chosen, OrderFilter):
        return matching(engine, action, chosen, run.run_id)
    return named(engine, chosen)


async def _act(engine: AsyncEngine, action: str, run: Run, asked: Asked, target: ChosenOrder) -> Result:
    if target.user_id is None:
        return Result(done=False, words="there is no such order")
    if action in _SENT:
        return await _send(engine, run, action, target.order_id, target.user_id, asked)
    act = {"resume": resume, "ask-again": ask_again}[action]
    return await act(engine, run, target.order_id)


async def resume(engine: AsyncEngine, run: Run, order_id: UUID) -> Result:
    """Let a parked order go on: its open questions fall due; a cancel that came meanwhile is carried out."""

    def refusal(saga: Saga) -> str | None:
        return None if saga.parked_reason is not None else "is not parked"

    return await _decide(engine, run, "resume", ResumeRequested(order_id, run.by), refusal, "goes on")


async def ask_again(engine: AsyncEngine, run: Run, order_id: UUID) -> Result:
    """Make an order's open questions due at once."""

    def refusal(saga: Saga) -> str | None:
        if saga.parked_reason is not None:
            return "is parked: resume it"
        return None if saga.progress.open() else f"waits for no answer: it is {saga.status}"

    return await _decide(engine, run, "ask-again", AskAgainRequested(order_id, run.by), refusal, "asks again")


async def _send(engine: AsyncEngine, run: Run, action: str, order_id: UUID, user_id: str, asked: Asked) -> Result:
    """Send what an operator asks of a user's order, as the API does; the saga judges whether it comes in time."""
    async with begin(engine) as tx:
        if await store.is_repaired(tx, run.run_id, action, str(order_id)):
            return DONE_BEFORE
        now = (await store.take(tx, [])).now
        message = _SENT[action](order_id, user_id, run, now, asked)
        message_id = f"{order_id}:{action}:{message.requested_by}"
        if action != "cancel":  # an order may be changed often, and is cancelled once
            message_id += f":{run.run_id}"
        sent = OutboxMessage(message_id, outgoing(message, message_id=message_id, source=SOURCE, time=now), AT_ONCE_S)
        Outbox(SCHEMA).write(tx, [sent])
        return await _noted(tx, run, action, order_id, Result(done=True, words=f"{action} sent"))


def _cancel(order_id: UUID, user_id: str, run: Run, now: datetime, _asked: Asked) -> OrderCancelRequested:
    return OrderCancelRequested(order_id, user_id, OPERATOR_PREFIX + run.by, now)


def _amend(order_id: UUID, user_id: str, run: Run, now: datetime, asked: Asked) -> OrderAmendRequested:
    """Name the amend by its run: sent again by the same run it is the same one."""
    by, amend_id = OPERATOR_PREFIX + run.by, f"run:{run.run_id}"
    return OrderAmendRequested(order_id, user_id, by, amend_id, requested_at=now, **asked.changes)


def _hold(order_id: UUID, user_id: str, run: Run, now: datetime, asked: Asked) -> OrderHoldRequested:
    return OrderHoldRequested(order_id, user_id, OPERATOR_PREFIX + run.by, now, asked.reason)


def _release(order_id: UUID, user_id: str, run: Run, now: datetime, _asked: Asked) -> OrderReleaseRequested:
    return OrderReleaseRequested(order_id, user_id, OPERATOR_PREFIX + run.by, now)


_SENT: Final[dict[str, Callable[[UUID, str, Run, datetime, Asked], Sent]]] = {
    "cancel": _cancel,
    "amend": _amend,
    "hold": _hold,
    "release": _release,
}


async def _decide(
    engine: AsyncEngine,
    run: Run,
    action: str,
    message: ResumeRequested | AskAgainRequested,
    refusal: Callable[[Saga], str | None],
    words: str,
) -> Result:
    """Have an order handle a message unless there is a reason not to; note what was done, or that reason."""
    order_id = message.order_id
    async with begin(engine) as tx:
        known, _, _, _, archived, _ = (await open_batch(tx, [order_id])).taken
        if await store.is_repaired(tx, run.run_id, action, str(order_id)):
            return DONE_BEFORE
        saga = known.get(order_id)
        if saga is None or saga.phase is Phase.NEW:
            archived |= await store.archived(tx, [order_id])
            return Result(done=False, words="it has ended and is archived" if archived else "there is no such order")
        if (why_not := refusal(saga)) is not None:
            return await _noted(tx, run, action, order_id, Result(done=False, words=why_not))
        orders = SagaHandler(time_scale=1.0, metrics=SagaMetrics(), breaker=CircuitBreaker())
        effects = await orders.handle(tx, [Received(message)])
        Outbox(SCHEMA).write(tx, [structs.replace(one, delay_s=AT_ONCE_S) for one in effects.outbox])
        return await _noted(tx, run, action, order_id, Result(done=True, words=words))


async def _noted(tx: Transaction, run: Run, action: str, order_id: UUID, result: Result) -> Result:
    await store.note_repair(tx, run.run_id, action, str(order_id), run.by, result.words)
    return result
