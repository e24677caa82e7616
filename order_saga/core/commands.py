"""The commands of a saga's steps, built from what it knows; a retry builds the very same. Pure."""

from __future__ import annotations

from typing import Any

from contracts.assets import CheckAsset
from contracts.balance import RefundBalance, ReserveBalance, SettleBalance
from contracts.decimals import Money
from contracts.vocabulary import Side
from order_saga.core import money
from order_saga.core.saga import Command, Saga, Step


def command(saga: Saga, step: Step) -> Command:
    """Build the command of a step; a retry builds the very same."""
    command_id, order_id, hold_id = saga.command_id(step), saga.order_id, saga.command_id(Step.RESERVE)
    asset_id, quantity = asked_for(saga)
    if step is Step.CHECK:
        assert saga.order_type is not None  # noqa: S101 - an order without a type is INVALID_ORDER and never asks
        return CheckAsset(command_id, order_id, asset_id, saga.order_type, quantity, saga.price)
    quote, user_id = saga.progress.quote, saga.user_id
    held_asset, amount = asset_id, Money(quantity)
    reserve = saga.progress.question(Step.RESERVE)
    # An older version did not note when it first asked: not before the order was.
    hold_asked_at = saga.created_at if reserve is None or reserve.sent_at is None else reserve.sent_at
    if saga.side is Side.BUY or step is Step.SETTLE:
        assert quote is not None  # noqa: S101 - a buy reserves, and everybody settles, only after a quote
        total = money.sums(saga.side, asset_id, quantity, quote)
        held_asset, amount = total.hold_asset_id, total.hold
        if step is Step.SETTLE:
            return SettleBalance(
                command_id, order_id, hold_id, user_id, held_asset, amount,
                amount, total.credit_asset_id, total.credit, quote.cash_asset_id, total.fee,
                hold_asked_at,
            )  # fmt: skip
    kind = ReserveBalance if step is Step.RESERVE else RefundBalance
    return kind(command_id, order_id, hold_id, user_id, held_asset, amount, hold_asked_at)


def asked_for(saga: Saga) -> tuple[str, Any]:
    """Name the asset and the quantity that the request asked for."""
    assert saga.asset_id is not None  # noqa: S101 - both are given by every request that is not INVALID_ORDER
    assert saga.quantity is not None  # noqa: S101
    return saga.asset_id, saga.quantity
