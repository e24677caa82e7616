"""The headers of every answer: they protect its reader, carry what routes and limits add, and tell nothing of us."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from order_api.orders.store import Store
from tests.order_api.support import Api

PROTECTING = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


async def test_every_answer_has_the_protecting_headers(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders, problems of every kind, health, metrics, the description, what does not exist: each of them once."""
    answers = [
        await api.submit(),
        await api.submit({"quantity": 1}),
        await api.client.get("/orders/x"),
        await api.client.get("/made/up"),
        await api.client.delete("/orders"),
        await api.client.get("/health/live"),
        await api.client.get("/metrics"),
    ]

    async def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Store, "page", broken)
    answers.append(await api.get("/orders"))
    assert [202, 422, 401, 404, 405, 200, 200, 500] == [answer.status_code for answer in answers]
    for answer in answers:
        assert {name: [value] for name, value in PROTECTING.items()} == {
            name: answer.headers.get_list(name) for name in PROTECTING
        }, answer.request.url


async def test_what_is_no_request_is_answered_with_them_too(api: Api) -> None:
    """The server's own refusals, which never come to the application, protect their reader alike."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"no request at all\r\n\r\n")
    head, _, _ = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    lines = head.decode().splitlines()
    assert lines[0].startswith("HTTP/1.1 400 ")
    assert {f"{name}: {value}" for name, value in PROTECTING.items()} <= set(lines)


async def test_nothing_tells_what_software_answers(api: Api) -> None:
    """No product and no version in any header or body, whether all is well or not; and no promise of TLS without it."""
    for answer in (await api.submit(), await api.client.get("/made/up"), await api.client.get("/health/ready")):
        assert {"server", "x-powered-by", "via", "strict-transport-security"}.isdisjoint(answer.headers)
        told = f"{answer.headers} {answer.text}".lower()
        for name in ("uvicorn", "starlette", "fastapi", "python", "asyncpg", "sqlalchemy", "postgresql", "aiokafka"):
            assert name not in told


async def test_a_route_says_otherwise_and_adds_its_own(api: Api) -> None:
    """What a response sets itself is never overwritten or doubled; `request.state.headers` go out with any answer."""

    async def page(request: Request) -> Response:
        request.state.headers = {"RateLimit-Limit": "10", "Cache-Control": "private", "Referrer-Policy": "origin"}
        return Response("x", headers={"content-security-policy": "default-src 'self'", "cache-control": "max-age=60"})

    async def failing(request: Request) -> Response:
        request.state.headers = {"RateLimit-Limit": "10"}
        raise RuntimeError

    api.app.router.routes[:0] = [Route("/page", page), Route("/failing", failing)]
    well, failed = await api.client.get("/page"), await api.client.get("/failing")
    expected = {
        "ratelimit-limit": ["10"], "cache-control": ["max-age=60"], "content-security-policy": ["default-src 'self'"],
        "referrer-policy": ["origin"], "x-content-type-options": ["nosniff"],
    }  # fmt: skip
    assert expected == {name: well.headers.get_list(name) for name in expected}
    assert (httpx2.codes.INTERNAL_SERVER_ERROR, "10") == (failed.status_code, failed.headers["ratelimit-limit"])
