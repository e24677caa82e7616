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

from collections import deque
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import structs

from contracts.amends import AmendRefusal, AmendState, OrderAmendment
from contracts.balance import AdjustBalance, RefundBalance, ReserveBalance, SettleBalance
from contracts.decimals import EXACT, Exact, Money, Price, Quantity, add, multiply, subtract
from contracts.orders import OrderRequested
from contracts.terms import Terms, slippage_of, terms_of
from contracts.vocabulary import HoldState, OrderKind, OrderStatus, ReasonCode, Side, TimeInForce
from order_saga.core import money
from order_saga.core.asking import ask_all, ask_anew
from order_saga.core.judgement import created_at, quote_of, resolved_fields
from order_saga.core.phases import MOVES, TERMINAL
from order_saga.core.saga import (
    REQUESTED_FIELDS,
    Answer,
    AsRequested,
    Fill,
    Fire,
    HistoryEntry,
    HoldTerms,
    Ignored,
    Outcome,
    Phase,
    Question,
    Quote,
    RecoveryRequested,
    Rest,
    Saga,
    SettlementTerms,
    Step,
    Why,
    requested_fields,
)
from order_saga.core.transition import arrive, nothing_held, park

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from contracts.balance import BalanceCommand
    from contracts.orders import Order, OrderStatusChanged
    from order_saga.core.draft import Draft

NAME: Final = "RecoveryRequested"
RESTORED: Final = "the database was restored to an earlier state, and how far the order had come is not known"
NO_TERMS: Final = "it was told that the order is filled, and Kafka has no terms of its settlement"
VERSIONS_MAX: Final = 10_000
"""No order has nearly as many."""
_FILLED: Final = frozenset({OrderStatus.PROCESSING, OrderStatus.COMPLETED})
_REPEATABLE: Final = frozenset({OrderStatus.PENDING, OrderStatus.CONFIRMED})
"""The statuses under which an order may change visibly."""


class Filled(NamedTuple):
    """What an order was filled with."""

    quantity: Quantity
    price: Price
    fee: Money


class Behind(NamedTuple):
    """By what a restored order is behind."""

    told: tuple[OrderStatusChanged, ...]
    """The versions that it does not know, in order. Some may be missing, if they never reached Kafka."""
    sent: tuple[BalanceCommand, ...]
    """The commands that it does not know."""

    @property
    def last(self) -> OrderStatusChanged | None:
        """What everybody knows of it."""
        return self.told[-1] if self.told else None


def recover(draft: Draft, message: RecoveryRequested) -> Ignored | None:
    """Bring an order forward to what Kafka has of it, or say that it is there, or that the two exclude each other."""
    saga = draft.saga
    detail: dict[str, Any] = {"requested_by": message.requested_by}
    behind = behind_by(saga, message)
    if not behind.told and not behind.sent:
        return Ignored(Why.DUPLICATE, NAME, detail)
    way = None if contradicts(saga, behind) else _statuses(saga, behind.told)
    if way is None:
        return Ignored(Why.CONFLICT, NAME, detail)
    last = behind.last
    if last is not None:
        detail |= {"version": last.version, "status": last.status}
    draft.note("recovered", NAME, **detail, commands=[type(one).__name__ for one in behind.sent])
    draft.set(parked_reason=None, overdue_since=None)
    _remember_asked(draft, message, last)
    filled = _filled_with(draft.saga, message, behind)
    if filled is None and OrderStatus.PROCESSING in (saga.status, *way):
        return Ignored(Why.CONFLICT, NAME, detail)
    _remember_shown(draft, message, last, filled)
    _remember_hold(draft, message)
    if filled is not None:
        _settle(draft, message, behind, way, filled)
    else:
        _refund(draft, message, behind, way)
    return None


def is_behind(saga: Saga | None, message: RecoveryRequested) -> bool:
    """Tell whether Kafka has more of an order than the database, which may not know it at all."""
    if saga is None:
        return bool(message.told or message.commands)
    behind = behind_by(saga, message)
    return bool(behind.told or behind.sent)


