"""An order is one trace, from the HTTP request through Kafka and every service to its last event."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tests.e2e.system import eventually
from tests.integration.one_process import whole_system
from tests.order_api.support import BUY, Api
from tests.support.infrastructure import Database, Infrastructure
from tests.support.spans import attribute, parent_id, recorded_spans, span_id, trace_id

ENDED = {"COMPLETED", "CANCELLED", "FAILED"}


@pytest_asyncio.fixture
async def api(infrastructure: Infrastructure, database: Database, topic_prefix: str) -> AsyncIterator[Api]:
    """Run the whole system."""
    async with whole_system(infrastructure, database, topic_prefix) as one:
        yield one


async def traced(api: Api, spans: InMemorySpanExporter, body: dict[str, Any], user: str, **more: Any) -> Any:
    """Submit one order and wait for its end; return it and the spans of its trace, by start time."""
    spans.clear()
    order = (await api.call("POST", "/orders", json=BUY | body, user=user, **more)).json()

    async def has_ended() -> bool:
        order.update((await api.get(f"/orders/{order['order_id']}", user=user)).json())
        return order["status"] in ENDED

    await eventually(has_ended, "the order ends")
    last = f"{order['order_id']}:v{order['version']}"

    async def is_told() -> bool:
        return any(
            span.kind is SpanKind.PRODUCER and attribute(span, "messaging.message.id") == last
            for span in spans.get_finished_spans()
        )

    await eventually(is_told, "its end is sent")
    found = [s for s in spans.get_finished_spans() if s.kind is not SpanKind.INTERNAL and not _is_a_look(s)]
    return order, sorted(found, key=lambda span: span.start_time or 0)


def _is_a_look(span: ReadableSpan) -> bool:
    return attribute(span, "http.request.method") == "GET"


@pytest.mark.parametrize(
    ("body", "user", "ends"),
    [
        ({}, "alice", "COMPLETED"),
        ({"order_type": "MARKET_SELL"}, "bob", "COMPLETED"),
        ({}, "carol", "FAILED"),
        ({"asset_id": "HALT", "quantity": "5"}, "alice", "FAILED"),
    ],
    ids=["buy", "sell", "refused by balance", "refused by assets"],
)
async def test_an_order_is_one_trace_from_the_request_to_its_last_event(
    api: Api, topic_prefix: str, body: dict[str, Any], user: str, ends: str
) -> None:
    """All spans have one trace id and form a tree from the HTTP request to the publication of the order's end.

    Each message has two spans: its handling is a child of its sending, and that is a child of what caused it.
    """
    with recorded_spans() as exporter:
        order, spans = await traced(api, exporter, body, user)
    first, last, by_id = spans[0], spans[-1], {span_id(span): span for span in spans}
    assert ends == order["status"], order
    assert 1 == len({trace_id(span) for span in spans})
    assert ("POST /orders", SpanKind.SERVER, None) == (first.name, first.kind, first.parent)
    told = {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": "/orders",
        "http.response.status_code": 202,
        "order.id": order["order_id"],
    }
    assert told == {name: attribute(first, name) for name in told}
    assert (f"send {topic_prefix}orders.events", f"{order['order_id']}:v{order['version']}") == (
        last.name, attribute(last, "messaging.message.id"),
    )  # fmt: skip
    for span in spans[1:]:
        parent = by_id[parent_id(span) or 0]
        if span.kind is SpanKind.CONSUMER:
            assert (SpanKind.PRODUCER, message_of(span)) == (parent.kind, message_of(parent))
        else:
            assert parent is first or parent.kind is SpanKind.CONSUMER
        assert order["order_id"] == attribute(span, "messaging.message.conversation_id")
    sent, handled = (
        {message_of(s) for s in spans if s.kind is kind} for kind in (SpanKind.PRODUCER, SpanKind.CONSUMER)
    )
    assert {message for message in sent if not message[0].endswith("orders.events")} == handled
    assert order["version"] == len(sent - handled)


def message_of(span: ReadableSpan) -> tuple[str, str]:
    """Tell which message a span is about: its topic and id."""
    return str(attribute(span, "messaging.destination.name")), str(attribute(span, "messaging.message.id"))


async def test_a_callers_trace_goes_on(api: Api) -> None:
    """With a `traceparent`, the order belongs to the caller's trace, and its first span is a child of the caller's."""
    caller = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    with recorded_spans() as exporter:
        _, spans = await traced(api, exporter, {}, "alice", headers=caller)
    assert {int("ab" * 16, 16)} == {trace_id(span) for span in spans}
    assert int("cd" * 8, 16) == parent_id(spans[0])


async def test_a_trace_that_is_not_sampled_makes_no_span(api: Api) -> None:
    """No service records a span for a caller whose trace is not sampled; the order runs all the same."""
    caller = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"}
    with recorded_spans() as exporter:
        order_id = (await api.call("POST", "/orders", json=BUY, headers=caller)).json()["order_id"]

        async def has_ended() -> bool:
            return (await api.get(f"/orders/{order_id}", headers=caller)).json()["status"] in ENDED

        await eventually(has_ended, "the order ends")
    assert {"batch"} == {span.name for span in exporter.get_finished_spans()}
