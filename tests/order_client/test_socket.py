"""Channels over one WebSocket: each tells what its stream would, and all resume after whatever breaks it."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Ping, Pong, TextMessage

from contracts import codec, examples
from contracts.decimals import Price
from contracts.orders import OrderStatusChanged
from contracts.vocabulary import OrderStatus
from order_client import (
    ChannelItem,
    Client,
    Gap,
    Heartbeat,
    Interrupted,
    MarketPrice,
    OrderVersion,
    PriceChanged,
    SnapshotEnd,
    problems,
)
from order_client.core import Close, Lost, Open, Pause, Response, Token
from order_client.errors import NoAnswerError, UnexpectedAnswerError
from order_client.socket import CHANNELS_MAX
from order_client.streams import SILENCE_S
from tests.order_client.support import Caller, Played, problem

SWITCHED = Response(101, {"upgrade": "websocket"})
ORDER = UUID(examples.ORDER_ID)
ONE = f"order:{ORDER}"
MARCH = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PRICE = MarketPrice("BTC", 7, Price.parse("50000"), MARCH, "OPEN", None)
END = b""


def _frames(*events: Any) -> bytes:
    wire = Connection(ConnectionType.SERVER)
    return b"".join(wire.send(event) for event in events)


def _says(kind: str, data: Any = None, *, channel: str | None = "orders", last_id: str | None = None) -> bytes:
    named = {"channel": channel, "type": kind, "id": last_id}
    message = {name: one for name, one in named.items() if one is not None} | (
        {"data": data} if data is not None else {}
    )
    return _frames(TextMessage(data=codec.encode(message).decode()))


def _changed(version: int, status: OrderStatus = OrderStatus.CONFIRMED) -> OrderStatusChanged:
    example = examples.example("OrderStatusChanged")
    assert isinstance(example, OrderStatusChanged)
    return OrderStatusChanged(ORDER, version, status, None, None, example.occurred_at, example.order)


def _order(version: int, last_id: str | None, channel: str = "orders", **more: Any) -> bytes:
    return _says("order", msgspec.Raw(codec.encode(_changed(version, **more))), channel=channel, last_id=last_id)


def _live(channel: str = "orders", last_id: str | None = None) -> bytes:
    return _says("snapshot-end", {}, channel=channel, last_id=last_id)


def _follow(*script: Any, channels: Any = ("orders",), caller: Caller | None = None, **more: Any) -> Played:
    return Played(Client.subscribe.call(caller or Caller(), channels, **more), list(script))


def _said(played: Played) -> list[Any]:
    """Read what the client has written."""
    wire, found = Connection(ConnectionType.SERVER), []
    for part in played.written:
        wire.receive_data(part)
        found += list(wire.events())
    return [json.loads(one.data) if isinstance(one, TextMessage) else one for one in found]


def test_each_channel_tells_what_its_stream_would() -> None:
    """Also when its messages come in pieces; what nobody knows is passed over. Pings are answered."""
    came = (
        _says("authenticated", {"user_id": "a", "expires_at": 1.0}, channel=None) + _says("subscribed")
        + _order(1, "t1") + _live(last_id="t1") + _says("price", PRICE, channel="prices:BTC")
        + _says("account", {"assets": ["USD"]}) + _says("later", {"what": 1}) + _says("order", {}, channel="nobody's")
        + _says("heartbeat", {"at": "2026-03-01T12:00:00Z", "complete_until": None})
    )  # fmt: skip
    pieces = [came[first : first + 37] for first in range(0, len(came), 37)]
    played = _follow(
        SWITCHED, *pieces, _frames(Ping(b"are you there")), channels=["orders", "prices:BTC"], user_id="bob"
    )
    told = [(one.channel, one.item) for one in played.items]
    assert [
        ("orders", _changed(1)), ("orders", SnapshotEnd()), ("prices:BTC", PriceChanged(PRICE)),
        ("orders", told[3][1]), ("orders", Heartbeat(MARCH)),
    ] == told  # fmt: skip
    (opened,) = played.of(Open)
    assert ("/ws", "websocket", "order-saga.v1", "Bearer token0") == (
        opened.request.path,
        *(opened.request.headers[name] for name in ("upgrade", "sec-websocket-protocol", "authorization")),
    )
    *wishes, pong = _said(played)
    assert [
        {"op": "subscribe", "channel": "orders", "user_id": "bob"}, {"op": "subscribe", "channel": "prices:BTC"},
    ] == wishes  # fmt: skip
    assert isinstance(pong, Pong)
    assert b"are you there" == pong.payload


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (Lost("reset"), "reset"),
        (END, "the connection ended"),
        (_says("bye", {"why": "shutdown", "retry_ms": 2500}, channel=None) + _frames(CloseConnection(1001)),
         "the API said bye: shutdown"),
        (_frames(CloseConnection(1013, "full")), "the API closed the WebSocket: 1013 full"),
        (_order(5, "t5")[:40], "reset"),
    ],
)  # fmt: skip
def test_every_channel_resumes_from_its_last_event(broken: Any, why: str) -> None:
    """However the connection broke, also within a frame. Prices have no place to go on from."""
    channels = ["orders", ONE, "prices:BTC"]
    begun = _order(1, "t1") + _live() + _order(1, "1", ONE) + _says("price", PRICE, channel="prices:BTC")
    again = [Lost("reset")] if why == "reset" and broken != Lost("reset") else []
    played = _follow(
        SWITCHED, begun, broken, *again, SWITCHED, _order(1, "t1") + _order(2, "t2") + _live(), channels=channels
    )
    assert ChannelItem(None, Interrupted(why)) in played.items
    assert [1, 2] == [
        one.item.version for one in played.items if one.channel == "orders" and hasattr(one.item, "version")
    ]
    assert [None, None, None, "t1", "1", None] == [wish.get("since") for wish in _said_over_two(played)]
    assert [Pause(2.5 if "shutdown" in why else 2.0)] == played.of(Pause)


def _said_over_two(played: Played) -> list[Any]:
    wishes = []
    for part in played.written:
        wire = Connection(ConnectionType.SERVER)
        wire.receive_data(part)
        wishes += [json.loads(one.data) for one in wire.events() if isinstance(one, TextMessage)]
    return wishes


def test_it_ends_when_each_of_its_orders_has() -> None:
    """Whether the API says so or the last version does; a channel that has ended is not asked for again."""
    other = "order:00000000-0000-0000-0000-000000000007"
    last = _order(4, "4", ONE, status=OrderStatus.COMPLETED)
    missed = {"order_id": str(ORDER), "version": 3, "status": "CONFIRMED", "previous_status": None}
    past = _says("version", missed | {"occurred_at": "2026-03-01T12:00:00Z"}, channel=ONE, last_id="3")
    played = _follow(
        SWITCHED,
        past + last,
        Lost("reset"),
        SWITCHED,
        _says("ended", channel=other),
        channels=[ONE, other],
        since={ONE: "2"},
    )
    assert (True, [OrderVersion, OrderStatusChanged, Interrupted]) == (
        played.ended, [type(one.item) for one in played.items],
    )  # fmt: skip
    assert [(ONE, "2"), (other, None), (other, None)] == [
        (wish["channel"], wish.get("since")) for wish in _said_over_two(played)
    ]
    assert 1 == len(played.of(Close)) - 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(403, "insufficient-scope"), problems.InsufficientScopeError),
        (problem(401, "invalid-token"), problems.InvalidTokenError),
        (problem(426, "upgrade-required"), problems.UpgradeRequiredError),
        (Response(200, {}), UnexpectedAnswerError),
    ],
)
def test_a_handshake_that_is_refused_for_good_is_raised(answer: Response, error: type[Exception]) -> None:
    """At once, also in the life of an iteration."""
    with pytest.raises(error):
        _follow(answer)
    with pytest.raises(error):
        _follow(SWITCHED, _order(1, "t1"), END, answer)


def test_a_channel_that_the_caller_may_not_have_is_raised() -> None:
    """With its problem, by its name; one that another connection may have is asked for again."""
    refused = {"code": "order-not-found", "detail": "no such order"}
    with pytest.raises(problems.OrderNotFoundError, match=f"{ONE}: no such order") as raised:
        _follow(SWITCHED, _says("error", refused, channel=ONE), channels=[ONE])
    assert 404 == raised.value.status
    later = _says("error", {"code": "unavailable", "detail": "later"})
    played = _follow(SWITCHED, _order(1, "t1"), later, SWITCHED, _live())
    assert [_changed(1), Interrupted("orders: later"), SnapshotEnd()] == [one.item for one in played.items]


def test_an_expired_token_is_renewed_and_one_that_is_refused_too() -> None:
    """Told by a goodbye, by a close code, or by the handshake."""
    bye = _says("bye", {"why": "expired", "retry_ms": 1000}, channel=None) + _frames(CloseConnection(4401, "expired"))
    script = (SWITCHED, _order(1, "t1"), bye, SWITCHED, _frames(CloseConnection(4401)), problem(401, "invalid-token"))
    played = _follow(*script, SWITCHED, _live(), caller=Caller(renews=True))
    tokens = [opened.request.headers["authorization"] for opened in played.of(Open)]
    assert [f"Bearer token{number}" for number in range(4)] == tokens
    assert [Token(None), *(Token(f"token{number}") for number in range(3))] == played.of(Token)
    assert SnapshotEnd() == played.items[-1].item
    with pytest.raises(problems.InvalidTokenError):
        _follow(SWITCHED, _frames(CloseConnection(4401)))
    with pytest.raises(problems.InsufficientScopeError):
        _follow(SWITCHED, _frames(CloseConnection(4403)))


def test_a_connection_that_only_looks_alive_is_left() -> None:
    """Pings are no events: a heartbeat must come, though not before what is handed on has been looked at."""
    times = iter([0.0, 1.0, 1.0, SILENCE_S, SILENCE_S + 2])
    ping = _frames(Ping(b""))
    played = _follow(
        SWITCHED, _order(1, "t1"), ping, ping, SWITCHED, caller=Caller(now=lambda: next(times, SILENCE_S + 2))
    )
    assert [_changed(1), Interrupted("no event for 40 s")] == [one.item for one in played.items]
    assert [SILENCE_S] * 2 == [step.silence_s for step in played.of(Open)]


def test_a_gap_is_said_when_nothing_had_an_id() -> None:
    """Of the channel of orders alone: the others show all that counts."""
    beat = _says("heartbeat", {"at": "2026-03-01T12:00:00Z", "complete_until": None})
    played = _follow(SWITCHED, beat, END, SWITCHED, channels=["orders", "prices:BTC"])
    assert [ChannelItem("orders", Gap(MARCH))] == [one for one in played.items if isinstance(one.item, Gap)]


def test_an_api_that_was_never_reached_is_an_error() -> None:
    """After as many tries as any call; one that was reached is waited for."""
    with pytest.raises(NoAnswerError):
        _follow(*[Lost("name not known", sent=False)] * 9)
    busy = problem(503, "overloaded", retry_after="3")
    played = _follow(
        SWITCHED, _order(1, "t1"), Lost("reset"), busy, problem(429, "too-many-streams"), SWITCHED, _live()
    )
    assert [2.0, 3 + 4.0, 8.0] == [step.seconds for step in played.of(Pause)]


@pytest.mark.parametrize(
    "came",
    [
        b"\xff" * 20, _frames(TextMessage(data="[" * 10_000)), _frames(TextMessage(data="{}")),
        _says("order", {}), _frames(TextMessage(data="x" * 2_000_000)),
    ],
)  # fmt: skip
def test_what_is_no_message_of_the_api_is_never_passed_over(came: bytes) -> None:
    """It might be a gap that nobody hears of."""
    with pytest.raises(UnexpectedAnswerError):
        _follow(SWITCHED, came)


@pytest.mark.parametrize(
    ("channels", "error"),
    [("orders", TypeError), ([], ValueError), (["trades"], ValueError),
     ([f"prices:A{number}" for number in range(CHANNELS_MAX + 1)], ValueError)],
)  # fmt: skip
def test_what_are_no_channels_is_refused_at_once(channels: Any, error: type[Exception]) -> None:
    """Before anything is sent."""
    with pytest.raises(error):
        _follow(channels=channels)


def test_without_the_extra_it_says_which_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent, as well."""
    monkeypatch.setitem(sys.modules, "wsproto.connection", None)
    with pytest.raises(ImportError, match=r"order-saga-client\[ws\]"):
        _follow()
