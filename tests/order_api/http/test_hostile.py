"""What a caller with bad intentions sends: whatever it is, the answer is a small problem that is no fault of ours."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import secrets
import time
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from order_api.settings import ApiSettings
from tests.order_api.support import BUY, SECRET, Api, running, token

ANSWER_BYTES_MAX = 16_384
ANSWER_S = 30.0
JSON = {"content-type": "application/json"}
NOBODY = "/orders/00000000-0000-0000-0000-000000000000"
GOOD = json.dumps(BUY)[:-1]


async def exchange(api: Api, head: list[str], body: bytes = b"", *, user: str | None = "alice") -> tuple[int, bytes]:
    """Send a request as it stands, by hand: a client would mend half of these. Return status and body."""
    lines = [*head, "Host: a", "Connection: close"]
    if user is not None:
        lines.append(f"Authorization: Bearer {token(user)}")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    try:
        async with asyncio.timeout(ANSWER_S):
            writer.write("\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body)
            answer = await reader.read()
    finally:
        writer.close()
    first, _, payload = answer.partition(b"\r\n\r\n")
    return int(first.split(b" ", 2)[1]), payload


async def refused(api: Api, head: list[str], body: bytes = b"") -> dict[str, Any]:
    """Send something that must be a small problem of the caller's making; return the problem."""
    status, payload = await exchange(api, head, body)
    assert 400 <= status < 500, (status, head, body[:80])
    assert len(payload) <= ANSWER_BYTES_MAX, (len(payload), head, body[:80])
    problem: dict[str, Any] = json.loads(payload)
    assert status == problem["status"]
    return problem


POST = ["POST /orders HTTP/1.1", "Content-Type: application/json"]


