"""A request is recorded as it came, judged once, and never acted on twice."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pytest
from msgspec import structs

from contracts.assets import CheckAsset
from contracts.decimals import Price, Quantity
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode, Side
from order_saga.core.phases import MAX_REQUEST_AGE_S
from order_saga.core.saga import Decision, Incoming, Phase, Requested, Why
from tests.order_saga.core.sample import (
    NOW,
    ORDER_ID,
    OTHER_USER,
    Story,
    approved,
    invalid,
    request,
    requested,
    reserved,
    settled,
)

FAILED, CANCELLED, PENDING = OrderStatus.FAILED, OrderStatus.CANCELLED, OrderStatus.PENDING
AGE = timedelta(seconds=MAX_REQUEST_AGE_S)
MOMENT = timedelta(microseconds=1)


def test_a_request_becomes_a_pending_order_that_says_what_was_asked() -> None:
    """Version 1 shows every field of the request."""
    story = Story(structs.replace(requested(client_order_id="mine", slippage_bps=25), traceparent="00-trace"))
    (event,) = story.decision.events
    order = event.order
    assert (event.version, event.previous_status, event.status) == (1, None, PENDING)
    assert (order.user_id, order.asset_id, order.order_type) == ("alice", "BTC", "MARKET_BUY")
    assert (order.quantity, order.price, order.slippage_bps) == (Quantity("0.01"), Price(50_000), 25)
    assert (order.client_order_id, order.created_at) == ("mine", NOW)
    (ask,) = story.decision.asks
    assert ask.traceparent == "00-trace"
    assert ask.message == CheckAsset(
        f"{ORDER_ID}:check", ORDER_ID, "BTC", OrderType.MARKET_BUY, Quantity("0.01"), Price(50_000)
    )
    assert [entry.kind for entry in story.decision.entries] == ["received", "status", "asked"]


@pytest.mark.parametrize(
    "told", [(), (approved(),), (approved(), reserved(), settled())], ids=["new", "going", "ended"]
)
def test_the_same_request_again_is_a_duplicate(told: tuple[Incoming, ...]) -> None:
    """Requests are compared by content: 0.010 equals 0.01, and times, traces and later claims do not count."""
    story = Story(requested(), *told)
    again = Requested(request(quantity=Quantity("0.010"), requested_at=NOW), NOW + AGE, "00-other", UUID(int=9))
    assert story.tell(again).why is Why.DUPLICATE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quantity", Quantity("0.02")),
        ("price", Price(50_001)),
        ("price", None),
        ("slippage_bps", 101),
        ("asset_id", "ETH"),
        ("client_order_id", "mine"),
        ("user_id", OTHER_USER),
        ("order_type", OrderType.MARKET_SELL),
    ],
)
def test_other_content_under_the_same_id_is_recorded_and_never_acted_on(field: str, value: object) -> None:
    """A second request with any different field is recorded and changes nothing."""
    story = Story(requested())
    before = story.saga
    other = structs.replace(request(), **{field: value})
    assert story.tell(Requested(other, NOW)).why is Why.CONFLICT
    assert story.saga == before


def test_an_invalid_request_fails_in_the_open() -> None:
    """An invalid request shows PENDING and FAILED with field and rule in the reason, so its producer learns of it."""
    story = Story(invalid())
    assert story.statuses == [PENDING, FAILED]
    assert story.ending == (FAILED, ReasonCode.INVALID_ORDER)
    assert story.saga.reason == "quantity: must be a decimal as a string"
    assert (story.saga.quantity, story.saga.order_type) == (None, None)
    assert story.asked == []
    assert story.tell(invalid()).why is Why.DUPLICATE
    assert story.tell(requested()).why is Why.CONFLICT


def test_a_client_order_id_that_was_used_before_fails_the_second_order() -> None:
    """A client order id that another order has fails the second order, and the reason names the first."""
    first = UUID(int=1)
    story = Story(structs.replace(requested(client_order_id="mine"), duplicate_of=first))
    assert story.statuses == [PENDING, FAILED]
    assert story.ending == (FAILED, ReasonCode.DUPLICATE_CLIENT_ORDER_ID)
    assert story.saga.reason == f"order {first} has this client order id"


def test_a_client_order_id_that_is_taken_comes_before_every_other_fault() -> None:
    """A used client order id is the first reason, even if the order is invalid: only one order may store that name."""
    story = Story(structs.replace(invalid(client_order_id="mine"), duplicate_of=UUID(int=1)))
    assert story.ending == (FAILED, ReasonCode.DUPLICATE_CLIENT_ORDER_ID)


@pytest.mark.parametrize(
    ("message", "expired"),
    [
        (Requested(request(), NOW - AGE), False),
        (Requested(request(), NOW - AGE - MOMENT), True),
        (Requested(request(requested_at=NOW - AGE), NOW), False),
        (Requested(request(requested_at=NOW - AGE - MOMENT), NOW), True),
        (Requested(request(requested_at=NOW), NOW - AGE - MOMENT), True),
        (Requested(request(requested_at=NOW + AGE), NOW + AGE), False),
    ],
    ids=["appended 60 s ago", "earlier", "requested 60 s ago", "earlier still", "a hurried clock", "clocks ahead"],
)
@pytest.mark.parametrize("time_scale", [0.1, 1.0])
def test_a_request_first_handled_too_late_has_expired(message: Incoming, expired: bool, time_scale: float) -> None:  # noqa: FBT001
    """A request expires 60 s after the earlier of the broker's time and its own; the time scale does not apply."""
    story = Story(message, time_scale=time_scale)
    if expired:
        assert story.statuses == [PENDING, CANCELLED]
        assert story.ending == (CANCELLED, ReasonCode.EXPIRED)
        assert not story.saga.cancel_requested
        assert story.asked == []
    else:
        assert story.saga.phase is Phase.VALIDATING


def test_a_fault_of_the_request_comes_before_its_age() -> None:
    """An invalid request or a used client order id keeps its own reason, however old the request is."""
    old = NOW - 2 * AGE
    assert Story(structs.replace(invalid(), sent_at=old)).ending == (FAILED, ReasonCode.INVALID_ORDER)
    duplicate = Requested(request(), old, duplicate_of=UUID(int=1))
    assert Story(duplicate).ending == (FAILED, ReasonCode.DUPLICATE_CLIENT_ORDER_ID)


@pytest.mark.parametrize(
    ("requested_at", "created_at"),
    [(None, NOW), (NOW - AGE, NOW - AGE), (NOW + AGE, NOW + AGE), (NOW + AGE + MOMENT, NOW)],
    ids=["not told", "earlier", "a little ahead", "far ahead"],
)
def test_an_order_was_created_when_it_was_requested(requested_at: datetime | None, created_at: datetime) -> None:
    """An order's creation time is the one that the API showed, unless a producer's clock is far ahead."""
    assert Story(requested(requested_at=requested_at)).saga.created_at == created_at


@pytest.mark.parametrize("side", Side)
def test_every_command_of_an_order_carries_its_trace(side: Side) -> None:
    """Each command carries the request's `traceparent`, which the saga stores."""
    story = Story(structs.replace(requested(side), traceparent="00-trace"))
    story.tell(approved(), reserved(), settled())
    asks = [ask for told in story.told if isinstance(told, Decision) for ask in told.asks]
    assert {ask.step for ask in asks} >= {"check", "reserve", "settle"}
    assert {ask.traceparent for ask in asks} == {"00-trace"}
