"""Spans kept in memory, for tests that look at traces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@contextmanager
def recorded_spans() -> Iterator[InMemorySpanExporter]:
    """Configure an SDK that keeps spans; afterwards there is none again, as for all other tests."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", provider)  # its own setter works once in a process
        yield exporter


def trace_id(span: ReadableSpan) -> int:
    """Return the trace that a span belongs to."""
    assert span.context is not None
    return int(span.context.trace_id)


def span_id(span: ReadableSpan) -> int:
    """Return a span's own id."""
    assert span.context is not None
    return int(span.context.span_id)


def parent_id(span: ReadableSpan) -> int | None:
    """Return the id of the span above; None for the first one."""
    return None if span.parent is None else span.parent.span_id


def attribute(span: ReadableSpan, name: str) -> object:
    """Return an attribute, None when it is not there."""
    return (span.attributes or {}).get(name)