async def test_a_body_that_is_nested_deep_is_the_callers_fault(api: Api) -> None:
    """At every depth, the last that can be read included: as the whole body, in a known field and in an unknown one."""
    for depth in (10, 300, *range(900, 1000), 1500, 7000):
        nest, objects = "[" * depth + "]" * depth, '{"a":' * (depth // 5) + "1" + "}" * (depth // 5)
        fields = [GOOD + f', "{name}":{value}}}' for name in ("price", "x") for value in (nest, objects)]
        for body in [nest, objects, *fields] if depth % 50 == 0 else [nest]:
            answer = await api.call("POST", "/orders", content=body, headers=JSON)
            assert (422, True) == (answer.status_code, len(answer.content) < 2000), (depth, body[:80])


@pytest.mark.parametrize(
    "body",
    [
        GOOD + ', "quantity":"1000"}',
        GOOD + ', "quantity":"0.01"}',
        GOOD + ', "quantity" : "1000"}',
        GOOD + r', "quan\u0074ity":"1000"}',
        GOOD + ', "quantity":null}',
        '{"quantity":5,' + GOOD[1:] + "}",
    ],
)
async def test_a_name_that_comes_twice_is_refused_by_name(api: Api, body: str) -> None:
    """Which of two quantities is meant can't be told, and a wrong guess is money."""
    [error] = (await refused(api, POST, body.encode()))["errors"]
    assert ("quantity", "must come once") == (error["field"], error["rule"])
    assert [] == api.wire.asked


async def test_an_answer_is_small_however_much_is_wrong(api: Api) -> None:
    """Thousands of errors are a few errors and their number; no name, value or path is repeated at length."""
    control = json.dumps("\1" * 1000)
    bodies = [
        "{" + ",".join(f'"{n}":1' for n in range(1500)) + "}",
        "{" + ",".join(json.dumps("\1" * 50 + str(n)) + f':{control[:20]}"' for n in range(40)) + "}",
        "{" + f"{control}:{control}" + "}",
        GOOD + f', "price":{control}, "client_order_id":{control}' + "}",
        "{" + ",".join('"quantity":"1"' for _ in range(1000)) + "}",
    ]
    for body in bodies:
        problem = await refused(api, POST, body.encode())
        assert len(problem["errors"]) <= 20
    paths = [
        "/orders?" + "&".join(f"a{n}=1" for n in range(2000)),
        "/orders?" + "&".join(f"status={n}" for n in range(1500)),
        "/orders?" + "&" * 15_000 + "x=1",
        "/orders?" + "%01" * 5000 + "=1",
        "/" + "a" * 15_000,
        "/orders/" + "%FF" * 5000,
        "/orders/by-client-id/" + "%01" * 5000,
        NOBODY + "/history?after=" + "9" * 15_000,
        "/orders/by-client-id/x?user_id=" + "%01" * 5000,
    ]
    for path in paths:
        await refused(api, [f"GET {path} HTTP/1.1"])


TWICE = {
    "limit": ("/orders?limit=1&limit=2", []),
    "cursor": ("/orders?cursor=a&cursor=a", []),
    "user_id": ("/orders/by-client-id/x?user_id=alice&user_id=bob", []),
    "after": (NOBODY + "/history?after=1&after=1", []),
    "Authorization": (NOBODY, ["Authorization: Bearer x"]),
}


@pytest.mark.parametrize("name", TWICE)
async def test_a_parameter_or_header_that_comes_twice_is_refused_by_name(api: Api, name: str) -> None:
    """A proxy may have judged the other one."""
    path, headers = TWICE[name]
    problem = await refused(api, [f"GET {path} HTTP/1.1", *headers])
    assert name in problem["detail"]


async def test_two_keys_or_content_types_are_refused(api: Api) -> None:
    """An order's own headers come once, too."""
    body = (GOOD + "}").encode()
    assert (
        "Idempotency-Key" in (await refused(api, [*POST, "Idempotency-Key: a", "Idempotency-Key: b"], body))["detail"]
    )
    assert "unsupported-media-type" == (await refused(api, [*POST, "Content-Type: text/plain"], body))["code"]
    assert [] == api.wire.asked


BODIES: list[str] = [
    '{"asset_id":"A\\u0000"}', '{"\\u0000":1}', '{"asset_id":"\\ud800"}', '{"\\udfff":1}', '{"quantity":NaN}', "NaN",
    '{"slippage_bps":' + "9" * 15_000 + "}", '{"slippage_bps":1e999}', '{"slippage_bps":-0}', "9" * 16_000, "-", "1e5",
    '{"user_id":"\\u202ealice"}', '"' + "\\u0000" * 2000 + '"', "\ufeff{}", "{}{}", "[1,]", "null", "//", "'", "\x00",
    '{"quantity":"' + "1" * 15_000 + '"}', '{"price":"1.' + "0" * 15_000 + '"}', '{"":""}', '{"asset_id":' + "{" * 9,
]  # fmt: skip
TARGETS = [
    "/orders/%00", "/orders/%C0%AF", "/orders/%", "/orders/%zz", "/orders/%2e%2e", "/orders/..", "/orders/.",
    "/orders//", "/orders/by-client-id/%00", "/orders/by-client-id/", "/orders/by-client-id/%2F",
    "/orders/by-client-id/a%00b", "//x", "/orders/by-client-id/%ED%A0%80", "/orders/by-client-id/x?user_id=%00",
    "/orders?user_id=a%00", "/orders?%00=%00", "/orders?limit=" + "9" * 5000, "/orders?limit=-1", "/orders?limit=0",
    "/orders?limit=1e3", "/orders?limit=%D9%A3", "/orders?limit=", "/orders?limit", "/orders?=1",
    "/orders?cursor=%00", "/orders?cursor=" + "A" * 190, "/orders?open=",
    "/orders?cursor=WyIyMDI2LTAxLTAxVDAwOjAwOjAwWiIsICIwMDAwIl0", "/orders?created_from=9999-12-31T23:59:59Z",
    "/orders?created_from=0001-01-01T00:00:00%2B14:00", "/orders?created_to=2026-01-01",
    "/orders?asset_id=%ED%A0%80", "/orders?cursor=" + "W1tb" * 49, "/orders?status=%FF", "/orders?order_type=NONE",
    "/orders?open=TRUE", "/orders?x=;", NOBODY + "/history?after=-1", NOBODY + "/history?after=%D9%A3",
    NOBODY + "/history?after=1e9", NOBODY + "/x", NOBODY + "/history?after=" + "9" * 400, NOBODY.upper(),
    NOBODY + "%00", "/orders/\u00e4", "/" + "/" * 5000, "*", "http://b/orders/x", "/orders/x#y",
]  # fmt: skip
HEADERS = [
    "Prefer: wait=99999999999999999999", "Prefer: wait=-1", "Prefer: wait", "Prefer: wait=1;wait=2;" + "x" * 5000,
    "Prefer: " + "wait=," * 1000, 'Prefer: wait="', "Prefer: wait=\u0661", "If-None-Match: " + '"' * 5001,
    "If-None-Match: W/" * 10, "If-None-Match: *", "If-None-Match: " + "*," * 5000, 'If-None-Match: "\u00ff"',
    "traceparent: 00-" + "f" * 32 + "-" + "f" * 16 + "-01", "traceparent: \u00e9", "traceparent: ff-0-0-0",
    "traceparent: " + "0" * 9000, "tracestate: " + "a=b," * 2000, "baggage: " + "a=b," * 2000, "Expect: nonsense",
    "X-Forwarded-For: \u00e9", "X-Forwarded-For: " + "1.1.1.1," * 1000, "Accept-Encoding: " + "gzip," * 1000,
    "Range: bytes=0-0,1-1,2-2", "Cookie: " + "a=b;" * 2000, "Origin: null", "Accept: nothing", "Content-Encoding: gzip",
    "Content-Type: application/json; charset=utf-7", "Transfer-Encoding: identity", "Idempotency-Key: \u00e9",
]  # fmt: skip


def _no_fault(status: int, payload: bytes, what: Any) -> None:
    assert 200 <= status < 500, (status, what)
    assert len(payload) <= ANSWER_BYTES_MAX, (len(payload), what)


async def test_no_request_is_a_fault_of_ours(api: Api) -> None:
    """NUL, lone surrogates, huge numbers, strange paths and headers: the answer is never a 5xx, small, and in time."""
    for text in BODIES:
        _no_fault(*await exchange(api, POST, text.encode()), text[:60])
    for target in TARGETS:
        for asked in (f"GET {target}", f"PUT {target}/cancel", f"HEAD {target}", f"DELETE {target}"):
            _no_fault(*await exchange(api, [f"{asked} HTTP/1.1"]), asked[:60])
    for header in HEADERS:
        _no_fault(*await exchange(api, [f"GET {NOBODY} HTTP/1.1", header]), header[:60])
        body = (GOOD + f', "client_order_id":"c{abs(hash(header))}"}}').encode()
        if "wait" not in header:
            _no_fault(*await exchange(api, [*POST, header], body), header[:60])


async def test_no_mixture_of_them_is_a_fault_of_ours(api: Api) -> None:
    """Random pieces of good and bad requests together, from a seed that the failure names."""
    seed = secrets.randbelow(2**32)
    chance = random.Random(seed)  # noqa: S311 - no secret
    pieces = [*BODIES, *(f'"{name}"' for name in BUY), *'{}[]:,"\\', ' "0.01"', "\\u0000", GOOD, "}", "é", "1e400"]
    began = time.monotonic()
    for _ in range(40):
        body = "".join(chance.choices(pieces, k=chance.randint(1, 12)))[:15_000].encode(errors="replace")
        target = chance.choice(TARGETS) + chance.choice(["", "?", "&"]) + quote(chance.choice(BODIES)[:300])
        headers = [one for one in chance.sample(HEADERS, 2) if len(one) < 6000 and "wait" not in one]
        _no_fault(*await exchange(api, [*POST, *headers], body), (seed, body[:60]))
        _no_fault(*await exchange(api, [f"GET {target} HTTP/1.1", *headers]), (seed, target[:60], headers))
    assert time.monotonic() - began < 60
    assert 200 == (await api.client.get("/health/live")).status_code


def _unsigned(header: str, claims: str) -> str:
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in (header, claims, "x"))


