"""One order in every answer of the API: the examples of the documentation. Nothing else may use them.

The functions that make the answers make them, too, and tests compare them with their schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts import codec
from contracts.decimals import Exact, Money
from contracts.examples import ORDER_ID, TIME
from contracts.orders import Order
from contracts.vocabulary import OrderStatus, ReasonCode
from order_api.openapi.declarations import Example
from order_api.orders.listing import make_page, write_cursor
from order_api.orders.publication.messages import Claimed
from order_api.orders.store import Entry
from order_api.orders.submission import make_claim, read_body
from order_api.orders.views import History, pending, state_of

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


def bodies() -> dict[str, Example]:
    """Give two orders as they are submitted."""
    return {
        "buy": Example("Buy, with all that can be said", BODY),
        "sell": Example("As short as can be", MINIMAL_BODY),
    }


def accepted() -> dict[str, Example]:
    """Give the order as it is answered first."""
    return _written({"accepted": ("Accepted a moment ago", accepted_order())})


def every_order() -> dict[str, Example]:
    """Give the order in each status."""
    return _written(orders_by_status())


def ended() -> dict[str, Example]:
    """Give the order as it may end."""
    orders = every_order()
    return {name: orders[name] for name in ("completed", "failed", "cancelled")}


def cancelled() -> dict[str, Example]:
    """Give the order as it is when it was cancelled in time."""
    return {"cancelled": every_order()["cancelled"]}


def cancel_requested() -> dict[str, Example]:
    """Give the order as it is while its cancel is under way."""
    order = msgspec.structs.replace(accepted_order(), cancel_requested=True)
    return _written({"cancel requested": ("The cancel is under way", order)})


def every_state() -> dict[str, Example]:
    """Give what changes of the order, in each status."""
    states = {f"state {name}": (summary, state_of(order)) for name, (summary, order) in orders_by_status().items()}
    return _written(states)


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
    body = read_body(msgspec.json.encode(BODY))
    return pending(Claimed(make_claim(UUID(ORDER_ID), USER_ID, KEY, body, None), _ACCEPTED_AT))


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
    return {name: Example(summary, msgspec.json.decode(codec.encode(body))) for name, (summary, body) in made.items()}
