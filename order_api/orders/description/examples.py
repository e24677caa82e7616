"""One order in every answer of the API: the examples of the documentation. Nothing else may use them.

The functions that make the answers make them, too, and tests compare them with their schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts.amends import AmendState, OrderAmendment
from contracts.decimals import Exact, Money, Price
from contracts.examples import ORDER_ID, TIME
from contracts.orders import Order
from contracts.vocabulary import OrderStatus, ReasonCode
from order_api.openapi.declarations import Example
from order_api.orders.listing import make_page, write_cursor
from order_api.orders.publication.messages import Claimed
from order_api.orders.store import Entry
from order_api.orders.submission import make_claim, read_body
from order_api.orders.views import History, pending, state_of, written

USER_ID: Final = "alice"
KEY: Final = "0d3c5f8e-alice-17"
CLIENT_ORDER_ID: Final = "alice-2026-03-02-1"
BODY: Final[dict[str, Any]] = {
    "asset_id": "BTC",
    "order_type": "MARKET_BUY",
    "quantity": "0.01",
    "price": "50000",
    "client_order_id": CLIENT_ORDER_ID,
}
MINIMAL_BODY: Final[dict[str, Any]] = {"asset_id": "ETH", "order_type": "MARKET_SELL", "quantity": "1.5"}


CONDITIONAL_BODIES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "limit": (
        "Buy at 48,000 or less, until a time",
        {
            "asset_id": "BTC",
            "order_type": "LIMIT_BUY",
            "quantity": "0.1",
            "limit_price": "48000",
            "time_in_force": "GTD",
            "expires_at": "2026-03-09T12:00:00Z",
        },
    ),
    "stop loss": (
        "Sell once the price is 47,500 or less, at any price",
        {"asset_id": "BTC", "order_type": "STOP_LOSS_SELL", "quantity": "0.1", "trigger_price": "47500"},
    ),
    "stop limit": (
        "Buy once the price is 52,000 or more, but for no more than 52,300",
        {
            "asset_id": "BTC",
            "order_type": "STOP_LOSS_BUY",
            "quantity": "0.1",
            "trigger_price": "52000",
            "limit_price": "52300",
        },
    ),
    "take profit": (
        "Sell once the price is 55,000 or more",
        {"asset_id": "BTC", "order_type": "TAKE_PROFIT_SELL", "quantity": "0.1", "trigger_price": "55000"},
    ),
    "trailing stop": (
        "Sell once the price is 3 % below its highest",
        {"asset_id": "BTC", "order_type": "TRAILING_STOP_SELL", "quantity": "0.1", "trail_bps": 300},
    ),
    "bracket": (
        "Sell once the price is 55,000 or more, or 47,500 or less",
        {
            "asset_id": "BTC",
            "order_type": "BRACKET_SELL",
            "quantity": "0.1",
            "limit_price": "55000",
            "trigger_price": "47500",
        },
    ),
}
"""One of each kind of conditional order, as it is submitted."""


def bodies() -> dict[str, Example]:
    """Give an order of each kind as it is submitted."""
    return {
        "buy": Example("Buy, with all that can be said of a market order", BODY),
        "sell": Example("As short as can be", MINIMAL_BODY),
        **{name: Example(summary, body) for name, (summary, body) in CONDITIONAL_BODIES.items()},
    }


def accepted() -> dict[str, Example]:
    """Give the order as it is answered first."""
    return _written({"accepted": ("Accepted a moment ago", accepted_order())})


def every_order() -> dict[str, Example]:
    """Give the order in each status, and conditional ones that rest."""
    return _written(orders_by_status() | resting_orders())


def ended() -> dict[str, Example]:
    """Give the order as it may end."""
    orders = _written(orders_by_status())
    return {name: orders[name] for name in ("completed", "failed", "cancelled")}


AMEND_KEY: Final = "0d3c5f8e-alice-18"
_AMEND: Final[dict[str, Any]] = {"limit_price": "48500"}


def amend_bodies() -> dict[str, Example]:
    """Give amends as they are sent."""
    return {
        "limit": Example("Another limit", _AMEND),
        "quantity": Example("Another quantity: the new whole", {"quantity": "0.05"}),
        "time": Example("Until another time", {"time_in_force": "GTD", "expires_at": "2026-03-10T12:00:00Z"}),
    }


def amend_requested() -> dict[str, Example]:
    """Give an order whose amend is under way."""
    order = _amended(resting_orders()["limit"][1], AmendState.PENDING, version=3)
    return _written({"amend requested": ("The amend is under way", order)})


def amended() -> dict[str, Example]:
    """Give an order whose new terms are in force."""
    order = _amended(resting_orders()["limit"][1], AmendState.APPLIED, version=4)
    terms = {"limit_price": Price("48500"), "revision": 2, "held_amount": Money("4854.85")}
    return _written({"amended": ("The new limit counts", msgspec.structs.replace(order, **terms))})


def hold_requested() -> dict[str, Example]:
    """Give an order whose hold is under way: it shows none yet."""
    return _written({"hold requested": ("The hold is under way", resting_orders()["limit"][1])})


def held() -> dict[str, Example]:
    """Give an order on hold."""
    return _written({"on hold": ("No price fires it", _held())})


def release_requested() -> dict[str, Example]:
    """Give an order whose release is under way: it is still on hold."""
    return _written({"release requested": ("The release is under way", _held())})


def released() -> dict[str, Example]:
    """Give an order that was released."""
    order = msgspec.structs.replace(resting_orders()["limit"][1], version=4)
    return _written({"released": ("It rests again", order)})


def _held() -> Order:
    return msgspec.structs.replace(resting_orders()["limit"][1], version=3, on_hold=True)


def _amended(order: Order, state: AmendState, version: int) -> Order:
    shown = OrderAmendment(AMEND_KEY, state, limit_price=Price(_AMEND["limit_price"]))
    return msgspec.structs.replace(order, version=version, amend=shown)


def cancelled() -> dict[str, Example]:
    """Give the order as it is when it was cancelled in time."""
    return {"cancelled": _written(orders_by_status())["cancelled"]}


def cancel_requested() -> dict[str, Example]:
    """Give the order as it is while its cancel is under way."""
    order = msgspec.structs.replace(accepted_order(), cancel_requested=True)
    return _written({"cancel requested": ("The cancel is under way", order)})


def every_state() -> dict[str, Example]:
    """Give what changes of the order, in each status, and of conditional ones that rest."""
    orders = orders_by_status() | resting_orders()
    return _written({f"state {name}": (summary, state_of(order)) for name, (summary, order) in orders.items()})


def history() -> dict[str, Example]:
    """Give the order's history."""
    return _written({"history": ("From the request to its end", History(UUID(ORDER_ID), _entries(), has_more=False))})


