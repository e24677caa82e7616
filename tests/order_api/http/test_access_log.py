"""The access log: a line for each request, and nothing in it that somebody could be known or robbed by."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from order_api.settings import ApiSettings
from tests.order_api.support import BUY, Api, running, token, until
from tests.order_api.test_process import process
from tests.support.spans import recorded_spans, span_id, trace_id

ALWAYS = {"timestamp", "level", "event", "service", "method", "route", "status", "duration_ms", "bytes_sent"}
TRACEPARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Read the lines of requests that were written since the last look."""
    found = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == "request"]


@pytest.fixture
def json_settings(settings: ApiSettings) -> ApiSettings:
    """Make settings for an API that writes JSON."""
    return settings.model_copy(update={"log_format": "json"})


async def test_each_request_is_one_line_of_json(json_settings: ApiSettings, capfd: pytest.CaptureFixture[str]) -> None:
    """Method, route, status, time and size, also of what no route is for; who asked, and for which order."""

    async def known(request: Request) -> Response:
        request.state.user_id, request.state.order_id = "alice", "an order"
        return Response(b"12345", 201)

    async with running(json_settings) as api:
        api.app.router.routes.insert(0, Route("/known/{what}", known, methods=["POST"]))
        await api.client.post("/known/thing?or=other")
        await api.client.get("/made/up")
        await api.client.request("PROPFIND", "/orders")
    first, second, third = lines(capfd)
    assert ALWAYS | {"user_id", "order_id"} == first.keys()
    assert ("POST", "/known/{what}", 201, 5, "alice", "an order") == tuple(
        first[name] for name in ("method", "route", "status", "bytes_sent", "user_id", "order_id")
    )
    assert 0 < first["duration_ms"] < 10_000
    assert ("info", "request", "api") == (first["level"], first["event"], first["service"])
    assert ALWAYS == second.keys()
    assert [("GET", "none", 404), ("other", "/orders", 405)] == [
        (line["method"], line["route"], line["status"]) for line in (second, third)
    ]


async def test_a_line_names_the_trace(json_settings: ApiSettings, capfd: pytest.CaptureFixture[str]) -> None:
    """The caller's trace when nothing is recorded here; with an SDK also the request's own span."""
    async with running(json_settings) as api:
        await api.client.get("/orders/x", headers={"traceparent": TRACEPARENT})
        [line] = lines(capfd)
        assert ("ab" * 16, False) == (line["trace_id"], "span_id" in line)
        with recorded_spans() as exporter:
            await api.client.get("/orders/x")
            await until(exporter.get_finished_spans)
        [line], [span] = lines(capfd), exporter.get_finished_spans()
        assert (f"{trace_id(span):032x}", f"{span_id(span):016x}") == (line["trace_id"], line["span_id"])


