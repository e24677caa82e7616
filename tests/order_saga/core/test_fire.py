"""A resting order and what ends its rest: a tick, a trigger, a cancel, its time; and who wins where two meet."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import pytest
from msgspec import structs

from contracts.balance import SettleBalance
from contracts.decimals import Money, Price, Quantity
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode, Side, TimeInForce
from order_saga.core.saga import Participant, Phase, Requested, Step, Why, snapshot
from tests.order_saga.core.sample import (
    NOW,
    Story,
    approved,
    cancel,
    conditional,
    expiry_due,
    fired,
    not_settled,
    park,
    refunded,
    reserved,
    resume,
    settled,
    timer,
    triggered,
)

PENDING, CONFIRMED, PROCESSING, COMPLETED = (
    OrderStatus.PENDING,
    OrderStatus.CONFIRMED,
    OrderStatus.PROCESSING,
    OrderStatus.COMPLETED,
)
CANCELLED, FAILED = OrderStatus.CANCELLED, OrderStatus.FAILED
BALANCE: Final = Participant.BALANCE
LIMIT_BUY: Final = conditional(OrderType.LIMIT_BUY, limit_price="49000")
STOP_BUY: Final = conditional(OrderType.STOP_LOSS_BUY, trigger_price="51000")
STOP_LIMIT: Final = conditional(OrderType.STOP_LOSS_BUY, trigger_price="51000", limit_price="51200")
BRACKET_SELL: Final = conditional(OrderType.BRACKET_SELL, limit_price="51000", trigger_price="49000")
BRACKET_BUY: Final = conditional(OrderType.BRACKET_BUY, limit_price="49000", trigger_price="51000")
UNTIL: Final = NOW + timedelta(hours=1)
GOOD_TILL: Final = conditional(
    OrderType.LIMIT_BUY, limit_price="49000", time_in_force=TimeInForce.GTD, expires_at=UNTIL
)


def resting(request: Requested = LIMIT_BUY) -> Story:
    """Let an order rest at a quote of 50,000 and sequence 7."""
    story = Story(request, approved(), reserved())
    assert story.saga.phase is Phase.WORKING
    return story


# A tick ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "price"),
    [
        (LIMIT_BUY, "48000"),
        (STOP_BUY, "51400"),
        (STOP_LIMIT, "51100"),
        (conditional(OrderType.STOP_LOSS_SELL, trigger_price="49000"), "30000"),
        (conditional(OrderType.TAKE_PROFIT_BUY, trigger_price="49000"), "48000"),
        (conditional(OrderType.TAKE_PROFIT_SELL, trigger_price="51000"), "60000"),
        (conditional(OrderType.TRAILING_STOP_SELL, trail_amount="500"), "30000"),
        (BRACKET_SELL, "60000"),
        (BRACKET_SELL, "30000"),
        (BRACKET_BUY, "30000"),
        (BRACKET_BUY, "51510"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.request.order_type,
)
def test_a_fired_order_fills_at_the_price_of_its_tick(request_: Requested, price: str) -> None:
    """The fill is the tick's price, gap or not; the settlement captures that and returns the rest of the hold."""
    story = resting(request_).tell(fired(price))
    [event] = story.decision.events
    assert (event.previous_status, event.status, event.version) == (CONFIRMED, PROCESSING, 3)
    assert event.order.average_price == Price(price)
    [settle] = story.commands
    assert isinstance(settle, SettleBalance)
    hold = story.saga.progress.hold
    assert hold is not None
    assert (settle.amount, settle.asset_id) == (hold.amount, hold.asset_id)
    assert settle.capture <= settle.amount
    assert story.tell(settled()).saga.status is COMPLETED
    assert story.statuses == [PENDING, CONFIRMED, PROCESSING, COMPLETED]


def test_a_fire_stays_its_price_however_late_it_is_carried_out() -> None:
    """The quote's age does not count any more, and neither does where the market stands by then."""
    story = resting().wait(86_400).trade("60000", 99).tell(fired("48900"))
    assert story.saga.average_price == Price(48_900)


def test_a_stop_that_costs_more_than_its_slippage_allows_fails_with_its_money_back() -> None:
    """At its bound of 1 % a BUY stop fills; a tick above it fires it into SLIPPAGE_EXCEEDED."""
    assert resting(STOP_BUY).tell(fired("51510")).saga.status is PROCESSING
    story = resting(STOP_BUY).tell(fired("51510.01"))
    assert (story.asked, story.saga.status) == (["RefundBalance"], CONFIRMED)
    assert story.tell(refunded()).ending == (FAILED, ReasonCode.SLIPPAGE_EXCEEDED)
    assert story.saga.reason == "the price 51510.01 of sequence 12 is above 51510, the most that the order pays"
    assert story.saga.average_price is None


