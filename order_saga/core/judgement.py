"""Judges what comes in: may it be believed, is it a yes, does a request end at once, who may cancel. Pure.

It reads a saga and a message and returns a verdict. What the verdict does to the saga stands in `advance`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from contracts.amends import AmendRefusal
from contracts.assets import AssetApproved, AssetRefused, CheckAsset, Trading
from contracts.balance import (
    AdjustBalance,
    AdjustmentRefused,
    BalanceAdjusted,
    BalanceRefunded,
    BalanceRefusal,
    BalanceRefused,
    BalanceReply,
    BalanceReserved,
    BalanceSettled,
    RefundRefused,
    SettleBalance,
    SettlementRefused,
)
from contracts.decimals import Money, subtract
from contracts.orders import InvalidOrder, OrderRequested
from contracts.terms import EXPIRES_WITHIN, faults, slippage_of, terms_of
from contracts.vocabulary import OPERATOR_PREFIX, HoldState, OrderStatus, ReasonCode
from order_saga.core import money
from order_saga.core.commands import asked_for, command
from order_saga.core.entry import objection_to_terms
from order_saga.core.phases import ANSWERS, MAX_QUOTE_AGE_S, MAX_REQUEST_AGE_S, PHASES, QUESTIONS, Way
from order_saga.core.saga import (
    Answer,
    Outcome,
    Question,
    Quote,
    Reply,
    Requested,
    Saga,
    Step,
    requested_fields,
)
from order_saga.core.weighing import AmendRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from order_saga.core.draft import Draft


# A request ------------------------------------------------------------------------------------------------------------


def ends_at_once(saga: Saga, message: Requested, now: datetime) -> Outcome | None:
    """Find what ends a request before anything is asked: a name that is taken, its faults, its age, an early cancel.

    The name comes first: only one order may hold it, whatever else is wrong with the second.
    """
    request = message.request
    if message.duplicate_of is not None:
        first = f"order {message.duplicate_of} has this client order id"
        return Outcome(OrderStatus.FAILED, ReasonCode.DUPLICATE_CLIENT_ORDER_ID, first)
    if isinstance(request, InvalidOrder):
        return Outcome(OrderStatus.FAILED, ReasonCode.INVALID_ORDER, request.reason)
    if found := _ends_by_terms(request, message, now):
        return found
    wishes = (early.split(" ") for early in saga.progress.early_cancels)
    outcomes = (cancel_outcome(user_id, by, request.user_id) for user_id, by in wishes)
    return next((outcome for outcome in outcomes if outcome is not None), None)


def _ends_by_terms(request: OrderRequested, message: Requested, now: datetime) -> Outcome | None:
    """Find what ends a request by its own fields: those that don't fit together, and those about time."""
    if found := faults(request):
        reason = "; ".join(f"{fault.field}: {fault.rule}" for fault in found)
        return Outcome(OrderStatus.FAILED, ReasonCode.INVALID_ORDER, reason)
    if request.expires_at is not None and request.expires_at > now + EXPIRES_WITHIN:
        reason = f"expires_at: must be within {EXPIRES_WITHIN.days} days"
        return Outcome(OrderStatus.FAILED, ReasonCode.INVALID_ORDER, reason)
    if message.too_many_open is not None:
        reason = f"{message.too_many_open} conditional orders in {request.asset_id} are open, and no more are allowed"
        return Outcome(OrderStatus.FAILED, ReasonCode.TOO_MANY_OPEN_ORDERS, reason)
    terms = terms_of(request)
    if terms is not None and terms.time_in_force.rests:  # as good an hour later, but for its own end
        return expired_outcome(request.expires_at, now)
    made_at = min(message.sent_at, request.requested_at or message.sent_at)
    if now - made_at > timedelta(seconds=MAX_REQUEST_AGE_S):
        return Outcome(OrderStatus.CANCELLED, ReasonCode.EXPIRED, f"not handled within {MAX_REQUEST_AGE_S:.0f} s")
    return None


def expired_outcome(expires_at: datetime | None, now: datetime) -> Outcome | None:
    """Say how an order ends whose `expires_at` has come, or None while it has not."""
    if expires_at is None or expires_at > now:
        return None
    return Outcome(OrderStatus.CANCELLED, ReasonCode.EXPIRED, f"expires_at {expires_at.isoformat()} has come")


def is_same_request(saga: Saga, request: OrderRequested | InvalidOrder) -> bool:
    """Tell whether a repeated request asks for the very order that is known."""
    first = saga.progress.as_requested
    if first is not None:  # it was amended since
        saga = structs.replace(saga, quantity=first.quantity, slippage_bps=first.slippage_bps, terms=first.terms)
    resolved = resolved_fields(request)
    return bool(requested_fields(saga) == requested_fields(request)) and resolved == {
        name: getattr(saga, name) for name in resolved
    }


