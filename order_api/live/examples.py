"""Streams in the documentation, made by the functions that write them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from contracts import codec
from contracts.examples import TIME
from contracts.orders import Order, OrderStatusChanged
from contracts.vocabulary import OrderStatus
from order_api.live import sse
from order_api.live.framing import Bye, write_id
from order_api.live.mailbox import OrderEvent
from order_api.live.marks import mark_of
from order_api.live.snapshots import snapshot_event
from order_api.live.store import PastVersion
from order_api.openapi.declarations import Example
from order_api.orders.description.examples import orders_by_status

_TIME: Final = msgspec.convert(TIME, datetime)
_MARK: Final = mark_of(_TIME)


def of_orders() -> Mapping[str, Example]:
    """Show a stream of a user's orders: one that is open, and its end a moment later."""
    opened, ended = (orders_by_status()[name][1] for name in ("confirmed", "completed"))
    begun = [
        b"retry: 4821\n\n",
        snapshot_event(opened).written(sse.order_frame),
        sse.frame("snapshot-end", b"{}", write_id(_MARK)),
        sse.order_frame(_changed(ended, OrderStatus.PROCESSING, _MARK + 1_000_000)),
        b"retry: 7204\n" + sse.frame("bye", msgspec.json.encode(Bye("expired"))),
    ]
    gap = [
        b"retry: 4821\n\n",
        sse.FRAMES.gap(_MARK, "/orders?created_from=2026-03-02T12:00:00Z"),
        sse.frame("snapshot-end", b"{}", write_id(_MARK)),
    ]
    return {
        "an order ends": Example("An open order is shown, then it ends; later the token expires.", _text(begun)),
        "a gap": Example("Not all that was missed can be shown.", _text(gap)),
    }


def of_order() -> Mapping[str, Example]:
    """Show the stream of an order to a client that had its first version."""
    ended = orders_by_status()["completed"][1]
    missed = PastVersion(ended.order_id, 2, OrderStatus.CONFIRMED, OrderStatus.PENDING, _TIME + timedelta(seconds=1))
    frames = [
        b"retry: 4821\n\n",
        sse.frame("version", msgspec.json.encode(missed), "2"),
        snapshot_event(ended).written(sse.version_frame),
    ]
    return {"missed versions": Example("The client had version 1, and the order has ended.", _text(frames))}


def _changed(order: Order, before: OrderStatus, mark: int) -> OrderEvent:
    event = OrderStatusChanged(
        *(order.order_id, order.version, order.status, before, order.reason_code, order.updated_at, order)
    )
    return OrderEvent(
        str(order.order_id).encode(), order.version, codec.encode(event), mark, terminal=True, assets=("BTC", "USD")
    )


def _text(frames: list[bytes]) -> str:
    return b"".join(frames).decode()
