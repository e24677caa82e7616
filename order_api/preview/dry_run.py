"""Takes an order through the saga in memory, as far as the market. Pure: it decides nothing that the core does not.

A hold is taken to succeed: whether the user has the money, only the balance service knows.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from msgspec import structs

from contracts.assets import AssetApproved, AssetRefused, CheckAsset, preview_id
from contracts.balance import BalanceReserved
from contracts.decimals import Money, Price, add, subtract
from contracts.orders import Order, OrderRequested
from contracts.vocabulary import HoldState, OrderStatus, ReasonCode, Side
from order_saga.core.commands import command, fill_price, hold_terms, sums_at
from order_saga.core.fold import fold
from order_saga.core.levels import sale_floor, worst_price
from order_saga.core.saga import Answer, Incoming, Requested, Saga, Step, snapshot


class Sums(NamedTuple):
    """What a fill at `price` would move. `notional` is its cost or proceeds, before the fee."""

    price: Price
    notional: Money
    fee_asset_id: str
    fee: Money
    credit_asset_id: str
    credit: Money


class DryRun:
    """An order that exists nowhere but here, at the time `now`."""

    def __init__(self, request: OrderRequested, now: datetime) -> None:
        self._now = now
        self._order_id = request.order_id
        self._saga = self._after(None, Requested(request, now))

    @property
    def question(self) -> CheckAsset | None:
        """What the saga would ask the asset service, under a preview's id; None: it asks nothing."""
        asked = self._saga.progress.question(Step.CHECK)
        if asked is None or asked.answer is not Answer.OPEN:
            return None
        check = command(self._saga, Step.CHECK)
        assert isinstance(check, CheckAsset)  # noqa: S101 - the command of this step
        return structs.replace(check, command_id=preview_id(self._order_id))

    def answered(self, reply: AssetApproved | AssetRefused, now: datetime) -> bool:
        """Go on with the asset service's answer; return whether it could be believed."""
        self._now = now
        after = self._after(self._saga, structs.replace(reply, command_id=self._saga.command_id(Step.CHECK)))
        if after.parked_reason is not None:
            return False
        self._saga = self._held(after)
        return True

    @property
    def refusal(self) -> tuple[ReasonCode, str | None] | None:
        """Why the order would end before it is filled, or None."""
        saga, outcome = self._saga, self._saga.progress.outcome
        if outcome is not None:
            return outcome.reason_code, outcome.reason
        return None if saga.reason_code is None else (saga.reason_code, saga.reason)

    @property
    def status(self) -> OrderStatus:
        """Where the order would stand once its money is held: filled, at rest, or ended."""
        outcome = self._saga.progress.outcome
        status = self._saga.status if outcome is None else outcome.status
        assert status is not None  # noqa: S101 - a saga with a request has one
        return status

    @property
    def hold(self) -> tuple[str, Money] | None:
        """What the order would hold, as soon as that is known; None when it holds nothing."""
        if self.refusal is not None or (self._saga.side is Side.BUY and self._saga.progress.quote is None):
            return None
        held = hold_terms(self._saga)
        return held.asset_id, held.amount

    @property
    def sums(self) -> Sums | None:
        """What a fill would move: at the quote if that fills it, else at the price that it is judged by."""
        saga = self._saga
        if self.refusal is not None or saga.progress.quote is None:
            return None
        fills = saga.terms is None or saga.progress.settlement is not None
        price = fill_price(saga) if fills else worst_price(saga)
        total = sums_at(saga, price)
        cost = subtract(total.hold, total.fee) if saga.side is Side.BUY else add(total.credit, total.fee)
        return Sums(price, Money(cost), total.fee_asset_id, total.fee, total.credit_asset_id, total.credit)

    @property
    def worst_price(self) -> Price | None:
        """The highest price that a BUY may pay, the lowest that a SELL may take; None: no bound, or not known."""
        saga = self._saga
        if self.refusal is not None or saga.terms is None or saga.progress.quote is None:
            return None
        return sale_floor(saga) if saga.side is Side.SELL else worst_price(saga)

    @property
    def shown(self) -> Order:
        """The order as it would be shown."""
        return snapshot(self._saga)

    def _held(self, saga: Saga) -> Saga:
        reserve = saga.progress.question(Step.RESERVE)
        if reserve is None or reserve.answer is not Answer.OPEN or saga.progress.outcome is not None:
            return saga
        hold_id, held = saga.command_id(Step.RESERVE), hold_terms(saga)
        reply: Any = BalanceReserved(
            hold_id, saga.order_id, hold_id, HoldState.HELD, held.amount, saga.user_id, held.asset_id
        )
        return self._after(saga, reply)

    def _after(self, saga: Saga | None, message: Incoming) -> Saga:
        known = {} if saga is None else {saga.order_id: saga}
        return fold(known, [message], self._now).sagas[self._order_id]
