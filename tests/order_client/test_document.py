"""The client against `docs/openapi.json`: it has every call, every parameter, every field and every problem of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest

from contracts import codec
from order_client import Client, OrderType, problems
from order_client.core import Request, Response
from order_client.surface import iteration, operation
from tests.order_client.support import Caller, answered, first_request

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
OPERATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    one["operationId"]: (method.upper(), path, one)
    for path, methods in DOCUMENT["paths"].items()
    for method, one in methods.items()
}
ID = "01a225ed-8291-7454-80a1-f84ea245f98b"
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TERMS: dict[str, Any] = {
    "price": Decimal("1E+3"),
    "slippage_bps": 10,
    "client_order_id": "mine",
    "limit_price": Decimal(2),
    "trigger_price": 3,
    "trail_amount": "4.0",
    "trail_bps": 50,
    "time_in_force": "GTD",
    "expires_at": AT,
    "queue_when_closed": False,
    "user_id": "bob",
}
CHANGES: dict[str, Any] = {
    name: TERMS[name]
    for name in ("limit_price", "trigger_price", "trail_amount", "trail_bps", "slippage_bps", "time_in_force")
} | {"quantity": Decimal("0.5"), "expires_at": AT}
CHANGE: dict[str, Any] = {"if_version": 3, "wait_s": 2.5, "idempotency_key": "k"}
FILTERS: dict[str, Any] = {
    "status": ("PENDING", "CONFIRMED"), "open": True, "asset_id": "BTC", "order_type": OrderType.LIMIT_BUY,
    "created_from": AT, "created_to": AT, "user_id": "bob",
}  # fmt: skip

Example = tuple[tuple[Any, ...], dict[str, Any]]
WITH_EVERYTHING: Mapping[str, tuple[Example, ...]] = {
    "submit_order": ((("BTC", "LIMIT_BUY", Decimal("0.010")), TERMS | {"wait_s": 10, "idempotency_key": "k"}),),
    "preview_order": ((("BTC", "LIMIT_BUY", 1), TERMS),),
    "read_order": (((ID,), {"wait_s": 10}),),
    "read_order_change": (((ID, 3), {"wait_s": 10}),),
    "read_order_by_client_id": ((("mine",), {"user_id": "bob", "wait_s": 10}),),
    "read_order_change_by_client_id": ((("mine", 3), {"user_id": "bob", "wait_s": 10}),),
    "read_order_status": (((ID,), {"wait_s": 10}),),
    "read_order_status_change": (((ID, 3), {"wait_s": 10}),),
    "read_order_history": (((ID,), {"after": 7}),),
    "list_orders": (((), FILTERS | {"limit": 5, "cursor": "c"}),),
    "cancel_order": (((ID,), {"wait_s": 1}),),
    "cancel_order_by_client_id": ((("mine",), {"user_id": "bob", "wait_s": 1}),),
    "amend_order": (((ID,), CHANGES | CHANGE),),
    "amend_order_by_client_id": ((("mine",), CHANGES | CHANGE | {"user_id": "bob"}),),
    "hold_order": (((ID,), {"wait_s": 1}),),
    "hold_order_by_client_id": ((("mine",), {"user_id": "bob", "wait_s": 1}),),
    "release_order": (((ID,), {"wait_s": 1}),),
    "release_order_by_client_id": ((("mine",), {"user_id": "bob", "wait_s": 1}),),
    "cancel_all_orders": (
        ((), {"asset_id": "BTC", "side": "BUY", "order_type": "LIMIT_BUY", "user_id": "bob", "idempotency_key": "k"}),
    ),
    "set_cancel_timer": (((60,), {"user_id": "bob"}),),
    "read_cancel_timer": (((), {"user_id": "bob"}),),
    "list_prices": (((), {}),),
    "read_price": ((("BTC",), {}),),
    "read_price_change": ((("BTC", 7), {}),),
    "list_assets": (((), {}),),
    "read_asset": ((("BTC",), {}),),
    "list_accounts": (((), {"user_id": "bob"}),),
    "place_hold": ((("bob", "USD", Decimal("1.50"), AT), {"idempotency_key": "k"}),),
    "read_hold": (((ID,), {}),),
    "capture_hold": (((ID, 5, "@fees"), {}),),
    "release_hold": (((ID,), {}),),
    "create_webhook": (
        (
            ("https://bot.example/",),
            {"event_types": ["order.failed"], "every_version": True, "description": "d", "user_id": "bob"}
            | {"idempotency_key": "k"},
        ),
    ),
    "list_webhooks": (((), {"user_id": "bob"}),),
    "read_webhook": (((ID,), {}),),
    "change_webhook": (
        (
            (ID,),
            {"url": "https://bot.example/", "event_types": [], "every_version": False, "description": ""}
            | {"state": "ACTIVE"},
        ),
    ),
    "delete_webhook": (((ID,), {}),),
    "rotate_webhook_secret": (((ID,), {}),),
    "ping_webhook": (((ID,), {}),),
    "list_webhook_deliveries": (((ID,), {"status": "FAILED", "limit": 5, "cursor": "c"}),),
    "redeliver_webhook": (((ID, f"{ID}:v3"), {}),),
    "recover_webhook": (((ID, AT), {}),),
    "read_notification_preferences": (((), {"user_id": "bob"}),),
    "set_notification_preferences": (((), {
        "email": {"address": "a@b.de"}, "push": {"subscriptions": []}, "webhook": {"notional_min": "1"},
        "user_id": "bob",
    }),),
    "confirm_notification_address": ((("ABCD",), {"user_id": "bob"}),),
    "test_notifications": (((), {"user_id": "bob"}),),
    "list_notifications": (((), {"user_id": "bob", "limit": 5, "cursor": "c"}),),
    "read_problem": ((("order-not-found",), {}),),
    "events": (((), {"user_id": "bob", "all_orders": True, "prices": ["BTC"], "last_event_id": "t1"}),),
    "subscribe": ((([f"order:{ID}"],), {}),),
    "order_events": (((ID,), {"after": 3}),),
    "order_events_by_client_id": ((("mine",), {"user_id": "bob", "after": 3}),),
    **{
        name: (((), {}),)
        for name in (
            "read_index", "read_description", "list_problems", "read_health", "read_readiness", "read_liveness",
            "read_metrics",
        )
    },
}  # fmt: skip
"""Each method with everything that it takes."""
CALLS = {
    "events": "streamEvents",
    "subscribe": "openSocket",
    "order_events": "streamOrder",
    "order_events_by_client_id": "streamOrderByClientId",
    "read_order_change": "readOrder",
    "read_price_change": "readPrice",
    "read_order_change_by_client_id": "readOrderByClientId",
    "read_order_status_change": "readOrderStatus",
}
"""Streams, and methods that ask for changes only; every other one is named as its call is."""
OVER_SEVERAL = {"wait_for_end", "orders", "order_history", "webhook_deliveries", "notifications"}
"""Methods that make several calls, or go over pages."""
FOR_CACHES = {"listPrices", "listAssets", "readAsset", "listAccounts"}
"""Calls of which `If-None-Match` is for the caches of a browser or a proxy: their tags are no number of a caller's."""
A_STREAM = {
    *("accept", "accept-encoding", "cache-control", "connection", "upgrade"),
    *("sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol"),
}
"""Headers that HTTP has, and the document need not name."""


