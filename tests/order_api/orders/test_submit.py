"""`POST /orders`: what is accepted, what is refused and in which words, and what can be read right after."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tests.order_api.support import BUY, NOT_CONDITIONAL, Api, Orchestrator


async def test_an_accepted_order_is_a_202_with_the_order_as_pending(api: Api) -> None:
    """The answer is the whole order, PENDING at version 0, and says where it is found."""
    answer = await api.submit({"quantity": "0.0100", "price": "50000.00", "client_order_id": "mine"})
    order = answer.json()
    assert 202 == answer.status_code
    assert f"/orders/{order['order_id']}" == answer.headers["location"]
    assert "idempotency-replayed" not in answer.headers
    times = {order.pop("created_at"), order.pop("updated_at")}
    assert 1 == len(times)
    assert {
        "order_id": order["order_id"], "client_order_id": "mine", "user_id": "alice", "asset_id": "BTC",
        "order_type": "MARKET_BUY", "status": "PENDING", "quantity": "0.01", "price": "50000", "slippage_bps": 100,
        "filled_quantity": "0", "average_price": None, "fee": "0", "reason_code": None, "reason": None,
        "cash_asset_id": None, "fee_asset_id": None,
        "cancel_requested": False, "version": 0, **NOT_CONDITIONAL,
    } == order  # fmt: skip


async def test_get_right_after_post_shows_the_order(api: Api) -> None:
    """Named test 15: after a 202 a GET never answers 404, and shows what the POST has shown."""
    posted = await api.submit()
    got = await api.get(posted.headers["location"])
    assert (200, posted.json()) == (got.status_code, got.json())
    assert '"0"' == got.headers["etag"]
    assert 200 == (await api.get(posted.headers["location"] + "/status")).status_code
    history = await api.get(posted.headers["location"] + "/history")
    assert {"order_id": posted.json()["order_id"], "history": [], "has_more": False} == history.json()


async def test_a_stub_of_an_early_cancel_does_not_hide_the_claim(api: Api, orchestrator: Orchestrator) -> None:
    """A cancel that overtakes its request leaves a row that nobody sees: the claim goes on being shown."""
    posted = await api.submit()
    await orchestrator.shows(posted.json()["order_id"], phase="NEW", version=0)
    assert posted.json() == (await api.get(posted.headers["location"])).json()


GOOD = [
    {"order_type": "MARKET_SELL"},
    {"quantity": "0.000000000000000001"},
    {"quantity": "999999999999999999.999999999999999999"},
    {"price": None},
    {"price": "1000000"},
    {"slippage_bps": None},
    {"slippage_bps": 0},
    {"slippage_bps": 10_000},
    {"client_order_id": None},
    {"client_order_id": "A-Za-z0-9._:-" + "x" * 51},
    {"user_id": None},
    {"user_id": "alice"},
    {"asset_id": "x"},
]

NAMES: list[Any] = ["", "x" * 65, "a b", "@fees", "ä", "a\n", "a/b", 1, True, [], {}]
AMOUNTS: list[Any] = [
    "0", "0.0", "-1", "+1", "01", "1.", ".5", "1e3", "1_000", " 1", "1 ", "", "1,5", "NaN", "Infinity", "٣", "1\n",
    "1.0000000000000000000", "1000000000000000000", 1, 1.5, True, [], {},
]  # fmt: skip
BAD: dict[str, list[Any]] = {
    "asset_id": [None, *NAMES],
    "order_type": [None, "", "market_buy", "OCO_SELL", "BUY", 1, [], {}],
    "quantity": [None, *AMOUNTS],
    "price": [*AMOUNTS, "1000000.01"],
    "slippage_bps": [-1, 10_001, 1.5, 1.0, "100", True, 10**30, [], {}],
    "client_order_id": NAMES,
    "user_id": NAMES,
    "limit_price": [*AMOUNTS, "1000000.01"],
    "trigger_price": ["0"],
    "trail_amount": [1],
    "trail_bps": [0, 4, 7, 5_005, 10.5, "100"],
    "time_in_force": ["", "gtc", "day", "AON", 1],
    "expires_at": [
        *("", "tomorrow", "2026-03-09", "2026-03-09T12:00:00", "2026-13-09T12:00:00Z", "2026-03-09T12:00:00 UTC"),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", 1_800_000_000, True),
    ],
    "queue_when_closed": ["true", 1, []],
}


async def test_the_bounds_themselves_are_accepted(api: Api) -> None:
    """Each field takes the extremes of its rule."""
    for fields in GOOD:
        assert 202 == (await api.submit(fields)).status_code, fields


async def test_each_bad_value_is_refused_by_field_and_rule(api: Api, orchestrator: Orchestrator) -> None:
    """A value outside its rule is a 422 that names the field, the rule and the value, and no order exists."""
    for field, value in ((field, value) for field, values in BAD.items() for value in values):
        answer = await api.submit({field: value})
        assert 422 == answer.status_code, (field, value)
        problem = answer.json()
        assert "/problems/invalid-request" == problem["type"]
        [error] = problem["errors"]
        assert (field, True) == (error["field"], error["rule"].startswith("must be ")), (field, value)
        assert error["got"] is not None
    assert [] == await orchestrator.run("SELECT FROM api.claims")
    assert [] == api.wire.asked


async def test_every_broken_field_is_listed_at_once(api: Api) -> None:
    """All faults of a body are told together: missing fields, unknown ones by name, and each broken rule."""
    body = {"order_type": "X", "quantity": 1, "prise": "1", "leverage": {"x": 10}}
    answer = await api.call("POST", "/orders", json=body)
    errors = {error["field"]: error for error in answer.json()["errors"]}
    assert {"asset_id", "order_type", "quantity", "prise", "leverage"} == errors.keys()
    assert "is required" == errors["asset_id"]["rule"]
    assert errors["order_type"]["rule"].startswith("must be one of MARKET_BUY, MARKET_SELL, LIMIT_BUY, LIMIT_SELL, ")
    assert errors["prise"]["rule"].startswith("is not a field of an order; these are: asset_id, order_type, quantity")
    assert '{"x":10}' == errors["leverage"]["got"]
    assert ["stop_price"] == [error["field"] for error in (await api.submit({"stop_price": "1"})).json()["errors"]]


NOT_JSON = [b"", b"{", b"{'a': 1}", b"\xff", b'{"quantity": NaN}', b"[" * 9000, b'{"a": 1e999999}', b'{"a": "\\ud800"}']
JSON = {"content-type": "application/json"}


async def test_what_is_not_json_is_a_422(api: Api) -> None:
    """Malformed JSON is told as such, with the place where it breaks, and never a 5xx."""
    for body in NOT_JSON:
        answer = await api.call("POST", "/orders", content=body, headers=JSON)
        assert (422, "malformed-json") == (answer.status_code, answer.json()["code"]), body
        assert "body" == answer.json()["errors"][0]["field"]


async def test_json_that_is_no_object_is_a_422(api: Api) -> None:
    """An order is a JSON object and nothing else."""
    for body in (b"[]", b'"x"', b"1", b"null", b"true"):
        answer = await api.call("POST", "/orders", content=body, headers=JSON)
        assert 422 == answer.status_code
        assert [{"field": "body", "rule": "must be a JSON object", "got": body.decode()}] == answer.json()["errors"]


async def test_only_application_json_is_read(api: Api) -> None:
    """Another content type is a 415; parameters and case of the right one do not matter (RFC 9110)."""
    content = b'{"asset_id":"BTC","order_type":"MARKET_BUY","quantity":"1"}'
    for wrong in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""):
        answer = await api.call("POST", "/orders", content=content, headers={"content-type": wrong})
        assert (415, "unsupported-media-type") == (answer.status_code, answer.json()["code"]), wrong
    for right in ("application/json; charset=utf-8", "Application/JSON"):
        answer = await api.call("POST", "/orders", content=content, headers={"content-type": right})
        assert 202 == answer.status_code, right


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_a_413(api: Api, *, chunked: bool) -> None:
    """A body is read no further than the limit, whether or not its length was announced."""

    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * 1000

    content = chunks() if chunked else b" " * 40_000
    answer = await api.call("POST", "/orders", content=content, headers=JSON)
    assert (413, "body-too-large") == (answer.status_code, answer.json()["code"])
    assert 202 == (await api.submit()).status_code


async def test_another_user_is_refused_without_the_scope(api: Api) -> None:
    """A body that names another user is a 403, unless the caller may act for users; then the order is that user's."""
    refused = await api.submit({"user_id": "bob"})
    assert (403, "other-user") == (refused.status_code, refused.json()["code"])
    allowed = await api.submit({"user_id": "bob"}, user="broker", scope="orders:write orders:act-for-users orders:read")
    assert (202, "bob") == (allowed.status_code, allowed.json()["user_id"])
    path = allowed.headers["location"]
    assert 200 == (await api.get(path, user="bob")).status_code
    assert 200 == (await api.get(path, user="broker", scope="orders:read orders:act-for-users")).status_code
    assert 404 == (await api.get(path, user="alice")).status_code


async def test_the_request_goes_out_with_its_key_and_trace(api: Api) -> None:
    """What is published is an `OrderRequested` with the claim's time, keyed by the order, in the caller's trace."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for sent, kept in ((trace, trace.encode()), ("00-" + "0" * 32 + "-b7ad6b7169203331-01", None), ("x", None)):
        answer = await api.call("POST", "/orders", json=BUY, headers={"traceparent": sent})
        order = answer.json()
        message = api.wire.asked[-1]
        assert ("orders.requests", order["order_id"]) == (message.topic, message.key)
        headers = dict(message.headers)
        assert (b"OrderRequested", kept) == (headers["ce_type"], headers.get("traceparent"))
        assert order["created_at"] == headers["ce_time"].decode()


async def test_ids_are_in_the_order_of_time(api: Api) -> None:
    """The next order's id is behind the last one's in every index (version 7 of RFC 9562)."""
    ids = [UUID((await api.submit()).json()["order_id"]) for _ in range(3)]
    assert [7, 7, 7] == [one.version for one in ids]
    assert sorted(ids) == ids
