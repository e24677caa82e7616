"""Amends, suspensions and releases of what is no plain limit or stop: queued orders, orders of the day, brackets."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import pytest

from contracts.amends import AmendRefusal, AmendState
from contracts.assets import Trading
from contracts.decimals import Price
from contracts.vocabulary import OrderStatus, OrderType, TimeInForce
from order_saga.core.saga import Phase
from tests.order_saga.core.sample import (
    NOW,
    OPERATOR,
    Story,
    amend,
    approved,
    conditional,
    expiry_due,
    rechecked,
    release,
    reserved,
    suspend,
)

QUEUED: Final = conditional(OrderType.MARKET_SELL, price="50000", queue_when_closed=True)
DAY: Final = conditional(OrderType.LIMIT_SELL, limit_price="51000", time_in_force=TimeInForce.DAY)
BRACKET: Final = conditional(OrderType.BRACKET_SELL, limit_price="52000", trigger_price="48000")
LATER: Final = NOW + timedelta(hours=1)


def queued() -> Story:
    """Let a market order wait for the opening."""
    story = Story(QUEUED, approved(trading=Trading.CLOSED), reserved())
    assert story.saga.phase is Phase.QUEUED
    return story


def of_the_day() -> Story:
    """Let an order rest that ends with the session, in an hour."""
    return Story(DAY, approved(session_ends_at=LATER), reserved())


def test_a_queued_order_changes_its_time_at_once() -> None:
    """It ends by the new time, and not when an order without one would."""
    story = queued().tell(amend(expires_at=LATER))
    assert (story.saga.phase, story.saga.expires_at, story.shown.expires_at) == (Phase.QUEUED, LATER, LATER)
    assert story.shown.amend is not None
    assert story.shown.amend.state is AmendState.APPLIED
    story.now = LATER
    assert story.tell(expiry_due()).saga.phase is Phase.REFUNDING


@pytest.mark.parametrize("changes", [{"quantity": "0.02"}, {"slippage_bps": 5}, {"time_in_force": TimeInForce.GTC}])
def test_a_queued_order_changes_in_nothing_else(changes: dict[str, Any]) -> None:
    """It keeps its place by asking for what it asked for; the refusal names the field."""
    refused = queued().tell(amend(**changes)).shown.amend
    assert refused is not None
    assert (refused.state, refused.reason_code) == (AmendState.REFUSED, AmendRefusal.NOT_AMENDABLE)
    assert str(refused.reason).startswith(next(iter(changes)))


def test_a_queued_order_that_is_released_after_the_opening_fills_at_the_market() -> None:
    """While it was on hold the opening did not fire it; the price of its release does."""
    story = queued().tell(suspend()).trade("49900").tell(release())
    assert (story.saga.phase, story.saga.average_price) == (Phase.SETTLING, Price("49900"))


def test_a_queued_order_that_is_released_before_the_opening_waits_on() -> None:
    """The newest tick could not fire it, so its repetition may."""
    story = queued().tell(suspend(OPERATOR)).trade("49900", live=False).tell(release(OPERATOR))
    assert (story.saga.phase, story.shown.on_hold) == (Phase.QUEUED, False)
    assert story.saga.progress.rest is not None
    assert story.saga.progress.rest.from_sequence == 8


def test_an_order_of_the_day_can_be_made_to_wait_for_ever() -> None:
    """The session's end is its end no more."""
    assert of_the_day().shown.expires_at == LATER
    story = of_the_day().tell(amend(time_in_force=TimeInForce.GTC))
    assert (story.shown.time_in_force, story.shown.expires_at) == (TimeInForce.GTC, None)
    story.now = LATER
    assert story.tell(expiry_due()).saga.phase is Phase.WORKING


def test_no_order_can_be_made_one_of_the_day() -> None:
    """When a session ends is asked once, before the order is let in."""
    story = Story(BRACKET, approved(), reserved(), amend(time_in_force=TimeInForce.DAY))
    assert story.shown.amend is not None
    assert story.shown.amend.reason_code is AmendRefusal.NOT_AMENDABLE


def test_an_amend_of_the_price_keeps_the_end_of_the_session() -> None:
    """Only an amend of the time takes its place."""
    story = of_the_day().tell(amend(limit_price="52000"), rechecked())
    assert (story.shown.revision, story.shown.limit_price, story.shown.expires_at) == (2, Price("52000"), LATER)


def test_an_amend_comes_too_late_for_an_order_whose_session_has_ended() -> None:
    """Its end has come, even if nothing has ended it yet."""
    story = of_the_day()
    story.now = LATER
    refused = story.tell(amend(limit_price="52000")).shown.amend
    assert refused is not None
    assert refused.reason_code is AmendRefusal.TOO_LATE


def test_both_levels_of_a_bracket_can_be_changed() -> None:
    """It is one order with one hold: nothing more is asked of the balance service."""
    story = Story(BRACKET, approved(), reserved(), amend(limit_price="53000", trigger_price="47000"), rechecked())
    assert (story.shown.limit_price, story.shown.trigger_price) == (Price("53000"), Price("47000"))
    assert (story.saga.phase, story.asked) == (Phase.WORKING, [])


@pytest.mark.parametrize(
    ("changes", "price"), [({"limit_price": "50500"}, "50600"), ({"trigger_price": "49500"}, "49400")]
)
def test_no_bracket_is_amended_into_either_of_its_levels(changes: dict[str, str], price: str) -> None:
    """The market meets the new level already: the old ones stay."""
    story = Story(BRACKET, approved(), reserved(), amend(**changes)).trade(price).tell(rechecked())
    assert story.shown.amend is not None
    assert story.shown.amend.reason_code is AmendRefusal.WOULD_TRIGGER_IMMEDIATELY
    assert (story.shown.limit_price, story.shown.trigger_price) == (Price("52000"), Price("48000"))


def test_the_levels_of_a_bracket_stay_on_their_sides() -> None:
    """A stop above its gain is refused before anybody is asked."""
    story = Story(BRACKET, approved(), reserved(), amend(trigger_price="52000.01"))
    assert story.shown.amend is not None
    assert (story.shown.amend.reason_code, story.asked) == (AmendRefusal.INVALID_ORDER, [])
    assert story.shown.status is OrderStatus.CONFIRMED
