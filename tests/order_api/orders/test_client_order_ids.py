"""Whatever is taken as a client order id can be fetched and cancelled by the clients that people use."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.request
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import requests
import urllib3
from playwright._impl._driver import compute_driver_executable

from tests.order_api.support import Api, token

IDS = [
    "...", "....", "..a", ".a", "a.", "a..", "a..b", ".-", "._", ".:", "..:", ":", "::", ":80", "a:b", ":..", "-", "--",
    "_", "http:", "c:", "status", "history", "cancel", "by-client-id", "orders", "null", "A", "a" * 64, "." * 64,
]  # fmt: skip
"""The oddest that the rule allows."""
NODE = """
const [base, token, ...ids] = process.argv.slice(1);
const headers = {authorization: `Bearer ${token}`};
const call = async (method, path) => (await fetch(base + path, {method, headers})).status;
const all = [];
for (const id of ids)
  all.push([await call("GET", `/orders/by-client-id/${id}`), await call("PUT", `/orders/by-client-id/${id}/cancel`)]);
console.log(JSON.stringify(all));
"""


def _with_httpx(method: str, url: str, headers: dict[str, str]) -> int:
    return httpx2.request(method, url, headers=headers, timeout=30).status_code


def _with_requests(method: str, url: str, headers: dict[str, str]) -> int:
    return requests.request(method, url, headers=headers, timeout=30).status_code


def _with_urllib3(method: str, url: str, headers: dict[str, str]) -> int:
    with urllib3.PoolManager() as pool:
        return pool.request(method, url, headers=headers).status


def _with_urllib(method: str, url: str, headers: dict[str, str]) -> int:
    with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers)) as answer:  # noqa: S310 - http
        return int(answer.status)


def _with_http_client(method: str, url: str, headers: dict[str, str]) -> int:
    parts = urllib3.util.parse_url(url)
    connection = http.client.HTTPConnection(str(parts.host), parts.port)
    connection.request(method, url.split(str(parts.port), 1)[1], headers=headers)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


PYTHON_CLIENTS = [_with_httpx, _with_requests, _with_urllib3, _with_urllib, _with_http_client]


async def _submit_all(api: Api) -> None:
    for name in IDS:
        assert 202 == (await api.submit({"client_order_id": name})).status_code, name


@pytest.mark.parametrize("ask", PYTHON_CLIENTS)
async def test_python_clients_reach_every_order(api: Api, ask: Callable[[str, str, dict[str, str]], int]) -> None:
    """By its name alone, an order is shown and cancelled."""
    await _submit_all(api)
    headers = {"Authorization": f"Bearer {token()}"}
    for name in IDS:
        url = f"http://127.0.0.1:{api.port}/orders/by-client-id/{name}"
        assert 200 == await asyncio.to_thread(ask, "GET", url, headers), name
        assert 202 == await asyncio.to_thread(ask, "PUT", url + "/cancel", headers), name


async def _run(*command: str) -> Any:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert 0 == process.returncode
    return out.decode()


async def test_fetch_of_javascript_reaches_every_order(api: Api) -> None:
    """Its URLs are those of browsers (WHATWG), which resolve `.` and `..`, escaped ones too."""
    await _submit_all(api)
    node, _ = compute_driver_executable()  # the one that Playwright brings along
    answer = await _run(node, "-e", NODE, f"http://127.0.0.1:{api.port}", token(), *IDS)
    assert dict.fromkeys(IDS, (200, 202)) == dict(zip(IDS, map(tuple, json.loads(answer)), strict=True))


async def test_curl_reaches_every_order(api: Api) -> None:
    """Without `--path-as-is`: as people type it."""
    await _submit_all(api)
    curl = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: Bearer {token()}")
    for name in IDS:
        url = f"http://127.0.0.1:{api.port}/orders/by-client-id/{name}"
        assert "200" == await _run(*curl, url), name
        assert "202" == await _run(*curl, "-X", "PUT", url + "/cancel"), name


async def test_the_two_that_clients_resolve_are_not_taken(api: Api) -> None:
    """`.` and `..` would be another address than was meant."""
    for name in (".", ".."):
        answer = await api.submit({"client_order_id": name})
        assert 422 == answer.status_code
        [error] = answer.json()["errors"]
        assert ("client_order_id", True) == (error["field"], error["rule"].endswith("neither . nor .."))
    assert [] == api.wire.asked
