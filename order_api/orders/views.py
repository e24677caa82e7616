"""What a caller sees of an order, and whether it may still be cancelled. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts import codec
from contracts.amends import OrderAmendment
from contracts.decimals import Exact, Money, Price
from contracts.orders import Order
from contracts.terms import slippage_of, terms_of
from contracts.vocabulary import AssetId, Count, Instant, OrderStatus, ReasonCode
from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller
from order_api.orders.listing import Page
from order_api.orders.publication.messages import Claimed, asked_for
from order_api.orders.store import Entry, Found

TAKEN_REASON: Final = "another producer used this order id for an order of its own"


class OrderState(msgspec.Struct, frozen=True):
    """The fields of an order that change by themselves, and `amend`: what changed its terms last."""

    order_id: UUID
    status: OrderStatus
    reason_code: ReasonCode | None
    reason: str | None
    cancel_requested: bool
    filled_quantity: Money
    average_price: Exact | None
    fee: Money
    version: Count
    updated_at: Instant
    cash_asset_id: AssetId | None
    fee_asset_id: AssetId | None
    trigger_price: Price | None
    triggered: bool
    watermark: Price | None
    revision: Count | None
    held_asset_id: AssetId | None
    held_amount: Money | None
    on_hold: bool
    release_refused: ReasonCode | None
    amend: OrderAmendment | None


class History(msgspec.Struct, frozen=True):
    """A page of what happened to an order, oldest first; the next page is asked for with `after` = the last `seq`."""

    order_id: UUID
    history: list[Entry]
    has_more: bool


def shown(found: Found, caller: Caller) -> Order | None:
    """Return the order as this caller sees it; None when there is none for them.

    Until the orchestrator has a claimed order, its claim is shown as PENDING, version 0. When a claim's id became
    another user's order, the claim has failed for its own user, and everybody else sees the order that exists.
    """
    claimed, order = found.claimed, found.order
    if claimed is not None and (order is None or order.user_id != claimed.claim.user_id):
        owner = claimed.claim.user_id
        if order is None:
            return pending(claimed) if caller.sees(owner) else None
        if caller.acts_for(owner) and caller.user_id != order.user_id:
            return _taken(claimed, order.created_at)
    return order if order is not None and caller.sees(order.user_id) else None


def listed(found: Found, user_id: str) -> Order:
    """Return what was found in a user's list as that user's own order: never another's that took a claim's id."""
    if found.order is not None and found.order.user_id == user_id:
        return found.order
    if found.claimed is None:
        raise ValueError("neither an order of this user nor a claim")
    return pending(found.claimed) if found.order is None else _taken(found.claimed, found.order.created_at)


def state_of(order: Order) -> OrderState:
    """Return the part of an order that changes."""
    return OrderState(**{name: getattr(order, name) for name in OrderState.__struct_fields__})


def pending(claimed: Claimed) -> Order:
    """Show a claim as the order that it will be, with the time that the order will keep."""
    claim = claimed.claim
    asked = asked_for(claim)
    terms = terms_of(asked)
    return Order(
        order_id=claim.order_id,
        client_order_id=claim.client_order_id,
        user_id=claim.user_id,
        asset_id=asked.asset_id,
        order_type=asked.order_type,
        status=OrderStatus.PENDING,
        quantity=asked.quantity,
        price=asked.price,
        slippage_bps=slippage_of(asked),
        filled_quantity=Money(0),
        average_price=None,
        fee=Money(0),
        reason_code=None,
        reason=None,
        cancel_requested=False,
        version=0,
        created_at=claimed.created_at,
        updated_at=claimed.created_at,
        **({} if terms is None else msgspec.structs.asdict(terms)),
    )


def written(body: msgspec.Struct) -> bytes:
    """Write the body of an answer: an order with all its fields, null where they do not apply; events leave them out.

    So a client can rely on each field.
    """
    if isinstance(body, Order):
        return codec.encode(msgspec.structs.asdict(body))
    if isinstance(body, Page):
        return codec.encode(msgspec.structs.asdict(body) | {"orders": [msgspec.structs.asdict(o) for o in body.orders]})
    return codec.encode(body)


def refuse_late_cancel(order: Order, headers: Mapping[str, str] | None = None) -> None:
    """Raise the problem when an order can't be cancelled any more. A cancelled one is left to the caller."""
    about: dict[str, Any] = {"order_id": order.order_id, "order_status": order.status}
    if order.status is OrderStatus.PROCESSING:
        raise Problem(Code.TOO_LATE_TO_CANCEL, headers=headers, **about)
    if order.status in {OrderStatus.COMPLETED, OrderStatus.FAILED}:
        raise Problem(Code.ORDER_NOT_CANCELABLE, f"the order is {order.status}", headers=headers, **about)


def _taken(claimed: Claimed, taken_at: datetime) -> Order:
    return msgspec.structs.replace(
        pending(claimed),
        status=OrderStatus.FAILED,
        reason_code=ReasonCode.ORDER_ID_TAKEN,
        reason=TAKEN_REASON,
        version=1,
        updated_at=max(claimed.created_at, taken_at),
    )
