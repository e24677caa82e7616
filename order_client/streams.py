"""Streams of what happens to orders. They resume by themselves after whatever breaks them, and say what may be missing.

A connection that lives says nothing about what was missed. So a stream begins with the open orders as they are, then
goes on live; it asks for what came since the last event whenever it connects again, hands on the `Gap` that the API
states, and gives each version of an order at most once, and no older one after a newer one.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from contracts import codec
from contracts.orders import Order, OrderStatusChanged
from contracts.vocabulary import Instant, OrderStatus
from contracts.webhooks import DisabledWebhook, EventType
from order_client.answers import MarketPrice
from order_client.core import (
    Close,
    Emit,
    Items,
    Lost,
    Open,
    Pause,
    Read,
    Request,
    Session,
    Steps,
    Token,
    error_of,
    fetch,
)
from order_client.errors import NoAnswerError, OrderSagaError, ProblemError, UnexpectedAnswerError
from order_client.problems import InvalidTokenError
from order_client.requests import get, segment
from order_client.sse import EventReader, ServerEvent
from order_client.surface import Calls, iteration

T = TypeVar("T")

EVENT_STREAM: Final = "text/event-stream"
SILENCE_S: Final = 40.0
"""A heartbeat comes every 15 s: a connection without any event for so long is dead, however alive it looks."""
RETRY_S: Final = 2.0
"""Where the stream has not said how long to wait before the next connection."""
RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 60.0
KNOWN_MAX: Final = 10_000
"""Orders whose last version is remembered, so that none comes twice."""
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})
_OK: Final = 200
_NO_CONTENT: Final = 204
_ERROR: Final = 400


class SnapshotEnd(msgspec.Struct, frozen=True):
    """All that was open, or has changed since the stream broke, was told; from here on it is live."""


class Gap(msgspec.Struct, frozen=True):
    """Something may be missing: read your orders again. `list`: the address of those that it may be about.

    `since`: from when on it may be missing; None: that is not known.
    """

    since: Instant | None = None
    list: str | None = None


class AccountChanged(msgspec.Struct, frozen=True):
    """The balances in these assets have changed, or will: read the accounts."""

    assets: list[str]


class PriceChanged(msgspec.Struct, frozen=True):
    """The newest price of an asset. It never fills an order by itself."""

    price: MarketPrice


class OrderVersion(msgspec.Struct, frozen=True):
    """A version of an order that was missed, without the order as it was then. Its newest version comes whole."""

    order_id: UUID
    version: int
    status: OrderStatus
    previous_status: OrderStatus | None
    occurred_at: Instant


class Heartbeat(msgspec.Struct, frozen=True):
    """The stream lives, and all that was committed before `complete_until` was told; None: that is not known yet.

    One comes every 15 seconds. When `complete_until` stands still, events are held up, though the connection is well.
    """

    at: Instant
    complete_until: Instant | None = None


class Interrupted(msgspec.Struct, frozen=True):
    """The connection broke, and nothing is known of what happens now. A `SnapshotEnd` tells when it is live again."""

    why: str


StreamItem: TypeAlias = (
    OrderStatusChanged | SnapshotEnd | Gap | AccountChanged | PriceChanged | DisabledWebhook | Heartbeat | Interrupted
)
OrderStreamItem: TypeAlias = OrderStatusChanged | OrderVersion | SnapshotEnd | Heartbeat | Interrupted


class _Bye(msgspec.Struct, frozen=True):
    why: str = ""


_VERSIONS: Final[Mapping[str, msgspec.json.Decoder[Any]]] = {
    "order": codec.decoder(OrderStatusChanged),
    "version": msgspec.json.Decoder(OrderVersion),
}
_ITEMS: Final[Mapping[str, msgspec.json.Decoder[Any]]] = {
    "account": msgspec.json.Decoder(AccountChanged),
    "gap": msgspec.json.Decoder(Gap),
    "heartbeat": msgspec.json.Decoder(Heartbeat),
    "snapshot-end": msgspec.json.Decoder(SnapshotEnd),
    EventType.WEBHOOK_DISABLED: codec.decoder(DisabledWebhook),
}
_PRICE: Final = codec.decoder(MarketPrice)
_BYE: Final = msgspec.json.Decoder(_Bye)


class StreamCalls(Calls):
    """Follow orders. Close an iteration that you leave: `contextlib.closing`, or `aclosing` with `AsyncClient`."""

    @iteration
    def events(
        self,
        *,
        user_id: str | None = None,
        all_orders: bool = False,
        prices: Sequence[str] = (),
        last_event_id: str | None = None,
    ) -> Items[StreamItem]:
        """Follow a user's orders, for ever: first those that are open, then every change, with no more than is needed.

        A reader that is slow gets fewer versions. It raises only what another connection would not help against.
        """
        if isinstance(prices, str):
            raise TypeError("prices is a text; give a list of assets, such as ['BTC']")
        query = {"user_id": user_id, "all": all_orders or None, "prices": ",".join(prices) or None}
        return _follow(self.session, Stream(get("/events", query), last_event_id))

    @iteration
    def order_events(self, order_id: UUID | str, *, after: int | None = None) -> Items[OrderStreamItem]:
        """Follow one order to its end: from its newest version on, or with every one after the version `after`."""
        return _follow(self.session, Stream(get(f"/orders/{segment(order_id)}/events"), _version(after), one=True))

    @iteration
    def order_events_by_client_id(
        self, client_order_id: str, *, user_id: str | None = None, after: int | None = None
    ) -> Items[OrderStreamItem]:
        """Follow one order to its end, by the name that its user gave it."""
        path = f"/orders/by-client-id/{segment(client_order_id)}/events"
        return _follow(self.session, Stream(get(path, {"user_id": user_id}), _version(after), one=True))


def _version(after: int | None) -> str | None:
    return None if after is None else str(after)


class _Known:
    """The newest version of each order that was handed on. Those that were heard of longest ago are forgotten."""

    def __init__(self) -> None:
        self._versions: dict[UUID, int] = {}

    def is_news(self, event: OrderStatusChanged | OrderVersion) -> bool:
        """Note a version; False when it or a newer one was noted before."""
        known = self._versions.pop(event.order_id, None)
        self._versions[event.order_id] = event.version if known is None else max(known, event.version)
        if len(self._versions) > KNOWN_MAX:
            del self._versions[next(iter(self._versions))]
        return known is None or event.version > known


class Stream:
    """Where an iteration stands, over all its connections."""

    def __init__(self, request: Request, last_id: str | None, *, one: bool = False) -> None:
        self.request = request
        self.last_id = last_id
        self.one = one
        """Of one order: it ends with the order, and its ids are versions."""
        self.known = _Known()
        self.token: str | None = None
        self.refused: str | None = None
        """A token that is good no more."""
        self.connected = False
        """Whether an event ever came."""
        self.live_at: datetime | None = None
        """The API's time when it was heard of last."""
        self.interrupted = False
        self.failures = 0
        """Connections in a row that brought no event."""
        self.retry_s = RETRY_S
        self.ended = False

    def opening(self) -> Request:
        """Make the request of the next connection."""
        headers = {"accept": EVENT_STREAM, "accept-encoding": "identity", "cache-control": "no-store"}
        if self.last_id is not None:
            headers["last-event-id"] = self.last_id
        return replace(self.request, headers=headers).with_token(self.token)


