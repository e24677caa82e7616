"""What each field and each value of the API means, in words for the OpenAPI document.

A Struct that is used for one call only may say it itself, in its `MEANINGS`.
"""

from __future__ import annotations

from typing import Final

from contracts.amends import CHANGES, AmendState
from contracts.terms import EXPIRES_WITHIN, SLIPPAGE_BPS_DEFAULT
from contracts.vocabulary import OrderStatus, OrderType, Side, TimeInForce

STATUS_MEANINGS: Final[dict[OrderStatus, str]] = {
    OrderStatus.PENDING: "It is being checked, and its money reserved.",
    OrderStatus.CONFIRMED: "It is allowed and its money is held; a conditional order rests. It can still be cancelled.",
    OrderStatus.PROCESSING: "It is filled and being settled. There is no way back.",
    OrderStatus.COMPLETED: "It is filled and settled.",
    OrderStatus.CANCELLED: "Its user, its time or an operator ended it; nothing is held any more.",
    OrderStatus.FAILED: "Somebody said no, or did not answer in time; nothing is held any more.",
}
SIDE_MEANINGS: Final[dict[Side, str]] = {
    Side.BUY: "The asset comes in and cash goes out.",
    Side.SELL: "Cash comes in and the asset goes out.",
}
TYPE_MEANINGS: Final[dict[OrderType, str]] = {
    OrderType.MARKET_BUY: "Buy at the quote of the moment.",
    OrderType.MARKET_SELL: "Sell at the quote of the moment.",
    OrderType.LIMIT_BUY: "Buy at a price of `limit_price` or less. It fills at the market price, so at the limit or"
    " better; while the market is above it, it rests.",
    OrderType.LIMIT_SELL: "Sell at a price of `limit_price` or more; as LIMIT_BUY otherwise.",
    OrderType.STOP_LOSS_BUY: "Buy once the price is `trigger_price` or more: at that price, if it is within"
    " `slippage_bps`; or, with a `limit_price`, as a LIMIT_BUY from then on.",
    OrderType.STOP_LOSS_SELL: "Sell once the price is `trigger_price` or less: at that price, whatever it is; or, with"
    " a `limit_price`, as a LIMIT_SELL from then on.",
    OrderType.TAKE_PROFIT_BUY: "Buy once the price is `trigger_price` or less; as STOP_LOSS_BUY otherwise.",
    OrderType.TAKE_PROFIT_SELL: "Sell once the price is `trigger_price` or more; as STOP_LOSS_SELL otherwise.",
    OrderType.TRAILING_STOP_BUY: "Buy once the price has risen by `trail_amount`, or by `trail_bps`, above the lowest"
    " one since the order rests.",
    OrderType.TRAILING_STOP_SELL: "Sell once the price has fallen by `trail_amount`, or by `trail_bps`, below the"
    " highest one since the order rests.",
    OrderType.BRACKET_BUY: "Buy once the price is `limit_price` or less, or once it is `trigger_price` or more, which"
    " ever comes first: at that price, above the trigger if it is within `slippage_bps`.",
    OrderType.BRACKET_SELL: "Sell once the price is `limit_price` or more, or once it is `trigger_price` or less, which"
    " ever comes first: at that price, whatever it is. It takes a gain and stops a loss with one hold.",
}
TIME_IN_FORCE_MEANINGS: Final[dict[TimeInForce, str]] = {
    TimeInForce.GTC: "Good till cancelled: it rests as long as it must. The default of a conditional order.",
    TimeInForce.GTD: "Good till a date: from `expires_at` on it can no longer fill; it ends CANCELLED / EXPIRED.",
    TimeInForce.DAY: "Good for the day: it ends so with the asset's session, or, if none runs, with the next one. An"
    " asset without sessions refuses it: FAILED / NO_SESSION.",
    TimeInForce.IOC: "Immediate or cancel: it fills at once or ends CANCELLED / UNFILLED. Only for LIMIT orders.",
    TimeInForce.FOK: "Fill or kill: the same as IOC here, since an order is filled as a whole.",
}
AMEND_STATE_MEANINGS: Final[dict[AmendState, str]] = {
    AmendState.PENDING: "It is being checked. The old terms stay in force.",
    AmendState.APPLIED: "The new terms are in force.",
    AmendState.REFUSED: "It changed nothing; `reason_code` and `reason` say why.",
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
    "slippage_bps": "How much worse than `price` the quote of a MARKET order may be, in 1/10,000; how far above its"
    " trigger a BUY stop without `limit_price`, or a BRACKET_BUY, may still fill. Null where there is no such bound.",
    "OrderBody.price": "Of a MARKET order only: the price that the client saw. The quote, or with `queue_when_closed`"
    " the opening price, may be worse by `slippage_bps` and no more. Required with `queue_when_closed`.",
    "OrderBody.slippage_bps": "How much worse than `price` the quote of a MARKET order may be, in 1/10,000; how far"
    " above its trigger a BRACKET_BUY, or a STOP_LOSS_BUY, TAKE_PROFIT_BUY or TRAILING_STOP_BUY without `limit_price`"
    f" may still fill. Left out, {SLIPPAGE_BPS_DEFAULT}. Refused for every other order.",
    "limit_price": "The worst price at which the order fills; of a BRACKET the level with the gain, which fires it."
    " Null where it has none.",
    "OrderBody.limit_price": "The worst price at which the order fills. Required for LIMIT orders; of a STOP_LOSS or"
    " TAKE_PROFIT optional: after its trigger the order is a limit order. Required for BRACKET orders, as the price"
    " that fires them on the side of the gain: above `trigger_price` for a SELL, below it for a BUY. A multiple of the"
    " asset's tick.",
    "trigger_price": "The price that fires a STOP_LOSS or TAKE_PROFIT, or a BRACKET on the side of the loss. Of a"
    " TRAILING_STOP that rests: the price that would fire it now, worked out from `watermark`. Null for other orders.",
    "OrderBody.trigger_price": "Required for STOP_LOSS, TAKE_PROFIT and BRACKET orders and refused for others: the"
    " price that fires the order. A price that meets it already, or the `limit_price` of a BRACKET, ends the order"
    " FAILED / WOULD_TRIGGER_IMMEDIATELY.",
    "trail_amount": "How far from its best price a TRAILING_STOP fires, in cash.",
    "OrderBody.trail_amount": "How far from its best price a TRAILING_STOP fires, in cash. Such an order takes exactly"
    " one of `trail_amount` and `trail_bps`; others take neither.",
    "trail_bps": "The same in 1/10,000 of the best price.",
    "OrderBody.trail_bps": "The same in 1/10,000 of the best price: 5 to 5,000, a multiple of 5.",
    "time_in_force": "How long a conditional order may wait; GTD for a MARKET order that may queue, null for others.",
    "OrderBody.time_in_force": "How long a conditional order may wait; left out, GTC. Refused for a MARKET order.",
    "expires_at": "When the order ends if nothing has fired it; at this instant it can no longer fill. It is as asked"
    " with GTD; the end of the session with DAY, known once the order rests; and"
    f" {EXPIRES_WITHIN.days} days after it began to queue for a MARKET order that names none.",
    "OrderBody.expires_at": "Required with GTD, allowed for a MARKET order with `queue_when_closed`, and refused"
    f" otherwise: when the order ends if nothing has fired it. Later than now and at most {EXPIRES_WITHIN.days} days"
    " away.",
    "queue_when_closed": "Whether the order may begin to rest while the asset is not traded.",
    "OrderBody.queue_when_closed": "Let the order begin to rest while the asset is halted or closed; a MARKET order"
    " then fills at the opening price, first come first served. Left out, it ends FAILED / ASSET_NOT_TRADABLE then.",
    "triggered": "The trigger of a STOP_LOSS or TAKE_PROFIT with a `limit_price` was met: it waits for its limit now.",
    "watermark": "Of a TRAILING_STOP: its best price since it rests, the highest for a SELL and the lowest for a BUY."
    " It moves without a new `version`.",
    "revision": "The number of the order's terms, from 1; null until it rests.",
    "held_asset_id": "What is held while it rests: cash for a BUY, the asset for a SELL; null otherwise.",
    "held_amount": "How much of that is held: for a BUY what it costs at its worst price, fee included.",
    "on_hold": "It is suspended: no price fires it until it is released. Its money stays held; it can be amended and"
    " cancelled, and it expires.",
    "release_refused": "Why its last release was not possible; null when it was, and when nobody tried.",
    "amend": "The last amend that was asked for or decided; null when there was none.",
    "OrderAmendment.amend_id": "The amend's name: the `Idempotency-Key` of its request, or an id of our own making.",
    "OrderAmendment.state": "How far it has come.",
    "OrderAmendment.reason_code": "Why it was refused.",
    "OrderAmendment.reason": "The same in words.",
    **{f"OrderAmendment.{name}": f"The `{name}` that it asked for, if it asked for one." for name in CHANGES},
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
    "Entry.kind": "`received`, `asked`, `answered`, `waits`, `rests`, `triggered`, `fired`, `expired`, `timed_out`, "
    "`ignored`, `amended`, `amend_refused`, `held`, `released`, `status`, `overdue`, `parked`, `resumed`, `woken`, "
    "`recovered`.",
    "Entry.name": "The message, the question or the status that it is about.",
    "Entry.status": "The status that it led to, if it led to one.",
    "Entry.version": "The version that it led to, if it led to one.",
    "Entry.detail": "What else is known of it, such as amounts and reasons.",
    "PreviewQuote.price": "The asset's price.",
    "PreviewQuote.sequence": "The number of that price, on `assets.prices`.",
    "PreviewQuote.as_of": "When it last changed.",
    "PreviewQuote.age_ms": "How long ago that was, in milliseconds.",
    "PreviewQuote.trading": "Whether the asset trades: OPEN, HALTED or CLOSED.",
    "PreviewQuote.tick": "Prices are multiples of this.",
    "PreviewQuote.step": "Quantities are multiples of this.",
    "PreviewQuote.fee_bps": "The fee rate in 1/10,000.",
    "PreviewQuote.cash_asset_id": "What the price is in.",
    "PreviewQuote.rules_version": "The number of the asset's rules.",
    "PreviewRefusal.reason_code": "The order's `reason_code`.",
    "PreviewRefusal.reason": "The same in words.",
    "PreviewRefusal.retryable": "The same order may succeed later.",
    "Account.available": "What a new order may use.",
    "Account.held": "What is set aside for orders and holds that are open.",
    "TradingSessions.time_zone": "As the IANA names it.",
    "TradingSessions.week": "The sessions of each day, Monday first, as `09:00-17:30`. One that closes no later than it"
    " opens does so on the next day.",
    "TradingSessions.special": "Days that are not as their weekday.",
    "SpecialSession.day": "The day, by the local clock.",
    "SpecialSession.hours": "Its sessions; empty: closed all day.",
    "SpecialSession.name": "What it is called; may be empty.",
    "OrderWebhook.type": "What happened.",
    "OrderWebhook.timestamp": "When it happened.",
    "OrderWebhook.data": "The order as of that version.",
    "PingWebhook.type": "`webhook.ping`.",
    "PingWebhook.timestamp": "When it was asked for.",
    "PingWebhook.data": "Nothing.",
    "DisabledWebhook.type": "`webhook.disabled`.",
    "DisabledWebhook.timestamp": "When the endpoint was given up.",
    "DisabledWebhook.data": "The endpoint that gets nothing any more.",
    "DisabledEndpoint.endpoint_id": "Its id.",
    "DisabledEndpoint.url": "Where it is, without path and query; of a person, `email` or `push`.",
    "DisabledEndpoint.reason": "Why.",
    "WebhookAttempt.number": "From 1.",
    "WebhookAttempt.at": "When it began.",
    "WebhookAttempt.duration_ms": "How long it took, in milliseconds.",
    "WebhookAttempt.status": "The HTTP status of the answer; null: there was none.",
    "WebhookAttempt.error": "Why it failed; null: it did not.",
    "WebhookAttempt.answer": "The first 200 printable characters of the answer.",
    "PushSubscription.endpoint": "The URL of the browser's push service: `https`, to an address of the internet.",
    "PushSubscription.keys": "The browser's keys.",
    "PushKeys.p256dh": "Its public key on P-256, in base64url.",
    "PushKeys.auth": "Its secret for authentication, in base64url.",
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
    "Members.hold_id": "The hold that it is about.",
    "Members.hold_status": "Where that hold stands.",
    "Members.endpoint_id": "The webhook that it is about.",
    "Members.amend_refusal": "Why the amend changes nothing.",
    "Members.release_refused": "Why the order can't be released.",
}
"""What each field says: by the names of its Struct and its own, or by its own where it is the same everywhere."""
