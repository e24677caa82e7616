"""The outermost middleware: it measures, logs and traces each request, and adds the headers that protect its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from msgspec import UNSET
from opentelemetry.trace import Span
from prometheus_client import CollectorRegistry, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from order_api.http.access_log import GONE, AccessLine, AccessLog, Event
from order_api.http.errors import NO_ROUTE
from order_api.http.request_span import describe_answer, describe_stream, request_span
from order_api.http.routing import route_of
from saga_kit.runtime.tracing import write_traceparent

SECONDS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
STREAMED: Final = "streamed"
"""A request that is a stream has it in its state, as `Streamed`: how long it lasts says nothing of how fast we are."""
SWITCHED: Final = 101
"""The status of a connection that has become a WebSocket."""
CLIENT_GONE: Final = 499
"""Counted for a client that hung up before its answer, as nginx does."""
HEADERS: Final = {
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}
"""On every answer that does not set them itself: it is for its caller, and no browser is to make anything else of it.

Strict-Transport-Security is not among them: it must not be sent without TLS (RFC 6797, 7.2), and the proxy
that ends TLS can promise it for the host's name, which this process does not know.
"""


class Streamed(Protocol):
    """What a stream tells of itself."""

    @property
    def events(self) -> int:
        """How many orders and prices it has sent."""

    @property
    def why(self) -> str | None:
        """Why it has ended; None: its client has."""


class RequestTelemetry:
    """Counts a request in the metrics, writes its line in the access log, and describes its span.

    A stream has a line when it begins and one when it ends, its span lasts as long, and it has metrics of its own.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, access_log: AccessLog | None) -> None:
        self._app = app
        self._access_log = access_log
        self._duration = Histogram(
            "http_server_request_duration_seconds",
            "From the request's head to the end of its answer.",
            ["route", "method", "status"],
            buckets=SECONDS,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        asked = scope.get("method", "GET")  # a WebSocket's scope has none
        method = asked if asked in METHODS else "other"
        state = scope.setdefault("state", {})
        with request_span(scope, method) as span:

            def began() -> None:
                span.add_event("stream began")
                self._write("stream began", scope, method, answer, span, time.perf_counter() - started)

            answer = _Response(send, state, began)
            if (context := span.get_span_context()).is_valid:
                state["trace_id"], state["traceparent"] = f"{context.trace_id:032x}", write_traceparent(context)
            try:
                await self._app(scope, receive, answer.send)
            finally:
                self._record(scope, method, answer, span, time.perf_counter() - started)

    def _record(self, scope: Scope, method: str, answer: _Response, span: Span, seconds: float) -> None:
        """Record in metrics, log and trace how a request ended."""
        route, status, state = route_of(scope), answer.status or CLIENT_GONE, scope["state"]
        streamed: Streamed | None = state.get(STREAMED)
        if streamed is None and status != SWITCHED:
            self._duration.labels(route or NO_ROUTE, method, str(status)).observe(seconds)
        describe_answer(span, method, route, answer.status, state.get("order_id"))
        if streamed is None:
            self._write("request", scope, method, answer, span, seconds)
        else:
            describe_stream(span, streamed.why or GONE, streamed.events)
            self._write("stream ended", scope, method, answer, span, seconds, streamed)

    def _write(
        self,
        event: Event,
        scope: Scope,
        method: str,
        answer: _Response,
        span: Span,
        seconds: float,
        ended: Streamed | None = None,
    ) -> None:
        """Write a line of the access log, unless there is none, or none of this route."""
        route, state = route_of(scope), scope["state"]
        if self._access_log is None or (level := self._access_log.level_of(route or NO_ROUTE)) is None:
            return
        context = span.get_span_context()
        self._access_log.write(
            AccessLine(
                timestamp=datetime.now(UTC),
                level=level,
                event=event,
                method=method,
                route=route or NO_ROUTE,
                status=answer.status or CLIENT_GONE,
                duration_ms=round(seconds * 1000, 3),
                bytes_sent=answer.bytes_sent,
                user_id=state.get("user_id", UNSET),
                order_id=state.get("order_id", UNSET),
                why=UNSET if ended is None else ended.why or GONE,
                events=UNSET if ended is None else ended.events,
                close_code=answer.close_code or UNSET,
                trace_id=state.get("trace_id", UNSET),
                span_id=UNSET if context.is_remote or not context.is_valid else f"{context.span_id:016x}",
            )
        )


class _Response:
    """An answer on its way out: it gets the headers that every answer has, and its size is counted.

    `began` is called when it has become a stream.
    """

    __slots__ = ("_began", "_send", "_state", "bytes_sent", "close_code", "status")

    def __init__(self, send: Send, state: Mapping[str, Any], began: Callable[[], None]) -> None:
        self._send = send
        self._state = state
        self._began: Callable[[], None] | None = began
        self.status = 0
        self.bytes_sent = 0
        self.close_code = 0
        """Of a WebSocket that we have closed."""

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
                message = {**message, "headers": self._complete(message.get("headers", ()))}
                self._look_whether_it_streams()
            case "websocket.accept":
                self.status = SWITCHED
            case "websocket.send":
                text: str = message["text"]
                self.bytes_sent += len(text) if text.isascii() else len(text.encode())
                self._look_whether_it_streams()
            case "websocket.close":
                self.close_code = message["code"]
            case _:
                self.bytes_sent += len(message.get("body", b""))
        await self._send(message)

    def _look_whether_it_streams(self) -> None:
        if self._began is not None and STREAMED in self._state:
            tell, self._began = self._began, None
            tell()

    def _complete(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Add the headers in `request.state.headers` and those of every answer, and never one that is there."""
        complete = dict(HEADERS)
        for name, value in self._state.get("headers", {}).items():
            complete[name.lower().encode()] = value.encode("latin-1")
        own = list(headers)
        for name, _ in own:
            complete.pop(name, None)
        return [*own, *complete.items()]