def test_the_stop_of_a_bracket_that_buys_is_bound_by_its_slippage() -> None:
    """The money that it holds is that bound; its limit, far below, bounds nothing."""
    story = resting(BRACKET_BUY).tell(fired("51510.01"), refunded())
    assert story.ending == (FAILED, ReasonCode.SLIPPAGE_EXCEEDED)


@pytest.mark.parametrize("request_", [BRACKET_SELL, BRACKET_BUY], ids=["sell", "buy"])
def test_a_bracket_is_never_triggered(request_: Requested) -> None:
    """It fills by its trigger, and its limit is a level of its own: there is nothing to wait for after the trigger."""
    story = resting(request_).tell(triggered("48000"))
    assert Why.CONFLICT is story.why
    assert not story.saga.progress.triggered


def test_the_bound_of_a_trailing_stop_follows_its_level_down_but_never_above_its_hold() -> None:
    """The cap is the level of its best price plus slippage; of a dearer start, it is what the order holds."""
    request = conditional(OrderType.TRAILING_STOP_BUY, trail_amount="500")
    assert resting(request).tell(fired("45955", watermark="45000")).saga.status is PROCESSING
    dear = resting(request).tell(fired("45955.01", watermark="45000")).tell(refunded())
    assert dear.ending == (FAILED, ReasonCode.SLIPPAGE_EXCEEDED)
    assert resting(request).tell(fired("51005", watermark="60000")).saga.status is PROCESSING
    above = resting(request).tell(fired("51005.01", watermark="60000"), refunded())
    assert above.ending == (FAILED, ReasonCode.SLIPPAGE_EXCEEDED)


@pytest.mark.parametrize(
    ("request_", "price"),
    [(LIMIT_BUY, "49000.01"), (conditional(OrderType.LIMIT_SELL, limit_price="51000"), "50999.99")],
    ids=["buy", "sell"],
)
def test_no_tick_fills_an_order_beyond_its_limit(request_: Requested, price: str) -> None:
    """Should such a fire come, the order fails with its money back instead: it never trades beyond its limit."""
    story = resting(request_).tell(fired(price), refunded())
    assert story.ending == (FAILED, ReasonCode.SLIPPAGE_EXCEEDED)


def test_a_sale_whose_fee_takes_all_fails() -> None:
    """A stop exits at any price at which it brings something; else it is NOTIONAL_OUT_OF_RANGE, with its hold back."""
    request = conditional(OrderType.STOP_LOSS_SELL, trigger_price="49000")
    assert resting(request).tell(fired("2")).saga.status is PROCESSING
    story = resting(request).tell(fired("1"), refunded())
    assert story.ending == (FAILED, ReasonCode.NOTIONAL_OUT_OF_RANGE)


def test_a_settlement_that_is_refused_busts_the_fill_of_a_tick() -> None:
    """As of a market order: the fill is taken back at the price at which it was made."""
    story = resting().tell(fired("48900"), not_settled())
    assert story.ending == (FAILED, ReasonCode.EXECUTION_FAILED)
    assert story.decision.fill is not None
    assert (story.decision.fill.price, story.decision.fill.busted) == (Price(48_900), True)


# Who wins -------------------------------------------------------------------------------------------------------------


def test_a_cancel_after_the_fire_is_too_late() -> None:
    """The loser of cancel and fire changes nothing, not even `cancel_requested`; also while the order is parked."""
    story = resting().tell(fired("48900"), cancel())
    assert (story.why, story.saga.cancel_requested) == (Why.TOO_LATE, False)
    parked = resting().tell(park(), fired("48900"), cancel())
    assert (parked.why, parked.saga.cancel_requested) == (Why.TOO_LATE, False)
    assert parked.tell(resume()).saga.status is PROCESSING


def test_a_fire_after_a_cancel_changes_nothing() -> None:
    """The money of a cancelled order is on its way back; a second tick, or one for an ended order, is a duplicate."""
    story = resting().tell(cancel())
    assert (story.decision.events[-1].order.cancel_requested, story.asked) == (True, ["RefundBalance"])
    assert story.tell(fired("48900")).why is Why.DUPLICATE
    assert story.tell(refunded()).ending == (CANCELLED, ReasonCode.USER_REQUESTED)
    assert story.tell(fired("48900")).why is Why.DUPLICATE
    parked = resting().tell(park(), cancel(), fired("48900"))
    assert parked.why is Why.TOO_LATE
    assert parked.tell(resume(), refunded()).ending == (CANCELLED, ReasonCode.USER_REQUESTED)


