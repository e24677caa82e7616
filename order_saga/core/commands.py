"""The commands of a saga's steps, built from what it knows; a retry builds the very same. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from contracts.assets import CheckAsset, Purpose
from contracts.balance import AdjustBalance, RefundBalance, ReserveBalance, SettleBalance
from contracts.decimals import Money, Price
from contracts.terms import Terms
from contracts.vocabulary import Side
from order_saga.core import money
from order_saga.core.levels import worst_price
from order_saga.core.revision import revised
from order_saga.core.saga import Command, HoldTerms, Saga, SettlementTerms, Step


def command(saga: Saga, step: Step) -> Command:
    """Build the command of a step; a retry builds the very same."""
    command_id, order_id, hold_id = saga.command_id(step), saga.order_id, saga.command_id(Step.RESERVE)
    if step is Step.CHECK:
        asset_id, quantity = asked_for(saga)
        assert saga.order_type is not None  # noqa: S101 - an order without a type is INVALID_ORDER and never asks
        if saga.terms is None:
            return CheckAsset(command_id, order_id, asset_id, saga.order_type, quantity, saga.price)
        return _check_of_terms(saga, saga.terms, command_id)
    if step is Step.RECHECK:
        assert saga.progress.amending is not None  # noqa: S101 - it is asked for an amend
        new = revised(saga, saga.progress.amending)
        assert new.terms is not None  # noqa: S101 - as the order had them
        return structs.replace(_check_of_terms(new, new.terms, command_id), purpose=Purpose.AMEND)
    hold, reserve = hold_terms(saga), saga.progress.question(Step.RESERVE)
    # An older version did not note when it first asked: not before the order was.
    hold_asked_at = saga.created_at if reserve is None or reserve.sent_at is None else reserve.sent_at
    if step is Step.SETTLE:
        terms = settlement_terms(saga)
        return SettleBalance(
            command_id, order_id, hold_id, saga.user_id, hold.asset_id, hold.amount,
            terms.capture, terms.credit_asset_id, terms.credit, terms.fee_asset_id, terms.fee,
            hold_asked_at, hold.revision,
        )  # fmt: skip
    if step in {Step.RAISE, Step.LOWER}:
        number, amount = saga.progress.adjustments, saga.progress.adjusting
        assert amount is not None  # noqa: S101 - fixed before it is asked for
        return AdjustBalance(
            command_id, order_id, hold_id, saga.user_id, hold.asset_id, amount, number, hold_asked_at
        )  # fmt: skip
    kind = ReserveBalance if step is Step.RESERVE else RefundBalance
    return kind(command_id, order_id, hold_id, saga.user_id, hold.asset_id, hold.amount, hold_asked_at, hold.revision)


def _check_of_terms(saga: Saga, terms: Terms, command_id: str) -> CheckAsset:
    asset_id, quantity = asked_for(saga)
    assert saga.order_type is not None  # noqa: S101 - as above
    return CheckAsset(
        command_id,
        saga.order_id,
        asset_id,
        saga.order_type,
        quantity,
        saga.price,
        limit_price=terms.limit_price,
        trigger_price=terms.trigger_price,
        trail_amount=terms.trail_amount,
        trail_bps=terms.trail_bps,
        slippage_bps=saga.slippage_bps,
        queue_when_closed=terms.queue_when_closed,
    )


def hold_terms(saga: Saga) -> HoldTerms:
    """Give the terms of the hold: those that were fixed, or, as long as none are, those that the order makes now.

    An order that was stored before terms were has none; its quote and its request are still the ones that its first
    command was made from.
    """
    return saga.progress.hold or required_hold(saga)


def required_hold(saga: Saga) -> HoldTerms:
    """Work out what the order must hold by its terms in force.

    A market buy holds what its quote costs, a conditional one what its worst price costs, a sell what it sells.
    """
    if saga.side is Side.SELL:
        asset_id, quantity = asked_for(saga)
        return HoldTerms(asset_id, Money(quantity))
    total = fill_sums(saga) if saga.terms is None else sums_at(saga, worst_price(saga))
    return HoldTerms(total.hold_asset_id, total.hold)


def settlement_terms(saga: Saga) -> SettlementTerms:
    """Give the terms of the settlement: those that were fixed with the fill, or, before that, those of the quote."""
    if saga.progress.settlement is not None:
        return saga.progress.settlement
    total = fill_sums(saga)
    return SettlementTerms(total.hold, total.credit_asset_id, total.credit, total.fee_asset_id, total.fee)


def fill_price(saga: Saga) -> Price:
    """Return the price of the order's fill: that of the tick which fired it, or else of its quote."""
    assert saga.progress.quote is not None  # noqa: S101 - a buy reserves, and everybody settles, only after a quote
    return saga.progress.quote.price if saga.progress.fire is None else saga.progress.fire.price


def fill_sums(saga: Saga) -> money.Sums:
    """Work out what the order's fill costs, brings and is charged."""
    return sums_at(saga, fill_price(saga))


def sums_at(saga: Saga, price: Price) -> money.Sums:
    """Work out what a fill at a price costs, brings and is charged; the fee rate is the one of the quote."""
    assert saga.progress.quote is not None  # noqa: S101 - as above
    asset_id, quantity = asked_for(saga)
    return money.sums(saga.side, asset_id, quantity, saga.progress.quote, price)


def asked_for(saga: Saga) -> tuple[str, Any]:
    """Name the asset and the quantity that the request asked for."""
    assert saga.asset_id is not None  # noqa: S101 - both are given by every request that is not INVALID_ORDER
    assert saga.quantity is not None  # noqa: S101
    return saga.asset_id, saga.quantity
