"""The span of one HTTP request: the first of an order's trace, or the next one of the caller's.

It follows OpenTelemetry's conventions for HTTP servers, without the path and the query: they may hold a client's name
for its order, or another user's name. FastAPI's own spans would have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode
from starlette.types import Scope

from saga_kit.runtime.tracing import read_traceparent, tracing_is_on


@contextmanager
def request_span(scope: Scope, method: str) -> Iterator[Span]:
    """Make a span current while a request is served. Without an SDK, it is the caller's own and records nothing."""
    parent = _callers(scope)
    span: Span = INVALID_SPAN if parent is None else NonRecordingSpan(parent)
    if not tracing_is_on():
        yield span
        return
    started = trace.get_tracer("order_api").start_span(
        method,
        trace.set_span_in_context(span),
        SpanKind.SERVER,
        {"http.request.method": method, "url.scheme": scope["scheme"]},
    )
    with trace.use_span(started, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        yield started


def describe_answer(span: Span, method: str, route: str | None, status: int, order_id: object) -> None:
    """Record in the span how a request ended. No route: there is none. Status 0: the client hung up."""
    if not span.is_recording():
        return
    if route:
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    if order_id:
        span.set_attribute("order.id", str(order_id))
    if status:
        span.set_attribute("http.response.status_code", status)
    if status >= 500:  # noqa: PLR2004 - an HTTP status
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)


def describe_stream(span: Span, why: str, events: int) -> None:
    """Record in the span how a stream ended, and how many orders and prices it has sent."""
    span.set_attributes({"stream.end": why, "stream.events": events})


def _callers(scope: Scope) -> SpanContext | None:
    """Return the caller's span; None when two headers name one (W3C Trace Context)."""
    values = [value for name, value in scope["headers"] if name == b"traceparent"]
    return read_traceparent(values[0].decode("latin-1")) if len(values) == 1 else None