def test_an_order_fires_once() -> None:
    """A repeated fire is a duplicate, whatever it says, in every phase that follows."""
    story = resting().tell(fired("48900"), fired("48900"))
    assert story.why is Why.DUPLICATE
    assert story.tell(fired("48000", 13)).why is Why.DUPLICATE
    assert story.tell(settled(), fired("48000", 13)).why is Why.DUPLICATE
    parked = resting().tell(park(), fired("48900"), fired("48000", 13))
    assert parked.why is Why.DUPLICATE
    assert parked.tell(resume()).saga.average_price == Price(48_900)


def test_an_order_expires_when_its_time_has_come_and_not_before() -> None:
    """Exactly at `expires_at` it is over: its money comes back, and then it is CANCELLED / EXPIRED."""
    story = resting(GOOD_TILL).wait(3_599.999999).tell(expiry_due())
    assert story.why is Why.NOT_DUE
    story.wait(0.000001).tell(expiry_due())
    assert (story.asked, story.saga.status) == (["RefundBalance"], CONFIRMED)
    assert story.tell(refunded()).ending == (CANCELLED, ReasonCode.EXPIRED)
    assert story.saga.reason == f"expires_at {UNTIL.isoformat()} has come"
    assert story.tell(expiry_due()).why is Why.NOT_DUE


def test_a_fired_order_does_not_expire_and_an_expired_one_does_not_fire() -> None:
    """Whichever is committed first counts, and there is one ending."""
    story = resting(GOOD_TILL).wait(3_600).tell(fired("48900"), expiry_due())
    assert (story.why, story.saga.status) == (Why.NOT_DUE, PROCESSING)
    expired = resting(GOOD_TILL).wait(3_600).tell(expiry_due(), fired("48900"))
    assert expired.why is Why.DUPLICATE
    assert expired.tell(refunded()).ending == (CANCELLED, ReasonCode.EXPIRED)


def test_no_time_ends_an_order_that_is_good_till_cancelled_or_parked_or_not_resting() -> None:
    """Without `expires_at`, while parked, and before it rests, `ExpiryDue` finds nothing to do."""
    assert resting().wait(10**8).tell(expiry_due()).why is Why.NOT_DUE
    assert resting(GOOD_TILL).tell(park()).wait(3_600).tell(expiry_due()).why is Why.NOT_DUE
    assert Story(GOOD_TILL).wait(3_600).tell(expiry_due()).why is Why.NOT_DUE
    assert Story(expiry_due(), saga=Story(conditional(OrderType.MARKET_BUY)).saga).why is Why.NOT_DUE


# A trigger ------------------------------------------------------------------------------------------------------------


def test_a_triggered_stop_is_a_limit_order_from_then_on() -> None:
    """The trigger is a version of its own; below the trigger, a tick within the limit still fires it."""
    story = resting(STOP_LIMIT).tell(triggered("51300"))
    [event] = story.decision.events
    assert (event.previous_status, event.status, event.order.triggered) == (CONFIRMED, CONFIRMED, True)
    assert story.tell(triggered("51400", 13)).why is Why.DUPLICATE
    story.tell(fired("50500", 14))
    assert story.saga.average_price == Price(50_500)
    assert story.tell(settled()).decision.events[-1].order.triggered


def test_only_a_resting_stop_with_a_limit_is_triggered() -> None:
    """For any other order the message makes no sense, and changes nothing."""
    for request in (LIMIT_BUY, STOP_BUY, conditional(OrderType.TRAILING_STOP_BUY, trail_bps=100)):
        story = resting(request).tell(triggered("51300"))
        assert (story.why, story.saga.progress.triggered) == (Why.CONFLICT, False)
    assert Story(STOP_LIMIT, triggered("51300")).why is Why.DUPLICATE
    assert resting(STOP_LIMIT).tell(fired("51100"), triggered("51300")).why is Why.DUPLICATE
    assert resting(STOP_LIMIT).tell(park(), fired("51100"), triggered("51300")).why is Why.DUPLICATE


# Parked and paused ----------------------------------------------------------------------------------------------------


def test_an_order_that_was_fired_before_it_was_parked_fills_when_it_is_resumed() -> None:
    """The fire is kept, and the market of the resume is not asked."""
    story = resting().tell(park(), fired("48900"))
    assert (story.asked, story.decision.events, story.saga.phase) == ([], (), Phase.WORKING)
    story.wait(3_600).trade("40000", 99).tell(resume())
    assert (story.asked, story.saga.average_price) == (["SettleBalance"], Price(48_900))


def test_an_order_that_was_fired_too_dear_before_it_was_parked_fails_when_it_is_resumed() -> None:
    """What a fire means is judged when it is carried out, and shown only then."""
    request = conditional(OrderType.TRAILING_STOP_BUY, trail_amount="500")
    story = resting(request).tell(park(), fired("60000", watermark="49000"), resume())
    assert (story.asked, story.saga.status, story.decision.events) == (["RefundBalance"], CONFIRMED, ())
    story.tell(refunded())
    assert story.ending == (FAILED, ReasonCode.SLIPPAGE_EXCEEDED)
    assert story.decision.events[-1].order.watermark == Price(49_000)


