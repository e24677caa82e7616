"""Server-sent events: how an event is written, and the answer that goes on until its stream ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from order_api.http.addresses import HEAD
from order_api.http.limits import TIME_LIMIT, InFlight
from order_api.http.middleware import STREAMED
from order_api.http.tokens import Caller
from order_api.live.framing import SAID, AccountHint, Bye, Framing, as_json, write_id
from order_api.live.mailbox import OrderEvent
from order_api.live.streams import Stream, Streams, Why, retry_ms
from saga_kit.runtime.connections import CONNECTION, SELF, Connection

MEDIA_TYPE: Final = "text/event-stream"

Frames = Callable[[Stream], AsyncGenerator[Sequence[bytes]]]
"""Makes what a stream sends, part by part, until the stream ends."""


def frame(event: str, data: bytes, event_id: str | None = None) -> bytes:
    """Write an event. Data of several lines is written as such, so that it comes out as it went in."""
    head = f"event: {event}\n" if event_id is None else f"event: {event}\nid: {event_id}\n"
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.splitlines())
    return b"%bdata: %b\n\n" % (head.encode(), data)


def order_frame(event: OrderEvent) -> bytes:
    """Write a version of an order, and which balances may have moved with it. Without a mark it has no id."""
    return _order_frame(event, event.mark)


def order_frame_since(event: OrderEvent, mark: int) -> bytes:
    """Write a version of an order for a stream that has all that was committed before `mark`."""
    return event.written(order_frame) if event.mark >= mark else _order_frame(event, mark)


def _order_frame(event: OrderEvent, mark: int) -> bytes:
    written = frame("order", event.data, write_id(mark) if mark else None)
    return written + frame("account", as_json(AccountHint(event.assets))) if event.assets else written


def version_frame(event: OrderEvent) -> bytes:
    """Write a version of an order in the stream of that order: its id is the version."""
    return frame("order", event.data, str(event.version))


def retry_frame() -> bytes:
    """Tell the client when to come back after an end that nobody announced."""
    return b"retry: %d\n\n" % retry_ms()


def bye_frame(why: Why) -> bytes:
    """Say that the stream ends, and when to come back."""
    return b"retry: %d\n%b" % (retry_ms(), frame("bye", as_json(Bye(why))))


class ServerSentEvents(Framing):
    """The framing of server-sent events."""

    def event(self, name: str, data: bytes, event_id: str | None = None) -> bytes:
        """Write an event."""
        return frame(name, data, event_id)

    def order(self, event: OrderEvent, mark: int) -> Sequence[bytes]:
        """Write a version of an order."""
        return (order_frame_since(event, mark),)

    def version(self, event: OrderEvent) -> bytes:
        """Write a version in the stream of its order."""
        return event.written(version_frame)

    def begin(self) -> Sequence[bytes]:
        """Tell the client when to come back."""
        return (retry_frame(),)


FRAMES: Final = ServerSentEvents()


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
                scope["state"][STREAMED] = stream
                scope["state"][TIME_LIMIT].reschedule(None)
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                connection.stream()
                await _send_on(send, first)
                stream.write_part = connection.write_part
                async for part in frames:
                    await _send_on(send, part)
                if stream.why in SAID:
                    await _send_on(send, [bye_frame(stream.why)])
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_on(send: Send, part: Sequence[bytes]) -> None:
    await send({"type": "http.response.body", "body": b"".join(part), "more_body": True})
