"""Orders that are suspended and released: who may, what goes on meanwhile, and how they come back to the market."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import pytest
from msgspec import structs

from contracts.amends import AmendRefusal, AmendState
from contracts.decimals import Price
from contracts.envelope import format_time
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode, TimeInForce
from order_saga.core.phases import SUSPENSIONS_MAX
from order_saga.core.saga import Ignored, Phase, Requested, Suspension, Why
from tests.order_saga.core.sample import (
    NOW,
    OPERATOR,
    OTHER_USER,
    USER,
    Story,
    adjusted,
    amend,
    approved,
    cancel,
    conditional,
    expiry_due,
    fired,
    park,
    rechecked,
    refunded,
    release,
    requested,
    reserved,
    resume,
    suspend,
)

LIMIT_BUY: Final = conditional(OrderType.LIMIT_BUY, limit_price="49000")
STOP_SELL: Final = conditional(OrderType.STOP_LOSS_SELL, trigger_price="48000")
TRAIL_BUY: Final = conditional(OrderType.TRAILING_STOP_BUY, trail_amount="500")
TRAIL_SELL: Final = conditional(OrderType.TRAILING_STOP_SELL, trail_amount="500")
UNTIL: Final = conditional(
    OrderType.LIMIT_BUY, limit_price="49000", time_in_force=TimeInForce.GTD, expires_at=NOW + timedelta(hours=1)
)


def suspended(request: Requested = LIMIT_BUY, by: str = USER) -> Story:
    """Let an order rest and be suspended."""
    story = Story(request, approved(), reserved(), suspend(by))
    assert story.shown.on_hold
    return story


# To suspend -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [USER, OPERATOR])
def test_a_suspended_order_keeps_its_phase_and_its_money(by: str) -> None:
    """One version shows that it is on hold; the history says who asked and why."""
    story = Story(LIMIT_BUY, approved(), reserved(), suspend(by, "vacation"))
    [event] = story.decision.events
    assert (event.status, event.order.on_hold, event.order.held_amount) == (
        OrderStatus.CONFIRMED,
        True,
        story.shown.held_amount,
    )
    assert (story.saga.phase, story.asked) == (Phase.WORKING, [])
    assert story.saga.progress.suspended == Suspension(by, "vacation")
    assert (story.decision.entries[0].kind, dict(story.decision.entries[0].detail)) == (
        "held",
        {"requested_by": by, "reason": "vacation"},
    )


def test_a_suspension_is_repeated_in_vain() -> None:
    """Also one by its user of an order that an operator has suspended."""
    assert suspended().tell(suspend()).why is Why.DUPLICATE
    assert suspended(by=OPERATOR).tell(suspend(OPERATOR)).why is Why.DUPLICATE
    assert suspended(by=OPERATOR).tell(suspend()).why is Why.DUPLICATE


def test_an_operator_takes_a_users_suspension_over() -> None:
    """Nothing that is shown changes, but from then on only an operator releases it."""
    story = suspended().tell(suspend(OPERATOR))
    assert story.decision.events == ()
    assert story.tell(release()).why is Why.NOT_ALLOWED
    assert not story.tell(release(OPERATOR)).shown.on_hold


def test_taking_over_shows_that_a_refused_release_is_past() -> None:
    """What is no more true is a version."""
    story = suspended(STOP_SELL).trade("47000").tell(release(), suspend(OPERATOR))
    [event] = story.decision.events
    assert (event.order.on_hold, event.order.release_refused) == (True, None)


def test_a_user_suspends_an_order_a_hundred_times_and_an_operator_always() -> None:
    """Each adds to the order's history."""
    story = Story(LIMIT_BUY, approved(), reserved())
    for _ in range(SUSPENSIONS_MAX):
        story.tell(suspend(), release())
    assert story.tell(suspend()).why is Why.TOO_MANY
    assert story.tell(suspend(OPERATOR)).shown.on_hold


