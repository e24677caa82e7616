"""What Kafka has of an order whose database was restored to an earlier state: by what it is behind. Pure."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from contracts.balance import AdjustBalance, RefundBalance, ReserveBalance, SettleBalance
from contracts.decimals import EXACT, Money, Price, Quantity, add, multiply, subtract
from contracts.vocabulary import OrderStatus, Side
from order_saga.core import money
from order_saga.core.judgement import quote_of
from order_saga.core.phases import MOVES, TERMINAL
from order_saga.core.saga import (
    Phase,
    Quote,
    RecoveryRequested,
    Saga,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from contracts.balance import BalanceCommand
    from contracts.orders import OrderStatusChanged

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


def is_behind(saga: Saga | None, message: RecoveryRequested) -> bool:
    """Tell whether Kafka has more of an order than the database, which may not know it at all."""
    if saga is None:
        return bool(message.told or message.commands)
    behind = behind_by(saga, message)
    return bool(behind.told or behind.sent)


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


def statuses(saga: Saga, told: Sequence[OrderStatusChanged]) -> list[OrderStatus] | None:
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


def filled_with(saga: Saga, message: RecoveryRequested, behind: Behind) -> Filled | None:
    """Say what the order was filled with: as was told, or, when only the settlement was sent, as its sums say."""
    for order in (event.order for event in reversed(behind.told) if event.status in _FILLED):
        if order.average_price is not None and order.quantity is not None:
            return Filled(order.quantity, Price(order.average_price), order.fee)
    if saga.phase is Phase.SETTLING and saga.average_price is not None and saga.quantity is not None:
        return Filled(saga.quantity, Price(saga.average_price), saga.fee)
    settle = settlement_sent(message)
    if settle is None or (behind.last is not None and behind.last.status.terminal):
        return None  # if a settlement is carried out again, the refund is refused, and the order parks
    quantity = Quantity(settle.credit if saga.side is Side.BUY else settle.capture)
    if saga.asset_id is None or saga.quantity != quantity:
        return None
    prices = (_price_of(saga.side, settle, quote) for quote in quotes_of(saga, message))
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


def settlement_sent(message: RecoveryRequested) -> SettleBalance | None:
    """Find the settlement that was sent; every one that is sent again is the same."""
    return next((one for one in reversed(message.commands) if isinstance(one, SettleBalance)), None)


def quotes_of(saga: Saga, message: RecoveryRequested) -> list[Quote]:
    """List the quotes that the order may have gone by, the one that it knows first."""
    known = [] if saga.progress.quote is None else [saga.progress.quote]
    check = saga.command_id(Step.CHECK)
    return known + [quote_of(one, _quoted_at(one, saga)) for one in message.approvals if one.command_id == check]


def _quoted_at(approval: Any, saga: Saga) -> datetime:
    """Say since when the quote of an approval ages; it is never traded on again."""
    made_at: datetime = approval.quoted_at or saga.created_at
    return made_at
