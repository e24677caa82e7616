"""Streams: what is handed on, how a stream resumes after whatever breaks it, and what it says may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from contracts import codec, examples
from contracts.decimals import Price
from contracts.orders import OrderStatusChanged
from contracts.vocabulary import OrderStatus
from contracts.webhooks import DisabledEndpoint, DisabledWebhook, EventType
from order_client import Client, MarketPrice, problems
from order_client.core import Close, Lost, Open, Pause, Response, Token
from order_client.errors import NoAnswerError, UnexpectedAnswerError
from order_client.streams import (
    KNOWN_MAX,
    SILENCE_S,
    AccountChanged,
    Gap,
    Heartbeat,
    Interrupted,
    OrderVersion,
    PriceChanged,
    SnapshotEnd,
)
from tests.order_client.support import Caller, Played, ok, problem
from tests.support.shown_order import ORDER as SHOWN

OPENED = Response(200, {"content-type": "text/event-stream; charset=utf-8", "date": "Sun, 01 Mar 2026 12:00:00 GMT"})
LIVE = b"event: snapshot-end\ndata: {}\n\n"
ORDER = UUID(examples.ORDER_ID)
END = b""
PENDING = SHOWN | {"order_id": examples.ORDER_ID, "version": 3}
MARCH = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PRICE = MarketPrice("BTC", 7, Price.parse("50000"), MARCH, "OPEN", None)


def _changed(version: int, status: OrderStatus = OrderStatus.CONFIRMED, order_id: UUID = ORDER) -> OrderStatusChanged:
    example = examples.example("OrderStatusChanged")
    assert isinstance(example, OrderStatusChanged)
    return OrderStatusChanged(order_id, version, status, None, None, example.occurred_at, example.order)


def _event(version: int, last_id: str = "", **more: Any) -> bytes:
    head = f"id: {last_id}\n" if last_id else ""
    return head.encode() + b"event: order\ndata: " + codec.encode(_changed(version, **more)) + b"\n\n"


def _follow(*script: Any, caller: Caller | None = None, **arguments: Any) -> Played:
    return Played(Client.events.call(caller or Caller(), **arguments), list(script))


def test_a_stream_begins_with_what_is_and_goes_on_live() -> None:
    """Orders, the end of the snapshot, hints, prices and heartbeats are handed on; what is unknown is not."""
    others = (
        b'event: heartbeat\ndata: {"at": "2026-03-01T12:00:15Z", "complete_until": "2026-03-01T12:00:00Z"}\n\n'
        b'event: later\ndata: what\n\n: comment\n\nevent: account\ndata: {"assets": ["USD"]}\n\n'
        b"event: price\ndata: " + codec.encode(PRICE) + b'\n\nevent: gap\ndata: {"list": "/orders?x"}\n\n'
    )
    played = _follow(OPENED, b"retry: 2500\n\n" + _event(1, "t1") + LIVE, _event(2, "t2") + others)
    assert [
        _changed(1), SnapshotEnd(), _changed(2), Heartbeat(MARCH + timedelta(seconds=15), MARCH),
        AccountChanged(["USD"]),
        PriceChanged(PRICE), Gap(None, "/orders?x"),
    ] == played.items  # fmt: skip
    (opened,) = played.of(Open)
    assert ("/events", "text/event-stream", "Bearer token0") == (
        opened.request.path, opened.request.headers["accept"], opened.request.headers["authorization"],
    )  # fmt: skip


def test_a_text_is_no_list_of_assets() -> None:
    """It would be asked for letter by letter."""
    with pytest.raises(TypeError, match="give a list"):
        _follow(prices="BTC")


def test_what_a_stream_is_about_is_asked_for() -> None:
    """Of another user, of all, with prices, from an event on."""
    played = _follow(user_id="bob", all_orders=True, prices=("BTC", "ETH"), last_event_id="t7")
    (opened,) = played.of(Open)
    assert (("user_id", "bob"), ("all", "true"), ("prices", "BTC,ETH")) == opened.request.query
    assert ["t7"] == played.resumed_from


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (Lost("reset"), "reset"),
        (END, "the stream ended"),
        (b'event: bye\ndata: {"why": "shutdown"}\n\n', "the API said bye: shutdown"),
    ],
)
def test_a_stream_resumes_from_its_last_event(broken: Any, why: str) -> None:
    """After the pause that the API drew. It says that it was interrupted, and when it is live again."""
    script = (OPENED, b"retry: 2500\n\n" + _event(1, "t1") + LIVE, broken)
    played = _follow(*script, OPENED, _event(1, "t1") + _event(2, "t2") + LIVE)
    assert [_changed(1), SnapshotEnd(), Interrupted(why), _changed(2), SnapshotEnd()] == played.items
    assert [None, "t1"] == played.resumed_from
    assert [Pause(2.5)] == played.of(Pause)


def test_an_outage_is_told_once_and_waited_out() -> None:
    """However long it takes, once the stream was live; each pause is longer on the average, up to a minute."""
    failures: list[Any] = [Lost("refused", sent=False), problem(503, "unavailable"), Response(502, {})] * 5
    played = _follow(OPENED, _event(1, "t1"), Lost("reset"), *failures, OPENED, LIVE)
    assert [_changed(1), Interrupted("reset"), SnapshotEnd()] == played.items
    pauses = [step.seconds for step in played.of(Pause)]
    assert ([2.0, 4.0, 8.0], 60.0, 16) == (pauses[:3], pauses[-1], len(pauses))


def test_an_api_that_was_never_reached_is_an_error() -> None:
    """After the retries of any other call: its address may be wrong."""
    with pytest.raises(NoAnswerError, match="refused"):
        _follow(*[Lost("refused", sent=False)] * 9)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(403, "insufficient-scope"), problems.InsufficientScopeError),
        (problem(404, "order-not-found"), problems.OrderNotFoundError),
        (problem(401, "invalid-token"), problems.InvalidTokenError),
        (ok({}), UnexpectedAnswerError),
        (Response(204, {}), UnexpectedAnswerError),
    ],
)
def test_what_another_connection_would_not_help_is_raised(answer: Response, error: type[Exception]) -> None:
    """At once, also in the life of a stream."""
    with pytest.raises(error):
        _follow(answer)
    with pytest.raises(error):
        _follow(OPENED, _event(1, "t1"), END, answer)


@pytest.mark.parametrize(
    "data", [b"event: order\ndata: {}\n\n", b"event: gap\ndata: []\n\n", b"data: " + b"x" * 2_000_000]
)
def test_an_event_of_an_unknown_form_is_never_dropped(data: bytes) -> None:
    """To pass over it would be a gap that nobody hears of."""
    with pytest.raises(UnexpectedAnswerError):
        _follow(OPENED, data)


def test_an_expired_token_is_renewed() -> None:
    """Before the next connection, when the API says that it has expired; and again when it refuses the new one."""
    bye = b'event: bye\ndata: {"why": "expired"}\n\n'
    script = (OPENED, _event(1, "t1"), bye, problem(401, "invalid-token"), OPENED, LIVE)
    played = _follow(*script, caller=Caller(renews=True))
    assert [Token(None), Token("token0"), Token("token1")] == played.of(Token)
    assert [_changed(1), Interrupted("the API said bye: expired"), SnapshotEnd()] == played.items


def test_tokens_that_are_all_refused_are_an_error() -> None:
    """Whoever issues them has to be asked: no loop for ever."""
    with pytest.raises(problems.InvalidTokenError):
        _follow(OPENED, _event(1, "t1"), END, *[problem(401, "invalid-token")] * 9, caller=Caller(renews=True))


def test_a_gap_is_said_when_nothing_had_an_id() -> None:
    """Then the API can't tell what came while the connection was away: since its last sign of life."""
    beat = b'event: heartbeat\ndata: {"at": "2026-03-01T12:00:15Z"}\n\n'
    played = _follow(OPENED, LIVE, END, OPENED, beat, END, OPENED)
    since = MARCH + timedelta(seconds=15)
    dateless = Response(200, {"content-type": "text/event-stream"})
    assert [Gap(None)] == [item for item in _follow(dateless, LIVE, END, dateless).items if isinstance(item, Gap)]
    interrupted = Interrupted("the stream ended")
    assert [SnapshotEnd(), interrupted, Gap(MARCH), Heartbeat(since), Gap(since)] == played.items