@pytest.mark.parametrize("message", [suspend, release])
def test_who_may_and_when(message: Any) -> None:
    """The user or an operator, while the order rests and is not bound to end."""
    rests = (LIMIT_BUY, approved(), reserved(), suspend())
    assert Story(*rests, message(OTHER_USER)).why is Why.NOT_ALLOWED
    assert Story(*rests, message(OTHER_USER, user=OTHER_USER)).why is Why.NOT_ALLOWED
    assert Story(LIMIT_BUY, message()).why is Why.TOO_EARLY
    assert Story(cancel(), message()).why is Why.TOO_EARLY
    assert Story(*rests, cancel(), message()).why is Why.TOO_LATE
    assert Story(*rests[:3], fired("48900"), message()).why is Why.TOO_LATE
    assert Story(*rests[:3], park(), fired("48900"), message()).why is Why.TOO_LATE
    assert Story(requested(), approved(), reserved(), message()).why is Why.TOO_LATE


# While it is suspended ------------------------------------------------------------------------------------------------


def test_a_suspended_order_can_be_cancelled() -> None:
    """It shows that it is on hold until its money is back."""
    story = suspended().tell(cancel())
    assert (story.asked, story.shown.on_hold) == (["RefundBalance"], True)
    assert story.tell(refunded()).ending == (OrderStatus.CANCELLED, ReasonCode.USER_REQUESTED)
    assert not story.shown.on_hold


def test_a_suspended_order_expires() -> None:
    """Its time goes on."""
    story = suspended(UNTIL).wait(3_600).tell(expiry_due(), refunded())
    assert story.ending == (OrderStatus.CANCELLED, ReasonCode.EXPIRED)


def test_a_suspended_order_is_amended_and_not_filled_by_that() -> None:
    """A limit that the market meets only rests: its release will be judged."""
    story = suspended().trade("49400", 30).tell(amend(limit_price="49500"), rechecked(), adjusted())
    assert story.verdict == ("first", AmendState.APPLIED, None)
    assert (story.shown.on_hold, story.saga.phase, story.saga.progress.fire) == (True, Phase.WORKING, None)
    story.tell(release())
    assert (story.saga.average_price, story.asked) == (Price(49_400), ["SettleBalance"])


@pytest.mark.parametrize("first", ["suspended", "parked"])
def test_a_suspended_order_that_is_parked_and_resumed_stays_suspended(first: str) -> None:
    """The market of the resume does not fire it, whichever came first."""
    story = Story(LIMIT_BUY, approved(), reserved())
    story.tell(*((suspend(), park()) if first == "suspended" else (park(), suspend()))).trade("48000", 30).tell(
        resume()
    )
    assert (story.shown.on_hold, story.saga.phase, story.asked) == (True, Phase.WORKING, [])
    assert story.saga.parked_reason is None


def test_a_tick_that_was_committed_before_the_suspension_counts() -> None:
    """A fire is binding, also for an order that was parked when it came."""
    story = suspended().tell(park(), fired("48900"), resume())
    assert (story.saga.status, story.saga.average_price) == (OrderStatus.PROCESSING, Price(48_900))


# To release -----------------------------------------------------------------------------------------------------------


def test_a_released_order_is_accepted_anew() -> None:
    """Prices from before do not count, and its place in the queue is the last."""
    story = suspended().wait(60).trade("49500", 30).tell(release())
    assert story.saga.progress.rest is not None
    assert (story.saga.progress.rest.from_sequence, story.saga.progress.rest.entered_at) == (30, story.now)
    assert (story.shown.on_hold, story.kinds[:2]) == (False, ["released", "rests"])
    assert story.tell(release()).why is Why.DUPLICATE


def test_a_released_trailing_stop_starts_from_the_market() -> None:
    """Its watermark begins anew."""
    story = suspended(TRAIL_SELL).trade("47000", 30).tell(release())
    assert (story.shown.watermark, story.shown.trigger_price) == (Price(47_000), Price(46_500))


