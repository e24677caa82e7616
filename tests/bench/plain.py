"""The messages of a successful market buy as the lean and the naive loop read and write them, with amounts as text.

The contract's own types check and convert values, which these loops do not need. A written message has all fields of
the contract, a read one only the needed fields. A test compares both with `contracts`.
"""

from __future__ import annotations

from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple

import msgspec

BASIS_POINT = Decimal("0.0001")


# Read -----------------------------------------------------------------------------------------------------------------


class OrderRequested(msgspec.Struct):
    """A request."""

    order_id: str
    user_id: str
    asset_id: str
    order_type: str
    quantity: str
    price: str | None = None
    slippage_bps: int = 100
    client_order_id: str | None = None


class Quote(msgspec.Struct, array_like=True):
    """The fields of a quote that later sums need; stored with the order as a JSON array."""

    price: str
    fee_bps: int
    cash_asset_id: str
    cash_scale: int


class Approval(msgspec.Struct):
    """An `AssetApproved`."""

    order_id: str
    price: str
    fee_bps: int
    cash_asset_id: str
    cash_scale: int

    def quote(self) -> Quote:
        """Return the fields to store."""
        return Quote(self.price, self.fee_bps, self.cash_asset_id, self.cash_scale)


class Answer(msgspec.Struct):
    """The needed field of any other answer."""

    order_id: str


class Command(msgspec.Struct):
    """The fields that the participants read of a command; a check has no hold."""

    command_id: str
    order_id: str
    asset_id: str
    hold_id: str = ""
    amount: str = ""
    capture: str = ""
    user_id: str = ""


# Written --------------------------------------------------------------------------------------------------------------


class CheckAsset(msgspec.Struct):
    """Judge the order, and quote."""

    command_id: str
    order_id: str
    asset_id: str
    order_type: str
    quantity: str
    price: str | None


class ReserveBalance(msgspec.Struct):
    """Hold the amount."""

    command_id: str
    order_id: str
    hold_id: str
    user_id: str
    asset_id: str
    amount: str
    hold_asked_at: datetime


class SettleBalance(msgspec.Struct):
    """Capture the hold."""

    command_id: str
    order_id: str
    hold_id: str
    user_id: str
    asset_id: str
    amount: str
    capture: str
    credit_asset_id: str
    credit: str
    fee_asset_id: str
    fee: str
    hold_asked_at: datetime


class AssetApproved(msgspec.Struct):
    """Approved at this quote."""

    command_id: str
    order_id: str
    asset_id: str
    price: str
    sequence: int
    as_of: datetime
    tick: str
    step: str
    fee_bps: int
    cash_asset_id: str
    cash_scale: int
    rules_version: int


class BalanceReserved(msgspec.Struct):
    """Held."""

    command_id: str
    order_id: str
    hold_id: str
    hold_state: str
    amount: str
    user_id: str
    asset_id: str


class BalanceSettled(msgspec.Struct):
    """Settled."""

    command_id: str
    order_id: str
    hold_id: str
    hold_state: str
    captured: str
    returned: str
    user_id: str
    asset_id: str


class Order(msgspec.Struct):
    """An order as its users see it."""

    order_id: str
    client_order_id: str | None
    user_id: str
    asset_id: str
    order_type: str
    status: str
    quantity: str
    price: str | None
    slippage_bps: int
    filled_quantity: str
    average_price: str | None
    fee: str
    reason_code: str | None
    reason: str | None
    cancel_requested: bool
    version: int
    created_at: datetime
    updated_at: datetime
    cash_asset_id: str | None
    fee_asset_id: str | None


class OrderStatusChanged(msgspec.Struct):
    """A version of an order."""

    order_id: str
    version: int
    status: str
    previous_status: str | None
    reason_code: str | None
    occurred_at: datetime
    order: Order


class Sums(NamedTuple):
    """The total that a buy takes from the user, and the fee in it."""

    hold: str
    fee: str


def sums(quantity: str, quote: Quote) -> Sums:
    """Compute a buy at a quote as `order_saga.core.money` does, with the 28 digits of the default context."""
    unit = Decimal(1).scaleb(-quote.cash_scale)
    gross = Decimal(quantity) * Decimal(quote.price)
    fee = (gross * quote.fee_bps * BASIS_POINT).quantize(unit, ROUND_CEILING)
    return Sums(str(gross.quantize(unit, ROUND_CEILING) + fee), str(fee))
