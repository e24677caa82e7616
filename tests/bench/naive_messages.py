"""The naive loop's messages, as pydantic models."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, PlainSerializer

Amount = Annotated[
    Decimal, PlainSerializer(lambda value: format(value, "f"), return_type=str, when_used="json-unless-none")
]
"""Without an exponent, which a 0 from the database would have."""


class OrderRequested(BaseModel):
    """A request."""

    order_id: UUID
    user_id: str
    asset_id: str
    order_type: str
    quantity: Amount
    price: Amount | None = None
    slippage_bps: int = 100
    client_order_id: str | None = None


class CheckAsset(BaseModel):
    """Judge the order, and quote."""

    command_id: str
    order_id: UUID
    asset_id: str
    order_type: str
    quantity: Amount
    price: Amount | None


class AssetApproved(BaseModel):
    """Approved at this quote."""

    command_id: str
    order_id: UUID
    asset_id: str
    price: Amount
    fee_bps: int
    cash_asset_id: str
    cash_scale: int


class ReserveBalance(BaseModel):
    """Hold the amount."""

    command_id: str
    order_id: UUID
    hold_id: str
    user_id: str
    asset_id: str
    amount: Amount
    hold_asked_at: datetime


class BalanceReserved(BaseModel):
    """Held."""

    command_id: str
    order_id: UUID
    hold_id: str
    amount: Amount


class SettleBalance(BaseModel):
    """Capture the hold."""

    command_id: str
    order_id: UUID
    hold_id: str
    user_id: str
    asset_id: str
    amount: Amount
    capture: Amount
    credit_asset_id: str
    credit: Amount
    fee_asset_id: str
    fee: Amount
    hold_asked_at: datetime


class BalanceSettled(BaseModel):
    """Settled."""

    command_id: str
    order_id: UUID
    hold_id: str
    captured: Amount
    returned: Amount


class OrderSnapshot(BaseModel):
    """An order as its users see it."""

    order_id: UUID
    client_order_id: str | None
    user_id: str
    asset_id: str
    order_type: str
    status: str
    quantity: Amount
    price: Amount | None
    slippage_bps: int
    filled_quantity: Amount
    average_price: Amount | None
    fee: Amount
    reason_code: str | None = None
    reason: str | None = None
    cancel_requested: bool = False
    version: int
    created_at: datetime
    updated_at: datetime
    cash_asset_id: str | None
    fee_asset_id: str | None


class OrderStatusChanged(BaseModel):
    """A version of an order."""

    order_id: UUID
    version: int
    status: str
    previous_status: str | None
    reason_code: str | None = None
    occurred_at: datetime
    order: OrderSnapshot
