"""What a process tells about itself: log lines, metrics, traces. Nothing here is per message."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

import structlog
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from contracts.envelope import Envelope
from saga_kit.settings import KitSettings

THROTTLE_S: Final = 30.0
LINKS_MAX: Final = 128
"""The SDK's own limit of links on a span."""


class Metrics:
    """The kit's metrics in one registry, with those of the process; a service registers its own beside them."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.batch_size = Histogram(
            "batch_size", "Records in a batch.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500), registry=self.registry
        )
        self.batch_duration_seconds = Histogram(
            "batch_duration_seconds", "From the first statement to the last ack of a batch.", registry=self.registry
        )
        self.batch_retries = Counter(
            "batch_retries", "Tries that ended in an infrastructure error.", registry=self.registry
        )
        self.messages_set_aside = Counter(
            "messages_set_aside", "Messages that can't be handled: parked, dead_letter, dropped (timers).",
            ["outcome"], registry=self.registry,
        )  # fmt: skip
        self.consumer_lag_messages = Gauge(
            "consumer_lag_messages", "Records of the assigned partitions not yet handled.", registry=self.registry
        )
        self.outbox_oldest_unsent_seconds = Gauge(
            "outbox_oldest_unsent_seconds", "Age of the oldest unsent message that is due.", registry=self.registry
        )
        self.dead_letters = Gauge("dead_letters", "Dead letters not replayed or discarded.", registry=self.registry)


def configure_logging(settings: KitSettings, *, service: str) -> None:
    """Send structlog's and the libraries' lines to stderr, in one format, and keep repeated complaints short."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_Throttle())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for noisy in ("aiokafka", "faststream", "uvicorn"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))
    structlog.contextvars.bind_contextvars(service=service)


def configure_tracing(*, service: str) -> None:
    """Export spans when an `OTEL_*` setting asks for it and the SDK is installed; else spans cost nothing."""
    if not any(name.startswith("OTEL_") for name in os.environ):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        structlog.get_logger(__name__).warning("OTEL_* is set but the OpenTelemetry SDK and exporter are not installed")
        return
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


class Traced(Protocol):
    """A message that may have come in an envelope."""

    @property
    def envelope(self) -> Envelope | None: ...  # noqa: D102 - see the class


@contextmanager
def batch_span(messages: Sequence[Traced]) -> Iterator[None]:
    """Run a batch in a span that links to the trace of each of its messages (the first 128)."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # no SDK: no links to build
        yield
        return
    parents = {m.envelope.traceparent for m in messages if m.envelope is not None and m.envelope.traceparent}
    links = [trace.Link(_span_context(parent)) for parent in sorted(parents)[:LINKS_MAX]]
    with trace.get_tracer("saga_kit").start_as_current_span(
        "batch", links=links, attributes={"messaging.batch.message_count": len(messages)}
    ):
        yield


def _span_context(traceparent: str) -> trace.SpanContext:
    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    return trace.get_current_span(context).get_span_context()


class _Throttle(logging.Filter):
    """Lets a library's line through once in a while: aiokafka says several times a second that a broker is away."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, object], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        now = time.monotonic()
        if now - self._said.get(key := (record.name, record.msg), -THROTTLE_S) < THROTTLE_S:
            return False
        self._said[key] = now
        return True
