"""The page of metrics has each that a service counts; those of the API are compared where it runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from operations.audit.watch import AuditMetrics
from order_saga.triggers.metrics import TriggerMetrics
from order_saga.worker.metrics import SagaMetrics
from projections.webhooks.metrics import WebhookMetrics
from saga_kit.runtime.telemetry import KitMetrics
from tests.support.metrics import names, told


def _registered(metrics: SagaMetrics | TriggerMetrics) -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics.register(registry)
    return registry


def _made(make: Callable[[CollectorRegistry], object]) -> CollectorRegistry:
    registry = CollectorRegistry()
    make(registry)
    return registry


@pytest.mark.parametrize(
    "registry",
    [
        _registered(SagaMetrics()),
        _registered(TriggerMetrics()),
        _made(KitMetrics),
        _made(WebhookMetrics),
        AuditMetrics().registry,
    ],
    ids=["orchestrator", "triggers", "every consumer", "webhooks", "audit"],
)
def test_every_metric_is_on_the_page(registry: CollectorRegistry) -> None:
    """By the name that Prometheus knows."""
    found = names(registry.collect())
    assert found
    assert set() == found - told()
