"""What a preview answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec

from contracts.assets import AssetApproved, AssetRefusal, AssetRefused
from contracts.decimals import Exact, Money, Price, Quantity
from contracts.orders import Order, OrderRequested
from contracts.vocabulary import (
    REASONS,
    AssetId,
    BasisPoints,
    Count,
    Instant,
    OrderKind,
    OrderStatus,
    OrderType,
    ReasonCode,
    UserId,
)
from order_api.preview.dry_run import DryRun

_AT_THE_QUOTE: Final = {
    OrderKind.MARKET: (ReasonCode.SLIPPAGE_EXCEEDED,),
    OrderKind.LIMIT: (ReasonCode.UNFILLED,),
    OrderKind.TRAILING_STOP: (),
}
"""What the saga itself may say at the quote, by kind; of every other kind, that it would trigger at once."""
_BY_THE_BALANCE: Final = (ReasonCode.ACCOUNT_NOT_FOUND, ReasonCode.INSUFFICIENT_BALANCE)


class PreviewQuote(msgspec.Struct, frozen=True):
    """The quote that a preview was made with, and the asset's rules of that moment."""

    price: Price
    sequence: Count
    as_of: Instant
    age_ms: Count
    trading: str
    tick: Price
    step: Quantity
    fee_bps: BasisPoints
    cash_asset_id: AssetId
    rules_version: Count


class PreviewRefusal(msgspec.Struct, frozen=True):
    """Why the order would end without a fill."""

    reason_code: ReasonCode
    reason: str | None
    retryable: bool


class Preview(msgspec.Struct, frozen=True):
    """What would become of an order that is submitted now, if its user has the money."""

    MEANINGS: ClassVar = {
        "existing_order_id": "The order that was submitted before with this `client_order_id` and is the very same:"
        " `POST /orders` would answer it and make none. Then `status`, what is held, `trigger_price` and `limit_price`"
        " are that order's, as it stands, and nothing else is worked out. null: there is none.",
        "status": "Where the order would stand once its money is held: PROCESSING when it fills at once, CONFIRMED when"
        " it rests, FAILED or CANCELLED when it is refused; PENDING when that is not known.",
        "held_asset_id": "What would be held; null: nothing, or not known.",
        "held_amount": "How much of it.",
        "trigger_price": "The price that would fire a stop, now; null where there is none, or it is not known.",
        "limit_price": "The order's limit; null where it has none.",
        "worst_price": "The highest price that a conditional BUY may pay, the lowest that a conditional SELL may take;"
        " null: it has no bound, or it is not known.",
        "price": "The price at which the sums below are worked out: the quote if it fills at once, else the worst price"
        " of a BUY, and the limit or the trigger of a SELL.",
        "notional": "Quantity times `price`, as it is charged or paid before the fee.",
        "fee_asset_id": "The currency of `fee`.",
        "fee": "The fee at that price.",
        "credit_asset_id": "What the user would get.",
        "credit": "How much of it, after the fee.",
        "quote": "The quote; null when the asset service has refused the order, or has not answered.",
        "refusals": "Why the order would be refused; empty: nothing that was checked speaks against it.",
        "not_checked": "What may still refuse it and was not checked: the money, and whatever can't be known without"
        " an answer of the asset service.",
    }
    user_id: UserId
    asset_id: AssetId
    order_type: OrderType
    quantity: Quantity
    existing_order_id: UUID | None
    status: OrderStatus
    held_asset_id: AssetId | None
    held_amount: Money | None
    trigger_price: Price | None
    limit_price: Price | None
    worst_price: Price | None
    price: Price | None
    notional: Exact | None
    fee_asset_id: AssetId | None
    fee: Money | None
    credit_asset_id: AssetId | None
    credit: Exact | None
    quote: PreviewQuote | None
    refusals: list[PreviewRefusal]
    not_checked: list[ReasonCode]


def make_preview(
    request: OrderRequested,
    run: DryRun,
    answer: AssetApproved | AssetRefused | None,
    now: datetime,
    *,
    duplicate_of: UUID | None,
) -> Preview:
    """Show what a dry run has found; `answer` is the one that it went on with."""
    refusals = _refusals(run, duplicate_of)
    hold, sums = (None, None) if duplicate_of else (run.hold, run.sums)
    order = run.shown
    return Preview(
        *(request.user_id, request.asset_id, request.order_type, request.quantity),
        existing_order_id=None,
        status=OrderStatus.FAILED if duplicate_of else run.status,
        held_asset_id=None if hold is None else hold[0],
        held_amount=None if hold is None else hold[1],
        trigger_price=order.trigger_price,
        limit_price=order.limit_price,
        worst_price=run.worst_price,
        price=None if sums is None else sums.price,
        notional=None if sums is None else sums.notional,
        fee_asset_id=None if sums is None else sums.fee_asset_id,
        fee=None if sums is None else sums.fee,
        credit_asset_id=None if sums is None else sums.credit_asset_id,
        credit=None if sums is None else sums.credit,
        quote=_quote(answer, now) if isinstance(answer, AssetApproved) else None,
        refusals=refusals,
        not_checked=_not_checked(request, answer, refusals),
    )


def preview_of_existing(request: OrderRequested, order: Order) -> Preview:
    """Show the order that `request` has made before: nobody would make another one."""
    unknown: dict[str, Any] = dict.fromkeys(
        ("worst_price", "price", "notional", "fee_asset_id", "fee", "credit_asset_id", "credit", "quote")
    )
    return Preview(
        *(request.user_id, request.asset_id, request.order_type, request.quantity),
        existing_order_id=order.order_id,
        status=order.status,
        held_asset_id=order.held_asset_id,
        held_amount=order.held_amount,
        trigger_price=order.trigger_price,
        limit_price=order.limit_price,
        **unknown,
        refusals=[],
        not_checked=[],
    )


def _refusals(run: DryRun, duplicate_of: UUID | None) -> list[PreviewRefusal]:
    found: list[tuple[ReasonCode, str | None]] = []
    if duplicate_of is not None:
        found.append((ReasonCode.DUPLICATE_CLIENT_ORDER_ID, f"order {duplicate_of} has this client order id"))
    if run.refusal is not None:
        found.append(run.refusal)
    return [PreviewRefusal(code, reason, REASONS[code].retryable) for code, reason in found]


def _not_checked(
    request: OrderRequested, answer: AssetApproved | AssetRefused | None, refusals: Sequence[PreviewRefusal]
) -> list[ReasonCode]:
    """List what may refuse the order besides: who refuses first hides what else there is to say."""
    kind = request.order_type.kind
    open_codes: list[ReasonCode] = []
    if not isinstance(answer, AssetApproved):
        open_codes += [ReasonCode(code) for code in AssetRefusal]
        open_codes += _AT_THE_QUOTE.get(kind, (ReasonCode.WOULD_TRIGGER_IMMEDIATELY,))
    open_codes += _BY_THE_BALANCE
    if kind is not OrderKind.MARKET:
        open_codes.append(ReasonCode.TOO_MANY_OPEN_ORDERS)
    return [code for code in open_codes if code not in {one.reason_code for one in refusals}]


def _quote(approved: AssetApproved, now: datetime) -> PreviewQuote:
    return PreviewQuote(
        price=approved.price,
        sequence=approved.sequence,
        as_of=approved.as_of,
        age_ms=max(0, int((now - approved.as_of).total_seconds() * 1000)),
        trading=approved.trading,
        tick=approved.tick,
        step=approved.step,
        fee_bps=approved.fee_bps,
        cash_asset_id=approved.cash_asset_id,
        rules_version=approved.rules_version,
    )
