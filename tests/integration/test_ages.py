"""The age of a message counts from the oldest time in its record, so that no delay or replay makes it younger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from contracts.assets import AssetApproved
from contracts.codec import encode
from contracts.envelope import Envelope, format_time, read_envelope, write_headers
from order_saga.core.saga import Incoming, Requested
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.metrics import SagaMetrics
from order_saga.worker.process import SagaHandler
from tests.order_saga.core.sample import approved, cancel, refunded, request, reserved, settled, timer
from tests.saga_kit.support import FakeRecord

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AGES = [
    ((0, 0, None), 0),
    ((0, 90, None), 90),
    ((90, 0, None), 90),
    ((0, -3600, None), 0),
    ((-3600, 5, None), 5),
    ((0, 0, 31 * 86_400), 31 * 86_400),
    ((60, 70, 10), 70),
]
"""Ages in seconds: by the broker's time, by `ce_time`, by the header of a replayed record; and the one that counts."""


def handled(message: AssetApproved | Requested, ago: tuple[int, int, int | None]) -> AssetApproved | Requested:
    """Let the orchestrator read a message whose record has these times."""
    appended_s, sent_s, first_s = ago
    body = message.request if isinstance(message, Requested) else message
    headers = write_headers(Envelope("1", type(body).__name__, "/somewhere", NOW - timedelta(seconds=sent_s)))
    if first_s is not None:
        headers.append(("first-appended-at", format_time(NOW - timedelta(seconds=first_s)).encode()))
    appended_at = int((NOW - timedelta(seconds=appended_s)).timestamp() * 1000)
    record = FakeRecord(timestamp=appended_at, value=encode(body), headers=headers)
    orders = SagaHandler(time_scale=1.0, metrics=SagaMetrics(), breaker=CircuitBreaker())
    read = orders.decode(read_envelope(record.headers), record)
    assert isinstance(read, (AssetApproved, Requested))
    return read


@pytest.mark.parametrize(("ago", "age_s"), AGES)
def test_a_request_is_as_old_as_its_oldest_time(ago: tuple[int, int, int | None], age_s: int) -> None:
    """A dead letter that is replayed after a month is a month old; a clock that is ahead makes no request younger."""
    read = handled(Requested(request(), NOW), ago)
    assert isinstance(read, Requested)
    assert NOW - timedelta(seconds=age_s) == read.sent_at


@pytest.mark.parametrize(("ago", "age_s"), AGES)
def test_a_quote_is_as_old_as_its_oldest_time(ago: tuple[int, int, int | None], age_s: int) -> None:
    """A quote ages while it lies in an outbox, in the topic, or in a batch that waits for its database."""
    read = handled(approved(), ago)
    assert isinstance(read, AssetApproved)
    assert NOW - timedelta(seconds=age_s) == read.quoted_at


def test_what_others_ask_for_does_not_come_again_by_itself() -> None:
    """Requests and cancels are sent once; answers and timers repeat until answered, so only these may be dropped."""
    orders = SagaHandler(time_scale=1.0, metrics=SagaMetrics(), breaker=CircuitBreaker())
    once: tuple[Incoming, ...] = (Requested(request(), NOW), cancel())
    again: tuple[Incoming, ...] = (approved(), reserved(), settled(), refunded(), timer())
    assert ([False, False], [True] * 5) == ([*map(orders.comes_again, once)], [*map(orders.comes_again, again)])


def test_a_service_may_say_that_its_quote_is_older_than_its_answer() -> None:
    """A quote's own time makes it older than its answer, never younger."""
    before = handled(approved(quoted_at=NOW - timedelta(seconds=20)), (0, 0, None))
    after = handled(approved(quoted_at=NOW + timedelta(seconds=20)), (0, 0, None))
    assert [NOW - timedelta(seconds=20), NOW] == [
        one.quoted_at for one in (before, after) if isinstance(one, AssetApproved)
    ]
