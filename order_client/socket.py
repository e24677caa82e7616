"""Several streams over one WebSocket, each a channel: what each hands on is what its stream of its own would.

It needs the extra `order-saga-client[ws]`. Nothing here does I/O: bytes go out and come in as steps, as everywhere.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from order_client.core import Close, Emit, Items, Lost, Open, Pause, Read, Token, Write, error_of
from order_client.errors import OrderSagaError, ProblemError, UnexpectedAnswerError
from order_client.problems import BY_CODE, InsufficientScopeError, InvalidTokenError
from order_client.requests import get
from order_client.sse import EVENT_BYTES_MAX, ServerEvent
from order_client.streams import (
    SILENCE_S,
    Gap,
    Interrupted,
    OrderStreamItem,
    SnapshotEnd,
    Stream,
    StreamItem,
    hear,
    pause_s,
    raise_if_vain,
    retry_in_bounds,
)
from order_client.surface import Calls, iteration

if TYPE_CHECKING:
    from wsproto.connection import Connection

PROTOCOL: Final = "order-saga.v1"
CHANNELS_MAX: Final = 100
"""Channels of one connection."""
ORDERS: Final = "orders"
_ORDER, _PRICES = "order:", "prices:"
_SWITCHED: Final = 101
_NO_TOKEN, _NO_SCOPE = 4401, 4403
_NOT_UNDERSTOOD: Final = frozenset({1002, 1007, 1009})
"""Close codes of whoever does not understand the other side; frames that can't be read here have one, too."""
_STATUS: Final[Mapping[str, int]] = {
    "insufficient-scope": 403,
    "internal-error": 500,
    "order-not-found": 404,
    "other-user": 403,
    "overloaded": 503,
    "rate-limited": 429,
    "too-many-streams": 429,
    "unavailable": 503,
}
"""The status that a problem of a channel has where it answers a request; others are mistakes of the client."""
_MISTAKE: Final = 422


class ChannelItem(msgspec.Struct, frozen=True):
    """What a channel tells. Without a channel it is about all of them: the connection was interrupted."""

    channel: str | None
    item: StreamItem | OrderStreamItem


class _Envelope(msgspec.Struct):
    type: str
    channel: str | None = None
    id: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Refused(msgspec.Struct):
    code: str = ""
    detail: str = ""


class _Bye(msgspec.Struct):
    why: str = ""
    retry_ms: int | None = None


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_Ended: TypeAlias = OrderSagaError | str | None
"""Why a connection ended: an error, or in words, or None after a plain end."""


class SocketCalls(Calls):
    """Follow several things over one connection."""

    @iteration
    def subscribe(
        self,
        channels: Iterable[str],
        *,
        user_id: str | None = None,
        all_orders: bool = False,
        since: Mapping[str, str] | None = None,
    ) -> Items[ChannelItem]:
        """Follow channels over one WebSocket: `orders`, `order:<order_id>`, `prices:<asset_id>`, at most 100.

        It is for whoever wants several at a time; a single one is as well followed by `events` or `order_events`.
        It resumes by itself as those do, and ends when each of its channels has: only those of single orders do.
        `user_id` and `all_orders` are about the channel `orders`. `since`: the last id of a channel, to go on from.

        Raises `ImportError` without the extra `ws`, and a problem for a channel that the caller may not have.
        """
        _wsproto()
        return _follow(self, _Socket(_listed(channels), _about(user_id, all_orders=all_orders), since or {}))


def _listed(channels: Iterable[str]) -> list[str]:
    if isinstance(channels, str):
        raise TypeError("channels is a text; give a list of them, such as ['orders']")
    listed = list(dict.fromkeys(channels))
    if not 0 < len(listed) <= CHANNELS_MAX:
        raise ValueError(f"one connection has 1 to {CHANNELS_MAX} channels, and not {len(listed)}")
    if unknown := [one for one in listed if one != ORDERS and not one.startswith((_ORDER, _PRICES))]:
        raise ValueError(f"{unknown[0]!r} is no channel; these are: orders, order:<order_id>, prices:<asset_id>")
    return listed


def _about(user_id: str | None, *, all_orders: bool) -> dict[str, Any]:
    return {**({} if user_id is None else {"user_id": user_id}), **({"all": True} if all_orders else {})}


