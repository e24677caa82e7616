"""One exchange: what is sent again, when, and with what; and what each answer becomes."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from contracts import codec
from contracts.orders import Order
from contracts.vocabulary import OrderStatus
from order_client import Client, NoAnswerError, ProblemError, UnexpectedAnswerError, problems
from order_client.core import Emit, Lost, Pause, Request, Response, Retry, Send, Token, exchange, retry_after_s
from order_client.requests import get, request
from tests.order_client.support import Caller, done, ok, problem
from tests.support.shown_order import ORDER as SHOWN

POST = request("POST", "/orders", {"quantity": "1"}, key="k")
WITHOUT_KEY = request("POST", "/things", {})
BUSY = problem(503, "overloaded")


def _sent(steps: list[Any]) -> list[Request]:
    return [step.request for step in steps if isinstance(step, Send)]


def _token(step: object) -> str:
    assert isinstance(step, Send)
    return step.request.headers["authorization"]


@pytest.mark.parametrize("code", [408, 429, 502, 503, 504])
def test_a_request_is_repeated_as_it_was(code: int) -> None:
    """The same body under the same key, until it is answered; the pauses grow."""
    results = [Response(code, {}), None, Lost("reset"), None, Response(code, {}), None, ok({}, 202)]
    steps, answer = done(exchange(Caller().session, POST), results)
    assert 202 == answer.status
    assert 1 == len({(one.body, one.headers["idempotency-key"]) for one in _sent(steps)})
    assert [0.25, 0.5, 1.0] == [step.seconds for step in steps if isinstance(step, Pause)]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 413, 415, 422, 431, 500, 501])
def test_what_another_try_would_not_help_is_raised_at_once(status: int) -> None:
    """Nor what has an unknown outcome that repeating would not tell, such as 500."""
    with pytest.raises(ProblemError) as raised:
        done(exchange(Caller().session, POST), [Response(status, {})])
    assert (status, "", "k") == (raised.value.status, raised.value.code, raised.value.idempotency_key)


@pytest.mark.parametrize(
    ("found", "repeated"),
    [
        (Lost("reset", sent=True), False),
        (Lost("refused", sent=False), True),
        (Response(503, {}), False),
        (BUSY, True),
        (problem(429, "rate-limited"), True),
        (problem(503, "unavailable"), False),
    ],
)
def test_without_a_key_only_what_was_surely_not_done_is_repeated(found: Any, repeated: bool) -> None:  # noqa: FBT001
    """A request that would do something twice is not sent again when nobody knows whether it was done."""
    results = [found, None, ok({})]
    if repeated:
        assert 3 == len(done(exchange(Caller().session, WITHOUT_KEY), results)[0])
    else:
        with pytest.raises((ProblemError, NoAnswerError)):
            done(exchange(Caller().session, WITHOUT_KEY), results)


def test_the_api_says_how_long_to_wait() -> None:
    """`Retry-After` is waited for besides the random pause; one that is too long is not."""
    steps, _ = done(exchange(Caller().session, POST), [problem(429, "rate-limited", retry_after="7"), None, ok({})])
    assert [Pause(7.25)] == [step for step in steps if isinstance(step, Pause)]
    with pytest.raises(problems.RateLimitedError) as raised:
        done(exchange(Caller().session, POST), [problem(429, "rate-limited", retry_after="3600")])
    assert 3600 == raised.value.retry_after_s


def test_after_the_last_try_the_error_has_the_key() -> None:
    """Whoever repeats by hand, later or in another process, needs it."""
    results = [Lost("reset"), None, Lost("reset"), None, Lost("gone")]
    with pytest.raises(NoAnswerError, match="gone") as raised:
        done(exchange(Caller(times=2).session, POST), results)
    assert "k" == raised.value.idempotency_key


def test_a_token_that_is_refused_is_renewed_once() -> None:
    """When it can be; a second refusal is the caller's to know."""
    refused = problem(401, "invalid-token")
    steps = exchange(Caller(renews=True).session, get("/orders"))
    assert Token(None) == next(steps)
    assert "Bearer old" == _token(steps.send("old"))
    assert Token("old") == steps.send(refused)
    assert "Bearer new" == _token(steps.send("new"))
    with pytest.raises(problems.InvalidTokenError):
        steps.send(refused)
    with pytest.raises(problems.InvalidTokenError):
        done(exchange(Caller().session, get("/orders")), [refused])


def test_a_problem_is_its_exception_with_its_members() -> None:
    """Typed where the client knows them, and None where the API is newer than it."""
    members: dict[str, Any] = {"order_id": "01a225ed-8291-7454-80a1-f84ea245f98b", "order_status": "PROCESSING"}
    with pytest.raises(problems.TooLateToCancelError) as raised:
        done(exchange(Caller().session, get("/x")), [problem(409, "too-late-to-cancel", members)])
    assert (members["order_id"], OrderStatus.PROCESSING) == (str(raised.value.order_id), raised.value.order_status)
    with pytest.raises(problems.TooLateToCancelError) as raised:
        done(exchange(Caller().session, get("/x")), [problem(409, "too-late-to-cancel", {"order_status": "NEW"})])
    assert (None, "NEW") == (raised.value.order_status, raised.value.members["order_status"])


def test_broken_rules_are_told() -> None:
    """Each field with its rule, in the words of the exception, too."""
    errors = [{"field": "quantity", "rule": "must be more", "got": "0"}, {"field": "price", "rule": "must be less"}]
    with pytest.raises(problems.InvalidRequestError, match="quantity: must be more; price: must be less") as raised:
        done(exchange(Caller().session, get("/x")), [problem(422, "invalid-request", {"errors": errors})])
    assert ["0", None] == [one.got for one in raised.value.errors or []]


