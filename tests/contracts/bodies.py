"""Bodies of messages as any producer would write them, and what decoding makes of them."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from contracts.codec import Message, decode
from contracts.envelope import REASON_LENGTH_MAX, UnreadableMessage
from contracts.orders import InvalidOrder

ORDER_ID = UUID("3f2a7c9e-1b4d-4e8a-9c6f-5d7e8a9b0c1d")
REQUEST: dict[str, Any] = {
    "order_id": str(ORDER_ID),
    "user_id": "alice",
    "asset_id": "BTC",
    "order_type": "MARKET_BUY",
    "quantity": "0.01",
}


def as_sent(fields: dict[str, Any]) -> bytes:
    """Write a body as any producer would."""
    return json.dumps(fields).encode()


def salvaged(value: bytes) -> InvalidOrder:
    """Decode a request that must be broken but still answerable."""
    message = decode("OrderRequested", value)
    assert isinstance(message, InvalidOrder)
    return message


def outcome(message_type: str, value: bytes) -> Message | None:
    """Decode; return None for `UnreadableMessage`. Any other exception fails the test."""
    try:
        return decode(message_type, value)
    except UnreadableMessage as error:
        reason = error.reason
    assert 0 < len(reason) <= REASON_LENGTH_MAX
    assert storable(reason)
    return None


def storable(text: str) -> bool:
    """Tell whether PostgreSQL's `text` and `jsonb` can store a text."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
