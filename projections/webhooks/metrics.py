"""What the webhook process counts for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class WebhookMetrics:
    """The process's own metrics; endpoints are its users', so no label names one."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self.stored = Counter("webhook_deliveries_stored", "Deliveries made of events.", registry=registry)
        self.attempts = Counter(
            "webhook_attempts", "Attempts by what they came to.", ["kind", "verdict"], registry=registry
        )
        self.ended = Counter(
            "webhook_deliveries_ended", "Deliveries that this process delivered or gave up.", ["state"],
            registry=registry,
        )  # fmt: skip
        self.attempt_seconds = Histogram(
            "webhook_attempt_duration_seconds", "From the first byte sent to the verdict.", ["kind"], registry=registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
        )  # fmt: skip
        self.own_failures = Counter(
            "webhook_own_failures", "Attempts that failed on this side: no relay, no key.", ["kind"], registry=registry
        )
        self.endpoints = Gauge(
            "webhook_endpoints", "Endpoints by kind and state, counted once a minute.", ["kind", "state"],
            registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "webhook_attempts_in_flight", "Attempts under way, by lane: quick, new, slow or silent.", ["lane"],
            registry=registry,
        )  # fmt: skip
        self.disabled = Counter(
            "webhook_endpoints_disabled", "Endpoints given up: gone (410), failing (for days).", ["why"],
            registry=registry,
        )  # fmt: skip
        self.overdue_seconds = Gauge(
            "webhook_oldest_due_seconds", "How long the oldest delivery of an endpoint that works has been due.",
            registry=registry,
        )  # fmt: skip
        self.due_endpoints = Gauge(
            "webhook_due_endpoints", "Endpoints that something is due for, by whether they fail.", ["failing"],
            registry=registry,
        )  # fmt: skip
        self.expired = Counter("webhook_deliveries_expired", "Deliveries that waited for too long.", registry=registry)
        self.deleted = Counter("webhook_deliveries_deleted", "Ended deliveries deleted by age.", registry=registry)