def _follow(session: Session, stream: Stream) -> Items[Any]:
    """Connect again and again, until an order has ended."""
    while True:
        lost = yield from _connect(session, stream)
        if lost is None and stream.one and not stream.ended:
            stream.ended = yield from _is_told(session, stream)
        if stream.ended:
            return
        if isinstance(lost, OrderSagaError):
            raise_if_vain(session, stream, lost)
        if stream.connected and not stream.interrupted:
            stream.interrupted = True
            yield Emit(Interrupted(str(lost or "the stream ended")))
        stream.failures += 1
        yield Pause(pause_s(session, stream, lost))


def _connect(session: Session, stream: Stream) -> Generator[Any, Any, OrderSagaError | str | None]:
    """Follow over one connection; tell why it ended, or None after a plain end."""
    stream.token = yield Token(stream.refused)
    found = yield Open(stream.opening(), SILENCE_S)
    if isinstance(found, Lost) or found.status >= _ERROR:
        return error_of(found)
    if found.status == _NO_CONTENT and stream.one:
        yield Close()
        stream.ended = True  # the client has the last version
        return None
    if found.status != _OK or not found.headers.get("content-type", "").startswith(EVENT_STREAM):
        yield Close()
        return UnexpectedAnswerError(f"an answer of status {found.status} is no stream of events")
    if stream.connected and stream.last_id is None and not stream.one:
        yield Emit(Gap(stream.live_at))  # no event had an id yet, so the API can't tell what came since
    stream.live_at = stream.live_at or _date(found.headers)
    return (yield from _listen(session, stream))