def test_a_version_comes_once_and_no_older_one_after_it() -> None:
    """Of each order by itself, over all connections; the one of which nothing was heard for longest is forgotten."""
    other = UUID(int=7)
    played = _follow(
        OPENED, _event(2, "t1") + _event(1) + _event(2) + _event(1, order_id=other), END, OPENED, _event(2) + _event(3)
    )
    told = [(item.order_id, item.version) for item in played.items if isinstance(item, OrderStatusChanged)]
    assert [(ORDER, 2), (other, 1), (ORDER, 3)] == told
    many = b"".join(_event(1, order_id=UUID(int=number)) for number in range(1, KNOWN_MAX + 1))
    played = _follow(OPENED, _event(1), many, _event(1))
    assert KNOWN_MAX + 2 == len(played.items)


def _clock(*times: float) -> Iterator[float]:
    yield from times
    while True:
        yield times[-1]


def test_a_connection_that_only_looks_alive_is_left() -> None:
    """Bytes and comments are no events: a heartbeat must come."""
    clock = _clock(0.0, 1.0, 1.0, SILENCE_S, SILENCE_S + 2)
    played = _follow(OPENED, LIVE, b": still here\n\n", b": and here\n\n", OPENED, caller=Caller(now=clock.__next__))
    assert [SnapshotEnd(), Interrupted("no event for 40 s"), Gap(MARCH)] == played.items
    assert [SILENCE_S] * 2 == [step.silence_s for step in played.of(Open)]
    assert 1 == len(played.of(Close))