def resolved_fields(request: OrderRequested | InvalidOrder) -> dict[str, Any]:
    """Work out what a request says without saying it: its slippage, and the terms of a conditional order."""
    if isinstance(request, InvalidOrder):
        return {"slippage_bps": request.slippage_bps, "terms": None}
    return {"slippage_bps": slippage_of(request), "terms": terms_of(request)}


def created_at(requested_at: datetime | None, sent_at: datetime) -> datetime:
    """Believe a requester's clock, unless it is ahead of the broker's by more than a request may be old."""
    if requested_at is None or requested_at - sent_at > timedelta(seconds=MAX_REQUEST_AGE_S):
        return sent_at
    return requested_at


# A cancel -------------------------------------------------------------------------------------------------------------


def cancel_outcome(named_user: str, requested_by: str, owner: str) -> Outcome | None:
    """Judge who cancels: the order's user, or an operator who names that user; nobody else."""
    if named_user != owner:
        return None
    if requested_by == owner:
        return Outcome(OrderStatus.CANCELLED, ReasonCode.USER_REQUESTED)
    if requested_by.startswith(OPERATOR_PREFIX):
        return Outcome(OrderStatus.CANCELLED, ReasonCode.OPERATOR, f"cancelled by {requested_by}")
    return None


# A reply --------------------------------------------------------------------------------------------------------------


def contradiction(saga: Saga, question: Question, message: Reply) -> str | None:
    """Say why a reply contradicts what is known or what was asked, or None: such an order needs a person."""
    if question.answer is Answer.OPEN and (other := _other_terms(saga, question.step, message)) is not None:
        return f"{BalanceRefusal.HOLD_CONFLICT}: {type(message).__name__} {other}"
    if isinstance(message, (AssetApproved, AssetRefused)):
        return None
    if isinstance(message, BalanceReserved) and saga.progress.hold_state in _NEVER_HELD:
        return f"{_hold_in(message)}, although it was {saga.progress.hold_state} before"
    if question.answer is not Answer.OPEN:
        return None
    row = QUESTIONS[question.step]
    if isinstance(message, _REFUSALS):
        parks = PHASES[saga.phase].no is Way.PARKED or message.reason_code in _NEVER_TRUE
        parks = parks and not _is_unsupported(message)
        parks = parks or (isinstance(message, SettlementRefused) and saga.progress.told in _FILLED)
        believable = message.hold_state in row.no_proof and not parks
        return None if believable else f"{_hold_in(message)} ({message.reason_code}): {message.reason}{_told(saga)}"
    busted = isinstance(message, BalanceSettled) and saga.progress.told is OrderStatus.FAILED
    return None if message.hold_state in row.proof and not busted else _hold_in(message) + _told(saga)


def _other_terms(saga: Saga, step: Step, message: Reply) -> str | None:
    """Say what a reply tells that was not asked about, or None. What it does not tell is believed."""
    if isinstance(message, (AssetApproved, AssetRefused)):
        if isinstance(message, AssetApproved) and message.cash_asset_id == saga.asset_id:
            return f"quotes {saga.asset_id} in itself"
        return None if message.asset_id == saga.asset_id else f"is about {message.asset_id}, not {saga.asset_id}"
    if message.hold_id != saga.command_id(Step.RESERVE):
        return f"is about the hold {message.hold_id}"
    if isinstance(message, _REFUSALS):
        number = saga.progress.adjustments
        other = isinstance(message, AdjustmentRefused) and message.revision != number
        return f"is about another revision than {number}" if other else None
    asked = command(saga, step)
    assert not isinstance(asked, CheckAsset)  # noqa: S101 - that question is answered above
    may_hold = (asked.amount, *saga.progress.unconfirmed) if message.hold_state not in _NEVER_HELD else (Money(0),)
    if message.user_id not in {None, asked.user_id}:
        return "is about another user"  # whose name is nobody's business who reads this order's history
    pairs: list[tuple[object, Sequence[object]]] = [(message.asset_id or asked.asset_id, (asked.asset_id,))]
    if isinstance(message, BalanceReserved):
        pairs.append((message.amount, (asked.amount,)))
    elif isinstance(message, BalanceAdjusted):
        assert isinstance(asked, AdjustBalance)  # noqa: S101 - only an adjustment has this answer
        pairs += [(message.amount, (asked.amount,)), (message.revision, (asked.revision,))]
    elif isinstance(message, BalanceRefunded):
        pairs.append((message.refunded, may_hold))
    else:
        assert isinstance(asked, SettleBalance)  # noqa: S101 - only a settlement has this answer
        returned = [subtract(amount, asked.capture) for amount in may_hold]
        pairs += [(message.captured, (asked.capture,)), (message.returned, returned)]
    told = [f"says {said}, not {wanted[0]}" for said, wanted in pairs if said not in wanted]
    return told[0] if told else None


