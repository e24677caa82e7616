"""One order, told through every answer of the API: the examples of the documentation. Nothing else may rely on them.

They are made of the Structs that are sent and by the functions that make them, and tests hold them to their schemas.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from contracts import codec
from contracts.decimals import Exact, Money
from contracts.examples import ORDER_ID, TIME
from contracts.orders import Order
from contracts.vocabulary import OrderStatus, ReasonCode
from order_api.openapi.schemas import INDEX, Liveness, ReadinessReport
from order_api.orders.listing import make_page, write_cursor
from order_api.orders.messages import Claimed
from order_api.orders.routes import History, OrderState
from order_api.orders.store import Entry
from order_api.orders.submission import make_claim, read_body
from order_api.orders.views import pending

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


class Example(NamedTuple):
    """A body as it is sent, and what it shows."""

    summary: str
    value: Any


def answer_examples() -> dict[str, Example]:
    """Give the example of each answer by the name that the table of operations knows it by."""
    accepted, orders = accepted_order(), orders_by_status()
    made: dict[str, tuple[str, Any]] = {
        "accepted": ("Accepted a moment ago", accepted),
        "cancel requested": ("The cancel is under way", msgspec.structs.replace(accepted, cancel_requested=True)),
        **{name: (summary, order) for name, (summary, order) in orders.items()},
        **{f"state {name}": (summary, _state(order)) for name, (summary, order) in orders.items()},
        "history": ("From the request to its end", History(UUID(ORDER_ID), _entries(), has_more=False)),
        "page": ("A page with another behind it", make_page([order for _, order in orders.values()], 2)),
        "last page": ("The last page", make_page([orders["cancelled"][1]], 2)),
        "no order": ("Nothing fits", make_page([], 2)),
        "ready": ("All is well", ReadinessReport("ok", {"database": "ok", "broker": "ok"})),
        "not ready": ("No database", ReadinessReport("unavailable", {"database": "no answer", "broker": "ok"})),
        "index": ("The addresses", INDEX),
        "alive": ("It answers", Liveness("ok")),
    }
    return {name: Example(summary, _written(body)) for name, (summary, body) in made.items()}


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


def _state(order: Order) -> OrderState:
    return OrderState(**{name: getattr(order, name) for name in OrderState.__struct_fields__})


def _entries() -> list[Entry]:
    """Tell the beginning of a history and its end."""
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


def _written(body: Any) -> Any:
    """Write a body as the routes do, and read it as JSON."""
    return msgspec.json.decode(codec.encode(body))
