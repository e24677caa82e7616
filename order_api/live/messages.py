"""The messages of a WebSocket, in both directions: their rules, how they are read and written. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from contracts.vocabulary import NAME_PATTERN, NAME_RULE, UserId
from order_api.http.problems import BrokenRule, Code, Problem, invalid
from order_api.live.framing import MARK, VERSION, AccountHint, Framing, as_json, write_id
from order_api.live.mailbox import OrderEvent

PROTOCOL: Final = "order-saga.v1"
PATH: Final = "/ws"
ORDERS: Final = "orders"
CHANNELS_MAX: Final = 100
"""Subscriptions of one connection."""
CHANNEL_RULE: Final = "must be orders, order:<order_id> or prices:<asset_id>"

_CHANNEL: Final = re.compile(r"orders|order:(?P<order>[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})|prices:(?P<asset>.+)")
_ASSET: Final = re.compile(NAME_PATTERN)


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="auth"):
    """Shows a token: the first one, or the next before that expires."""

    token: Annotated[str, Meta(min_length=1, max_length=16_384)]


class Subscribe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="subscribe"):
    """Asks for a channel, from the id `since` on that the client had last of it.

    Of the channel `orders`: those of the user `user_id`, or of `all` users.
    """

    channel: Annotated[str, Meta(max_length=256)]
    since: Annotated[str, Meta(max_length=32)] | None = None
    user_id: UserId | None = None
    all: bool = False


class Unsubscribe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="unsubscribe"):
    """Ends a channel."""

    channel: Annotated[str, Meta(max_length=256)]


class Ping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="ping"):
    """Asks whether the other side is there, where a script can't send the protocol's own pings."""


Said = Auth | Subscribe | Unsubscribe | Ping
"""What a client may say."""
Type = Literal["authenticated", "subscribed", "unsubscribed", "ended", "pong", "error", "bye"]
"""What is answered, besides the events of a channel."""


class Authenticated(msgspec.Struct, frozen=True):
    """The token is good until then, in seconds since 1970."""

    user_id: str
    expires_at: float


class Refused(msgspec.Struct, frozen=True):
    """A message that was refused, by the problem's code and in words."""

    code: str
    detail: str


class Farewell(msgspec.Struct, frozen=True):
    """The connection ends; come back after `retry_ms`."""

    why: str
    retry_ms: int


class Channel(msgspec.Struct, frozen=True):
    """A channel as it was asked for: an order's id, an asset's, or neither for all of a user's orders."""

    name: str
    order_id: str | None = None
    asset_id: str | None = None


def read(text: str) -> Said:
    """Read a client's message; raise the problem of one that breaks a rule."""
    try:
        said: Said = _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        code = Code.INVALID_REQUEST if isinstance(error, msgspec.ValidationError) else Code.MALFORMED_JSON
        raise Problem(code, str(error)[:200]) from None
    return said


def read_channel(name: str) -> Channel:
    """Read a channel's name; raise the problem of one that is none."""
    found = _CHANNEL.fullmatch(name)
    if found is None:
        raise invalid(BrokenRule("channel", CHANNEL_RULE, name))
    if found["asset"] is not None and _ASSET.fullmatch(found["asset"]) is None:
        raise invalid(BrokenRule("channel", f"an asset must be {NAME_RULE}", name))
    return Channel(name, found["order"], found["asset"])


def read_mark(since: str | None) -> int | None:
    """Read the id of an event of the channel `orders`."""
    return _since(since, MARK, "must be the id of an event of this channel, as it came")


def read_version(since: str | None) -> int | None:
    """Read the id of an event of the channel of one order: a version."""
    return _since(since, VERSION, "must be the version of the order that came last")


def say(kind: Type, data: msgspec.Struct | None = None, channel: str | None = None) -> bytes:
    """Write an answer."""
    body = {"channel": channel} if channel is not None else {}
    return as_json({**body, "type": kind, **({} if data is None else {"data": data})})


class Messages(Framing):
    """The framing of messages: `{"channel", "type", "id", "data"}`, the data as server-sent events have it."""

    def __init__(self, channel: str) -> None:
        self._head = b'{"channel":%b,"type":"' % as_json(channel)

    def event(self, name: str, data: bytes, event_id: str | None = None) -> bytes:
        """Write an event; an id that it has is a text of ours."""
        middle = b'","data":' if event_id is None else b'","id":"%b","data":' % event_id.encode()
        return b"".join((self._head, name.encode(), middle, data, b"}"))

    def order(self, event: OrderEvent, mark: int) -> Sequence[bytes]:
        """Write a version of an order."""
        written = event.written(_order) if event.mark >= mark else self.event("order", event.data, write_id(mark))
        return (written, event.written(_account)) if event.assets else (written,)

    def version(self, event: OrderEvent) -> bytes:
        """Write a version in the channel of its order."""
        return event.written(_version)


def _order(event: OrderEvent) -> bytes:
    return ALL_ORDERS.event("order", event.data, write_id(event.mark) if event.mark else None)


def _account(event: OrderEvent) -> bytes:
    return ALL_ORDERS.event("account", as_json(AccountHint(event.assets)))


def _version(event: OrderEvent) -> bytes:
    return Messages(f"order:{event.key.decode()}").event("order", event.data, str(event.version))


def _since(since: str | None, pattern: re.Pattern[str], rule: str) -> int | None:
    if since is None:
        return None
    if pattern.fullmatch(since) is None:
        raise invalid(BrokenRule("since", rule, since))
    return int(since.removeprefix("t"))


ALL_ORDERS: Final = Messages(ORDERS)
_decode: Final = msgspec.json.Decoder(Said).decode
