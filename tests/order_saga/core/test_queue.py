"""Market orders that wait for the opening of an asset which does not trade, and orders that end with its session."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from msgspec import structs

from contracts.assets import CheckAsset, Trading
from contracts.balance import ReserveBalance, SettleBalance
from contracts.decimals import Money, Price
from contracts.orders import OrderRequested
from contracts.terms import EXPIRES_WITHIN
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode, Side, TimeInForce
from order_saga.core.saga import Phase, Why
from tests.order_saga.core.sample import (
    NOW,
    Story,
    approved,
    cancel,
    conditional,
    expiry_due,
    fired,
    park,
    refunded,
    requested,
    reserved,
    resume,
    settled,
)

if TYPE_CHECKING:
    from contracts.assets import AssetApproved
    from order_saga.core.saga import Requested

PENDING, CONFIRMED, PROCESSING = OrderStatus.PENDING, OrderStatus.CONFIRMED, OrderStatus.PROCESSING
COMPLETED, CANCELLED, FAILED = OrderStatus.COMPLETED, OrderStatus.CANCELLED, OrderStatus.FAILED
ENDS_AT: Final = NOW + timedelta(hours=8)
BOTH: Final = pytest.mark.parametrize("side", Side)


def queues(side: Side = Side.BUY, **changes: Any) -> Requested:
    """Request 0.01 BTC at 50,000, with 100 bps of slippage, also while the asset does not trade."""
    return requested(side, queue_when_closed=True, **changes)


def closed(price: str = "50000", trading: Trading = Trading.CLOSED, **changes: Any) -> AssetApproved:
    """Approve the order while its asset does not trade."""
    return approved(price, trading=trading, **changes)


def queued(side: Side = Side.BUY, **changes: Any) -> Story:
    """Tell a story up to where the order waits for the opening."""
    story = Story(queues(side, **changes), *_accepted(side, closed()))
    assert (story.saga.phase, story.saga.status) == (Phase.QUEUED, CONFIRMED)
    return story


def _accepted(side: Side, approval: AssetApproved) -> tuple[Any, Any]:
    return (approval, reserved()) if side is Side.BUY else (reserved(), approval)


@BOTH
@pytest.mark.parametrize("trading", [Trading.CLOSED, Trading.HALTED])
def test_a_market_order_waits_for_the_opening_and_fills_there(side: Side, trading: Trading) -> None:
    """It rests as CONFIRMED with its money held, whoever closed the asset, and fills at the tick that fires it."""
    story = Story(queues(side), *_accepted(side, closed(trading=trading)))
    assert (story.saga.phase, story.statuses, story.asked) == (Phase.QUEUED, [PENDING, CONFIRMED], [])
    assert story.saga.due_at is None, "nobody is asked; the opening wakes it"
    story.tell(fired("50100"))
    assert (story.statuses, story.saga.average_price) == ([PENDING, CONFIRMED, PROCESSING], Price("50100"))
    assert story.tell(settled()).ending == (COMPLETED, None)


def test_the_hold_of_a_queued_buy_is_what_it_pays_at_worst() -> None:
    """0.01 at 50,000 and 1 % is 505, and 10 bps of that; the price is rounded down to the tick. The rest comes back."""
    story = queued()
    shown = story.decision.events[-1].order
    assert (shown.held_asset_id, shown.held_amount) == ("USD", Money("505.51"))
    [settle] = story.tell(fired("50100")).commands
    assert isinstance(settle, SettleBalance)
    assert (settle.amount, settle.capture, settle.fee) == (Money("505.51"), Money("501.51"), Money("0.51"))
    off_tick = Story(queues(price=Price("50000.99"), slippage_bps=1), closed(tick=Price("1"))).commands
    assert isinstance(off_tick[0], ReserveBalance)
    assert off_tick[0].amount == Money("500.56"), "at 50005, not at 50005.99: 500.05 and 0.51"


def test_a_queued_sell_holds_what_it_sells() -> None:
    """Its hold does not depend on a price."""
    assert queued(Side.SELL).decision.events[-1].order.held_amount == Money("0.01")


@pytest.mark.parametrize(
    ("side", "price", "fills"),
    [
        (Side.BUY, "50500", True),
        (Side.BUY, "50500.01", False),
        (Side.BUY, "10", True),
        (Side.SELL, "49500", True),
        (Side.SELL, "49499.99", False),
        (Side.SELL, "90000", True),
    ],
)
def test_the_opening_price_may_be_worse_by_the_slippage_and_no_more(side: Side, price: str, fills: bool) -> None:  # noqa: FBT001
    """At the bound it fills; a tick beyond it, it fails with its money back. A better price always fills."""
    story = queued(side).tell(fired(price))
    if fills:
        assert (story.saga.phase, story.saga.average_price) == (Phase.SETTLING, Price(price))
        return
    assert story.saga.phase is Phase.REFUNDING
    assert story.tell(refunded()).ending == (FAILED, ReasonCode.SLIPPAGE_EXCEEDED)


@BOTH
def test_while_the_asset_trades_it_is_an_ordinary_market_order(side: Side) -> None:
    """It holds and fills at its quote, in the same four versions; too far a quote is refused, an old one too."""
    story = Story(queues(side), *_accepted(side, approved("50100" if side is Side.BUY else "49900")))
    assert story.statuses == [PENDING, CONFIRMED, PROCESSING]
    amount = {Side.BUY: Money("501.51"), Side.SELL: Money("0.01")}[side]
    assert story.saga.progress.hold is not None
    assert story.saga.progress.hold.amount == amount
    too_far = Story(queues(side), approved("50500.01" if side is Side.BUY else "49499.99"))
    if side is Side.SELL:
        too_far.tell(refunded())
    assert too_far.ending == (FAILED, ReasonCode.SLIPPAGE_EXCEEDED)
    first, last = _accepted(side, approved())
    late = Story(queues(side), first).wait(31).tell(*((last,) if side is Side.BUY else ()))
    assert side is Side.SELL or late.saga.progress.outcome is not None


def test_an_opening_on_the_way_in_fires_it_at_once() -> None:
    """The asset opened while the money was being held: the order fills at that tick; a stale one is waited out."""
    story = Story(queues(), closed()).trade("50200").tell(reserved())
    assert (story.saga.phase, story.saga.average_price) == (Phase.SETTLING, Price("50200"))
    waits = Story(queues(), closed()).trade("50200", live=False).tell(reserved())
    assert waits.saga.progress.rest is not None
    assert waits.saga.progress.rest.from_sequence == 8, "the repetition of tick 9 may fire it"
    older = Story(queues(), closed()).trade("50200", sequence=6).tell(reserved())
    assert older.saga.phase is Phase.QUEUED, "the market was open before it closed"
    assert older.saga.progress.rest is not None
    assert older.saga.progress.rest.from_sequence == 6


def test_without_an_end_of_its_own_it_waits_thirty_days() -> None:
    """The end is shown, counts from when it began to queue, and stays the same when it is parked and resumed."""
    story = Story(queues(), closed()).wait(5).tell(reserved())
    ends_at = NOW + timedelta(seconds=5) + EXPIRES_WITHIN
    shown = story.decision.events[-1].order
    assert (shown.expires_at, shown.time_in_force) == (ends_at, TimeInForce.GTD)
    story.wait(3_600).tell(park(), resume())
    assert (story.saga.phase, story.saga.expires_at) == (Phase.QUEUED, ends_at)
    story.now = ends_at - timedelta(microseconds=1)
    assert story.tell(expiry_due()).why is Why.NOT_DUE
    story.now = ends_at
    assert story.tell(expiry_due(), refunded()).ending == (CANCELLED, ReasonCode.EXPIRED)


def test_it_ends_when_it_asks_to() -> None:
    """With `expires_at` it ends there, before the opening."""
    story = queued(expires_at=ENDS_AT)
    assert story.decision.events[-1].order.expires_at == ENDS_AT
    story.now = ENDS_AT
    assert story.tell(expiry_due(), refunded()).ending == (CANCELLED, ReasonCode.EXPIRED)


def test_a_cancel_ends_it_and_a_fire_is_binding() -> None:
    """Until the opening its user can cancel it; after the fire nobody can."""
    assert queued().tell(cancel(), refunded()).ending == (CANCELLED, ReasonCode.USER_REQUESTED)
    story = queued().tell(park(), fired("50000"))
    assert story.tell(cancel()).why is Why.TOO_LATE
    assert story.tell(resume()).saga.average_price == Price("50000")


def test_resumed_it_takes_its_place_behind_the_others() -> None:
    """Whoever was parked waits from now on, or fills at once if the asset has opened meanwhile."""
    story = queued().tell(park()).wait(60).tell(resume())
    assert story.saga.progress.rest is not None
    assert story.saga.progress.rest.entered_at == story.now
    opened = queued().tell(park()).trade("50100", 12).tell(resume())
    assert opened.saga.average_price == Price("50100")


def test_a_request_that_may_queue_is_as_good_an_hour_later() -> None:
    """It names its price and waits in any case, so the age of its request does not end it, but its own end does."""
    late = structs.replace(queues(expires_at=ENDS_AT), sent_at=NOW - timedelta(hours=1))
    assert Story(late).saga.phase is Phase.VALIDATING
    assert Story(structs.replace(queues(expires_at=NOW), sent_at=NOW)).ending == (CANCELLED, ReasonCode.EXPIRED)


def test_the_check_tells_the_price_and_that_it_may_wait() -> None:
    """The asset service judges the notional by the price that the order names."""
    [check] = Story(queues()).commands
    assert isinstance(check, CheckAsset)
    assert (check.price, check.queue_when_closed, check.slippage_bps) == (Price(50_000), True, 100)


@pytest.mark.parametrize("changes", [{"price": None}, {"time_in_force": TimeInForce.GTD}])
def test_from_kafka_too_it_must_name_a_price_and_no_time_in_force(changes: dict[str, Any]) -> None:
    """What the API refuses with 422 ends FAILED / INVALID_ORDER."""
    assert Story(queues(**changes)).ending == (FAILED, ReasonCode.INVALID_ORDER)


def test_a_repeated_request_is_the_same_after_its_end_was_fixed() -> None:
    """What the saga fixes is no part of what was asked for."""
    assert queued().tell(queues()).why is Why.DUPLICATE
    assert queued().tell(queues(expires_at=ENDS_AT)).why is Why.CONFLICT
    assert queued().tell(requested()).why is Why.CONFLICT


# With the session -----------------------------------------------------------------------------------------------------


def day(**changes: Any) -> Requested:
    """Request a limit buy that ends with the session."""
    request = conditional(OrderType.LIMIT_BUY, limit_price="49000", time_in_force=TimeInForce.DAY)
    assert isinstance(request.request, OrderRequested)
    return structs.replace(request, request=structs.replace(request.request, **changes))


@pytest.mark.parametrize("trading", Trading)
def test_a_day_order_ends_with_the_session(trading: Trading) -> None:
    """Its end is that of the running session, or of the next one; it is fixed when the order begins to rest."""
    story = Story(day(queue_when_closed=True), approved(trading=trading, session_ends_at=ENDS_AT))
    assert story.saga.expires_at is None
    shown = story.tell(reserved()).decision.events[-1].order
    assert (shown.expires_at, shown.time_in_force) == (ENDS_AT, TimeInForce.DAY)
    story.now = ENDS_AT - timedelta(microseconds=1)
    assert story.tell(expiry_due()).why is Why.NOT_DUE
    story.now = ENDS_AT
    assert story.tell(expiry_due(), refunded()).ending == (CANCELLED, ReasonCode.EXPIRED)


def test_an_asset_without_sessions_refuses_a_day_order_by_name() -> None:
    """No money is held for it."""
    story = Story(day(), approved())
    assert story.ending == (FAILED, ReasonCode.NO_SESSION)
    assert "BTC has no sessions" in str(story.saga.reason)


def test_a_session_that_ends_on_the_way_in_ends_the_order() -> None:
    """Neither the approval nor the entry lets it rest beyond its session."""
    over = Story(day(), approved(session_ends_at=NOW))
    assert over.ending == (CANCELLED, ReasonCode.EXPIRED)
    story = Story(day(), approved(session_ends_at=NOW + timedelta(seconds=5))).wait(5).tell(reserved())
    assert story.saga.phase is Phase.REFUNDING
    assert story.tell(refunded()).ending == (CANCELLED, ReasonCode.EXPIRED)


def test_a_day_order_that_the_quote_meets_fills_like_any_other() -> None:
    """It has no end then, since it never waited."""
    story = Story(day(), approved("48000", session_ends_at=ENDS_AT), reserved())
    assert story.statuses == [PENDING, CONFIRMED, PROCESSING]
    assert story.saga.expires_at is None