@pytest.mark.parametrize(
    "answer",
    [
        problem(418, "teapot"),
        Response(404, {"content-type": "text/html"}, b"<html>"),
        Response(404, {"content-type": "application/problem+json"}, b"nonsense"),
        Response(404, {"content-type": "application/problem+json"}, b"[" * 100_000),
        Response(404, {"content-type": "application/problem+json"}, b"[]"),
        Response(404, {"content-type": "application/problem+json"}, b'{"errors": [3], "code": null}'),
    ],
)
def test_an_error_of_no_known_form_is_a_problem_all_the_same(answer: Response) -> None:
    """What comes from a proxy, or from an API of another version, has a status at least."""
    with pytest.raises(ProblemError) as raised:
        done(exchange(Caller().session, get("/x")), [answer])
    assert (ProblemError, answer.status) == (type(raised.value), raised.value.status)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"orders": [{}], "has_more": false}', b"[" * 100_000])
def test_an_answer_of_another_form_is_an_error(body: bytes) -> None:
    """Whatever sent it: the client makes no order of it."""
    with pytest.raises(UnexpectedAnswerError):
        done(Client.list_orders.call(Caller()), [Response(200, {}, body)])


def test_pages_follow_each_other() -> None:
    """An iteration asks for the next page when it gets there."""
    page = {"orders": [SHOWN], "has_more": True, "next_cursor": "c1"}
    steps, _ = done(
        Client.orders.call(Caller(), asset_id="BTC"), [ok(page), ok({**page, "has_more": False, "next_cursor": None})]
    )
    assert [SHOWN["order_id"]] * 2 == [str(step.item.order_id) for step in steps if isinstance(step, Emit)]
    assert [(("asset_id", "BTC"), ("limit", "200")), (("asset_id", "BTC"), ("limit", "200"), ("cursor", "c1"))] == [
        one.query for one in _sent(steps)
    ]
    entry = {"seq": 4, "at": "2026-03-01T12:00:00Z", "kind": "k", "name": "n", "status": None, "version": None}
    history = {"order_id": "01a225ed-8291-7454-80a1-f84ea245f98b", "history": [{**entry, "detail": {"a": [1]}}]}
    steps, _ = done(
        Client.order_history.call(Caller(), "x"),
        [ok({**history, "has_more": True}), ok({**history, "has_more": False})],
    )
    assert [(), (("after", "4"),)] == [one.query for one in _sent(steps)]
    assert [4, 4] == [step.item.seq for step in steps if isinstance(step, Emit)]


@pytest.mark.parametrize("value", [0.1, float("nan")])
def test_a_float_is_no_amount(value: float) -> None:
    """It is not exact, and nothing is sent."""
    with pytest.raises(TypeError, match="quantity is a float"):
        Client.submit_order.call(Caller(), "BTC", "MARKET_BUY", value)  # type: ignore[arg-type]


def test_a_time_without_its_zone_is_refused() -> None:
    """Nobody could say which instant it is."""
    with pytest.raises(ValueError, match="expires_at has no time zone"):
        Client.place_hold.call(Caller(), "alice", "USD", 1, datetime(2026, 3, 1, 12))  # noqa: DTZ001 - the point


def test_a_text_is_read_as_it_is() -> None:
    """Whatever its bytes."""
    steps, text = done(Client.read_metrics.call(Caller()), [Response(200, {}, b"up 1\n\xff")])
    assert ("up 1\n\ufffd", "/metrics") == (text, _sent(steps)[0].path)


def test_a_retry_after_may_be_a_date() -> None:
    """Counted from the answer's own date; a date that is no date says nothing."""
    date = "Sun, 01 Mar 2026 12:00:00 GMT"
    assert 30.0 == retry_after_s({"date": date, "retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"})
    assert 0.0 == retry_after_s({"date": date, "retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"})
    assert [None] * 3 == [retry_after_s({"date": date, "retry-after": text}) for text in ("", "soon", "-1")]


def test_a_pause_is_drawn_and_bounded() -> None:
    """However often it failed, and never beyond the longest."""
    retry = Retry(times=1_000_000, chance=lambda: 0.5)
    assert [0.125, 4.0] == [retry.pause_s(attempt, NoAnswerError("x")) for attempt in (1, 1_000_000)]


def test_an_end_is_waited_for_as_long_as_is_said() -> None:
    """In requests of 30 s at most. An order that rests is an answer, too."""
    clock = iter([0.0, 0.0, 29.9, 35.0, 40.5])
    market = codec.decoder(Order).decode(json.dumps(SHOWN))
    steps, order = done(Client.wait_for_end.call(Caller(now=clock.__next__), market, 40), [ok(SHOWN), None] * 3)
    assert market == order
    assert [30, 11, 5] == [request.waits_s for request in _sent(steps)]
    limit = SHOWN | {"order_type": "LIMIT_BUY", "limit_price": "9", "time_in_force": "GTC", "version": 3}
    rests = limit | {"status": "CONFIRMED", "revision": 1, "version": 4}
    asked = codec.decoder(Order).decode(json.dumps(limit))
    steps, order = done(Client.wait_for_end.call(Caller(), asked, 40), [Response(304, {}), None, ok(rests)])
    assert (4, True) == (order.version, order.revision is not None)
    assert ['"3"', '"3"'] == [request.headers["if-none-match"] for request in _sent(steps)]
