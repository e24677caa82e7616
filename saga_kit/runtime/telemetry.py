"""Configures logs, and defines the kit's metrics. Nothing here runs per message."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector

from saga_kit.runtime.errors import without_values
from saga_kit.runtime.settings import KitSettings

THROTTLE_S: Final = 30.0


class KitMetrics:
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
        self.messages_dropped = Counter(
            "messages_dropped", "Messages that nobody may act on: before_start (older than the ledger).",
            ["why"], registry=self.registry,
        )  # fmt: skip
        self.messages_put_off = Counter(
            "messages_put_off", "Messages that a locked row held up: asked_again, or kept to be read again (later).",
            ["how"], registry=self.registry,
        )  # fmt: skip
        self.consumer_lag_messages = Gauge(
            "consumer_lag_messages", "Records of the assigned partitions not yet handled.", registry=self.registry
        )
        self.consumer_blocked_partitions = Gauge(
            "consumer_blocked_partitions", "Assigned partitions that can't be read: a missing codec, a checksum.",
            registry=self.registry,
        )  # fmt: skip
        self.consumer_held_partitions = Gauge(
            "consumer_held_partitions", "Assigned partitions that an open transaction of somebody's producer holds up.",
            registry=self.registry,
        )  # fmt: skip
        self.topic_changes = Counter(
            "topic_changes", "Changes of a topic's shape while it is read: missing, back, partitions, begun_anew.",
            ["change"], registry=self.registry,
        )  # fmt: skip
        self.topic_deviations = Gauge(
            "topic_deviations", "Settings of topics that are not as they must be, at the start.", registry=self.registry
        )
        self.outbox_oldest_unsent_seconds = Gauge(
            "outbox_oldest_unsent_seconds", "Age of the oldest unsent message that is due.", registry=self.registry
        )
        self.dead_letters = Gauge("dead_letters", "Dead letters not replayed or discarded.", registry=self.registry)


class Prefixed(Collector):
    """Shows the metrics of another registry with a prefix: those of a second consumer in the same process.

    What only the process as a whole has is left out.
    """

    _OF_PROCESS = ("process_", "python_", "outbox_", "dead_letters", "topic_deviations")

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self._prefix = prefix
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics: see `prometheus_client.registry.Collector`."""
        for metric in self._registry.collect():
            if metric.name.startswith(self._OF_PROCESS):
                continue
            shown = Metric(f"{self._prefix}_{metric.name}", metric.documentation, metric.type, metric.unit)
            shown.samples = [sample._replace(name=f"{self._prefix}_{sample.name}") for sample in metric.samples]
            yield shown


def configure_logging(settings: KitSettings, *, service: str) -> None:
    """Send structlog's and the libraries' lines to stderr, in one format, and keep repeated complaints short."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _without_values,
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


def _without_values(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if "exception" in event:
        event["exception"] = without_values(str(event["exception"]))
    return event


class _Throttle(logging.Filter):
    """Lets each line of aiokafka through once in 30 s; it logs several times a second that a broker is away."""

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
