"""What an order that is brought forward takes over from Kafka: its request, terms, quote and hold. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from contracts.balance import AdjustBalance
from contracts.orders import OrderRequested
from contracts.terms import Terms, slippage_of, terms_of
from contracts.vocabulary import OrderKind, OrderStatus, TimeInForce
from order_saga.core.behind import quotes_of
from order_saga.core.judgement import created_at, resolved_fields
from order_saga.core.saga import (
    REQUESTED_FIELDS,
    Answer,
    AsRequested,
    Fire,
    HoldTerms,
    Phase,
    Question,
    RecoveryRequested,
    Rest,
    Step,
    requested_fields,
)

if TYPE_CHECKING:
    from contracts.orders import Order, OrderStatusChanged
    from order_saga.core.behind import Filled
    from order_saga.core.draft import Draft


def remember_asked(draft: Draft, message: RecoveryRequested, last: OrderStatusChanged | None) -> None:
    """Write down what was asked for, and the terms that were in force in the last version that was told."""
    order = None if last is None else last.order
    if draft.saga.phase is Phase.NEW:
        _remember_request(draft, message, order)
    elif order is not None and (order.revision or 1) > draft.saga.progress.revision:
        _remember_amended(draft, order, message)


def remember_shown(
    draft: Draft, message: RecoveryRequested, last: OrderStatusChanged | None, filled: Filled | None
) -> None:
    """Write down what everybody saw of the order in that version, and the quote that it went by."""
    _remember_quote(draft, message, None if last is None else last.order, filled)
    if last is not None:
        draft.set(cancel_requested=last.order.cancel_requested)
        if draft.saga.terms is not None:
            _remember_rest(draft, last, filled)


def _remember_request(draft: Draft, message: RecoveryRequested, order: Order | None) -> None:
    requested = message.request
    request = None if requested is None else requested.request
    if order is not None and request is not None and requested_fields(request) != requested_fields(order):
        request = None  # amended since, or another producer's, which came second
    if request is not None and requested is not None and request.user_id == draft.saga.user_id:
        draft.set(
            **dict(zip(REQUESTED_FIELDS, requested_fields(request), strict=True)),
            **resolved_fields(request),
            traceparent=requested.traceparent,
            created_at=created_at(request.requested_at, min(requested.sent_at, draft.now)),
        )
    if order is None:
        return
    draft.set(
        **dict(zip(REQUESTED_FIELDS, requested_fields(order), strict=True)),
        slippage_bps=order.slippage_bps,
        created_at=order.created_at,
    )
    if request is None or (order.revision or 1) > 1:
        _remember_amended(draft, order, message)


def _remember_amended(draft: Draft, order: Order, message: RecoveryRequested) -> None:
    """Take the terms in force from what was shown, and those that were asked for from the request, if it is known."""
    request = None if message.request is None else message.request.request
    first = draft.saga.progress.as_requested
    same = isinstance(request, OrderRequested) and request.user_id == draft.saga.user_id
    if first is None and same and isinstance(request, OrderRequested) and (terms := terms_of(request)) is not None:
        first = AsRequested(request.quantity, terms, slippage_of(request))
    elif first is None and draft.saga.terms is not None and draft.saga.quantity is not None:
        first = AsRequested(draft.saga.quantity, draft.saga.terms, draft.saga.slippage_bps)
    draft.set(quantity=order.quantity, slippage_bps=order.slippage_bps, terms=terms_shown(order))
    if (order.revision or 1) > 1:
        draft.learn(revision=order.revision, as_requested=first)


def terms_shown(order: Order) -> Terms | None:
    """Read the terms of an order out of what it shows. The trigger of a trailing stop is where its trail stands."""
    if order.order_type is None:
        return None
    kind, force = order.order_type.kind, order.time_in_force or TimeInForce.GTC
    if kind is OrderKind.MARKET and not order.queue_when_closed:
        return None
    return Terms(
        limit_price=order.limit_price,
        trigger_price=None if kind is OrderKind.TRAILING_STOP else order.trigger_price,
        trail_amount=order.trail_amount,
        trail_bps=order.trail_bps,
        time_in_force=force,
        expires_at=order.expires_at if force is TimeInForce.GTD else None,
        queue_when_closed=order.queue_when_closed,
    )


def _remember_quote(draft: Draft, message: RecoveryRequested, order: Order | None, filled: Filled | None) -> None:
    """Keep the quote that the order went by, unless it ended without one."""
    if draft.saga.progress.quote is not None or (order is not None and _shows_no_quote(order)):
        return
    quotes = quotes_of(draft.saga, message)
    fits = [quote for quote in quotes if filled is not None and quote.price == filled.price]
    if quotes:
        draft.learn(quote=(fits or quotes)[0])


def _shows_no_quote(order: Order) -> bool:
    return order.status is not OrderStatus.PENDING and order.cash_asset_id is None


def _remember_rest(draft: Draft, last: OrderStatusChanged, filled: Filled | None) -> None:
    """Keep how a conditional order waits, as was shown. What it waited from is not known to the tick."""
    known, order = draft.saga.progress, last.order
    draft.learn(
        triggered=order.triggered,
        release_refused=order.release_refused,
        amend=order.amend,
        amending=None,
        suspended=known.suspended if order.on_hold else None,
    )
    if draft.saga.expires_at is None and order.expires_at is not None:
        draft.learn(ends_at=order.expires_at)
    sequence = 0 if known.quote is None else known.quote.sequence
    if order.revision is not None:
        began = known.rest or Rest(sequence, last.occurred_at)
        draft.learn(rest=structs.replace(began, watermark=order.watermark))
    if filled is not None and (order.revision is not None or known.quote is None or known.quote.price != filled.price):
        sequence = sequence if draft.saga.progress.rest is None else draft.saga.progress.rest.from_sequence + 1
        met = known.fire or Fire(sequence, filled.price, last.occurred_at, order.watermark)
        if known.fire is None:  # by a tick whose number is not known: the first one that could
            draft.note("fired", "Recovered", sequence=met.sequence, price=met.price, as_of=met.as_of)
        draft.learn(fire=met)


def remember_hold(draft: Draft, message: RecoveryRequested) -> None:
    """Keep the terms of the hold as they were confirmed last, and what it may be besides.

    A hold that was asked for may exist, whatever was told since: the ledger decides anew when it reads that again.
    """
    known, commands = draft.saga.progress, message.commands
    reserve = known.question(Step.RESERVE)
    if not commands:
        return
    confirmed = [] if known.hold is None else [known.hold]
    confirmed += [
        HoldTerms(one.asset_id, one.amount, one.revision) for one in commands if not isinstance(one, AdjustBalance)
    ]
    adjusted = [one for one in commands if isinstance(one, AdjustBalance)]
    if not confirmed:  # its reservation is older than what is read: the ledger has it
        confirmed = [HoldTerms(adjusted[0].asset_id, adjusted[0].amount, adjusted[0].revision)]
    hold = max(confirmed, key=lambda one: one.revision)
    amounts = (*known.unconfirmed, *(one.amount for one in adjusted if one.revision > hold.revision))
    newest = max(adjusted, key=lambda one: one.revision, default=None)
    draft.learn(hold=hold, unconfirmed=tuple(dict.fromkeys(amounts)))
    if newest is not None and newest.revision > known.adjustments:
        draft.learn(adjustments=newest.revision, adjusting=newest.amount)
    if reserve is None or not reserve.sent:
        asked_at = min((one.hold_asked_at for one in commands if one.hold_asked_at is not None), default=None)
        at = asked_at or draft.saga.created_at
        draft.put(Question(Step.RESERVE, at, at, Answer.ABANDONED, sent=True, sent_at=asked_at))
