"""The page of metrics has each that a running API shows."""

from __future__ import annotations

from tests.order_api.support import Api
from tests.support.metrics import names, told


async def test_every_metric_of_the_api_is_on_the_page(api: Api) -> None:
    """By the name that Prometheus knows."""
    found = names((await api.client.get("/metrics")).text)
    assert {"webhook_requests_total", "notification_requests_total", "http_server_streams"} <= found
    assert set() == found - told()
