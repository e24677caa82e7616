"""The AsyncAPI document of the WebSocket: it has every message, and what is sent and read is what it says."""

from __future__ import annotations

import json
from typing import Any, get_args

import jsonschema
import pytest

from order_api.live import messages
from order_api.live.document import socket_document
from order_api.live.mailbox import OrderEvent

DOCUMENT = json.loads(json.dumps(socket_document()).replace(r"\\Z", "$"))


def _validator(name: str) -> jsonschema.Draft202012Validator:
    payload = DOCUMENT["components"]["messages"][name]["payload"]
    local = {"components": DOCUMENT["components"], **payload}
    return jsonschema.Draft202012Validator(local)


def test_every_answer_and_every_op_is_described() -> None:
    """A new one fails here."""
    described = set(DOCUMENT["components"]["messages"])
    assert {*get_args(messages.Type), *(kind.__name__ for kind in get_args(messages.Said))} <= described
    for operation in DOCUMENT["operations"].values():
        assert {one["$ref"].rpartition("/")[2] for one in operation["messages"]} <= described


@pytest.mark.parametrize(
    ("name", "text", "good"),
    [
        ("Auth", {"op": "auth", "token": "x"}, True),
        ("Auth", {"op": "auth"}, False),
        ("Subscribe", {"op": "subscribe", "channel": "orders", "since": "t1"}, True),
        ("Subscribe", {"op": "subscribe", "channel": "orders", "more": 1}, False),
        ("Ping", {"op": "ping"}, True),
    ],
)
def test_it_allows_what_is_read(name: str, text: Any, *, good: bool) -> None:
    """And refuses what is refused."""
    assert good == _validator(name).is_valid(text)


def test_what_is_written_is_as_described() -> None:
    """Answers, and the events of a channel."""
    _validator("error").validate(json.loads(messages.say("error", messages.Refused("x", "y"), "orders")))
    _validator("pong").validate(json.loads(messages.say("pong")))
    _validator("gap").validate(json.loads(messages.ALL_ORDERS.gap(0, None)))
    event = OrderEvent(b"o", 3, b"{}", 7, assets=("BTC",))
    order, account = (json.loads(one) for one in messages.ALL_ORDERS.order(event, 0))
    assert {"channel": "orders", "type": "order", "id": "t7", "data": {}} == order
    assert "t9" == json.loads(messages.ALL_ORDERS.order(event, 9)[0])["id"]
    _validator("account").validate(account)
