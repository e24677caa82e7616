"""One user's preferences in every answer about notifications: the examples of the documentation."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts.codec import encode
from contracts.decimals import Money
from contracts.examples import ENDPOINT_ID, ORDER_ID, TIME
from contracts.webhooks import DeliveryState, EndpointKind, EndpointState, EventType
from order_api.notifications.preferences import (
    Notification,
    NotificationChannel,
    NotificationLog,
    NotificationPreferences,
    NotificationsTested,
    QuietHours,
)
from order_api.openapi.declarations import Example

PUSH_KEY: Final = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"
_HOURS: Final = {"begin": "22:00", "end": "07:00", "time_zone": "Europe/Zurich"}
_EMAIL: Final[dict[str, Any]] = {
    "address": "alice@example.com",
    "event_types": ["order.completed", "order.failed"],
    "quiet_hours": _HOURS,
    "notional_min": "100",
}
CODE: Final = "MFRG-GZDF-MZTW-Q2LK"
_AT: Final = datetime.fromisoformat(TIME)


def bodies() -> Mapping[str, Example]:
    """Show what may be set."""
    return {
        "email": Example("By e-mail, not at night", {"email": _EMAIL}),
        "off": Example("Not at all", {}),
    }


def confirmations() -> Mapping[str, Example]:
    """Show a code."""
    return {"code": Example("The code of the e-mail", {"code": CODE})}


def preferences() -> Mapping[str, Example]:
    """Show the preferences before and after the address is confirmed."""
    return {
        "new": _shown("The address got a code", _preferences(confirmed=False)),
        "confirmed": _shown("The address is confirmed", _preferences(confirmed=True)),
    }


def _preferences(*, confirmed: bool) -> NotificationPreferences:
    channel = NotificationChannel(
        endpoint_id=UUID(ENDPOINT_ID),
        channel=EndpointKind.EMAIL,
        target=_EMAIL["address"],
        confirmed=confirmed,
        event_types=[EventType.ORDER_COMPLETED, EventType.ORDER_FAILED],
        quiet_hours=QuietHours(**_HOURS),
        notional_min=Money("100"),
        state=EndpointState.ACTIVE,
        disabled_reason=None,
    )
    return NotificationPreferences([channel], email_available=True, push_key=PUSH_KEY)


def tested() -> Mapping[str, Example]:
    """Show a test."""
    return {"one": _shown("One channel is tested", NotificationsTested(1))}


def log() -> Mapping[str, Example]:
    """Show a page of the log."""
    told = Notification(
        *(UUID(ENDPOINT_ID), EndpointKind.EMAIL, f"{ORDER_ID}:v4", UUID(ORDER_ID), 4, EventType.ORDER_COMPLETED),
        *(DeliveryState.DELIVERED, None, 1, _AT, _AT + timedelta(seconds=11)),
    )
    other = UUID(int=UUID(ORDER_ID).int + 1)
    small = Notification(
        *(UUID(ENDPOINT_ID), EndpointKind.EMAIL, f"{other}:v4", other, 4, EventType.ORDER_COMPLETED),
        *(DeliveryState.SKIPPED, "worth less than 100", 0, _AT - timedelta(hours=1), _AT - timedelta(hours=1)),
    )
    return {"page": _shown("The newest two", NotificationLog([told, small], None))}


def cursor() -> str:
    """Show a cursor."""
    place = msgspec.json.encode((_AT, UUID(ENDPOINT_ID), f"{ORDER_ID}:v4"))
    return base64.urlsafe_b64encode(place).rstrip(b"=").decode()


def _shown(summary: str, answer: msgspec.Struct) -> Example:
    return Example(summary, msgspec.json.decode(encode(answer)))