def _listen(session: Session, stream: Stream) -> Generator[Any, Any, OrderSagaError | str | None]:
    """Hand on what comes until the connection ends, says nothing for too long, or the order has ended."""
    reader, heard_at = EventReader(), session.now()
    while part := (yield Read()):
        if isinstance(part, Lost):
            return part.why
        try:
            events = list(reader.feed(part))
        except ValueError as error:
            yield Close()
            return UnexpectedAnswerError(f"no stream of events: {error}")
        if reader.retry_ms is not None:
            stream.retry_s = retry_in_bounds(reader.retry_ms)
        for event in events:
            bye = yield from hear(stream, event)
            heard_at = session.now()  # here, since whoever iterates may take its time
            if bye is not None or stream.ended:
                yield Close()
                return bye
        if session.now() - heard_at > SILENCE_S:
            yield Close()
            return f"no event for {SILENCE_S:g} s"
    return None


def hear(stream: Stream, event: ServerEvent) -> Generator[Any, Any, str | None]:
    """Hand on what an event says; tell why the API says bye, if it does. Events of a newer version are ignored."""
    stream.connected, stream.failures = True, 0
    if event.name in _VERSIONS:
        told: OrderStatusChanged | OrderVersion = _decoded(_VERSIONS[event.name], event)
        if stream.known.is_news(told):
            yield Emit(told)
        stream.ended = stream.one and told.status.terminal
    elif event.name in _ITEMS:
        item = _decoded(_ITEMS[event.name], event)
        if isinstance(item, Heartbeat):
            stream.live_at = item.at
        stream.interrupted = stream.interrupted and not isinstance(item, SnapshotEnd)
        yield Emit(item)
    elif event.name == "price":
        yield Emit(PriceChanged(_decoded(_PRICE, event)))
    elif event.name == "bye":
        why = _decoded(_BYE, event).why
        if why == "expired":
            stream.refused = stream.token
        return f"the API said bye: {why}"
    stream.last_id = event.last_id or stream.last_id
    return None


def _decoded(decoder: msgspec.json.Decoder[T], event: ServerEvent) -> T:
    try:
        return decoder.decode(event.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnexpectedAnswerError(f"an event `{event.name}` is of an unknown form: {error}") from None


def _is_told(session: Session, stream: Stream) -> Steps[bool]:
    """After a plain end of the stream of one order: tell whether the order has ended and all of it was told.

    A proxy may end a stream, too, so its end alone proves nothing.
    """
    asked = get(stream.request.path.removesuffix("/events"), dict(stream.request.query))
    try:
        order = yield from fetch(session, asked, Order)
    except (NoAnswerError, ProblemError) as error:
        if _is_transient(error):
            return False
        raise
    return order.status.terminal and order.version <= int(stream.last_id or 0)


def raise_if_vain(session: Session, stream: Stream, error: OrderSagaError) -> None:
    """Raise an error that another connection would not help against."""
    if isinstance(error, InvalidTokenError) and session.renews and stream.failures < session.retry.times:
        stream.refused = stream.token
        return
    hopeless = not stream.connected and session.retry.pause_s(stream.failures + 1, error) is None
    if hopeless or not _is_transient(error):
        raise error


def _is_transient(error: OrderSagaError) -> bool:
    return isinstance(error, NoAnswerError) or (isinstance(error, ProblemError) and error.status in _TRANSIENT)


def retry_in_bounds(retry_ms: int) -> float:
    """Return how long to wait before the next connection, in seconds: as the API says, and within reason."""
    return min(max(retry_ms / 1000, RETRY_MIN_S), RETRY_MAX_S)


def pause_s(session: Session, stream: Stream, lost: OrderSagaError | str | None) -> float:
    """Tell how long to wait before the next connection: as the stream said, and longer with each failure in a row."""
    if stream.failures == 1 and not isinstance(lost, OrderSagaError):
        return stream.retry_s  # the API drew it, so that not all come back at once
    asked_s = (lost.retry_after_s if isinstance(lost, ProblemError) else None) or 0.0
    return min(asked_s, RETRY_MAX_S) + session.retry.backoff_s(stream.failures, stream.retry_s, RETRY_MAX_S)


def _date(headers: Mapping[str, str]) -> datetime | None:
    try:
        return parsedate_to_datetime(headers.get("date", "")).astimezone(UTC)
    except (ValueError, TypeError):
        return None
