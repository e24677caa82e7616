"""Calls of the REST API: what it answers, and what a caller may conclude when it does not."""

from __future__ import annotations

from typing import Any

import httpx2
import jwt
import pytest

from operations.access import rest
from operations.access.errors import OutcomeUnknown, Trouble, WrongRequest
from operations.access.rest import Api
from operations.access.tokens import Signer

SECRET = "x" * 32
API = Api("http://api.test", Signer(SECRET, issuer="us", audience="orders"))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[httpx2.Response | Exception]:
    """Give the list of what the API answers, one after the other; requests are appended to its end."""
    planned: list[Any] = []

    def request(method: str, url: str, **more: Any) -> httpx2.Response:
        answer = planned.pop(0)
        if isinstance(answer, Exception):
            raise answer
        planned.append((method, url, more))
        return answer  # type: ignore[no-any-return]

    monkeypatch.setattr(httpx2, "request", request)
    return planned


def test_a_call_is_signed_for_its_user(answers: list[Any]) -> None:
    """With issuer and audience where the API asks for them."""
    answers.append(httpx2.Response(200, json={"orders": []}))
    assert {"orders": []} == rest.orders(API, "alice", status=("FAILED", "CANCELLED"), asset_id="", limit=50)
    [(method, url, more)] = answers
    assert ("GET", "http://api.test/orders?status=FAILED&status=CANCELLED&limit=50") == (method, url)
    token = more["headers"]["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience="orders", issuer="us")
    assert ("alice", "orders:read orders:write") == (claims["sub"], claims["scope"])


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (
            httpx2.Response(422, json={"title": "Invalid", "errors": [{"field": "quantity", "rule": "must be more"}]}),
            *(WrongRequest, "Invalid: quantity: must be more"),
        ),
        (
            httpx2.Response(404, json={"title": "Not found", "detail": "no such order"}),
            Trouble,
            "Not found: no such order",
        ),
        (httpx2.Response(503, text="<html>"), OutcomeUnknown, "the API answered 503"),
        (httpx2.ReadTimeout(""), OutcomeUnknown, "the API at http://api.test can't be reached: ReadTimeout"),
        (httpx2.UnsupportedProtocol(""), WrongRequest, "must begin with http:// or https://"),
        (httpx2.InvalidURL("no port"), WrongRequest, "which is no address: no port"),
        (httpx2.Response(200, text="hello"), Trouble, "what answers at http://api.test is not the API"),
    ],
)
def test_a_refusal_is_one_line_of_its_kind(answers: list[Any], answer: Any, error: type[Trouble], words: str) -> None:
    """After a server's error or no answer the outcome is not known; a request that breaks a rule was refused."""
    answers.append(answer)
    with pytest.raises(error) as failed:
        rest.submit(API, "alice", {}, "key")
    assert (error, True) == (type(failed.value), words in str(failed.value))


def test_the_end_is_waited_for(answers: list[Any]) -> None:
    """Until the order has ended, or patience has."""
    answers.append(httpx2.Response(200, json={"order_id": "1", "status": "COMPLETED"}))
    ended = rest.wait_for_end(API, "alice", {"order_id": "1", "status": "PENDING"}, 5)
    assert "COMPLETED" == ended["status"]
    assert "PENDING" == rest.wait_for_end(API, "alice", {"order_id": "1", "status": "PENDING"}, 0)["status"]


def test_an_order_that_rests_is_waited_for_no_longer(answers: list[Any]) -> None:
    """Each change of a conditional order is asked for; an answer that nothing has changed is none."""
    order: dict[str, Any] = {"order_id": "1", "status": "PENDING", "version": 1, "time_in_force": "GTC"}
    rests = order | {"status": "CONFIRMED", "version": 2, "revision": 1}
    answers += [httpx2.Response(304), httpx2.Response(200, json=rests)]
    assert rests == rest.wait_for_end(API, "alice", order, 5)
    assert ['"1"', '"1"'] == [more["headers"]["If-None-Match"] for _, _, more in answers]


def test_a_key_is_visible_ascii() -> None:
    """As the API's rule is."""
    rest.check_key("k" * 255)
    for key in ("", "a b", "k" * 256, "ü"):
        with pytest.raises(WrongRequest):
            rest.check_key(key)
