"""The AsyncAPI 3.0 document of webhooks: what an endpoint is sent, by which method, with which headers.

Its examples are signed by the standard's own library, with `EXAMPLE_SECRET` at `EXAMPLE_TIME`: whoever writes a
receiver can try it with them.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from standardwebhooks import Webhook

from contracts.codec import encode
from contracts.examples import TIME, example
from contracts.orders import OrderStatusChanged
from contracts.vocabulary import OrderStatus
from contracts.webhooks import (
    SECRET_BYTES,
    DisabledEndpoint,
    DisabledWebhook,
    EventType,
    OrderWebhook,
    PingWebhook,
    event_id_of,
    secret_text,
)
from order_api.openapi.document import SENT, SENT_HEADERS

EXAMPLE_SECRET: Final = secret_text(bytes(range(SECRET_BYTES)))
EXAMPLE_TIME: Final = datetime.fromisoformat(TIME)
_AN_ID: Final = UUID("01a225ed-8291-7454-80a1-f84ea245f98b")


def webhooks_document() -> dict[str, Any]:
    """Write the document."""
    messages = {str(event_type): _message(event_type, body) for event_type, body in SENT.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Webhooks",
            "version": "1.0.0",
            "description": "What is sent to the endpoints of users, in the form of Standard Webhooks 1.0.0: at least "
            "once, in no order, and of each order the newest version unless every one is asked for. The rules: "
            f"webhooks.md. The examples are signed, as JSON without blanks, with the secret `{EXAMPLE_SECRET}`.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "endpoint": {
                "address": None,
                "description": "The URL that a user has named with `POST /webhooks`.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {
            "tell": {
                "action": "send",
                "channel": {"$ref": "#/channels/endpoint"},
                "summary": "Tell an endpoint what happened. Any 2xx takes it, 410 ends all; else it comes again.",
                "bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
            }
        },
        "components": {"messages": messages, "schemas": {"StandardWebhook": _headers()}},
    }


def _message(event_type: EventType, body: type[msgspec.Struct]) -> dict[str, Any]:
    """Describe the webhooks of a type."""
    payload = {"$ref": f"./openapi.json#/components/schemas/{body.__name__}"}
    return {
        "name": str(event_type),
        "summary": _SUMMARIES.get(event_type) or f"An order is {event_type.partition('.')[2].upper()}.",
        "headers": {"$ref": "#/components/schemas/StandardWebhook"},
        "payload": {"allOf": [payload, {"properties": {"type": {"const": str(event_type)}}}]},
        "examples": [_example(event_type)],
    }


_SUMMARIES: Final = {
    EventType.ORDER_UPDATED: "An order has a new version that keeps its status, such as amended terms.",
    EventType.WEBHOOK_PING: "Its user asked for it.",
    EventType.WEBHOOK_DISABLED: "Another endpoint of the same user gets nothing any more.",
}


def _headers() -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(SENT_HEADERS),
        "properties": {name: {"type": "string", "description": meaning} for name, meaning in SENT_HEADERS.items()},
    }


def _example(event_type: EventType) -> dict[str, Any]:
    """Make a webhook as it is sent."""
    name, webhook = _webhook(event_type)
    body = encode(webhook).decode()
    headers = (name, str(int(EXAMPLE_TIME.timestamp())), Webhook(EXAMPLE_SECRET).sign(name, EXAMPLE_TIME, body))
    return {"headers": dict(zip(SENT_HEADERS, headers, strict=True)), "payload": json.loads(body)}


def _webhook(event_type: EventType) -> tuple[str, OrderWebhook | PingWebhook | DisabledWebhook]:
    """Return the id and the body of the example of a type."""
    if event_type is EventType.WEBHOOK_PING:
        return f"{_AN_ID}:ping:{_AN_ID}", PingWebhook(event_type, EXAMPLE_TIME)
    if event_type is EventType.WEBHOOK_DISABLED:
        gone = DisabledEndpoint(_AN_ID, "https://bot.example", "it answered 410")
        return f"{_AN_ID}:disabled:{EXAMPLE_TIME:%Y%m%dT%H%M%S}", DisabledWebhook(event_type, EXAMPLE_TIME, gone)
    status, version = _REACHED[event_type]
    order = msgspec.structs.replace(_ORDER, status=status, version=version)
    return event_id_of(order.order_id, version), OrderWebhook(event_type, EXAMPLE_TIME, order)


_ORDER: Final = msgspec.structs.asdict(example(OrderStatusChanged.__name__))["order"]
_REACHED: Final = {
    EventType.ORDER_PENDING: (OrderStatus.PENDING, 1),
    EventType.ORDER_CONFIRMED: (OrderStatus.CONFIRMED, 2),
    EventType.ORDER_UPDATED: (OrderStatus.CONFIRMED, 3),
    EventType.ORDER_PROCESSING: (OrderStatus.PROCESSING, 4),
    EventType.ORDER_COMPLETED: (OrderStatus.COMPLETED, 5),
    EventType.ORDER_CANCELLED: (OrderStatus.CANCELLED, 5),
    EventType.ORDER_FAILED: (OrderStatus.FAILED, 5),
}
