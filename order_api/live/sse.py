"""Server-sent events: how an event is written, and the answer that goes on until its stream ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.vocabulary import Instant
from order_api.http.addresses import HEAD
from order_api.http.limits import TIME_LIMIT, InFlight
from order_api.http.middleware import STREAMED
from order_api.http.tokens import Caller
from order_api.live.mailbox import OrderEvent, PriceEvent
from order_api.live.marks import time_of
from order_api.live.streams import Stream, Streams, Why, retry_ms
from saga_kit.runtime.connections import CONNECTION, SELF, Connection

MEDIA_TYPE: Final = "text/event-stream"

Frames = Callable[[Stream], AsyncGenerator[bytes]]
"""Makes what a stream sends, part by part, until the stream ends."""


class Heartbeat(msgspec.Struct, frozen=True):
    """The stream is alive. Every version that was committed before `complete_until` has been sent on it."""

    at: Instant
    complete_until: Instant | None


class Gap(msgspec.Struct, frozen=True):
    """Orders that have changed since then may be missing. `list` is where a client finds them, as far as there is."""

    since: Instant | None
    list: str | None


class AccountHint(msgspec.Struct, frozen=True):
    """The user's balances of these assets may have changed: they are worth a look."""

    assets: tuple[str, ...]


class Bye(msgspec.Struct, frozen=True):
    """The stream ends; the client may come back with the id that it had last."""

    why: Why


def frame(event: str, data: bytes, event_id: str | None = None) -> bytes:
    """Write an event. Data of several lines is written as such, so that it comes out as it went in."""
    head = f"event: {event}\n" if event_id is None else f"event: {event}\nid: {event_id}\n"
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.splitlines())
    return b"%bdata: %b\n\n" % (head.encode(), data)


def write_id(mark: int) -> str:
    """Write the id of an event: opaque to clients."""
    return f"t{mark}"


def order_frame(event: OrderEvent) -> bytes:
    """Write a version of an order, and which balances may have moved with it. Without a mark it has no id."""
    return _order_frame(event, event.mark)


def order_frame_since(event: OrderEvent, mark: int) -> bytes:
    """Write a version of an order for a stream that has all that was committed before `mark`."""
    return event.written(order_frame) if event.mark >= mark else _order_frame(event, mark)


def _order_frame(event: OrderEvent, mark: int) -> bytes:
    written = frame("order", event.data, write_id(mark) if mark else None)
    return written + frame("account", _json(AccountHint(event.assets))) if event.assets else written


def version_frame(event: OrderEvent) -> bytes:
    """Write a version of an order in the stream of that order: its id is the version."""
    return frame("order", event.data, str(event.version))


def price_frame(event: PriceEvent) -> bytes:
    """Write a price."""
    return frame("price", event.data)


def heartbeat_frame(mark: int) -> bytes:
    """Write a heartbeat: an event, since a comment is invisible to a script in a browser."""
    return frame("heartbeat", _json(Heartbeat(datetime.now(UTC), time_of(mark) if mark else None)))


def gap_frame(since: int, where: str | None) -> bytes:
    """Write that what has changed since a mark may be missing; `where` lists it."""
    return frame("gap", _json(Gap(time_of(since) if since else None, where)))


def retry_frame() -> bytes:
    """Tell the client when to come back after an end that nobody announced."""
    return b"retry: %d\n\n" % retry_ms()


def bye_frame(why: Why) -> bytes:
    """Say that the stream ends, and when to come back."""
    return b"retry: %d\n%b" % (retry_ms(), frame("bye", _json(Bye(why))))


class EventStream(Response):
    """An answer that sends frames until its stream ends, and then says goodbye.

    The first frame is made before the answer begins, so that what fails until then is answered as a problem.
    """

    media_type = MEDIA_TYPE

    def __init__(self, streams: Streams, in_flight: InFlight, caller: Caller, frames: Frames) -> None:
        super().__init__(
            headers={"cache-control": "no-store", "x-accel-buffering": "no"}  # the latter: for nginx
        )
        del self.headers["content-length"]
        self._streams = streams
        self._in_flight = in_flight
        self._caller = caller
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the stream ends, or the client is gone."""
        connection: Connection = scope["extensions"][CONNECTION][SELF]
        if HEAD in scope["state"]:  # it has no body, so it would wait for nothing
            await Response(headers=dict(self.headers))(scope, receive, send)
            return
        with (
            self._streams.open(self._caller, "sse", lambda: connection.cut("answer not read")) as stream,
            connection.telling_loss(lambda: stream.end("gone")),
            # It is in flight no more, nor while it reads what there is: such reads are few at a time by a bound of
            # their own, so a herd that comes back takes nobody's place.
            self._in_flight.waiting(),
        ):
            async with aclosing(self._frames(stream)) as frames:
                first = await anext(frames)
                scope["state"][STREAMED] = True
                scope["state"][TIME_LIMIT].reschedule(None)
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await _send_on(send, first)
                stream.write_part = connection.write_part
                async for part in frames:
                    await _send_on(send, part)
                if stream.why in _SAID:
                    await _send_on(send, bye_frame(stream.why))
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_on(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


_SAID: Final = frozenset({"shutdown", "expired", "age", "unavailable"})
"""Why a stream ends that its client did not end, and that has not come to its own end."""
_json: Final = msgspec.json.Encoder().encode