def _hold_in(message: BalanceReply) -> str:
    return f"{type(message).__name__} with a hold that is {message.hold_state}"


def _told(saga: Saga) -> str:
    """Say what everybody was told of an order before its database was restored."""
    return "" if saga.progress.told is None else f"; it was told that the order is {saga.progress.told}"


def _is_unsupported(message: Reply) -> bool:
    """Tell whether the balance service can't change holds at all; then this one is what it was."""
    return isinstance(message, AdjustmentRefused) and message.reason_code is BalanceRefusal.NOT_SUPPORTED


_FILLED: Final = frozenset({OrderStatus.PROCESSING, OrderStatus.COMPLETED})
_NEVER_HELD: Final = frozenset({HoldState.REFUSED, HoldState.TOMBSTONE})
_NEVER_TRUE: Final = frozenset({BalanceRefusal.HOLD_CONFLICT, BalanceRefusal.SUPERSEDED})
"""Why nothing is refused that this order asked: its terms are its own, and its last adjustment is the newest."""
_REFUSALS: Final = (BalanceRefused, SettlementRefused, RefundRefused, AdjustmentRefused)


def objection(saga: Saga, message: Reply, now: datetime) -> tuple[ReasonCode, str | None] | None:
    """Read the no in an answer, or None for a yes; an approval at a quote that the order can't take is a no."""
    if saga.progress.amending is not None and isinstance(message, AssetApproved):
        return None  # its terms are weighed when they are put in force
    if isinstance(message, AssetApproved):
        assert saga.progress.quote is not None  # noqa: S101 - just learnt
        if saga.terms is not None:
            return objection_to_terms(saga, saga.terms, saga.progress.quote, now)
        asset_id, quantity = asked_for(saga)
        return money.refusal(saga.side, asset_id, quantity, saga.price, saga.slippage_bps or 0, saga.progress.quote)
    can_be_ignored = isinstance(message, AdjustmentRefused) and PHASES[saga.phase].no is Way.PARKED
    if not isinstance(message, (AssetRefused, *_REFUSALS)) or can_be_ignored:
        return None  # what can't be lowered stays larger than it need be
    if isinstance(message, (AssetRefused, BalanceRefused)) and message.reason_code in ReasonCode.__members__:
        return ReasonCode(message.reason_code), message.reason
    return ReasonCode.EXECUTION_FAILED, message.reason


def amend_refusal(message: Reply) -> AmendRefused:
    """Read why a participant refuses an amend."""
    assert isinstance(message, (AssetRefused, AdjustmentRefused))  # noqa: S101 - nobody else is asked about one
    code = AmendRefusal.__members__.get(message.reason_code, AmendRefusal.INSUFFICIENT_BALANCE)
    return AmendRefused(code, message.reason)


def quote_of(message: AssetApproved, now: datetime) -> Quote:
    """Take the quote out of an approval."""
    return Quote(
        price=message.price,
        sequence=message.sequence,
        as_of=message.as_of,
        tick=message.tick,
        step=message.step,
        fee_bps=message.fee_bps,
        cash_asset_id=message.cash_asset_id,
        cash_scale=message.cash_scale,
        rules_version=message.rules_version,
        made_at=made_at(message, now),
        is_open=message.trading is Trading.OPEN,
        session_ends_at=message.session_ends_at,
    )


def made_at(message: AssetApproved, now: datetime) -> datetime:
    """Say since when an approval's quote ages."""
    return min(now, message.quoted_at or now)


def is_stale(draft: Draft, quoted_at: datetime) -> bool:
    """Tell whether a quote of that time is too old to trade on."""
    return draft.now - quoted_at > draft.scaled(MAX_QUOTE_AGE_S)


def told_by(message: Reply) -> dict[str, Any]:
    """Pick what a reply told for the history."""
    return {name: getattr(message, name) for name in _TOLD_BY[type(message)]}


_TOLD = (
    "reason_code",
    "reason",
    "hold_state",
    "revision",
    "price",
    "sequence",
    "amount",
    "captured",
    "returned",
    "refunded",
)
_TOLD_BY: Final = {answer: [name for name in _TOLD if name in answer.__struct_fields__] for answer in ANSWERS}