def _operation_of(method: str) -> str:
    first, *others = method.split("_")
    return CALLS.get(method, first + "".join(word.capitalize() for word in others))


def _call(name: str) -> Callable[..., Any]:
    described: operation[Any, Any] | iteration[Any, Any] = getattr(Client, name)
    return lambda *arguments, **named: described.call(Caller(), *arguments, **named)


def _requests(operation_id: str) -> list[Request]:
    return [
        first_request(_call(name)(*arguments, **named))
        for name, examples in WITH_EVERYTHING.items()
        for arguments, named in examples
        if _operation_of(name) == operation_id
    ]


def _followed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return DOCUMENT["components"]["schemas"][name] if name else schema


def test_every_call_has_a_method_and_the_other_way_round() -> None:
    """A call that the document gets, the client gets too."""
    methods = {name for name in dir(Client) if isinstance(getattr(Client, name), operation | iteration)}
    assert methods == WITH_EVERYTHING.keys() | OVER_SEVERAL
    assert OPERATIONS.keys() == {_operation_of(name) for name in methods - OVER_SEVERAL}


@pytest.mark.parametrize("operation_id", sorted(OPERATIONS))
def test_a_request_is_one_of_the_document_and_can_have_all_that_it_may(operation_id: str) -> None:
    """Its method and path are the call's, and each parameter and each field of the body can be given."""
    method, path, described = OPERATIONS[operation_id]
    made = _requests(operation_id)
    template = re.sub(r"\{[a-z_]+\}", "[^/]+", path)
    for request in made:
        assert (method, True) == (request.method, re.fullmatch(template, unquote(request.path)) is not None)
    for place, given in (
        ("query", {name for request in made for name, _ in request.query}),
        ("header", {name for request in made for name in request.headers} - {"content-type"} - A_STREAM),
    ):
        declared = {one["name"] for one in described.get("parameters", ()) if one["in"] == place}
        declared -= {"If-None-Match"} if operation_id in FOR_CACHES else set()
        assert {name.lower() for name in declared} == given
    content = described.get("requestBody", {}).get("content", {})
    fields = {name for request in made if request.body for name in msgspec.json.decode(request.body)}
    assert set(_followed(content["application/json"]["schema"])["properties"]) == fields if content else not fields


