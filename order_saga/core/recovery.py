"""Brings an order forward whose database was restored to an earlier state than Kafka has told of. Pure.

What was told is binding, and what was asked may have been done: the ledger, restored too, reads the commands again. So
an order that is behind goes one of two ways, with what Kafka still has of it (`RecoveryRequested`).

- It was told that the order is filled: it settles, on the terms of the settlement that was sent, and nothing else. The
  participant repeats its answer, or does now what it has forgotten. A fill that was told is not taken back.
- Anything else: it is refunded, and ends as it was told. If no end was told it is cancelled: nobody knows what its
  market, its participants and its user have done since.

It is behind by a version that it does not know, and as well by a command: an order that does not know of its hold would
end without asking for the money back. The versions that were told are told again as they were, and the end under the
version that it was told under. What Kafka does not have is not guessed: without the terms of its settlement it parks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from contracts.amends import AmendRefusal, AmendState, OrderAmendment
from contracts.decimals import Exact, Money
from contracts.vocabulary import HoldState, OrderStatus, ReasonCode, Side
from order_saga.core import money
from order_saga.core.asking import ask_all, ask_anew
from order_saga.core.behind import (
    Behind,
    Filled,
    behind_by,
    contradicts,
    filled_with,
    settlement_sent,
    statuses,
)
from order_saga.core.remembered import remember_asked, remember_hold, remember_shown
from order_saga.core.saga import (
    Answer,
    Fill,
    HistoryEntry,
    HoldTerms,
    Ignored,
    Outcome,
    Phase,
    Question,
    RecoveryRequested,
    Saga,
    SettlementTerms,
    Step,
    Why,
)
from order_saga.core.transition import arrive, nothing_held, park

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from contracts.orders import OrderStatusChanged
    from order_saga.core.draft import Draft

NAME: Final = "RecoveryRequested"
RESTORED: Final = "the database was restored to an earlier state, and how far the order had come is not known"
NO_TERMS: Final = "it was told that the order is filled, and Kafka has no terms of its settlement"


def recover(draft: Draft, message: RecoveryRequested) -> Ignored | None:
    """Bring an order forward to what Kafka has of it, or say that it is there, or that the two exclude each other."""
    saga = draft.saga
    detail: dict[str, Any] = {"requested_by": message.requested_by}
    behind = behind_by(saga, message)
    if not behind.told and not behind.sent:
        return Ignored(Why.DUPLICATE, NAME, detail)
    way = None if contradicts(saga, behind) else statuses(saga, behind.told)
    if way is None:
        return Ignored(Why.CONFLICT, NAME, detail)
    last = behind.last
    if last is not None:
        detail |= {"version": last.version, "status": last.status}
    draft.note("recovered", NAME, **detail, commands=[type(one).__name__ for one in behind.sent])
    draft.set(parked_reason=None, overdue_since=None)
    remember_asked(draft, message, last)
    filled = filled_with(draft.saga, message, behind)
    if filled is None and OrderStatus.PROCESSING in (saga.status, *way):
        return Ignored(Why.CONFLICT, NAME, detail)
    remember_shown(draft, message, last, filled)
    remember_hold(draft, message)
    if filled is not None:
        _settle(draft, message, behind, way, filled)
    else:
        _refund(draft, message, behind, way)
    return None


def lacks_terms(saga: Saga) -> bool:
    """Tell whether an order was brought forward to a settlement whose terms nobody knows."""
    return saga.progress.told is not None and saga.progress.settlement is None


def _tell(draft: Draft, statuses: Iterable[OrderStatus], told: Sequence[OrderStatusChanged]) -> None:
    """Go through versions: those that were told are told again as they were."""
    by_version: Mapping[int, OrderStatusChanged] = {event.version: event for event in told}
    for status in statuses:
        event = by_version.get(draft.saga.version + 1)
        if event is None:
            draft.show(status)
            continue
        draft.set(status=event.status, version=event.version, updated_at=event.occurred_at)
        detail = {"reason_code": event.reason_code} if event.reason_code else {}
        draft.entries.append(HistoryEntry("status", event.status, event.status, event.version, detail))
        draft.events.append(event)


def _stop_asking(draft: Draft) -> None:
    """Wait for nothing more that was open when the database was saved. An amend that is open comes too late."""
    for question in draft.saga.progress.open():
        draft.put(structs.replace(question, answer=Answer.ABANDONED, held_back=False))
    amend = draft.saga.progress.amend
    draft.learn(amending=None)
    if amend is not None and amend.state is AmendState.PENDING:
        draft.learn(amend=_too_late(amend))
        draft.show()


def _too_late(amend: OrderAmendment) -> OrderAmendment:
    return structs.replace(
        amend, state=AmendState.REFUSED, reason_code=AmendRefusal.TOO_LATE, reason="the order ended before"
    )


def _refund(draft: Draft, message: RecoveryRequested, behind: Behind, way: Sequence[OrderStatus]) -> None:
    """Ask for whatever may be held, and end the order as it was told, or cancel it."""
    last = behind.last
    ended = last is not None and last.status.terminal
    _tell(draft, way[:-1] if ended else way, behind.told)
    if draft.saga.status is None:
        draft.show(OrderStatus.PENDING)
    _stop_asking(draft)
    if ended and last is not None:
        outcome = Outcome(last.status, last.reason_code or ReasonCode.OPERATOR, last.order.reason)
    else:
        reason = f"cancelled by {message.requested_by}: {RESTORED}"
        outcome = Outcome(OrderStatus.CANCELLED, ReasonCode.OPERATOR, reason)
    arrive(draft, Phase.REFUNDING, outcome)
    if nothing_held(draft.saga):
        arrive(draft, Phase(outcome.status), outcome)
    else:
        ask_all(draft)


def _settle(
    draft: Draft, message: RecoveryRequested, behind: Behind, way: Sequence[OrderStatus], filled: Filled
) -> None:
    """Ask for the settlement on the terms that it was sent with; without them the order parks."""
    last = behind.last
    told = None if last is None or last.status in {OrderStatus.PENDING, OrderStatus.CONFIRMED} else last.status
    before_the_end = way[:-1] if last is not None and last.status.terminal else way
    settling = draft.saga.phase is Phase.SETTLING
    if not settling:
        pivot = [status for status in before_the_end if status is not OrderStatus.PROCESSING]
        _tell(draft, pivot, behind.told)
        for status in (OrderStatus.PENDING, OrderStatus.CONFIRMED):
            if draft.saga.status is None or (draft.saga.status, status) == (OrderStatus.PENDING, OrderStatus.CONFIRMED):
                draft.show(status)
        _stop_asking(draft)
        _record_fill(draft, filled)
        _tell(draft, [OrderStatus.PROCESSING], behind.told)
    draft.learn(told=told, hold_state=HoldState.HELD)
    if not settling or draft.saga.progress.settlement is None:
        draft.learn(**_terms(draft.saga, message, filled))
    if settling:
        ask_anew(draft)
    elif lacks_terms(draft.saga):
        draft.put(Question(Step.SETTLE, draft.now, draft.now, attempts=0, sent=False))
    else:
        ask_all(draft)
    if lacks_terms(draft.saga):
        park(draft, NO_TERMS)


def _record_fill(draft: Draft, filled: Filled) -> None:
    saga = draft.saga
    draft.fill = Fill(f"{saga.order_id}:fill", saga.order_id, filled.quantity, filled.price, filled.fee)
    draft.set(
        phase=Phase.SETTLING,
        filled_quantity=Money(filled.quantity),
        average_price=Exact(filled.price),
        fee=filled.fee,
    )
    reserve = saga.progress.question(Step.RESERVE)
    if reserve is not None:
        draft.put(structs.replace(reserve, answer=Answer.YES))


def _terms(saga: Saga, message: RecoveryRequested, filled: Filled) -> dict[str, Any]:
    """Give the terms of the hold and of the settlement; nothing when they are not known for certain."""
    settle = settlement_sent(message)
    if settle is not None:
        moved = settle.credit if saga.side is Side.BUY else settle.capture
        if moved != Money(filled.quantity) or settle.fee != filled.fee:
            return {}
        hold = HoldTerms(settle.asset_id, settle.amount, settle.revision)
        terms = SettlementTerms(settle.capture, settle.credit_asset_id, settle.credit, settle.fee_asset_id, settle.fee)
        return {"hold": hold, "settlement": terms}
    held, quote = saga.progress.hold, saga.progress.quote
    if held is None or quote is None or saga.asset_id is None or saga.progress.unconfirmed:
        return {}
    sums = money.sums(saga.side, saga.asset_id, filled.quantity, quote, filled.price)
    if sums.fee != filled.fee or sums.hold > held.amount or sums.hold_asset_id != held.asset_id:
        return {}
    terms = SettlementTerms(sums.hold, sums.credit_asset_id, sums.credit, sums.fee_asset_id, sums.fee)
    return {"settlement": terms}
