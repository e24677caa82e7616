"""Makes one trace of a request and all messages that it causes: a span for each message that is handled or sent.

A message carries its trace in the header `traceparent`. The span of handling it continues that trace. A message sent in
the same batch for the same trace is a child of that span, and its header names the span of the sending. So the trace is
connected through all services. Span names and attributes follow OpenTelemetry's messaging conventions.

A message whose trace is not sampled costs nothing. Without an SDK there is one check a batch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer

from contracts.envelope import TRACEPARENT, Envelope, Outgoing

LINKS_MAX: Final = 128
"""The SDK's own limit of links on a span."""
_CONVERSATION: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_causes: ContextVar[Mapping[int, SpanContext]] = ContextVar("causes", default=MappingProxyType({}))
"""The spans of the running batch's messages by trace id: what the batch sends for a trace is a child of its span."""


def configure_tracing(*, service: str) -> None:
    """Export spans when an `OTEL_*` setting asks for it and the SDK is installed. Otherwise spans cost nothing."""
    if not _is_wanted(os.environ):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        structlog.get_logger(__name__).warning("OTEL_* is set but the OpenTelemetry SDK and exporter are not installed")
        return
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def tracing_is_on() -> bool:
    """Tell whether an SDK takes spans."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def read_traceparent(text: str | None) -> SpanContext | None:
    """Read a `traceparent`; None for a broken one, with which W3C Trace Context starts a new trace."""
    found = TRACEPARENT.fullmatch(text) if text else None
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def write_traceparent(context: SpanContext) -> str:
    """Write a `traceparent` that names a span."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


class Arrived(Protocol):
    """Where a record came from."""

    @property
    def topic(self) -> str: ...  # noqa: D102 - see the class
    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102


class Traced(Protocol):
    """A message that may have come by the wire."""

    @property
    def envelope(self) -> Envelope | None: ...  # noqa: D102 - see the class
    @property
    def record(self) -> Arrived | None: ...  # noqa: D102


@contextmanager
def handling(messages: Sequence[Traced]) -> Iterator[None]:
    """Run a batch in a span of its own, and give each message of a sampled trace a span that continues its trace.

    The batch's span links to the messages' traces (the first 128), and each message's span links to the batch's.
    """
    if not tracing_is_on():
        yield
        return
    tracer = trace.get_tracer("saga_kit")
    parents = [_sampled(m.envelope.traceparent) if m.envelope is not None else None for m in messages]
    traces = {parent.trace_id: parent for parent in parents if parent is not None}
    links = [Link(parent) for parent in islice(traces.values(), LINKS_MAX)]
    with tracer.start_as_current_span(
        "batch", links=links, attributes={"messaging.batch.message_count": len(messages)}
    ) as batch:
        spans = [
            _process_span(tracer, message.envelope, message.record, parent, batch.get_span_context())
            for message, parent in zip(messages, parents, strict=True)
            if parent is not None and message.envelope is not None and message.record is not None
        ]
        contexts = [span.get_span_context() for span in spans]
        token = _causes.set({context.trace_id: context for context in contexts})
        try:
            yield
        finally:
            _causes.reset(token)
            for span in spans:
                span.end()


class Sending(NamedTuple):
    """Messages that are being sent, with their final headers, and the spans of the traced ones."""

    messages: Sequence[Outgoing]
    spans: Sequence[Span] = ()

    def end(self, *, stored: bool) -> None:
        """End the spans; `stored` says whether the broker has all messages."""
        for span in self.spans:
            if not stored:
                span.set_status(StatusCode.ERROR, "not known to be stored")
            span.end()


def begin_sending(messages: Sequence[Outgoing], prefix: str) -> Sending:
    """Give each message of a sampled trace a span, and name it in the header; `prefix` is that of topics."""
    if not tracing_is_on():
        return Sending(messages)
    tracer, causes = trace.get_tracer("saga_kit"), _causes.get()
    carried, spans = [], []
    for message in messages:
        header = next((value for name, value in message.headers if name == "traceparent"), b"")
        parent = _sampled(header.decode())
        if parent is not None:
            span = _send_span(tracer, prefix + message.topic, message, causes.get(parent.trace_id, parent))
            spans.append(span)
            message = _naming(message, span.get_span_context())  # noqa: PLW2901 - the same message, on its way
        carried.append(message)
    return Sending(carried, spans)


def _is_wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(name.startswith("OTEL_") for name in environment)


def _sampled(traceparent: str | None) -> SpanContext | None:
    """Read the `traceparent` of a sampled trace; None for any other, at the cost of checking its last digit."""
    return read_traceparent(traceparent) if traceparent and traceparent[-1] in "13579bdf" else None


def _process_span(tracer: Tracer, envelope: Envelope, record: Arrived, parent: SpanContext, batch: SpanContext) -> Span:
    key = (record.key or b"").decode(errors="replace")
    return tracer.start_span(
        f"process {record.topic}",
        _below(parent),
        SpanKind.CONSUMER,
        links=[Link(batch)] if batch.trace_flags.sampled else [],
        attributes={
            **_attributes("process", record.topic, envelope.id, key),
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "cloudevents.event_type": envelope.type,
        },
    )


def _send_span(tracer: Tracer, topic: str, message: Outgoing, parent: SpanContext) -> Span:
    attributes = _attributes("send", topic, message.id, message.key)
    return tracer.start_span(f"send {topic}", _below(parent), SpanKind.PRODUCER, attributes)


def _below(parent: SpanContext) -> Context:
    return trace.set_span_in_context(NonRecordingSpan(parent))


def _attributes(operation: str, topic: str, message_id: str, key: str) -> dict[str, Any]:
    """Describe a message. A saga's messages have its id as a prefix of their own id, or as their key."""
    attributes = {
        "messaging.system": "kafka",
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.destination.name": topic,
        "messaging.message.id": message_id,
        "messaging.kafka.message.key": key,
    }
    if conversation := _CONVERSATION.match(message_id) or _CONVERSATION.fullmatch(key):
        attributes["messaging.message.conversation_id"] = conversation.group()
    return attributes


def _naming(message: Outgoing, context: SpanContext) -> Outgoing:
    named = ("traceparent", write_traceparent(context).encode())
    headers = [named if header[0] == "traceparent" else header for header in message.headers]
    return msgspec.structs.replace(message, headers=headers)