def test_a_trailing_stop_on_hold_stands_still() -> None:
    """Its best price is the one that it had when it was put on hold, in what it shows and for an amend."""
    story = Story(TRAIL_SELL, approved(), reserved()).trade("51200", 30).best_price("51200").tell(suspend())
    assert (story.shown.watermark, story.shown.trigger_price) == (Price(51_200), Price(50_700))
    story.watermarks = {}  # no tick moves it now
    assert story.tell(amend(trail_amount="600"), rechecked()).shown.trigger_price == Price(50_600)


def test_a_released_limit_that_the_market_meets_is_filled() -> None:
    """At the mark, if that is live; else it rests, and the mark's repetition counts."""
    story = suspended().trade("48500", 30).tell(release())
    assert (story.asked, story.saga.average_price) == (["SettleBalance"], Price(48_500))
    stale = suspended().trade("48500", 30, live=False).tell(release())
    assert stale.saga.progress.rest is not None
    assert (stale.saga.phase, stale.saga.progress.rest.from_sequence) == (Phase.WORKING, 29)


def test_no_order_is_released_into_its_own_trigger() -> None:
    """It stays on hold and shows why, once; a later release may be possible."""
    story = suspended(STOP_SELL).trade("47000", 30).tell(release())
    assert (story.shown.on_hold, story.shown.release_refused) == (True, ReasonCode.WOULD_TRIGGER_IMMEDIATELY)
    assert len(story.decision.events) == 1
    assert story.tell(release()).why is Why.CONFLICT, "nobody fills the history of events with it"
    story.trade("48500", 31).tell(release())
    assert (story.shown.on_hold, story.shown.release_refused) == (False, None)


@pytest.mark.parametrize(
    ("request_", "price", "reason"),
    [
        (TRAIL_BUY, "60000", "leads from 60000 to 60500, and it holds money for 51005"),
        (TRAIL_SELL, "400", "leads from 400 to 0"),
    ],
    ids=["a buy beyond its hold", "a sale to no price"],
)
def test_no_trailing_stop_is_released_where_no_fire_could_be_filled(
    request_: Requested, price: str, reason: str
) -> None:
    """Its trail would begin where it never fires, or where each fire fails. It stays on hold, and says why."""
    story = suspended(request_).trade(price, 30).tell(release())
    assert (story.shown.on_hold, story.shown.release_refused) == (True, ReasonCode.PRICE_OUT_OF_RANGE)
    assert reason in str(story.decision.entries[0].detail)
    story.trade("49000", 31).tell(release())
    assert (story.shown.on_hold, story.shown.release_refused) == (False, None)


def test_no_price_from_before_the_order_counts_for_its_release() -> None:
    """A mark older than its quote neither fires it nor is where it begins to rest."""
    story = suspended().trade("48000", 3).tell(release())
    assert (story.saga.phase, story.saga.progress.fire) == (Phase.WORKING, None)
    assert story.saga.progress.rest is not None
    assert story.saga.progress.rest.from_sequence == 7
    later = suspended().trade("49900", 30).tell(release(), suspend()).trade("48000", 20).tell(release())
    assert later.saga.progress.rest is not None
    assert (later.saga.progress.fire, later.saga.progress.rest.from_sequence) == (None, 30)


def test_only_an_operator_releases_what_an_operator_has_suspended() -> None:
    """The history names who has."""
    story = suspended(by=OPERATOR).tell(release())
    assert (story.why, story.shown.on_hold) == (Why.NOT_ALLOWED, True)
    assert not story.tell(release("@operator:otto")).shown.on_hold


def test_a_released_order_whose_time_has_come_ends() -> None:
    """It does not come back to the market."""
    story = suspended(UNTIL).wait(3_600).trade("48000", 30).tell(release())
    assert (story.asked, story.kinds[0]) == (["RefundBalance"], "expired")
    assert story.tell(refunded()).ending == (OrderStatus.CANCELLED, ReasonCode.EXPIRED)


def test_a_release_moves_no_parked_order() -> None:
    """It is released, but its time and the market wait until somebody resumes it."""
    story = suspended(UNTIL).tell(park()).wait(3_600).trade("48000", 30).tell(release())
    assert (story.saga.phase, story.asked, story.shown.on_hold) == (Phase.WORKING, [], False)
    assert story.tell(resume(), refunded()).ending == (OrderStatus.CANCELLED, ReasonCode.EXPIRED)