async def test_machines_that_ask_all_day_are_told_of_at_debug_only(
    json_settings: ApiSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Health and metrics leave no line at INFO; a higher level leaves none at all, nor does the setting."""
    for changed, expected in (
        ({"log_level": "DEBUG"}, ["/health/live", "/metrics", "/orders/{order_id}"]),
        ({"log_level": "INFO"}, ["/orders/{order_id}"]),
        ({"log_level": "WARNING"}, []),
        ({"api_access_log": False}, []),
    ):
        async with running(json_settings.model_copy(update=changed)) as api:
            for path in ("/health/live", "/metrics", "/orders/x"):
                await api.client.get(path)
        assert expected == [line["route"] for line in lines(capfd)]


async def test_a_line_for_people_says_the_same(api: Api, capfd: pytest.CaptureFixture[str]) -> None:
    """On a console, a line looks like the other lines."""
    await api.client.get("/orders/x", headers={"traceparent": TRACEPARENT})
    [line] = [line for line in capfd.readouterr().err.splitlines() if " request " in line]
    assert " [info     ] request service=api method=GET route=/orders/{order_id} status=401 duration_ms=" in line
    assert line.endswith(f" trace_id={'ab' * 16}")


async def test_a_log_that_cannot_be_written_fails_no_request(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the lines may be gone: requests are answered all the same."""
    reading, writing = os.pipe()
    os.close(reading)
    gone = os.fdopen(writing, "w")
    monkeypatch.setattr("sys.stderr", gone)
    assert httpx2.codes.ACCEPTED == (await api.submit()).status_code
    assert httpx2.codes.NOT_FOUND == (await api.get("/nowhere")).status_code
    monkeypatch.undo()
    with suppress(BrokenPipeError):
        gone.close()


@pytest.mark.parametrize("broken", ["nothing", "database", "broker"])
async def test_no_log_line_holds_what_a_caller_sent(settings: ApiSettings, broken: str) -> None:
    """Token, keys, client order id, path, query, addresses, names of software: none is in any line, at any level.

    Also not when the request fails for the database or the broker, and the error is told.
    """
    nowhere = {
        "nothing": {},
        "database": {"DATABASE_URL": "postgresql://api:planted-password@127.0.0.1:1/x"},
        "broker": {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
    }[broken]
    sent = token(user="alice", jti="planted-jti")
    headers = {
        "Authorization": f"Bearer {sent}",
        "Idempotency-Key": "planted-key",
        "User-Agent": "planted-agent",
        "X-Forwarded-For": "203.0.113.7",
        "Forwarded": "for=203.0.113.8",
        "traceparent": TRACEPARENT,
        "tracestate": "planted=state",
    }
    async with process(settings, LOG_LEVEL="DEBUG", LOG_FORMAT="json", **nowhere) as one:
        await until(lambda: one.answers("/health/live"), 60)
        body = BUY | {"client_order_id": "planted-client-order-id"}
        await one.client.post("/orders?planted-query=1", json=body, headers=headers)
        await one.client.post("/orders", json=body | {"asset_id": "planted asset", "planted-field": 1}, headers=headers)
        await one.client.post(
            "/orders", content=b'{"planted-json', headers=headers | {"content-type": "application/json"}
        )
        await one.client.get("/orders/planted-id", headers=headers)
        await one.client.get("/orders/by-client-id/planted-name", headers=headers)
        await one.client.get("/planted-path", headers=headers)
        await asyncio.wait_for(one.end(signal.SIGTERM), 30)
        text = one.told()
    told = [line for line in map(json.loads, text.splitlines()) if line["event"] == "request"]
    assert 6 <= len(told)
    assert ALWAYS | {"user_id", "order_id", "trace_id", "span_id"} >= set().union(*told)
    for secret in ("planted", "203.0.113", sent, sent.split(".")[1], sent.split(".")[2]):
        assert secret not in text, [line for line in text.splitlines() if secret in line]


async def test_a_client_that_hangs_up_is_counted_and_told(
    json_settings: ApiSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    """A request that ends before its answer is a 499 of its route, in the metrics and in the log."""
    async with running(json_settings) as api:
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        head = f"POST /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n"
        writer.write(head.encode() + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()
        name = 'http_server_request_duration_seconds_count{method="POST",route="/orders",status="499"}'
        await until(lambda: api.metric(name))
    [line] = lines(capfd)
    assert ("POST", "/orders", 499, 0) == (line["method"], line["route"], line["status"], line["bytes_sent"])


async def test_what_is_refused_on_its_way_counts_for_its_route(
    json_settings: ApiSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    """A request that is shed never reaches its route, and is counted and told under it all the same."""
    async with running(json_settings.model_copy(update={"api_in_flight_max": 1})) as api:
        api.wire.may_go_on.clear()
        posting = asyncio.create_task(api.submit())
        await until(lambda: api.wire.batches)
        for path in ("/orders/00000000-0000-0000-0000-000000000000", "/orders", "/orders/by-client-id/planted"):
            assert httpx2.codes.SERVICE_UNAVAILABLE == (await api.get(path)).status_code
        api.wire.may_go_on.set()
        await posting
        name = "http_server_request_duration_seconds_count"
        assert 1 == await api.metric(f'{name}{{method="GET",route="/orders/{{order_id}}",status="503"}}')
    routes = [line["route"] for line in lines(capfd) if line["status"] == httpx2.codes.SERVICE_UNAVAILABLE]
    assert ["/orders/{order_id}", "/orders", "/orders/by-client-id/{client_order_id}"] == routes
