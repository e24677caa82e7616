"""What each field and each value of the API means, in words for the OpenAPI document.

A Struct that is used for one call only may say it itself, in its `MEANINGS`.
"""

from __future__ import annotations

from typing import Final

from contracts.terms import SLIPPAGE_BPS_DEFAULT
from contracts.vocabulary import OrderStatus, OrderType

STATUS_MEANINGS: Final[dict[OrderStatus, str]] = {
    OrderStatus.PENDING: "It is being checked, and its money reserved.",
    OrderStatus.CONFIRMED: "It is allowed and its money is held. It can still be cancelled.",
    OrderStatus.PROCESSING: "It is filled and being settled. There is no way back.",
    OrderStatus.COMPLETED: "It is filled and settled.",
    OrderStatus.CANCELLED: "Its user, its time or an operator ended it; nothing is held any more.",
    OrderStatus.FAILED: "Somebody said no, or did not answer in time; nothing is held any more.",
}
TYPE_MEANINGS: Final[dict[OrderType, str]] = {
    OrderType.MARKET_BUY: "Buy at the quote of the moment.",
    OrderType.MARKET_SELL: "Sell at the quote of the moment.",
}
FIELD_MEANINGS: Final[dict[str, str]] = {
    "order_id": "The order's id, minted when it was accepted.",
    "client_order_id": "The user's own name for the order, used once: repeating the request makes no second order.",
    "user_id": "The order's user: the token's `sub`, unless the caller may act for others.",
    "asset_id": "What is bought or sold.",
    "order_type": "What is asked for.",
    "status": "Where the order stands. COMPLETED, CANCELLED and FAILED are final: the money is at rest.",
    "quantity": "How much of the asset, more than 0; its step and its limits are the asset's.",
    "price": "The price that the client saw, if it says so: the quote may be worse by `slippage_bps` and no more.",
    "slippage_bps": "How much worse than `price` the quote may be, in 1/10,000.",
    "OrderBody.slippage_bps": "How much worse than `price` the quote may be, in 1/10,000; left out, "
    f"{SLIPPAGE_BPS_DEFAULT}.",
    "filled_quantity": "How much is filled: nothing or all.",
    "average_price": "What one unit cost, in `cash_asset_id`; null until it is filled.",
    "fee": "What was charged for the fill, in `fee_asset_id`.",
    "reason_code": "Why it was cancelled or failed; null otherwise.",
    "reason": "The same in words.",
    "cancel_requested": "A cancel is accepted; whether it was in time, the status will tell.",
    "version": "Rises by one with each change that can be seen; 0 until the orchestrator has it. It is the ETag.",
    "created_at": "When it was accepted.",
    "updated_at": "When it changed last.",
    "cash_asset_id": "The currency of the quote, so of `average_price`; null while it is PENDING, and when it ended "
    "without a quote.",
    "fee_asset_id": "The currency of `fee`; null when `cash_asset_id` is. Today it is always the same.",
    "orders": "Newest first.",
    "history": "Oldest first.",
    "has_more": "Whether there is a next page.",
    "next_cursor": "Give it as `cursor` to get the next page; null on the last one.",
    "Entry.seq": "Its place in the order's history, from 1.",
    "Entry.at": "When it happened.",
    "Entry.kind": "`received`, `asked`, `answered`, `waits`, `timed_out`, `ignored`, `status`, `overdue`, `parked`, "
    "`resumed`, `woken`.",
    "Entry.name": "The message, the question or the status that it is about.",
    "Entry.status": "The status that it led to, if it led to one.",
    "Entry.version": "The version that it led to, if it led to one.",
    "Entry.detail": "What else is known of it, such as amounts and reasons.",
    "FieldError.field": "The field, the parameter or the header.",
    "FieldError.rule": "The rule that it breaks.",
    "FieldError.got": "What was sent, as JSON and cut short; null: nothing.",
    "Problem.type": "The address of the page about this problem; it never changes.",
    "Problem.title": "The problem in a few words.",
    "Problem.status": "The HTTP status.",
    "Problem.detail": "What is to be said about this one case, for people.",
    "Problem.instance": "The address that it is about: the order's where there is one, else the request's path.",
    "Problem.code": "The last part of `type`: decide by this.",
    "Problem.trace_id": "With a `5xx`, where traces are kept: name it to whoever runs the service.",
    "Members.errors": "Each field that breaks its rule.",
    "Members.order_id": "The order that it is about.",
    "Members.order": "Where that order is found.",
    "Members.order_ids": "The orders that it is about.",
    "Members.order_status": "Where that order stands.",
}
"""What each field says: by the names of its Struct and its own, or by its own where it is the same everywhere."""
