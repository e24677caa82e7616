"""The AsyncAPI 3.0 document of the WebSocket: what a client may say and what it is answered, made from the Structs."""

from __future__ import annotations

import inspect
from typing import Any, Final

import msgspec

from order_api.live import framing, messages
from order_api.live.messages import PATH

_SAYS: Final = (messages.Auth, messages.Subscribe, messages.Unsubscribe, messages.Ping)
_ANSWERS: Final[dict[str, type[msgspec.Struct] | None]] = {
    "authenticated": messages.Authenticated,
    "subscribed": None,
    "unsubscribed": None,
    "ended": None,
    "pong": None,
    "error": messages.Refused,
    "bye": messages.Farewell,
}
_EVENTS: Final[dict[str, type[msgspec.Struct] | None]] = {
    "order": None,
    "version": None,
    "account": framing.AccountHint,
    "webhook.disabled": None,
    "price": None,
    "snapshot-end": None,
    "gap": framing.Gap,
    "heartbeat": framing.Heartbeat,
}
"""What a channel sends. Data without a Struct of its own is described where it comes from."""
_ELSEWHERE: Final = {
    "order": {"$ref": "./schemas/OrderStatusChanged.json"},
    "webhook.disabled": {"$ref": "./openapi.json#/components/schemas/DisabledWebhook"},
    "price": {"$ref": "./openapi.json#/components/schemas/MarketPrice"},
}


def socket_document() -> dict[str, Any]:
    """Write the document."""
    structs = [one for one in (*_ANSWERS.values(), *_EVENTS.values()) if one is not None]
    _, schemas = msgspec.json.schema_components([*_SAYS, *structs], ref_template="#/components/schemas/{name}")
    said = {one.__name__: _message(one.__name__, {"$ref": f"#/components/schemas/{one.__name__}"}) for one in _SAYS}
    told = {name: _message(name, _envelope(name, kind)) for name, kind in (_ANSWERS | _EVENTS).items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Live updates",
            "version": messages.PROTOCOL.rpartition(".v")[2],
            "description": f"The WebSocket `{PATH}`, subprotocol `{messages.PROTOCOL}`. Its rules: streams.md.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "socket": {
                "address": PATH,
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in (*said, *told)},
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
        },
        "operations": {"say": _operation("receive", said), "tell": _operation("send", told)},
        "components": {"messages": said | told, "schemas": schemas},
    }


def _operation(action: str, named: dict[str, Any]) -> dict[str, Any]:
    listed = [{"$ref": f"#/channels/socket/messages/{name}"} for name in named]
    return {"action": action, "channel": {"$ref": "#/channels/socket"}, "messages": listed}


def _message(name: str, payload: dict[str, Any]) -> dict[str, Any]:
    kind = getattr(messages, name, None) or _ANSWERS.get(name) or _EVENTS.get(name)
    summary = (inspect.getdoc(kind) or "").partition("\n")[0] if kind is not None else ""
    return {"name": name, **({"summary": summary} if summary else {}), "payload": payload}


def _envelope(name: str, kind: type[msgspec.Struct] | None) -> dict[str, Any]:
    """Describe a message of ours; one of a channel names it."""
    data = {"$ref": f"#/components/schemas/{kind.__name__}"} if kind is not None else _ELSEWHERE.get(name)
    properties: dict[str, Any] = {
        "channel": {"type": "string"},
        "type": {"const": name},
        "id": {"type": "string"},
        **({"data": data} if data is not None else {}),
    }
    required = ["type", *(["channel"] if name in _EVENTS else []), *(["data"] if data is not None else [])]
    return {"type": "object", "properties": properties, "required": required}
