"""The AsyncAPI document of webhooks: it has every type, and its examples are what a receiver gets, signed."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from contracts.webhooks import EventType
from docs.generate.openapi import WEBHOOKS, documents
from docs.generate.webhooks import EXAMPLE_SECRET, EXAMPLE_TIME
from order_client import verify_webhook

FRESH = documents()
DOCUMENT: dict[str, Any] = json.loads(FRESH[WEBHOOKS])
OPENAPI: dict[str, Any] = json.loads(FRESH["openapi.json"])
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
NO_WEBHOOKS = {EventType.NOTIFICATION_CONFIRM}
"""What goes to an address only."""
REGISTRY: Registry[Any] = Registry().with_resources([("./openapi.json", DRAFT202012.create_resource(OPENAPI))])


def _validator(schema: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"components": DOCUMENT["components"], **schema}, registry=REGISTRY)


def test_every_type_is_described_in_both_documents() -> None:
    """A new one fails here until it has its body; the channel and the examples have all of them."""
    types = [str(one) for one in EventType if one not in NO_WEBHOOKS]
    assert types == list(MESSAGES) == list(OPENAPI["webhooks"])
    assert types == [one["$ref"].rpartition("/")[2] for one in DOCUMENT["channels"]["endpoint"]["messages"].values()]
    assert "POST" == DOCUMENT["operations"]["tell"]["bindings"]["http"]["method"]


@pytest.mark.parametrize("name", MESSAGES)
def test_its_example_is_a_webhook_that_a_receiver_believes(name: str) -> None:
    """The client verifies it, at the time when it was signed and no other, and it is of its schema."""
    [shown] = MESSAGES[name]["examples"]
    body = json.dumps(shown["payload"], separators=(",", ":"), ensure_ascii=False).encode()
    webhook = verify_webhook(body, shown["headers"], EXAMPLE_SECRET, now=EXAMPLE_TIME.timestamp())
    assert name == webhook.type
    _validator(MESSAGES[name]["payload"]).validate(shown["payload"])
    _validator(MESSAGES[name]["headers"]).validate(shown["headers"])
    others = [one for one in MESSAGES if _validator(MESSAGES[one]["payload"]).is_valid(shown["payload"])]
    assert [name] == others


def test_the_examples_tell_a_likely_story() -> None:
    """An order's type is its status, unless that stays; an endpoint that is given up shows no path."""
    for name, message in MESSAGES.items():
        payload = message["examples"][0]["payload"]
        if name.startswith("order.") and name != EventType.ORDER_UPDATED:
            assert name == f"order.{payload['data']['status'].lower()}"
    assert MESSAGES["webhook.disabled"]["examples"][0]["payload"]["data"]["url"].count("/") == 2