def lacks_terms(saga: Saga) -> bool:
    """Tell whether an order was brought forward to a settlement whose terms nobody knows."""
    return saga.progress.told is not None and saga.progress.settlement is None


# What is known --------------------------------------------------------------------------------------------------------


def behind_by(saga: Saga, message: RecoveryRequested) -> Behind:
    """Find the versions and the commands that an order does not know. One that has ended knows all that it sent."""
    by_version = {event.version: event for event in message.told if event.version > saga.version}
    told = tuple(by_version[version] for version in sorted(by_version))
    if len(told) == 1 and _leads_to(saga, told[0]):
        told = ()
    sent = () if saga.phase in TERMINAL else tuple(one for one in message.commands if not _has_sent(saga, one))
    return Behind(told, sent)


def _leads_to(saga: Saga, last: OrderStatusChanged) -> bool:
    """Tell whether an order is on its way to what was told last: it was brought forward before, or was there itself."""
    outcome = saga.progress.outcome
    if saga.parked_reason is not None or last.version != saga.version + 1:
        return False
    if saga.phase is Phase.SETTLING:
        return saga.progress.told is last.status
    return saga.phase is Phase.REFUNDING and outcome is not None and outcome.status is last.status


def _has_sent(saga: Saga, command: BalanceCommand) -> bool:
    if isinstance(command, AdjustBalance):
        return command.revision <= saga.progress.adjustments
    if isinstance(command, ReserveBalance):
        reserve = saga.progress.question(Step.RESERVE)
        return reserve is not None and reserve.sent
    return saga.phase is (Phase.SETTLING if isinstance(command, SettleBalance) else Phase.REFUNDING)


def contradicts(saga: Saga, behind: Behind) -> bool:
    """Tell whether what was told can't have become of this order: it has ended otherwise, or is another one."""
    if saga.phase in TERMINAL:
        return True
    of_another = any(event.order.user_id != saga.user_id for event in behind.told)
    of_another |= any(
        one.user_id != saga.user_id or one.hold_id != saga.command_id(Step.RESERVE) for one in behind.sent
    )
    if saga.phase is not Phase.NEW:
        fixed = ("asset_id", "order_type", "client_order_id")
        of_another |= any(getattr(one.order, name) != getattr(saga, name) for one in behind.told for name in fixed)
    if saga.phase is Phase.REFUNDING:  # which leads to no fill
        filled = any(event.status in _FILLED for event in behind.told)
        return of_another or filled or any(isinstance(one, SettleBalance) for one in behind.sent)
    refunded = any(isinstance(one, RefundBalance) for one in behind.sent)
    return of_another or (saga.phase is Phase.SETTLING and refunded)


def _statuses(saga: Saga, told: Sequence[OrderStatusChanged]) -> list[OrderStatus] | None:
    """List the status of every version from the next one to the last that was told; None when no history fits.

    A version that is not there had the status that the one after it names as the one before, or any that leads there.
    """
    known: dict[int, OrderStatus] = {}
    for event in told:
        known[event.version] = event.status
        if event.previous_status is not None and event.version - 1 > saga.version:
            known.setdefault(event.version - 1, event.previous_status)
        elif event.version - 1 == saga.version and event.previous_status is not saga.status:
            return None
    way: list[OrderStatus] = []
    at, status = saga.version, saga.status
    for version in sorted(known):
        steps = _between(status, known[version], version - at)
        if steps is None:
            return None
        way += steps
        at, status = version, known[version]
    return way


def _between(start: OrderStatus | None, end: OrderStatus, number: int) -> list[OrderStatus] | None:
    """Fill `number` versions with the shortest legal way; what is more are changes under a status that has them."""
    if number > VERSIONS_MAX:
        return None
    shortest = [end] if start is end and end in _REPEATABLE else _shortest(start, end)
    if shortest is None or len(shortest) > number:
        return None
    more = number - len(shortest)
    place = next((i for i in reversed(range(len(shortest))) if shortest[i] in _REPEATABLE), None)
    if not more:
        return shortest
    return None if place is None else [*shortest[:place], *[shortest[place]] * more, *shortest[place:]]


