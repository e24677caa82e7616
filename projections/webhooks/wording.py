"""Says in words for a person what an event is: the text of a mail and of a push message. Pure.

A stranger may have put anything into an order's names, so nothing of it is trusted: control characters and line breaks
go, and each line is bounded.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final
from uuid import UUID

import msgspec

from contracts.codec import decoder
from contracts.orders import Order
from contracts.webhooks import DisabledEndpoint, EventType

FIELD_MAX: Final = 200


class Note(msgspec.Struct, frozen=True):
    """What a person is told: one line, and a short text."""

    type: str
    subject: str
    text: str
    order_id: UUID | None = None


class _Told(msgspec.Struct, frozen=True):
    type: EventType
    data: msgspec.Raw = msgspec.Raw(b"{}")


_told: Final = msgspec.json.Decoder(_Told).decode
_order: Final = decoder(Order).decode
_disabled: Final = msgspec.json.Decoder(DisabledEndpoint).decode
CONFIRM: Final = (
    "Somebody wants to be told about orders at this address. If it was you, give this code where you entered the"
    " address:\n\n{code}\n\nIf it was not you, do nothing: nothing else will be sent here."
)
"""Whoever sends it puts the code in; no stored body holds it."""
_DONE: Final = {
    EventType.ORDER_PENDING: "is accepted",
    EventType.ORDER_CONFIRMED: "is confirmed",
    EventType.ORDER_PROCESSING: "is being processed",
    EventType.ORDER_COMPLETED: "is completed",
    EventType.ORDER_CANCELLED: "is cancelled",
    EventType.ORDER_FAILED: "has failed",
    EventType.ORDER_UPDATED: "has changed",
}


def note_of(body: bytes) -> Note:
    """Say what the body of a delivery tells. Raises `msgspec.MsgspecError` for what is none."""
    told = _told(body)
    if told.type in _DONE:
        return _note_of_order(told.type, _order(told.data))
    if told.type is EventType.WEBHOOK_DISABLED:
        reason = one_line(_disabled(told.data).reason)
        return Note(told.type, "A channel of yours is disabled", f"It gets nothing any more: {reason}")
    if told.type is EventType.NOTIFICATION_CONFIRM:
        return Note(told.type, "Confirm your address for notifications", CONFIRM)
    return Note(told.type, "A test of your notifications", "This channel works. You asked for this message.")


def _note_of_order(event_type: EventType, order: Order) -> Note:
    what = " ".join(one_line(str(one)) for one in (order.order_type, order.quantity, order.asset_id) if one is not None)
    done = _DONE[event_type]
    facts = [("Status", order.status), ("Filled", _amount(order.filled_quantity))]
    if order.average_price is not None:
        facts.append(("Average price", f"{_amount(order.average_price)} {order.cash_asset_id or ''}".strip()))
    if order.reason is not None:
        facts.append(("Reason", order.reason))
    if order.client_order_id is not None:
        facts.append(("Your id", order.client_order_id))
    facts.append(("Order", str(order.order_id)))
    text = "\n".join(f"{name}: {one_line(value)}" for name, value in facts)
    return Note(event_type, f"Your order {what or order.order_id} {done}", text, order.order_id)


def _amount(value: Decimal) -> str:
    return f"{value:f}"


def one_line(text: str) -> str:
    """Bring a text that somebody else wrote to one line of printable characters, and a bounded one."""
    return "".join(one if one.isprintable() else " " for one in text)[:FIELD_MAX].strip()