@pytest.mark.parametrize("paused", [(BALANCE,), (Participant.ASSETS,), (BALANCE, Participant.ASSETS)])
def test_a_pause_keeps_no_order_from_resting_or_firing(paused: tuple[Participant, ...]) -> None:
    """A resting order needs nobody. A fired one needs the balance service, and fills at the fire's price, later."""
    story = resting().pause(*paused).tell(fired("48900"))
    assert story.saga.average_price == Price(48_900)
    held_back = BALANCE in paused
    assert story.question(Step.SETTLE).held_back is held_back
    assert story.asked == ([] if held_back else ["SettleBalance"])
    if held_back:
        story.wait(3_600).pause().tell(timer())
        assert story.asked == ["SettleBalance"]
    assert story.tell(settled()).saga.average_price == Price(48_900)


def test_a_resting_order_has_no_timer() -> None:
    """The market wakes it; a timer for it fits nothing, however late."""
    story = resting()
    assert story.saga.due_at is None
    assert story.wait(10**7).tell(timer(probe=True)).why is Why.NOT_DUE


# What is seen ---------------------------------------------------------------------------------------------------------


def lines(story: Story) -> list[tuple[str, str, dict[str, object]]]:
    """List the lines that the last message added to the history."""
    return [(entry.kind, entry.name, dict(entry.detail)) for entry in story.decision.entries]


def test_the_history_says_since_when_it_waits_and_what_ended_that() -> None:
    """The lines `rests`, `triggered`, `fired` and `expired`, with what each of them must tell."""
    story = resting(STOP_LIMIT)
    assert ("rests", "Rests", {"from_sequence": 7, "level": Price(51_000)}) in lines(story)
    story.tell(triggered("51300"))
    told = {"sequence": 11, "price": Price(51_300)}
    assert lines(story) == [("triggered", "Triggered", told), ("status", "CONFIRMED", {})]
    story.tell(fired("51100"))
    told = {"sequence": 12, "price": Price(51_100), "as_of": NOW}
    kinds = [("fired", "Fired", told), ("status", "PROCESSING", {}), ("asked", "settle", {})]
    assert lines(story) == kinds
    trailing = resting(conditional(OrderType.TRAILING_STOP_SELL, trail_amount="500"))
    assert ("rests", "Rests", {"from_sequence": 7, "watermark": Price(50_000)}) in lines(trailing)
    trailing.tell(fired("51400", watermark="52000"))
    told = {"sequence": 12, "price": Price(51_400), "as_of": NOW, "watermark": Price(52_000)}
    assert lines(trailing)[0] == ("fired", "Fired", told)
    entered = Story(STOP_BUY, approved()).trade("51100").tell(reserved())
    told = {"sequence": 9, "price": Price(51_100), "as_of": NOW}
    assert ("fired", "Entry", told) in lines(entered)
    expired = resting(GOOD_TILL).wait(3_600).tell(expiry_due())
    assert lines(expired) == [("expired", "ExpiryDue", {}), ("asked", "refund", {})]


@pytest.mark.parametrize(
    ("side", "asset", "amount"), [(Side.BUY, "USD", Money("510.57")), (Side.SELL, "BTC", Money("0.01"))]
)
def test_what_is_held_is_shown_from_the_rest_to_the_moment_when_the_money_moves(
    side: Side, asset: str, amount: Money
) -> None:
    """A version that rests shows the hold; one that is filled or has ended does not, and neither does a PENDING one."""
    request = conditional(OrderType[f"TRAILING_STOP_{side}"], trail_bps=100)
    story = Story(request)
    assert snapshot(story.saga).held_amount is None
    story.tell(approved(), reserved())
    shown = story.decision.events[-1].order
    assert shown.held_asset_id == asset
    assert shown.held_amount == amount
    assert (shown.revision, shown.watermark, shown.triggered) == (1, Price(50_000), False)
    assert shown.trigger_price == Price(50_500 if side is Side.BUY else 49_500)
    story.tell(cancel())
    assert story.decision.events[-1].order.held_amount == shown.held_amount, "until it is back"
    story.tell(refunded())
    ended = story.decision.events[-1].order
    assert (ended.held_asset_id, ended.held_amount, ended.revision) == (None, None, 1)


def test_a_market_order_shows_nothing_of_all_this() -> None:
    """No field of a conditional order is told of a market order."""
    story = Story(conditional(OrderType.MARKET_BUY, quantity=Quantity("0.01")), approved(), reserved())
    order = story.decision.events[-1].order
    names = order.__struct_fields__[order.__struct_fields__.index("limit_price") :]
    assert not [name for name in names if getattr(order, name)]
    assert structs.replace(order, revision=None) == order
