"""Spans for messages: each has the right parent and is named in the sent headers; without an SDK there are none."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from contracts.envelope import Envelope, Outgoing, write_headers
from saga_kit.messaging.batch import Received
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.tracing import begin_sending, configure_tracing, handling, read_traceparent, write_traceparent
from tests.saga_kit.support import FakeRecord, kit_settings
from tests.support.spans import attribute, parent_id, recorded_spans, span_id, trace_id

SAMPLED = f"00-{'ab' * 16}-{'cd' * 8}-01"
UNSAMPLED = SAMPLED[:-1] + "0"
ANOTHER = f"00-{'12' * 16}-{'34' * 8}-01"
ORDER = "00000000-0000-0000-0000-00000000000f"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Collect spans."""
    with recorded_spans() as exporter:
        yield exporter


def outgoing(traceparent: str | None, identity: str = f"{ORDER}:reserve", key: str = "alice") -> Outgoing:
    """Make an outgoing message."""
    headers = write_headers(Envelope(identity, "ReserveBalance", "/test", datetime.now(UTC), traceparent))
    return Outgoing("balance.commands", key, identity, b"{}", headers)


def incoming(traceparent: str | None, identity: str = "an id", key: bytes = b"k") -> Received[Any]:
    """Make an incoming message."""
    envelope = Envelope(identity, "OrderRequested", "/test", datetime.now(UTC), traceparent)
    return Received(None, envelope, FakeRecord(topic="p.orders.requests", partition=3, offset=7, key=key))


def header(message: Outgoing) -> str | None:
    """Return the `traceparent` of a message."""
    return dict(message.headers).get("traceparent", b"").decode() or None


@pytest.mark.parametrize("traceparent", [SAMPLED, UNSAMPLED, None])
def test_without_an_sdk_messages_go_out_untouched(traceparent: str | None) -> None:
    """Without an SDK the same list of the same messages is sent, and no span begins."""
    messages = [outgoing(traceparent)]
    with handling([incoming(traceparent)]):
        sending = begin_sending(messages, "p.")
    assert sending.messages is messages
    assert () == sending.spans
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize("traceparent", [UNSAMPLED, None])
def test_a_message_without_a_sampled_trace_is_unchanged(spans: InMemorySpanExporter, traceparent: str | None) -> None:
    """With an SDK, a message without a sampled trace gets no span and keeps its headers."""
    message = outgoing(traceparent)
    with handling([incoming(traceparent)]):
        assert [message] == begin_sending([message], "p.").messages
    assert ["batch"] == [span.name for span in spans.get_finished_spans()]


def test_a_sent_span_is_a_child_of_the_handled_message(spans: InMemorySpanExporter) -> None:
    """A sent span's parent is the handled message of the same trace, or else the parent in its own header."""
    with handling([incoming(SAMPLED), incoming(None), incoming(ANOTHER)]):
        third = f"00-{'56' * 16}-{'78' * 8}-01"
        sending = begin_sending([outgoing(ANOTHER), outgoing(SAMPLED), outgoing(third)], "p.")
        sending.end(stored=True)
    sent = [span for span in spans.get_finished_spans() if span.name == "send p.balance.commands"]
    handled = {trace_id(s): s for s in spans.get_finished_spans() if s.name == "process p.orders.requests"}
    assert [header(message) for message in sending.messages] == [
        f"00-{trace_id(span):032x}-{span_id(span):016x}-01" for span in sent
    ]
    assert [span_id(handled[int("12" * 16, 16)]), span_id(handled[int("ab" * 16, 16)]), int("78" * 8, 16)] == [
        parent_id(span) for span in sent
    ]
    assert {int("cd" * 8, 16), int("34" * 8, 16)} == {parent_id(span) for span in handled.values()}


def test_spans_say_which_message_by_the_conventions_of_messaging(spans: InMemorySpanExporter) -> None:
    """Spans have topic, partition, offset, id, key and message type, and the order from the id's prefix or the key."""
    with handling([incoming(SAMPLED, key=ORDER.encode())]):
        begin_sending([outgoing(SAMPLED)], "p.").end(stored=True)
    sent, handled, _ = spans.get_finished_spans()
    common = {"messaging.system": "kafka", "messaging.message.conversation_id": ORDER}
    assert dict(handled.attributes or {}) == common | {
        "messaging.operation.type": "process", "messaging.operation.name": "process",
        "messaging.destination.name": "p.orders.requests", "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 7, "messaging.message.id": "an id", "messaging.kafka.message.key": ORDER,
        "cloudevents.event_type": "OrderRequested",
    }  # fmt: skip
    assert dict(sent.attributes or {}) == common | {
        "messaging.operation.type": "send", "messaging.operation.name": "send",
        "messaging.destination.name": "p.balance.commands", "messaging.message.id": f"{ORDER}:reserve",
        "messaging.kafka.message.key": "alice",
    }  # fmt: skip


def test_a_batch_and_its_messages_are_linked_both_ways(spans: InMemorySpanExporter) -> None:
    """A batch span belongs to no order's trace; it links to each trace (128 at most), and they link back."""
    many = [incoming(f"00-{number:032x}-{number:016x}-01") for number in range(1, 201)]
    with handling([*many, many[0]]):
        pass
    *handled, batch = spans.get_finished_spans()
    assert ("batch", None, 201) == (batch.name, batch.parent, attribute(batch, "messaging.batch.message_count"))
    assert list(range(1, 129)) == [link.context.trace_id for link in batch.links]
    assert [[span_id(batch)]] * 201 == [[link.context.span_id for link in span.links] for span in handled]


async def test_a_failed_publish_is_an_error(spans: InMemorySpanExporter) -> None:
    """A failed publish ends its spans with an error."""
    publisher = Publisher(kit_settings("postgresql://x/x", "127.0.0.1:1"), timeout_s=0.2)
    assert not await publisher.publish([outgoing(SAMPLED)])
    await publisher.stop()
    [sent] = spans.get_finished_spans()
    assert StatusCode.ERROR is sent.status.status_code


@pytest.mark.parametrize(
    "text",
    ["", "x", SAMPLED.upper(), SAMPLED[:-1], f"00-{'0' * 32}-{'cd' * 8}-01", f"00-{'ab' * 16}-{'0' * 16}-01", None],
)
def test_a_broken_traceparent_is_none(spans: InMemorySpanExporter, text: str | None) -> None:
    """A message with an invalid traceparent is handled without a span."""
    assert read_traceparent(text) is None
    with handling([incoming(text)]):
        begin_sending([outgoing(text)], "")
    assert ["batch"] == [span.name for span in spans.get_finished_spans()]


def test_a_traceparent_is_written_as_it_was_read() -> None:
    """Formatting a parsed traceparent gives the same text."""
    context = read_traceparent(SAMPLED)
    assert context is not None
    assert SAMPLED == write_traceparent(context)


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, []),
        (ENDPOINT, ["balance"]),
        (ENDPOINT | {"OTEL_SERVICE_NAME": "mine"}, ["mine"]),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "true"}, []),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, []),
    ],
)
def test_spans_are_exported_when_a_setting_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], names: list[str]
) -> None:
    """Any `OTEL_*` variable turns the export on, unless its own setting turns it off; the service name can be set."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    providers: list[Any] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    configure_tracing(service="balance")
    for provider in providers:
        provider.shutdown()
    assert names == [provider.resource.attributes["service.name"] for provider in providers]