def _order(*script: Any, after: int | None = None) -> Played:
    return Played(Client.order_events.call(Caller(), ORDER, after=after), list(script))


def test_the_stream_of_an_order_ends_with_it() -> None:
    """Every version, resumed by the version, until the last."""
    last = _event(4, "4", status=OrderStatus.COMPLETED)
    played = _order(OPENED, _event(1, "1") + _event(2, "2"), Lost("reset"), OPENED, _event(3, "3") + last)
    assert [1, 2, "reset", 3, 4] == [getattr(item, "version", getattr(item, "why", None)) for item in played.items]
    assert (True, [None, "2"]) == (played.ended, played.resumed_from)
    assert f"/orders/{ORDER}/events" == played.of(Open)[0].request.path


def test_versions_that_were_missed_come_without_their_order() -> None:
    """Each by itself, and the newest whole; whoever has the last one is told that nothing is to come."""
    missed = {"order_id": str(ORDER), "status": "CONFIRMED", "previous_status": "PENDING", "occurred_at": examples.TIME}
    past = b"".join(
        b"id: %d\nevent: version\ndata: %b\n\n" % (number, codec.encode(missed | {"version": number}))
        for number in (2, 3)
    )
    last = _event(4, "4", status=OrderStatus.COMPLETED)
    played = _order(OPENED, past, END, ok(PENDING), OPENED, past + last, after=1)
    versions = [item.version for item in played.items if isinstance(item, OrderVersion | OrderStatusChanged)]
    assert ([2, 3, 4], ["1", "3"], True) == (versions, played.resumed_from, played.ended)
    nothing = _order(Response(204, {}), after=4)
    assert (True, []) == (nothing.ended, nothing.items)


@pytest.mark.parametrize(
    ("status", "version", "ended"), [("COMPLETED", 4, True), ("COMPLETED", 5, False), ("PENDING", 4, False)]
)
def test_a_plain_end_is_the_orders_only_if_the_order_says_so(status: str, version: int, ended: bool) -> None:  # noqa: FBT001
    """A proxy may end a stream, too."""
    played = _order(OPENED, END, ok(PENDING | {"status": status, "version": version}), after=4)
    assert (ended, 1 if ended else 2) == (played.ended, len(played.of(Open)))
    assert not _order(OPENED, END, *[Lost("reset")] * 5, after=4).ended
    with pytest.raises(problems.OrderNotFoundError):
        _order(OPENED, END, problem(404, "order-not-found"), after=4)


def test_an_endpoint_that_is_given_up_is_handed_on() -> None:
    """As the webhook that other endpoints get; it is no place to resume from."""
    data = DisabledEndpoint(ORDER, "https://hooks.example", "gone")
    told = DisabledWebhook(EventType.WEBHOOK_DISABLED, MARCH, data)
    event = b"event: webhook.disabled\ndata: " + codec.encode(told) + b"\n\n"
    played = _follow(OPENED, LIVE + event, END, OPENED)
    assert [SnapshotEnd(), told] == played.items[:2]
    assert [None, None] == played.resumed_from