class _Socket(Stream):
    """Where an iteration stands, over all its connections. Each channel stands where its stream would."""

    def __init__(self, channels: Iterable[str], about: Mapping[str, Any], since: Mapping[str, str]) -> None:
        super().__init__(get("/ws"), None)
        self.about = about
        self.channels = {name: Stream(self.request, since.get(name), one=name.startswith(_ORDER)) for name in channels}

    def handshake(self) -> Open:
        """Make the request that becomes a WebSocket (RFC 6455, 4.1)."""
        headers = {
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec-websocket-key": base64.b64encode(secrets.token_bytes(16)).decode(),
            "sec-websocket-version": "13",
            "sec-websocket-protocol": PROTOCOL,
        }
        return Open(get("/ws", None, **headers).with_token(self.token), SILENCE_S)

    def wishes(self) -> Iterable[str]:
        """Write what asks for each channel that has not ended."""
        for name, channel in self.channels.items():
            wish: dict[str, Any] = {"op": "subscribe", "channel": name}
            if name == ORDERS:
                wish |= self.about
            if channel.last_id is not None and not name.startswith(_PRICES):
                wish["since"] = channel.last_id
            yield json.dumps(wish)


def _follow(client: Calls, socket: _Socket) -> Items[ChannelItem]:
    """Connect again and again, until every channel has ended."""
    while True:
        lost = yield from _connect(client, socket)
        if not socket.channels:
            return
        if isinstance(lost, OrderSagaError):
            raise_if_vain(client.session, socket, lost)
        if socket.connected and not socket.interrupted:
            socket.interrupted = True
            yield Emit(ChannelItem(None, Interrupted(str(lost or "the connection ended"))))
        socket.failures += 1
        yield Pause(pause_s(client.session, socket, lost))


def _connect(client: Calls, socket: _Socket) -> Generator[Any, Any, _Ended]:
    """Follow over one connection; tell why it ended."""
    socket.token = yield Token(socket.refused)
    found = yield socket.handshake()
    if isinstance(found, Lost):
        return error_of(found)
    if found.status != _SWITCHED:
        yield Close()
        return error_of(found) if found.status >= 400 else UnexpectedAnswerError("the API opened no WebSocket")  # noqa: PLR2004
    for name, channel in socket.channels.items():
        if name == ORDERS and channel.connected and channel.last_id is None:
            yield Emit(ChannelItem(name, Gap(channel.live_at)))  # no event had an id yet
    wire = _Wire()
    if isinstance(lost := (yield Write(b"".join(wire.says(one) for one in socket.wishes()))), Lost):
        return lost.why
    lost = yield from _listen(client, socket, wire)
    yield Close()
    return lost


def _listen(client: Calls, socket: _Socket, wire: _Wire) -> Generator[Any, Any, _Ended]:
    """Hand on what comes until the connection ends, says nothing for too long, or every channel has ended."""
    heard_at = client.session.now()
    while part := (yield Read()):
        heard = yield from _messages(wire, part)
        if not isinstance(heard, list):
            return heard
        for message in heard:
            ended = yield from _take(socket, message)
            if ended is not None or not socket.channels:
                return ended
            heard_at = client.session.now()
        if wire.closed is not None:
            return _reason(*wire.closed)
        if client.session.now() - heard_at > SILENCE_S:
            return f"no event for {SILENCE_S:g} s"
    return None


def _messages(wire: _Wire, part: bytes | Lost) -> Generator[Any, Any, list[bytes] | _Ended]:
    """Read the messages that are complete, and answer pings; tell why the connection is of no more use."""
    if isinstance(part, Lost):
        return part.why
    try:
        messages = list(wire.hears(part))
    except ValueError as error:
        return UnexpectedAnswerError(f"no WebSocket of the API: {error}")
    if (owed := wire.owed()) and isinstance(lost := (yield Write(owed)), Lost):
        return lost.why
    return messages


