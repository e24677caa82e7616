"""Calls of the REST API: what it answers, and what a caller may conclude when it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator

import jwt
import pytest

from operations.access import rest
from operations.access.errors import OutcomeUnknown, Trouble, WrongRequest
from operations.access.rest import Api
from operations.access.tokens import Signer
from tests.support.planned_api import PlannedApi, planned_api
from tests.support.shown_order import ORDER

SECRET = "x" * 32
PROBLEM = "application/problem+json"
ASKED = {"asset_id": "BTC", "order_type": "MARKET_BUY", "quantity": "1"}
INVALID = {"title": "Invalid", "errors": [{"field": "quantity", "rule": "must be more"}]}


@pytest.fixture
def server() -> Iterator[PlannedApi]:
    """Stand in for the API."""
    with planned_api() as one:
        yield one


def _api(server: PlannedApi) -> Api:
    return Api(server.address, Signer(SECRET, issuer="us", audience="orders"))


def test_a_call_is_signed_for_its_user(server: PlannedApi) -> None:
    """With issuer and audience where the API asks for them."""
    page = {"orders": [], "has_more": False, "next_cursor": None}
    server.plan(200, page)
    assert page == rest.orders(_api(server), "alice", status=("FAILED", "CANCELLED"), asset_id="", limit=50)
    [asked] = server.asked
    assert ("GET", "/orders?status=FAILED&status=CANCELLED&limit=50") == (asked.method, asked.path)
    token = asked.headers["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience="orders", issuer="us")
    assert ("alice", "orders:read orders:write") == (claims["sub"], claims["scope"])


@pytest.mark.parametrize(
    ("status", "body", "content_type", "error", "words"),
    [
        (422, INVALID, PROBLEM, WrongRequest, "Invalid: quantity: must be more"),
        (404, {"title": "Not found", "detail": "no such order"}, PROBLEM, Trouble, "Not found: no such order"),
        (500, "<html>", "text/html", OutcomeUnknown, "the API answered 500"),
        (200, "hello", "text/html", Trouble, "is not the API: an answer of status 200 and type text/html is no Order"),
    ],
)
def test_a_refusal_is_one_line_of_its_kind(
    server: PlannedApi, status: int, body: object, content_type: str, error: type[Trouble], words: str
) -> None:
    """After a server's error the outcome is not known; a request that breaks a rule was refused."""
    server.plan(status, body, **{"content-type": content_type})
    with pytest.raises(Trouble, match=re.escape(words)) as failed:
        rest.submit(_api(server), "alice", ASKED, "key")
    assert error is type(failed.value)


def test_an_outage_is_tried_again_and_then_told(server: PlannedApi) -> None:
    """With the same key; and no answer at all leaves the outcome open, too."""
    for _ in range(3):
        server.plan(503, "<html>")
    with pytest.raises(OutcomeUnknown, match="the API answered 503"):
        rest.submit(_api(server), "alice", ASKED, "key")
    assert ["key"] * 3 == [asked.headers["idempotency-key"] for asked in server.asked]
    for _ in range(3):
        server.plan_break()
    with pytest.raises(OutcomeUnknown, match=f"the API at {server.address} can't be reached: "):
        rest.submit(_api(server), "alice", ASKED, "key")


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://x", "http://x:port"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    """With the setting that has it."""
    with pytest.raises(WrongRequest, match=r"ORDER_API_URL: .* is no address"):
        rest.submit(Api(address, Signer(SECRET)), "alice", ASKED, "key")


def test_what_can_not_be_written_is_told(server: PlannedApi) -> None:
    """A terminal may give what is no text."""
    with pytest.raises(WrongRequest, match="this can't be sent"):
        rest.submit(_api(server), "alice", ASKED | {"asset_id": "\udcff"}, "key")
    assert [] == server.asked


def test_the_end_is_waited_for(server: PlannedApi) -> None:
    """Until the order has ended, or patience has."""
    server.plan(200, ORDER | {"status": "COMPLETED"})
    ended = rest.wait_for_end(_api(server), "alice", ORDER, 5)
    assert ("COMPLETED", "wait=5") == (ended["status"], server.asked[0].headers["prefer"])
    assert "PENDING" == rest.wait_for_end(_api(server), "alice", ORDER, 0)["status"]


def test_an_order_that_rests_is_waited_for_no_longer(server: PlannedApi) -> None:
    """Each change of a conditional order is asked for; an answer that nothing has changed is none."""
    order = ORDER | {"version": 1, "order_type": "LIMIT_BUY", "limit_price": "48000", "time_in_force": "GTC"}
    rests = order | {"status": "CONFIRMED", "version": 2, "revision": 1}
    server.plan(304)
    server.plan(200, rests)
    assert rests == rest.wait_for_end(_api(server), "alice", order, 5)
    assert ['"1"', '"1"'] == [asked.headers["if-none-match"] for asked in server.asked]


def test_a_key_is_visible_ascii() -> None:
    """As the API's rule is."""
    rest.check_key("k" * 255)
    for key in ("", "a b", "k" * 256, "ü"):
        with pytest.raises(WrongRequest):
            rest.check_key(key)
