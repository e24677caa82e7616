"""One endpoint in every answer about webhooks: the examples of the documentation. Nothing else may use them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts.codec import encode
from contracts.examples import ENDPOINT_ID, ORDER_ID, TIME
from contracts.webhooks import DeliveryState, EndpointState, EventType
from order_api.openapi.declarations import Example
from order_api.webhooks.endpoints import (
    WebhookAttempt,
    WebhookDeliveries,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookList,
    WebhookRecovery,
    WebhookSecret,
)

KEY: Final = "my-bot-1"
EVENT_ID: Final = f"{ORDER_ID}:v4"
PING_ID: Final = f"{ENDPOINT_ID}:ping:01a225ed-9f10-7000-8000-000000000001"
SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
BODY: Final[dict[str, Any]] = {
    "url": "https://bot.example/orders",
    "description": "my bot",
    "event_types": ["order.completed", "order.failed"],
}
_MADE: Final = datetime.fromisoformat(TIME)
_LATER: Final = _MADE + timedelta(seconds=2)


def _webhook(**changes: Any) -> WebhookEndpoint:
    webhook = WebhookEndpoint(
        endpoint_id=UUID(ENDPOINT_ID),
        user_id="alice",
        url=BODY["url"],
        description=BODY["description"],
        event_types=[EventType.ORDER_COMPLETED, EventType.ORDER_FAILED],
        every_version=False,
        state=EndpointState.ACTIVE,
        disabled_reason=None,
        failing_since=None,
        failures_in_row=0,
        waiting=0,
        created_at=_MADE,
        updated_at=_MADE,
        revision=1,
    )
    return msgspec.structs.replace(webhook, **changes)


def _delivery(**changes: Any) -> WebhookDelivery:
    delivery = WebhookDelivery(
        event_id=EVENT_ID,
        order_id=UUID(ORDER_ID),
        version=4,
        event_type=EventType.ORDER_COMPLETED,
        status=DeliveryState.DELIVERED,
        reason=None,
        created_at=_MADE,
        next_attempt_at=None,
        ended_at=_LATER,
        attempts=2,
        last_attempts=[
            WebhookAttempt(2, _LATER, 31, 204, None, ""),
            WebhookAttempt(1, _MADE, 15_000, None, "no answer within 15 s", None),
        ],
    )
    return msgspec.structs.replace(delivery, **changes)


def bodies() -> Mapping[str, Example]:
    """Show what makes an endpoint."""
    return {
        "ends": Example("Be told how orders end", BODY),
        "everything": Example("Be told each version of each order", {"url": BODY["url"], "every_version": True}),
    }


def changes() -> Mapping[str, Example]:
    """Show what changes one."""
    return {
        "enable": Example("Enable it again", {"state": "ACTIVE"}),
        "all types": Example("Be told of everything", {"event_types": []}),
    }


def created() -> Mapping[str, Example]:
    """Show the answer that has the secret."""
    return {"created": _shown("The secret is shown this once", WebhookSecret(_webhook(), SECRET, None))}


def rotated() -> Mapping[str, Example]:
    """Show the answer that has a new secret."""
    answer = WebhookSecret(_webhook(revision=2, updated_at=_LATER), SECRET, _LATER + timedelta(hours=24))
    return {"rotated": _shown("Both sign for a day", answer)}


def several() -> Mapping[str, Example]:
    """Show a user's endpoints."""
    return {"one": _shown("One endpoint", WebhookList([_webhook()]))}


def every_webhook() -> Mapping[str, Example]:
    """Show an endpoint in each of its states."""
    failing = {"failing_since": _MADE, "failures_in_row": 7, "waiting": 12}
    reason = "its receiver answered 410 Gone"
    return {
        "active": _shown("It works", _webhook()),
        "failing": _shown("Its receiver does not answer", _webhook(**failing)),
        "disabled": _shown("It is told nothing", _webhook(state=EndpointState.DISABLED, disabled_reason=reason)),
    }


def _pending(**changes: Any) -> WebhookDelivery:
    return _delivery(status=DeliveryState.PENDING, ended_at=None, next_attempt_at=_LATER, **changes)


def pinged() -> Mapping[str, Example]:
    """Show a ping that is to be sent."""
    about = {"event_id": PING_ID, "order_id": None, "version": None, "event_type": EventType.WEBHOOK_PING}
    return {"ping": _shown("It is to be sent", _pending(**about, attempts=0, last_attempts=[]))}


def redelivered() -> Mapping[str, Example]:
    """Show a delivery that is to be sent again."""
    return {"again": _shown("It is to be sent again", _pending())}


def deliveries() -> Mapping[str, Example]:
    """Show a page of deliveries."""
    return {"delivered": _shown("The second attempt went well", WebhookDeliveries([_delivery()], None))}


def recovers() -> Mapping[str, Example]:
    """Show what asks for a recovery."""
    return {"since": Example("What was missed since then", {"since": TIME})}


def recoveries() -> Mapping[str, Example]:
    """Show what a recovery answers."""
    return {
        "all": _shown("All of it", WebhookRecovery(17, has_more=False, next_since=None)),
        "more": _shown("There is more", WebhookRecovery(1_000, has_more=True, next_since=_LATER)),
    }


def cursor() -> str:
    """Show a cursor."""
    place = msgspec.json.encode((_MADE, EVENT_ID))
    return base64.urlsafe_b64encode(place).rstrip(b"=").decode()


def _shown(summary: str, answer: msgspec.Struct) -> Example:
    return Example(summary, msgspec.json.decode(encode(answer)))