def test_amounts_are_texts_and_times_have_their_offset() -> None:
    """However they are given: 1E+3 and 3 and 4.0 are texts; a text is left to the API."""
    (request,) = _requests("submitOrder")
    body = msgspec.json.decode(request.body or b"")
    assert ("0.01", "1000", "2", "3", "4.0", "2026-03-01T12:00:00Z", False) == (
        *(body[name] for name in ("quantity", "price", "limit_price", "trigger_price", "trail_amount", "expires_at")),
        body["queue_when_closed"],
    )
    assert {"idempotency-key": "k", "content-type": "application/json", "prefer": "wait=10"} == dict(request.headers)


def _examples() -> list[Any]:
    found = []
    for operation_id, (_, _, described) in OPERATIONS.items():
        for status, answer in described["responses"].items():
            content = answer.get("content", {}).get("application/json", {})
            if status.startswith("2"):
                for name, example in content.get("examples", {}).items():
                    found.append(pytest.param(operation_id, example["value"], id=f"{operation_id}-{status}-{name}"))
    return found


@pytest.mark.parametrize(("operation_id", "value"), _examples())
def test_an_answer_is_read_whole(operation_id: str, value: Any) -> None:
    """Every field of every example of an answer is in what the client makes of it, with the same value."""
    for name, examples in WITH_EVERYTHING.items():
        if _operation_of(name) == operation_id:
            arguments, named = examples[0]
            answer = Response(200, {"content-type": "application/json"}, json.dumps(value).encode())
            assert value == _written(answered(_call(name)(*arguments, **named), answer))


def _written(read: Any) -> Any:
    """Write what was read with all its fields, as the API does."""
    whole = msgspec.to_builtins(read, enc_hook=lambda one: one) if isinstance(read, dict) else _whole(read)
    return json.loads(codec.encode(whole))


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if not isinstance(value, msgspec.Struct):
        return value
    fields = {name: _whole(one) for name, one in msgspec.structs.asdict(value).items()}
    optional = type(value).__name__ == "OrderAmendment"  # what the amend did not ask for is left out
    return {name: one for name, one in fields.items() if one is not None or not optional}


def test_every_field_of_an_answer_is_in_its_struct() -> None:
    """Every field of every schema of an answer is one of the struct of the same name, and none is made up."""
    structs = {kind.__name__: kind for kind in _structs()}
    structs["WebhookOrder"] = structs["Order"]  # what does not apply is left out of it
    schemas = DOCUMENT["components"]["schemas"]
    answers = {name for name, schema in schemas.items() if "properties" in schema} - {"FieldError"}
    answers = {name for name in answers if not name.endswith(("Problem", "Body"))}
    assert set() == answers - structs.keys()
    for name in answers:
        assert set(schemas[name]["properties"]) == set(structs[name].__struct_fields__), name


def _structs() -> set[type[msgspec.Struct]]:
    found, todo = set(), [msgspec.Struct]
    while todo:
        kind = todo.pop()
        below = kind.__subclasses__()
        todo += below
        found |= {one for one in below if one.__module__.startswith(("order_client", "contracts"))}
    return found


def test_every_problem_has_an_exception_with_its_members() -> None:
    """The list of exceptions is that of the document, and each reads what only its problem tells."""
    assert DOCUMENT["components"]["schemas"]["Code"]["enum"] == list(problems.BY_CODE)
    everywhere = {"type", "instance", "title", "detail", "status", "code", "trace_id"}
    for code, kind in problems.BY_CODE.items():
        name = "".join(word.capitalize() for word in code.split("-")) + "Problem"
        schema = DOCUMENT["components"]["schemas"][name]["properties"]
        error = kind(schema["status"]["const"], {})
        assert schema.keys() - everywhere <= vars(error).keys()
        assert (code, schema["status"]["const"]) == (error.code, error.status)
