"""What the orchestrator counts of the orders that end."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from contracts.codec import decoder, encode
from contracts.orders import Order, OrderStatusChanged
from order_saga.core.fold import Folded
from order_saga.worker.metrics import SagaMetrics
from tests.support.shown_order import ORDER

SECONDS = 3.0


def _ended(**fields: Any) -> OrderStatusChanged:
    """Make the last event of an order that has taken three seconds."""
    order = decoder(Order).decode(encode(ORDER | fields | {"status": "COMPLETED", "version": 4}))
    ended_at: datetime = order.created_at + timedelta(seconds=SECONDS)
    return OrderStatusChanged(order.order_id, 4, order.status, None, None, ended_at, order)


@pytest.mark.parametrize(
    ("fields", "may_wait"),
    [
        ({}, "false"),
        ({"time_in_force": "IOC"}, "false"),
        ({"time_in_force": "FOK"}, "false"),
        ({"time_in_force": "GTC"}, "true"),
        ({"time_in_force": "GTD", "queue_when_closed": True}, "true"),
        ({"time_in_force": "DAY"}, "true"),
    ],
)
def test_an_order_that_may_wait_is_timed_apart(fields: dict[str, Any], may_wait: str) -> None:
    """The objective is about those that may not wait: days of rest must not count against it."""
    metrics, registry = SagaMetrics(), CollectorRegistry()
    registry.register(metrics.duration)
    metrics.count(Folded({}, {}, [], [_ended(**fields)], {}, [], Counter()))
    other = {"true": "false", "false": "true"}[may_wait]

    def took(label: str) -> float | None:
        return registry.get_sample_value("order_duration_seconds_sum", {"may_wait": label})

    assert (SECONDS, None) == (took(may_wait), took(other))
