"""The span of a request, and the trace that a trader can quote when something went wrong here."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from opentelemetry.trace import SpanKind, StatusCode

from order_api.orders.store import Store
from order_api.settings import ApiSettings
from tests.order_api.support import BUY, Api, running, until
from tests.support.spans import parent_id, recorded_spans, trace_id

TRACEPARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


async def test_a_span_says_the_route_and_never_the_path(api: Api) -> None:
    """Names and attributes by the conventions, but for path and query; what no route is for bears the method alone."""
    with recorded_spans() as exporter:
        await api.client.get("/orders/planted-id?planted=query")
        await api.client.request("PROPFIND", "/planted")
        first, second = await until(lambda: len(found := exporter.get_finished_spans()) > 1 and found)
    assert ("GET /orders/{order_id}", "other") == (first.name, second.name)
    assert {SpanKind.SERVER} == {first.kind, second.kind}
    common = {"url.scheme": "http"}
    assert dict(first.attributes or {}) == common | {
        "http.request.method": "GET", "http.route": "/orders/{order_id}", "http.response.status_code": 401,
    }  # fmt: skip
    assert dict(second.attributes or {}) == common | {"http.request.method": "other", "http.response.status_code": 404}
    assert StatusCode.UNSET is first.status.status_code


async def test_only_one_traceparent_counts(api: Api) -> None:
    """A broken header, and two of them, begin a trace anew."""
    with recorded_spans() as exporter:
        await api.client.get("/nowhere", headers={"traceparent": TRACEPARENT})
        await api.client.get("/nowhere", headers={"traceparent": TRACEPARENT.upper()})
        await api.client.get("/nowhere", headers=[("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)])
        spans = await until(lambda: len(found := exporter.get_finished_spans()) > 2 and found)
    assert [int("cd" * 8, 16), None, None] == [parent_id(span) for span in spans]
    assert [True, False, False] == [trace_id(span) == int("ab" * 16, 16) for span in spans]


async def test_a_failure_of_ours_names_its_trace(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 5xx holds `trace_id` where there is one, the caller's or our own; a caller's own mistake does not."""

    async def broken(_self: Store, *_: Any) -> Any:
        raise RuntimeError

    assert "trace_id" not in (await api.client.get("/orders/x", headers={"traceparent": TRACEPARENT})).json()
    monkeypatch.setattr(Store, "page", broken)
    path = "/orders"
    assert "trace_id" not in (await api.get(path)).json()
    assert "ab" * 16 == (await api.get(path, headers={"traceparent": TRACEPARENT})).json()["trace_id"]
    with recorded_spans() as exporter:
        answer = await api.get(path)
        [span] = await until(exporter.get_finished_spans)
    assert (httpx2.codes.INTERNAL_SERVER_ERROR, f"{trace_id(span):032x}") == (
        answer.status_code, answer.json()["trace_id"],
    )  # fmt: skip
    assert (StatusCode.ERROR, "500") == (span.status.status_code, (span.attributes or {})["error.type"])


async def test_an_order_that_is_kept_but_not_published_names_its_trace(settings: ApiSettings) -> None:
    """Also a problem that an endpoint raises: a trader quotes it, and an operator finds why."""
    async with running(settings) as api:
        api.wire.works = False
        headers = {"traceparent": TRACEPARENT}
        problem = (await api.call("POST", "/orders", json=BUY, headers=headers)).json()
    assert ("not-published", "ab" * 16) == (problem["code"], problem["trace_id"])
