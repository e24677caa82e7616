"""Could this version handle an order that another version stored? Try every message that may come next. Pure.

It changes nothing: decisions are made, written down as for the wire and the tables, and thrown away.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING, Final

from msgspec import structs

from contracts.amends import CHANGES, OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested
from contracts.assets import AssetApproved, AssetRefusal, AssetRefused
from contracts.balance import (
    AdjustBalance,
    AdjustmentRefused,
    BalanceAdjusted,
    BalanceRefunded,
    BalanceRefusal,
    BalanceRefused,
    BalanceReserved,
    BalanceSettled,
    RefundBalance,
    RefundRefused,
    RefusalReply,
    ReserveBalance,
    SettleBalance,
    SettlementRefused,
)
from contracts.codec import encode
from contracts.decimals import Money, Price, Quantity, subtract
from contracts.orders import OrderCancelRequested, OrderRequested
from contracts.vocabulary import OPERATOR_PREFIX, HoldState, OrderType
from order_saga.core.advance import ALL_AVAILABLE, advance
from order_saga.core.commands import command
from order_saga.core.phases import IDLE, PHASES, QUESTIONS, TERMINAL, steps
from order_saga.core.saga import (
    Answer,
    AskAgainRequested,
    Availability,
    Decision,
    ExpiryDue,
    Fire,
    Fired,
    Incoming,
    ParkRequested,
    Participant,
    Phase,
    Requested,
    ResumeRequested,
    Saga,
    Step,
    TimerDue,
    Triggered,
)
from saga_kit.runtime.errors import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

LATER: Final = (timedelta(0), timedelta(days=1))
"""At once, and when every question has timed out and every quote is too old."""
_NO: Final[dict[Step, Callable[..., RefusalReply]]] = {
    Step.RESERVE: BalanceRefused,
    Step.SETTLE: SettlementRefused,
    Step.REFUND: RefundRefused,
}
_MOST: Final = 2**53 - 1
"""A number that no order has reached: of a tick, of a version, of an adjustment."""
AVAILABILITY: Final = (ALL_AVAILABLE, *(dict.fromkeys(Participant, how) for how in Availability))


def obstacle(saga: Saga, now: datetime) -> str | None:
    """Say why this version could not go on with an order, or None when it could."""
    if saga.phase not in PHASES:
        return f"there is no phase {saga.phase}"
    waiting = saga.progress.open()
    for question in waiting:
        if question.step not in steps(saga.phase, saga.side):
            return f"phase {saga.phase} does not ask {question.step}"
    if not waiting and saga.phase not in TERMINAL | IDLE and saga.phase is not Phase.NEW:
        return f"it waits for nothing in phase {saga.phase}"
    for message, later, availability in product(could_come(saga, now), LATER, AVAILABILITY):
        try:
            _decide(saga, message, now + later, availability)
        except Exception as error:  # noqa: BLE001 - whatever it is, it would set the order aside
            return f"{type(message).__name__} in phase {saga.phase}: {describe(error)}"
    return None


def could_come(saga: Saga, now: datetime) -> Iterator[Incoming]:
    """Make every kind of message that may come to an order next: answers, timers, cancels, changes, repairs."""
    order_id = saga.order_id
    yield TimerDue(order_id)
    yield TimerDue(order_id, probe=True)
    yield Requested(_request(saga), now)
    yield OrderCancelRequested(order_id, saga.user_id, saga.user_id)
    yield OrderCancelRequested(order_id, saga.user_id, f"{OPERATOR_PREFIX}somebody")
    yield ParkRequested(order_id, "a rehearsal")
    yield ResumeRequested(order_id, "somebody")
    yield AskAgainRequested(order_id, "somebody")
    yield Fired(order_id, Fire(_MOST, saga.price or Price(1), now))
    yield Triggered(order_id, _MOST, saga.price or Price(1))
    yield ExpiryDue(order_id)
    yield from _changes(saga)
    for question in saga.progress.questions:
        if question.answer is Answer.OPEN:
            yield from _answers(saga, question.step, now)


def _changes(saga: Saga) -> Iterator[Incoming]:
    """Make changes of an order that rests: of each of its terms, and of whether it may fire."""
    order_id, user, operator = saga.order_id, saga.user_id, f"{OPERATOR_PREFIX}somebody"
    terms = {} if saga.terms is None else structs.asdict(saga.terms)
    terms |= {"quantity": saga.quantity, "slippage_bps": saga.slippage_bps}
    for name in CHANGES:
        if terms.get(name) is not None:
            yield OrderAmendRequested(order_id, user, user, f"rehearsal-{name}", **{name: terms[name]})
    yield OrderAmendRequested(order_id, user, user, "rehearsal", expected_versions=(_MOST,), quantity=Quantity(1))
    for requested_by in (user, operator):
        yield OrderHoldRequested(order_id, user, requested_by)
        yield OrderReleaseRequested(order_id, user, requested_by)


def _decide(saga: Saga, message: Incoming, now: datetime, availability: Mapping[Participant, Availability]) -> None:
    outcome = advance(saga, message, now, availability=availability)
    if isinstance(outcome, Decision):
        encode(outcome.saga.progress)
        encode(outcome.entries)
        for ask in outcome.asks:
            encode(ask.message)
        for event in outcome.events:
            encode(event)


def _request(saga: Saga) -> OrderRequested:
    return OrderRequested(
        saga.order_id,
        saga.user_id,
        saga.asset_id or "ANY",
        saga.order_type or OrderType.MARKET_BUY,
        saga.quantity or Quantity(1),
        price=saga.price,
        slippage_bps=saga.slippage_bps,
        client_order_id=saga.client_order_id,
        **({} if saga.terms is None else structs.asdict(saga.terms)),
    )


def _answers(saga: Saga, step: Step, now: datetime) -> Iterator[Incoming]:
    """Make an acceptance and a refusal for each state that the hold may be in."""
    order_id, command_id, hold_id = saga.order_id, saga.command_id(step), saga.command_id(Step.RESERVE)
    row, reason = QUESTIONS[step], "a rehearsal"
    if step in {Step.CHECK, Step.RECHECK}:
        asset_id, price = saga.asset_id or "ANY", saga.price or Price(1)
        quote = (price, 1, now, Price(1), Quantity(1), 10, "CASH", 2, 1)
        yield AssetApproved(command_id, order_id, asset_id, *quote)
        yield AssetRefused(command_id, order_id, asset_id, AssetRefusal.ASSET_NOT_TRADABLE, reason)
        return
    asked = None
    with suppress(Exception):  # the timer's rehearsal reports a command that can't be made
        asked = command(saga, step)
    for state in row.proof:
        head = (command_id, order_id, hold_id, state)
        if isinstance(asked, SettleBalance):
            yield BalanceSettled(*head, asked.capture, Money(subtract(asked.amount, asked.capture)))
        elif isinstance(asked, ReserveBalance):
            yield BalanceReserved(*head, asked.amount)
        elif isinstance(asked, AdjustBalance):
            yield BalanceAdjusted(*head, asked.revision, asked.amount)
        elif isinstance(asked, RefundBalance):
            yield BalanceRefunded(*head, asked.amount if state is HoldState.REFUNDED else Money(0))
    if isinstance(asked, AdjustBalance):
        for code in (BalanceRefusal.INSUFFICIENT_BALANCE, BalanceRefusal.NOT_SUPPORTED, BalanceRefusal.HOLD_CONFLICT):
            yield AdjustmentRefused(command_id, order_id, hold_id, HoldState.HELD, code, reason, asked.revision)
        return
    for state, code in product(row.no_proof, (BalanceRefusal.CLOSED, BalanceRefusal.HOLD_CONFLICT)):
        no = (command_id, order_id, hold_id, state, code, reason)
        yield _NO[step](*no)
