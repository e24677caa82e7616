"""However a call is addressed, it is the same call: under /v1, with a slash at the end, by HEAD."""

from __future__ import annotations

import pytest

from order_api.http.addresses import plain_path
from tests.order_api.support import Api


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        *(("/", "/"), ("/v1", "/"), ("/v1/", "/"), ("/orders", "/orders"), ("/orders/", "/orders")),
        *(("/v1/orders", "/orders"), ("/v1/orders/", "/orders"), ("/v10/orders", "/v10/orders"), ("/v1x", "/v1x")),
        *(("/problems", "/problems/"), ("/problems/", "/problems/"), ("/v1/problems", "/problems/")),
        ("/v1/v1/orders", "/v1/orders"),
    ],
)
def test_each_way_leads_to_one_address(asked: str, meant: str) -> None:
    """One version, one slash at the end; what only looks like it is left alone."""
    assert meant == plain_path(asked)


async def test_a_call_is_the_same_under_v1_and_with_a_slash(api: Api) -> None:
    """Submitted at one address, it is found, listed and cancelled at each other."""
    posted = await api.call("POST", "/v1/orders/", json=BUY)
    order_id = posted.json()["order_id"]
    assert (202, f"/orders/{order_id}") == (posted.status_code, posted.headers["location"])
    for path in (f"/orders/{order_id}", f"/v1/orders/{order_id}", f"/v1/orders/{order_id}/"):
        answer = await api.get(path)
        assert (200, order_id) == (answer.status_code, answer.json()["order_id"])
    pages = [(await api.get(path)).json() for path in ("/orders", "/orders/", "/v1/orders")]
    assert [order_id] == [order["order_id"] for order in pages[0]["orders"]]
    assert pages[0] == pages[1] == pages[2]
    assert 202 == (await api.call("PUT", f"/v1/orders/{order_id}/cancel/")).status_code
    counted = await api.client.get("/v1/metrics")
    assert 'route="/orders/{order_id}",status="200"' in counted.text


@pytest.mark.parametrize(
    "path", ["/", "/health/live", "/openapi.json", "/docs", "/problems/", "/v1/orders", "/orders/x"]
)
async def test_head_is_get_without_its_body(api: Api, path: str) -> None:
    """The same status and headers, and nothing behind them."""
    got, head = await api.get(path), await api.call("HEAD", path)
    assert (got.status_code, b"") == (head.status_code, head.content)
    changing = {"date", "ratelimit-remaining"}
    assert {k: v for k, v in got.headers.items() if k not in changing} == {
        k: v for k, v in head.headers.items() if k not in changing
    }


async def test_the_root_says_where_to_begin(api: Api) -> None:
    """Without a token; each address that it names answers."""
    answer = await api.client.get("/")
    assert (200, "/docs") == (answer.status_code, answer.json()["documentation"])
    for name, path in answer.json().items():
        assert (401 if name == "orders" else 200) == (await api.client.get(path)).status_code


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/orders", "GET, HEAD, POST"),
        ("/orders/cancel-all", "POST"),
        ("/orders/preview", "POST"),
        ("/", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/docs/1/index.css", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/problems/", "GET, HEAD"),
        ("/health/ready", "GET, HEAD"),
    ],
)
async def test_options_and_other_methods_hear_what_is_allowed(api: Api, path: str, allowed: str) -> None:
    """405 with all methods of the path, HEAD among them."""
    answers = [await api.client.request(method, path) for method in ("OPTIONS", "DELETE", "PATCH")]
    assert [(405, allowed)] * 3 == [(one.status_code, one.headers.get("allow")) for one in answers]


BUY = {"asset_id": "BTC", "order_type": "MARKET_BUY", "quantity": "0.01"}