def pages() -> dict[str, Example]:
    """Give pages of the list."""
    orders = orders_by_status()
    return _written(
        {
            "page": ("A page with another behind it", make_page([order for _, order in orders.values()], 2)),
            "last page": ("The last page", make_page([orders["cancelled"][1]], 2)),
            "no order": ("Nothing fits", make_page([], 2)),
        }
    )


_ACCEPTED_AT: Final = datetime.fromisoformat(TIME)


def example_cursor() -> str:
    """Give the cursor of the page behind the order."""
    return write_cursor(accepted_order())


def accepted_order() -> Order:
    """Give the order as it is answered first."""
    return _accepted(BODY)


def resting_orders() -> dict[str, tuple[str, Order]]:
    """Give conditional orders that rest, with what to say about them."""
    rests = {"status": OrderStatus.CONFIRMED, "version": 2, "revision": 1}
    quoted = {"cash_asset_id": "USD", "fee_asset_id": "USD"}
    cash = quoted | {"held_asset_id": "USD", "held_amount": Money("4804.8")}
    coins = quoted | {"held_asset_id": "BTC", "held_amount": Money("0.1")}
    trail = {"watermark": Price("49998.5"), "trigger_price": Price("48498.54")}
    shown = {
        "limit": ("A limit order that rests", cash),
        "trailing stop": ("A trailing stop that rests, with its trigger as of now", coins | trail),
    }
    return {
        name: (summary, msgspec.structs.replace(_accepted(CONDITIONAL_BODIES[name][1]), **rests, **changes))
        for name, (summary, changes) in shown.items()
    }


def _accepted(body: Mapping[str, Any]) -> Order:
    claim = make_claim(UUID(ORDER_ID), USER_ID, KEY, read_body(msgspec.json.encode(body)), None)
    return pending(Claimed(claim, _ACCEPTED_AT))


def orders_by_status() -> dict[str, tuple[str, Order]]:
    """Give the order in each status, with what to say about it."""
    quoted = {"cash_asset_id": "USD", "fee_asset_id": "USD"}
    fill = {"filled_quantity": Money("0.01"), "average_price": Exact("49998.5"), "fee": Money("0.5")}
    filled = quoted | fill
    cancelled = quoted | {
        "cancel_requested": True,
        "reason_code": ReasonCode.USER_REQUESTED,
        "reason": "cancelled by alice",
    }
    failed = {"reason_code": ReasonCode.STALE_PRICE, "reason": "the price of BTC is 95 s old"}
    return {
        "pending": ("Being checked", _at(OrderStatus.PENDING, 1, 0.02)),
        "confirmed": ("Its money is held", _at(OrderStatus.CONFIRMED, 2, 0.27, **quoted)),
        "processing": ("Being settled", _at(OrderStatus.PROCESSING, 3, 0.28, **filled)),
        "completed": ("Filled and settled", _at(OrderStatus.COMPLETED, 4, 0.37, **filled)),
        "cancelled": ("Cancelled in time", _at(OrderStatus.CANCELLED, 3, 0.41, **cancelled)),
        "failed": ("Refused", _at(OrderStatus.FAILED, 2, 0.12, **failed)),
    }


def _at(status: OrderStatus, version: int, after_s: float, **changes: Any) -> Order:
    updated_at = _ACCEPTED_AT + timedelta(seconds=after_s)
    return msgspec.structs.replace(accepted_order(), status=status, version=version, updated_at=updated_at, **changes)


def _entries() -> list[Entry]:
    """Give the beginning of a history."""
    status = OrderStatus
    rows: tuple[tuple[float, str, str, OrderStatus | None, int | None, Any], ...] = (
        (0.02, "received", "OrderRequested", None, None, {}),
        (0.02, "status", "PENDING", status.PENDING, 1, {}),
        (0.02, "asked", "check", None, None, {"attempt": 1}),
        (0.11, "answered", "AssetApproved", None, None, {"price": "49998.5", "sequence": 1207}),
    )
    return [
        Entry(seq, _ACCEPTED_AT + timedelta(seconds=after_s), kind, name, status, version, _raw(detail))
        for seq, (after_s, kind, name, status, version, detail) in enumerate(rows, start=1)
    ]


def _raw(detail: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(detail))


def _written(made: Mapping[str, tuple[str, Any]]) -> dict[str, Example]:
    """Write bodies as the routes do, and read them as JSON."""
    return {name: Example(summary, msgspec.json.decode(written(body))) for name, (summary, body) in made.items()}
