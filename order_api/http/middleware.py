"""The outermost middleware: it measures, logs and traces each request, and adds the headers that protect its answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import UNSET
from opentelemetry.trace import Span
from prometheus_client import CollectorRegistry, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from order_api.http.access_log import AccessLine, AccessLog
from order_api.http.errors import NO_ROUTE
from order_api.http.request_span import describe_answer, request_span
from order_api.http.routing import route_of
from saga_kit.runtime.tracing import write_traceparent

SECONDS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
STREAMED: Final = "streamed"
"""A request's state has this flag when its answer is a stream: how long that lasts says nothing of how fast we are."""
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


class RequestTelemetry:
    """Counts a request in the metrics, writes its line in the access log, and describes its span.

    A stream has its line and its span when it ends, and metrics of its own.
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
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        method = scope["method"] if scope["method"] in METHODS else "other"
        state = scope.setdefault("state", {})
        answer = _Response(send, state)
        with request_span(scope, method) as span:
            if (context := span.get_span_context()).is_valid:
                state["trace_id"], state["traceparent"] = f"{context.trace_id:032x}", write_traceparent(context)
            try:
                await self._app(scope, receive, answer.send)
            finally:
                self._record(scope, method, answer, span, time.perf_counter() - started)

    def _record(self, scope: Scope, method: str, answer: _Response, span: Span, seconds: float) -> None:
        """Record in metrics, log and trace how a request ended."""
        route, status, state = route_of(scope), answer.status or CLIENT_GONE, scope["state"]
        if STREAMED not in state:
            self._duration.labels(route or NO_ROUTE, method, str(status)).observe(seconds)
        describe_answer(span, method, route, answer.status, state.get("order_id"))
        if self._access_log is None or (level := self._access_log.level_of(route or NO_ROUTE)) is None:
            return
        context = span.get_span_context()
        self._access_log.write(
            AccessLine(
                timestamp=datetime.now(UTC),
                level=level,
                method=method,
                route=route or NO_ROUTE,
                status=status,
                duration_ms=round(seconds * 1000, 3),
                bytes_sent=answer.bytes_sent,
                user_id=state.get("user_id", UNSET),
                order_id=state.get("order_id", UNSET),
                trace_id=state.get("trace_id", UNSET),
                span_id=UNSET if context.is_remote or not context.is_valid else f"{context.span_id:016x}",
            )
        )


class _Response:
    """An answer on its way out: it gets the headers that every answer has, and its size is counted."""

    __slots__ = ("_send", "_state", "bytes_sent", "status")

    def __init__(self, send: Send, state: Mapping[str, Any]) -> None:
        self._send = send
        self._state = state
        self.status = 0
        self.bytes_sent = 0

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._complete(message.get("headers", ()))}
        else:
            self.bytes_sent += len(message.get("body", b""))
        await self._send(message)

    def _complete(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Add the headers in `request.state.headers` and those of every answer, and never one that is there."""
        complete = dict(HEADERS)
        for name, value in self._state.get("headers", {}).items():
            complete[name.lower().encode()] = value.encode("latin-1")
        own = list(headers)
        for name, _ in own:
            complete.pop(name, None)
        return [*own, *complete.items()]