async def test_no_token_is_a_fault_of_ours(api: Api) -> None:
    """Nests, huge numbers and lone surrogates in a token's header and claims are an invalid token."""
    good = '{"alg":"HS256","kid":"a"}'
    parts = [
        "[" * 5000,
        '{"alg":' * 1000,
        '{"alg":"HS256","kid":' + "9" * 5000 + "}",
        '{"alg":"HS256","kid":"\\ud800"}',
    ]
    parts += ["null", "[]", '"x"', "1e400", '{"alg":["HS256"]}', '{"alg":{}}', '{"alg":null}', '{"alg":"\\u0000"}', ""]
    tokens = [_unsigned(part, "{}") for part in parts] + [_unsigned(good, part) for part in parts]
    claims: list[dict[str, Any]] = [
        {"exp": 10**30}, {"exp": 1e300}, {"exp": [1]}, {"exp": {}}, {"nbf": "x"}, {"iat": [[]]}, {"aud": [[1]]},
        {"sub": 7}, {"sub": "\ud800"}, {"sub": "a\0"}, {"scope": {"a": 1}}, {"scope": [["x"]]}, {"jti": ["x"]},
        {"sub": "x" * 5000},
    ]  # fmt: skip
    tokens += [jwt.encode({"sub": "alice", "exp": 2**33, "scope": "", **one}, SECRET, "HS256") for one in claims if one]
    for number, one in enumerate([*tokens, ".", "..", "a.b.c.d.e", "\u00e9", "a" * 12_000, "x " * 3]):
        status, payload = await exchange(api, [f"GET {NOBODY} HTTP/1.1", f"Authorization: Bearer {one}"], user=None)
        assert status in {401, 403}, (number, one[:60])
        assert len(payload) < 1000


async def test_a_client_that_asks_before_it_sends_its_body_is_told(api: Api) -> None:
    """`Expect: 100-continue`: go on, for an order of a known caller; a refusal, before a body, for nobody's."""
    body = (GOOD + "}").encode()
    for bearer, first in ((token(), b"HTTP/1.1 100 "), ("x", b"HTTP/1.1 401 ")):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        head = [*POST, "Host: a", "Expect: 100-continue", f"Authorization: Bearer {bearer}"]
        writer.write("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode())
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_S)).startswith(first)
        if bearer != "x":
            writer.write(body)
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_S)).startswith(b"HTTP/1.1 202 ")
        writer.close()


async def test_what_a_trusted_proxy_passes_on_is_no_fault_of_ours(settings: ApiSettings) -> None:
    """An address that is none is kept as a text, cut short."""
    async with running(settings.model_copy(update={"api_trusted_proxies": "127.0.0.1"})) as api:
        for forwarded in (
            "unknown",
            "",
            ",",
            "\u00e9",
            "a" * 9000,
            "1.1.1.1:99999",
            "[::1",
            "::1%eth0",
            "1," * 4000,
            "'",
        ):
            status, payload = await exchange(api, [*POST, f"X-Forwarded-For: {forwarded}"], (GOOD + "}").encode())
            assert 202 == status, (forwarded[:40], payload)
