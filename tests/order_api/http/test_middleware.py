"""The middleware: one format for every error, health, metrics, and what an outage looks like from outside."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from pydantic import SecretStr

from order_api.http.problems import PROBLEMS, Code
from order_api.orders.service import OrderService
from order_api.orders.submission import RULES, OrderBody
from order_api.settings import ApiSettings
from tests.order_api.support import Api, running, until


async def test_every_error_is_a_problem_document(api: Api) -> None:
    """Whatever goes wrong, the answer has RFC 9457's members, with a stable type and code."""
    answers = [
        await api.client.get("/nowhere"),
        await api.client.delete("/orders/x"),
        await api.client.put("/orders"),
        await api.client.get("/orders/x"),
        await api.get("/orders/x"),
        await api.call("POST", "/orders", content=b"{"),
        await api.submit({"quantity": 1}),
        await api.submit({"user_id": "bob"}),
    ]
    assert [404, 405, 405, 401, 404, 415, 422, 403] == [answer.status_code for answer in answers]
    for answer in answers:
        problem = answer.json()
        assert "application/problem+json" == answer.headers["content-type"]
        assert f"/problems/{problem['code']}" == problem["type"]
        assert (answer.status_code, answer.request.url.path) == (problem["status"], problem["instance"])
        assert all(isinstance(problem[name], str) for name in ("title", "detail"))
    assert ["GET, HEAD, PATCH", "GET, HEAD, POST"] == [answer.headers["allow"] for answer in answers[1:3]]


async def test_a_problem_names_any_path_as_a_uri(api: Api) -> None:
    """`instance` is a URI reference, whatever was asked for: it can be followed, and breaks no reader."""
    for path in ("/orders/%C2%84", "/orders/a%20b%22", "/orders/%25", "/problems/%03%F0%BE%AD%8E", "/%7Bx%7D"):
        assert path == (await api.get(path)).json()["instance"]


def test_every_problem_is_in_the_table() -> None:
    """Each code has its row, and only a status that the interface names."""
    assert set(Code) == PROBLEMS.keys()
    known = {400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 422, 426, 429, 431, 500, 501, 503}
    assert known == {kind.status for kind in PROBLEMS.values()}


async def test_a_database_that_is_away_is_a_503_that_says_where_to_look(settings: ApiSettings) -> None:
    """An infrastructure error is never a business answer: 503, to be retried, with the address of the order."""
    away = settings.model_copy(update={"database_url": SecretStr("postgresql://api:x@127.0.0.1:1/x")})
    async with running(away) as api:
        posted = await api.submit()
        got = await api.get("/orders/00000000-0000-0000-0000-000000000000")
        for answer in (posted, got):
            assert (503, "unavailable") == (answer.status_code, answer.json()["code"])
            assert int(answer.headers["retry-after"]) > 0
        assert re.fullmatch(r"/orders/[0-9a-f-]{36}", posted.json()["instance"])
        ready = await api.client.get("/health/ready")
        assert (503, 200) == (ready.status_code, (await api.client.get("/health/live")).status_code)
        assert {"database": True, "broker": False} == {n: v != "ok" for n, v in ready.json()["checks"].items()}


async def test_a_bug_is_a_500_without_its_story(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of our own is told as such, and nothing of its inside gets out."""

    async def broken(_self: OrderService, *_: Any) -> Any:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(OrderService, "order", broken)
    answer = await api.get("/orders/00000000-0000-0000-0000-000000000000")
    assert (500, "internal-error") == (answer.status_code, answer.json()["code"])
    assert "secret" not in answer.text


async def test_requests_are_measured_by_route_method_and_status(api: Api) -> None:
    """Metrics bear the route's pattern and never a path or a method of the caller's own."""
    order_id = (await api.submit()).json()["order_id"]
    await api.get(f"/orders/{order_id}")
    await api.get("/made/up")
    await api.call("PROPFIND", "/orders")
    name = "http_server_request_duration_seconds_count"
    for route, method, status in (
        ("/orders", "POST", 202), ("/orders/{order_id}", "GET", 200), ("none", "GET", 404), ("/orders", "other", 405),
    ):  # fmt: skip
        assert 1 == await api.metric(f'{name}{{method="{method}",route="{route}",status="{status}"}}'), route
    text = (await api.client.get("/metrics")).text
    assert order_id not in text
    assert "made/up" not in text
    assert 1 == await api.metric("orders_accepted_total")
    assert "process_resident_memory_bytes" in text


async def test_no_version_leaks(api: Api) -> None:
    """An answer does not tell which software made it."""
    assert {"server", "x-powered-by"}.isdisjoint((await api.client.get("/health/live")).headers)


def test_rules_are_told_for_every_field() -> None:
    """Each field of an order has its rule in words."""
    assert set(OrderBody.__struct_fields__) == RULES.keys()


async def test_requests_that_wait_together_share_a_publish(api: Api) -> None:
    """A lone request goes out at once; those that come while it is under way go out together."""
    api.wire.may_go_on.clear()
    posting = [asyncio.create_task(api.submit())]
    await until(lambda: api.wire.batches)
    posting += [asyncio.create_task(api.submit()) for _ in range(20)]
    await until(lambda: _claims(api, 21))
    api.wire.may_go_on.set()
    assert {202} == {answer.status_code for answer in await asyncio.gather(*posting)}
    assert 1 == len(api.wire.batches[0])
    assert len(api.wire.batches) <= 4


async def _claims(api: Api, number: int) -> bool:
    return number == await api.metric("orders_accepted_total")