def _shortest(start: OrderStatus | None, end: OrderStatus) -> list[OrderStatus] | None:
    ways: deque[tuple[OrderStatus | None, list[OrderStatus]]] = deque([(start, [])])
    while ways:
        status, way = ways.popleft()
        for to in MOVES[status]:
            if to is end:
                return [*way, to]
            ways.append((to, [*way, to]))
    return None


def _filled_with(saga: Saga, message: RecoveryRequested, behind: Behind) -> Filled | None:
    """Say what the order was filled with: as was told, or, when only the settlement was sent, as its sums say."""
    for order in (event.order for event in reversed(behind.told) if event.status in _FILLED):
        if order.average_price is not None and order.quantity is not None:
            return Filled(order.quantity, Price(order.average_price), order.fee)
    if saga.phase is Phase.SETTLING and saga.average_price is not None and saga.quantity is not None:
        return Filled(saga.quantity, Price(saga.average_price), saga.fee)
    settle = _settlement(message)
    if settle is None or (behind.last is not None and behind.last.status.terminal):
        return None  # if a settlement is carried out again, the refund is refused, and the order parks
    quantity = Quantity(settle.credit if saga.side is Side.BUY else settle.capture)
    if saga.asset_id is None or saga.quantity != quantity:
        return None
    prices = (_price_of(saga.side, settle, quote) for quote in _quotes(saga, message))
    return next((Filled(quantity, price, settle.fee) for price in prices if price is not None), None)


def _price_of(side: Side, settle: SettleBalance, quote: Quote) -> Price | None:
    """Find the price of a fill that nobody was told of: the quote's, or else the nearest on the tick that has its sums.

    Several ticks may have the same sums, which are rounded. None when no price has them under this quote.
    """
    quantity = settle.credit if side is Side.BUY else settle.capture
    gross = subtract(settle.capture, settle.fee) if side is Side.BUY else add(settle.credit, settle.fee)
    per_tick = multiply(quantity, quote.tick)
    ticks = EXACT.divide_int(gross, per_tick)
    if side is Side.SELL and multiply(ticks, per_tick) < gross:
        ticks = add(ticks, Decimal(1))
    asset_id = settle.credit_asset_id if side is Side.BUY else settle.asset_id
    for price in (quote.price, Price(multiply(ticks, quote.tick))):
        sums = money.sums(side, asset_id, Quantity(quantity), quote, price)
        if (sums.hold, sums.credit, sums.fee) == (settle.capture, settle.credit, settle.fee):
            return price
    return None


def _settlement(message: RecoveryRequested) -> SettleBalance | None:
    return next((one for one in reversed(message.commands) if isinstance(one, SettleBalance)), None)


def _quotes(saga: Saga, message: RecoveryRequested) -> list[Quote]:
    """List the quotes that the order may have gone by, the one that it knows first."""
    known = [] if saga.progress.quote is None else [saga.progress.quote]
    check = saga.command_id(Step.CHECK)
    return known + [quote_of(one, _quoted_at(one, saga)) for one in message.approvals if one.command_id == check]


def _quoted_at(approval: Any, saga: Saga) -> datetime:
    """Say since when the quote of an approval ages; it is never traded on again."""
    made_at: datetime = approval.quoted_at or saga.created_at
    return made_at


# What is remembered ---------------------------------------------------------------------------------------------------


def _remember_asked(draft: Draft, message: RecoveryRequested, last: OrderStatusChanged | None) -> None:
    """Write down what was asked for, and the terms that were in force in the last version that was told."""
    order = None if last is None else last.order
    if draft.saga.phase is Phase.NEW:
        _remember_request(draft, message, order)
    elif order is not None and (order.revision or 1) > draft.saga.progress.revision:
        _remember_amended(draft, order, message)


def _remember_shown(
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
    quotes = _quotes(draft.saga, message)
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


def _remember_hold(draft: Draft, message: RecoveryRequested) -> None:
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


# What it does ---------------------------------------------------------------------------------------------------------


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
    settle = _settlement(message)
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