def _take(socket: _Socket, text: bytes) -> Generator[Any, Any, _Ended]:
    """Hand on what a message says; tell why the connection ends, or is of no use. Unknown messages are ignored."""
    try:
        message = _ENVELOPE.decode(text)
        if message.type == "bye":
            return _part(socket, msgspec.json.decode(message.data, type=_Bye))
        if message.type == "error":
            return _refusal(message.channel, msgspec.json.decode(message.data, type=_Refused))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return UnexpectedAnswerError(f"a message is of an unknown form: {error}")
    channel = None if message.channel is None else socket.channels.get(message.channel)
    if channel is None:
        return None
    if message.type != "ended":
        for step in hear(channel, ServerEvent(message.type, bytes(message.data), message.id)):
            socket.connected, socket.failures = True, 0
            socket.interrupted = socket.interrupted and not isinstance(step.item, SnapshotEnd)
            yield Emit(ChannelItem(message.channel, step.item))
    if message.type == "ended" or channel.ended:
        del socket.channels[str(message.channel)]
    return None


def _part(socket: _Socket, bye: _Bye) -> str:
    if bye.why == "expired":
        socket.refused = socket.token
    if bye.retry_ms is not None:
        socket.retry_s = retry_in_bounds(bye.retry_ms)
    return f"the API said bye: {bye.why}"


def _refusal(channel: str | None, refused: _Refused) -> OrderSagaError:
    """Make the error of a channel that is refused."""
    problem = {"code": refused.code, "title": channel or "the API", "detail": refused.detail or refused.code}
    return BY_CODE.get(refused.code, ProblemError)(_STATUS.get(refused.code, _MISTAKE), problem)


def _reason(code: int, reason: str) -> OrderSagaError | str:
    """Read a close code of the API, see `docs/streams.md`."""
    problem = {"title": "the API closed the WebSocket", "detail": reason}
    if code == _NO_TOKEN:
        return InvalidTokenError(401, {"code": InvalidTokenError.CODE, **problem})
    if code == _NO_SCOPE:
        return InsufficientScopeError(403, {"code": InsufficientScopeError.CODE, **problem})
    words = f"the API closed the WebSocket: {code} {reason}".rstrip()
    return UnexpectedAnswerError(words) if code in _NOT_UNDERSTOOD else words


class _Wire:
    """The frames of one connection, in both directions."""

    def __init__(self) -> None:
        self._connection = _wsproto()
        self._text: list[str] = []
        self._size = 0
        self._owed = b""
        self.closed: tuple[int, str] | None = None
        """The code and the reason with which the API has closed it."""

    def says(self, text: str) -> bytes:
        """Write a message."""
        from wsproto.events import TextMessage  # noqa: PLC0415 - of the extra

        return bytes(self._connection.send(TextMessage(data=text)))

    def owed(self) -> bytes:
        """Return the answers to what came, such as pings."""
        owed, self._owed = self._owed, b""
        return owed

    def hears(self, part: bytes) -> Iterable[bytes]:
        """Yield the messages that are complete with this part. Raises `ValueError` for what is none of ours."""
        from wsproto.events import CloseConnection, Ping, TextMessage  # noqa: PLC0415 - of the extra
        from wsproto.utilities import ProtocolError  # noqa: PLC0415 - of the extra

        try:
            self._connection.receive_data(part)
            for event in self._connection.events():
                match event:
                    case TextMessage():
                        yield from self._collected(event.data, finished=event.message_finished)
                    case Ping():
                        self._owed += self._connection.send(event.response())
                    case CloseConnection():
                        self.closed = event.code, event.reason or ""
                    case _:
                        pass
        except ProtocolError as error:
            raise ValueError(str(error)) from None

    def _collected(self, text: str, *, finished: bool) -> Iterable[bytes]:
        self._text.append(text)
        self._size += len(text)
        if self._size > EVENT_BYTES_MAX:
            raise ValueError(f"a message of more than {EVENT_BYTES_MAX} bytes")
        if finished:
            yield "".join(self._text).encode()
            self._text, self._size = [], 0


def _wsproto() -> Connection:
    try:
        from wsproto.connection import Connection, ConnectionType  # noqa: PLC0415 - of the extra
    except ImportError:
        raise ImportError("WebSockets need an extra: pip install 'order-saga-client[ws]'") from None
    return Connection(ConnectionType.CLIENT)