def test_a_release_that_fills_the_order_is_before_an_open_amend() -> None:
    """The old terms are met, so the amend is too late."""
    story = suspended().tell(amend(limit_price="48900")).trade("48950", 30).tell(release())
    assert (story.saga.average_price, story.verdict[2]) == (Price(48_950), AmendRefusal.TOO_LATE)


def test_the_history_tells_wishes_of_one_requester_apart() -> None:
    """Each line has the time of its message, which has no other name."""
    rests = (LIMIT_BUY, approved(), reserved())
    known = {"requested_by": USER, "requested_at": format_time(NOW + timedelta(seconds=2))}
    for story in (
        Story(*rests, _at(suspend(), 2)),
        Story(*rests, suspend(), _at(release(), 2)),
        Story(*rests, _at(release(), 2)),
    ):
        assert known.items() <= dict(story.decision.entries[0].detail).items()
    late = Story(*rests, _at(suspend(), 3), _at(release(), 2)).told[-1]
    assert isinstance(late, Ignored)
    assert known == late.detail


# Messages that were held up -------------------------------------------------------------------------------------------


def _at(message: Any, seconds: float) -> Any:
    return structs.replace(message, requested_at=NOW + timedelta(seconds=seconds))


def test_a_hold_that_was_held_up_does_not_undo_a_later_release() -> None:
    """It is too late, whether it was read once before or not: its user has asked for something else since."""
    story = Story(LIMIT_BUY, approved(), reserved(), _at(suspend(), 1), _at(release(), 2), _at(suspend(), 1))
    assert (story.shown.on_hold, story.why) == (False, Why.LATE)
    story = Story(LIMIT_BUY, approved(), reserved(), _at(release(), 2), _at(suspend(), 1))
    assert (story.shown.on_hold, story.why) == (False, Why.LATE)
    assert story.tell(_at(suspend(), 3)).shown.on_hold


@pytest.mark.parametrize("before", [(), (1,), (1, 2.5)], ids=["first", "second", "third"])
def test_a_release_that_was_held_up_does_not_undo_a_later_hold(before: tuple[float, ...]) -> None:
    """The order stays where its user wants it, also when the later hold changed nothing."""
    holds = [_at(suspend(), seconds) for seconds in (*before, 3)]
    story = Story(LIMIT_BUY, approved(), reserved(), *holds, _at(release(), 2))
    assert (story.shown.on_hold, story.why) == (True, Why.LATE)


def test_a_hold_that_was_held_up_does_not_undo_a_later_release_that_was_refused() -> None:
    """What counts is what was asked for last, even if it was not possible, and was refused before."""
    story = suspended(STOP_SELL).trade("47000", 30).tell(_at(release(), 1), _at(release(), 3))
    assert story.tell(_at(suspend(), 2)).why is Why.LATE


def test_a_hold_past_the_last_one_is_kept_as_a_wish() -> None:
    """No more holds are possible, and a release from before the last one comes too late all the same."""
    story = Story(LIMIT_BUY, approved(), reserved())
    for number in range(SUSPENSIONS_MAX):
        story.tell(_at(suspend(), number / 2), _at(release(), number / 2))
    assert story.tell(_at(suspend(), 50.5)).shown.on_hold is False
    assert story.tell(_at(release(), 50.4)).why is Why.LATE


def test_a_clock_that_is_ahead_does_not_shut_its_requester_out() -> None:
    """A wish from the future counts as one of now."""
    story = Story(LIMIT_BUY, approved(), reserved(), _at(suspend(), 1e9))
    assert story.wait(60).tell(_at(release(), 60)).shown.on_hold is False


def test_times_of_different_requesters_are_not_compared() -> None:
    """An operator's clock may be behind the user's."""
    story = Story(LIMIT_BUY, approved(), reserved(), _at(suspend(), 9), _at(suspend(OPERATOR), 1))
    assert story.saga.progress.suspended == Suspension(OPERATOR, None)
