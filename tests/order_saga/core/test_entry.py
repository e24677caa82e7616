"""How a conditional order meets the market: on its approval by the quote alone, and when its money is held."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import pytest
from msgspec import structs

from contracts.assets import Trading
from contracts.decimals import Exact, Money, Price
from contracts.vocabulary import OrderKind, OrderStatus, OrderType, ReasonCode, Side, TimeInForce
from order_saga.core.saga import Phase, Requested
from tests.order_saga.core.sample import (
    NOW,
    Story,
    approved,
    cancel,
    conditional,
    not_reserved,
    park,
    refunded,
    requested,
    reserved,
    resume,
    settled,
)

PENDING, CONFIRMED, PROCESSING, COMPLETED = (
    OrderStatus.PENDING,
    OrderStatus.CONFIRMED,
    OrderStatus.PROCESSING,
    OrderStatus.COMPLETED,
)
CANCELLED, FAILED = OrderStatus.CANCELLED, OrderStatus.FAILED
LIMIT_BUY, LIMIT_SELL = OrderType.LIMIT_BUY, OrderType.LIMIT_SELL
GTC, GTD, IOC, FOK = TimeInForce.GTC, TimeInForce.GTD, TimeInForce.IOC, TimeInForce.FOK
ONE_LEVEL: Final = (OrderKind.LIMIT, OrderKind.STOP_LOSS, OrderKind.TAKE_PROFIT)
CONDITIONAL: Final = [name for name in OrderType if name.kind in ONE_LEVEL]
RISING: Final = {OrderType.LIMIT_SELL, OrderType.STOP_LOSS_BUY, OrderType.TAKE_PROFIT_SELL}
"""The types that a price at or above their level meets; one at or below it meets the others."""
NEAR_THE_LEVEL: Final = ("49999.99", "50000", "50000.01")
LIMIT: Final = {"limit_price": "50000"}


def at_the_level(order_type: OrderType) -> Requested:
    """Request an order whose level is 50,000."""
    field = "limit_price" if order_type.kind is OrderKind.LIMIT else "trigger_price"
    return conditional(order_type, **{field: "50000"})


def is_met(order_type: OrderType, price: str) -> bool:
    """Judge by the design's table, apart from the code, whether a price meets the level of 50,000."""
    return Price(price) >= 50_000 if order_type in RISING else Price(price) <= 50_000


def away_from(order_type: OrderType) -> str:
    """Return a price at which the order waits."""
    return "40000" if order_type in RISING else "60000"


# The table of levels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("price", NEAR_THE_LEVEL)
@pytest.mark.parametrize("order_type", CONDITIONAL)
def test_the_quote_meets_a_level_or_does_not(order_type: OrderType, price: str) -> None:
    """At the level and a tick beside it: a limit order fills at the quote, any other one would trigger, or it rests."""
    story = Story(at_the_level(order_type), approved(price), reserved())
    if not is_met(order_type, price):
        assert (story.saga.phase, story.saga.status) == (Phase.WORKING, CONFIRMED)
    elif order_type.kind is OrderKind.LIMIT:
        assert story.statuses == [PENDING, CONFIRMED, PROCESSING]
        assert story.saga.average_price == Price(price)
    else:
        story.tell(refunded())
        assert story.ending == (FAILED, ReasonCode.WOULD_TRIGGER_IMMEDIATELY)
        assert story.statuses == [PENDING, FAILED]


@pytest.mark.parametrize("price", NEAR_THE_LEVEL)
@pytest.mark.parametrize("order_type", CONDITIONAL)
def test_a_newer_tick_fires_on_the_way_in_or_does_not(order_type: OrderType, price: str) -> None:
    """The same table, for the mark that is newer than the quote when the money is held: it fires at its price."""
    story = Story(at_the_level(order_type), approved(away_from(order_type))).trade(price, 9).tell(reserved())
    if is_met(order_type, price):
        assert story.statuses == [PENDING, CONFIRMED, PROCESSING], "crossed on the way in: it fills, and is not refused"
        assert story.saga.average_price == Price(price)
        assert story.saga.progress.fire is not None
        assert story.saga.progress.fire.sequence == 9
        assert story.tell(settled()).saga.status is COMPLETED
    else:
        assert story.saga.phase is Phase.WORKING
        assert story.saga.progress.rest is not None
        assert story.saga.progress.rest.from_sequence == 9


@pytest.mark.parametrize(
    ("order_type", "limit", "at_limit", "beyond"),
    [
        (OrderType.STOP_LOSS_BUY, "50100", "50100", "50100.01"),
        (OrderType.STOP_LOSS_SELL, "49900", "49900", "49899.99"),
        (OrderType.TAKE_PROFIT_BUY, "49900", "49900", "49900.01"),
        (OrderType.TAKE_PROFIT_SELL, "50100", "50100", "50099.99"),
    ],
)
def test_a_trigger_on_the_way_in_fills_only_within_the_limit(
    order_type: OrderType, limit: str, at_limit: str, beyond: str
) -> None:
    """Triggered by the mark, an order fills at its limit or better; else it rests as a limit order from then on."""
    told = (conditional(order_type, trigger_price="50000", limit_price=limit), approved(away_from(order_type)))
    fills = Story(*told).trade(at_limit).tell(reserved())
    assert fills.saga.average_price == Price(at_limit)
    rests = Story(*told).trade(beyond).tell(reserved())
    assert (rests.saga.phase, rests.saga.progress.triggered) == (Phase.WORKING, True)
    assert rests.decision.events[-1].order.triggered
    [line] = [entry for entry in rests.decision.entries if entry.kind == "rests"]
    assert line.detail == {"from_sequence": 9, "level": Price(limit)}, "the trigger is never tested again"


BRACKETS: Final = {
    Side.SELL: conditional(OrderType.BRACKET_SELL, limit_price="51000", trigger_price="49000"),
    Side.BUY: conditional(OrderType.BRACKET_BUY, limit_price="49000", trigger_price="51000"),
}


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    ("price", "reached"),
    [
        ("48999.99", 49_000),
        ("49000", 49_000),
        ("49000.01", 0),
        ("50999.99", 0),
        ("51000", 51_000),
        ("51000.01", 51_000),
    ],
)
def test_a_bracket_is_not_let_in_where_the_quote_meets_one_of_its_levels(side: Side, price: str, reached: int) -> None:
    """Both levels alike: a bracket is asked for to wait between two prices. The reason names the level; no money moves.

    What meets the limit would fill a limit order at the quote; this order says besides where it wants to get out (or
    in) on the other side, so such a quote shows that the market has left what its user saw.
    """
    story = Story(BRACKETS[side], approved(price), reserved())
    if not reached:
        assert (story.saga.phase, story.saga.status) == (Phase.WORKING, CONFIRMED)
        [line] = [entry for entry in story.decision.entries if entry.kind == "rests"]
        levels = {"level": BRACKETS[side].request.limit_price, "other_level": BRACKETS[side].request.trigger_price}
        assert line.detail == {"from_sequence": 7, **levels}
        return
    assert story.tell(refunded()).ending == (FAILED, ReasonCode.WOULD_TRIGGER_IMMEDIATELY)
    which = "limit" if (reached > 50_000) is (side is Side.SELL) else "trigger"
    assert story.saga.reason == f"the quote {price} meets the {which} already"


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("price", ["48999.99", "49000", "49000.01", "50999.99", "51000", "51000.01"])
def test_a_newer_tick_fires_a_bracket_on_the_way_in_by_either_level(side: Side, price: str) -> None:
    """Once its money is held, a level that the mark meets is no refusal: the order fills at the mark's price."""
    story = Story(BRACKETS[side], approved()).trade(price, 9).tell(reserved())
    if 49_000 < Price(price) < 51_000:
        assert story.saga.phase is Phase.WORKING
        return
    assert story.saga.average_price == Price(price)
    assert not story.saga.progress.triggered
    assert story.tell(settled()).saga.status is COMPLETED


def test_a_bracket_that_sells_is_judged_at_both_of_its_prices() -> None:
    """A sum too large to be carried at its limit, or a fee above all that its stop would bring, is refused on entry."""
    quantity = Money("2000000000000")
    dear = conditional(OrderType.BRACKET_SELL, limit_price="600000", trigger_price="1", quantity=quantity)
    story = Story(dear, reserved(), approved("499999"), refunded())
    assert story.ending == (FAILED, ReasonCode.NOTIONAL_OUT_OF_RANGE)
    cheap = conditional(OrderType.BRACKET_SELL, limit_price="51000", trigger_price="0.01")
    story = Story(cheap, reserved(), approved(), refunded())
    assert story.ending == (FAILED, ReasonCode.NOTIONAL_OUT_OF_RANGE)


@pytest.mark.parametrize(("side", "price"), [(Side.BUY, "55000"), (Side.SELL, "45000")])
def test_a_trailing_stop_never_fires_on_entry(side: Side, price: str) -> None:
    """Its watermark begins with the newest price, so no price is its trail away from it yet."""
    order_type = OrderType[f"TRAILING_STOP_{side}"]
    story = Story(conditional(order_type, trail_bps=100), approved()).trade(price).tell(reserved())
    assert story.saga.phase is Phase.WORKING
    shown = story.decision.events[-1].order
    level = "55550" if side is Side.BUY else "44550"
    assert (shown.watermark, shown.trigger_price) == (Price(price), Price(level))


# From which tick on the market counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "quoted", "with_level", "trailing"),
    [
        (None, {}, 7, 7),
        (None, {"quoted_at": NOW - timedelta(seconds=20)}, 6, 7),
        (None, {"quoted_at": NOW - timedelta(seconds=15)}, 7, 7),
        (None, {"trading": Trading.CLOSED}, 6, 7),
        (None, {"trading": Trading.HALTED}, 6, 7),
        (None, {"trading": Trading.CLOSED, "sequence": 0}, 0, 0),
        ((3, True), {}, 7, 7),
        ((7, True), {}, 7, 7),
        ((7, False), {}, 6, 7),
        ((9, True), {}, 9, 9),
        ((9, True), {"trading": Trading.CLOSED}, 9, 9),
        ((9, False), {}, 8, 9),
    ],
)
def test_only_ticks_after_the_one_it_was_judged_by_count(
    mark: tuple[int, bool] | None, quoted: dict[str, Any], with_level: int, trailing: int
) -> None:
    """It waits from the newer of mark and quote on; one less with a level, if that tick was not live when judged.

    Here 15 seconds pass between the approval and the hold, so a quote made more than 15 s before is stale by then.
    """
    for request, expected in (
        (conditional(LIMIT_BUY, limit_price="40000", queue_when_closed=True), with_level),
        (conditional(OrderType.TRAILING_STOP_BUY, trail_bps=100, queue_when_closed=True), trailing),
    ):
        story = Story(request, approved(**quoted)).wait(15)
        if mark is not None:
            story.trade("50000", mark[0], live=mark[1])
        rest = story.tell(reserved()).saga.progress.rest
        assert rest is not None
        assert (rest.from_sequence, rest.entered_at) == (expected, story.now)


@pytest.mark.parametrize("mark", [(9, False), (6, True), (7, False)], ids=["not live", "older", "as old and not live"])
def test_a_tick_that_is_not_live_or_older_fires_nothing(mark: tuple[int, bool]) -> None:
    """A price that would fire the order counts on entry only if it is the newest and live."""
    story = Story(conditional(OrderType.STOP_LOSS_SELL, trigger_price="48000"), approved())
    story.trade("47000", mark[0], live=mark[1]).tell(reserved())
    assert story.saga.phase is Phase.WORKING


# Orders that do not wait ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time_in_force", [IOC, FOK])
def test_an_order_that_does_not_wait_ends_unfilled_before_any_money_is_held(time_in_force: TimeInForce) -> None:
    """A buy whose limit the quote does not meet is CANCELLED at once; a sell gives its hold back first."""
    buy = Story(conditional(LIMIT_BUY, limit_price="49999.99", time_in_force=time_in_force), approved())
    assert (buy.asked, buy.ending) == ([], (CANCELLED, ReasonCode.UNFILLED))
    assert buy.saga.reason == "the quote 50000 does not meet the limit 49999.99"
    sell = Story(conditional(LIMIT_SELL, limit_price="50000.01", time_in_force=time_in_force), reserved(), approved())
    assert (sell.asked, sell.saga.status) == (["RefundBalance"], PENDING)
    assert sell.tell(refunded()).ending == (CANCELLED, ReasonCode.UNFILLED)


@pytest.mark.parametrize("time_in_force", [IOC, FOK])
@pytest.mark.parametrize("side", Side)
def test_an_order_that_does_not_wait_fills_at_the_quote_like_a_market_order(
    side: Side, time_in_force: TimeInForce
) -> None:
    """Met by the quote it shows the four versions of a market order; with a quote grown too old it fails like one."""
    request = conditional(OrderType[f"LIMIT_{side}"], **LIMIT, time_in_force=time_in_force)
    story = Story(request, approved()).trade("45000" if side is Side.SELL else "55000").tell(reserved(), settled())
    assert story.statuses == [PENDING, CONFIRMED, PROCESSING, COMPLETED]
    assert story.saga.average_price == Price(50_000)
    late = Story(request, approved(quoted_at=NOW - timedelta(seconds=20))).wait(15).tell(reserved(), refunded())
    assert late.ending == (FAILED, ReasonCode.STALE_PRICE)


def test_an_order_that_does_not_wait_is_unfilled_where_nothing_is_traded() -> None:
    """A quote of an asset that is closed fills nothing, so IOC ends, even if it was allowed to queue."""
    request = conditional(LIMIT_BUY, **LIMIT, time_in_force=IOC, queue_when_closed=True)
    story = Story(request, approved(trading=Trading.CLOSED))
    assert (story.asked, story.ending) == ([], (CANCELLED, ReasonCode.UNFILLED))
    assert story.saga.reason == "the quote 50000 is not traded at now"


# A limit that the quote satisfies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "newer"), [(Side.BUY, "49000"), (Side.BUY, "51000"), (Side.SELL, "49000")])
def test_a_limit_that_the_quote_satisfies_fills_at_the_quote(side: Side, newer: str) -> None:
    """It shows exactly the versions of a market order, and fills at its quote whatever the market does meanwhile."""
    limit = "50500" if side is Side.BUY else "49500"
    story = Story(conditional(OrderType[f"LIMIT_{side}"], limit_price=limit), approved()).trade(newer)
    story.tell(reserved(), settled())
    market = Story(requested(side), approved(), reserved(), settled())
    assert story.statuses == market.statuses == [PENDING, CONFIRMED, PROCESSING, COMPLETED]
    assert story.saga.average_price == Exact(50_000)
    assert (story.saga.fee, story.saga.progress.fire, story.saga.progress.rest) == (market.saga.fee, None, None)


def test_a_limit_order_whose_quote_has_grown_too_old_rests() -> None:
    """What would fail a market order as STALE_PRICE only lets a limit order wait, and its repetition counts."""
    told = (conditional(LIMIT_BUY, **LIMIT), approved(quoted_at=NOW - timedelta(seconds=15)))
    assert Story(*told).wait(15).tell(reserved()).saga.phase is Phase.SETTLING
    story = Story(*told).wait(15.000001).tell(reserved())
    assert story.saga.phase is Phase.WORKING
    assert story.saga.progress.rest is not None
    assert story.saga.progress.rest.from_sequence == 6
    fires = Story(*told).wait(15.000001).trade("49900").tell(reserved())
    assert fires.saga.average_price == Price(49_900), "with a live mark it fills at that"


# Time -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", TimeInForce)
def test_only_an_order_that_does_not_wait_is_too_old_after_a_minute(force: TimeInForce) -> None:
    """A GTC or GTD request is as good an hour later; IOC and FOK have expired after 60 s, as a market order has."""
    expires = {"expires_at": NOW + timedelta(days=1)} if force is GTD else {}
    request = conditional(LIMIT_BUY, limit_price="40000", time_in_force=force, **expires)
    story = Story(structs.replace(request, sent_at=NOW - timedelta(seconds=60.000001)))
    if force.rests:
        assert story.asked == ["CheckAsset"]
    else:
        assert story.ending == (CANCELLED, ReasonCode.EXPIRED)
        assert Story(structs.replace(request, sent_at=NOW - timedelta(seconds=60))).asked == ["CheckAsset"]


def good_till(expires_at: Any) -> Requested:
    """Request a buy that the quote does not meet, until then."""
    return conditional(LIMIT_BUY, limit_price="40000", time_in_force=GTD, expires_at=expires_at)


def test_a_time_that_has_come_expires_an_order_wherever_it_is_on_its_way_in() -> None:
    """With the request, with the approval and with the hold: CANCELLED / EXPIRED, and no money stays behind."""
    instant = timedelta(microseconds=1)
    assert Story(good_till(NOW)).ending == (CANCELLED, ReasonCode.EXPIRED)
    assert Story(good_till(NOW + instant)).asked == ["CheckAsset"]
    at_approval = Story(good_till(NOW + timedelta(seconds=5))).wait(5).tell(approved())
    assert (at_approval.asked, at_approval.ending) == ([], (CANCELLED, ReasonCode.EXPIRED))
    before = Story(good_till(NOW + timedelta(seconds=5)), approved())
    with_hold = before.wait(5).trade("30000").tell(reserved())
    assert (with_hold.asked, with_hold.saga.status) == (["RefundBalance"], PENDING), "and the mark does not fire it"
    assert with_hold.tell(refunded()).ending == (CANCELLED, ReasonCode.EXPIRED)
    assert with_hold.statuses == [PENDING, CANCELLED]


def test_an_order_may_wait_for_thirty_days() -> None:
    """Exactly 30 days are allowed; a moment more is INVALID_ORDER."""
    assert Story(good_till(NOW + timedelta(days=30))).asked == ["CheckAsset"]
    story = Story(good_till(NOW + timedelta(days=30, microseconds=1)))
    assert story.ending == (FAILED, ReasonCode.INVALID_ORDER)
    assert story.saga.reason == "expires_at: must be within 30 days"


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order_type", "terms", "field"),
    [
        (LIMIT_BUY, {}, "limit_price"),
        (LIMIT_BUY, {**LIMIT, "trigger_price": "1"}, "trigger_price"),
        (LIMIT_BUY, {**LIMIT, "slippage_bps": 5}, "slippage_bps"),
        (LIMIT_BUY, {**LIMIT, "price": Price(5)}, "price"),
        (LIMIT_BUY, {**LIMIT, "time_in_force": GTD}, "expires_at"),
        (LIMIT_BUY, {**LIMIT, "expires_at": NOW}, "expires_at"),
        (OrderType.STOP_LOSS_BUY, {}, "trigger_price"),
        (OrderType.STOP_LOSS_BUY, {"trigger_price": "1", **LIMIT, "slippage_bps": 5}, "slippage_bps"),
        (OrderType.STOP_LOSS_SELL, {"trigger_price": "1", "slippage_bps": 5}, "slippage_bps"),
        (OrderType.TAKE_PROFIT_SELL, {"trigger_price": "1", "time_in_force": FOK}, "time_in_force"),
        (OrderType.BRACKET_SELL, {"trigger_price": "49000"}, "limit_price"),
        (OrderType.BRACKET_SELL, {"trigger_price": "50000", **LIMIT}, "trigger_price"),
        (OrderType.BRACKET_BUY, {"trigger_price": "49999.99", **LIMIT}, "trigger_price"),
        (OrderType.BRACKET_SELL, {"trigger_price": "49000", **LIMIT, "time_in_force": IOC}, "time_in_force"),
        (OrderType.TRAILING_STOP_SELL, {}, "trail_amount"),
        (OrderType.TRAILING_STOP_SELL, {"trail_amount": "1", "trail_bps": 5}, "trail_amount"),
        (OrderType.TRAILING_STOP_SELL, {"trail_bps": 5, **LIMIT}, "limit_price"),
        (OrderType.MARKET_BUY, {"trigger_price": "1"}, "trigger_price"),
        (OrderType.MARKET_SELL, {"time_in_force": GTC}, "time_in_force"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused_by_name(
    order_type: OrderType, terms: dict[str, Any], field: str
) -> None:
    """Such a request from Kafka ends FAILED / INVALID_ORDER, naming the field, before anything is asked."""
    story = Story(conditional(order_type, **terms))
    assert (story.asked, story.ending) == ([], (FAILED, ReasonCode.INVALID_ORDER))
    assert story.saga.reason is not None
    assert story.saga.reason.startswith(f"{field}: ")
    assert story.statuses == [PENDING, FAILED]


@pytest.mark.parametrize(
    ("order_type", "trail", "quote", "refused"),
    [
        (OrderType.TRAILING_STOP_SELL, {"trail_amount": "50000"}, "50000", True),
        (OrderType.TRAILING_STOP_SELL, {"trail_amount": "49999.99"}, "50000", False),
        (OrderType.TRAILING_STOP_BUY, {"trail_bps": 5_000}, "666666.67", True),
        (OrderType.TRAILING_STOP_BUY, {"trail_bps": 5_000}, "666666.66", False),
    ],
)
def test_a_trail_must_lead_to_a_price(order_type: OrderType, trail: dict[str, Any], quote: str, refused: bool) -> None:  # noqa: FBT001 - a column of the table
    """A trail that leads from the quote to nothing, or above the highest price, is PRICE_OUT_OF_RANGE."""
    request = conditional(order_type, **trail)
    story = Story(
        structs.replace(request, request=structs.replace(request.request, quantity=Money("1"))), approved(quote)
    )
    question = story.saga.progress.questions[0]
    assert (question.reason_code is ReasonCode.PRICE_OUT_OF_RANGE) == refused


def test_a_sum_that_cannot_be_carried_is_refused_before_it_is_held() -> None:
    """The worst price, not the quote, says what a buy holds, so that is judged."""
    quantity = Money("2000000000000")
    request = conditional(LIMIT_BUY, limit_price="600000", quantity=quantity)
    story = Story(request, approved("499999"))
    assert (story.asked, story.ending) == ([], (FAILED, ReasonCode.NOTIONAL_OUT_OF_RANGE))


def test_one_order_too_many_is_refused() -> None:
    """A user who has as many open conditional orders in the asset as are allowed gets no further one."""
    story = Story(structs.replace(conditional(LIMIT_BUY, **LIMIT), too_many_open=200))
    assert story.ending == (FAILED, ReasonCode.TOO_MANY_OPEN_ORDERS)
    assert story.saga.reason == "200 conditional orders in BTC are open, and no more are allowed"


def test_what_ends_a_market_order_on_its_way_in_ends_a_conditional_one() -> None:
    """A cancel and a refused reserve end it before it rests, with nothing held."""
    cancelled = Story(conditional(LIMIT_BUY, limit_price="40000"), approved(), cancel(), refunded())
    assert cancelled.ending == (CANCELLED, ReasonCode.USER_REQUESTED)
    poor = Story(conditional(LIMIT_BUY, limit_price="40000"), approved(), not_reserved())
    assert poor.ending == (FAILED, ReasonCode.INSUFFICIENT_BALANCE)


# A second entry -------------------------------------------------------------------------------------------------------


def parked(request: Requested) -> Story:
    """Let an order rest and be parked."""
    return Story(request, approved(), reserved(), park())


def test_a_resumed_order_enters_the_market_anew() -> None:
    """What came while it was parked does not count; what the market is now may fire it, and it keeps its money."""
    request = conditional(LIMIT_BUY, limit_price="49000")
    rests = parked(request).trade("49500", 20).wait(60).tell(resume())
    assert (rests.saga.phase, rests.decision.events) == (Phase.WORKING, ()), "nothing that a client sees has changed"
    assert rests.saga.progress.rest is not None
    assert (rests.saga.progress.rest.from_sequence, rests.saga.progress.rest.entered_at) == (20, rests.now)
    fires = parked(request).trade("48900", 20).tell(resume())
    assert (fires.asked, fires.saga.average_price) == (["SettleBalance"], Price(48_900))
    assert fires.decision.events[-1].order.revision == 1


def test_a_resumed_trailing_stop_starts_from_the_market_and_shows_it() -> None:
    """Its watermark begins anew, and that is a version, since its level has moved."""
    story = parked(conditional(OrderType.TRAILING_STOP_SELL, trail_amount="500")).trade("52000", 20).tell(resume())
    [event] = story.decision.events
    assert (event.previous_status, event.status) == (CONFIRMED, CONFIRMED)
    assert (event.order.watermark, event.order.trigger_price) == (Price(52_000), Price(51_500))
    again = parked(conditional(OrderType.TRAILING_STOP_SELL, trail_amount="500")).trade("50000", 20).tell(resume())
    assert again.decision.events == ()


def test_a_resumed_order_whose_time_has_come_ends() -> None:
    """While it is parked an order does not expire; resumed, it does, and does not fire any more."""
    story = parked(good_till(NOW + timedelta(hours=1))).wait(3_600).trade("30000", 20).tell(resume())
    assert story.asked == ["RefundBalance"]
    assert story.tell(refunded()).ending == (CANCELLED, ReasonCode.EXPIRED)
    assert story.statuses == [PENDING, CONFIRMED, CANCELLED]


def test_a_resumed_stop_may_be_triggered_by_the_market_and_keeps_that() -> None:
    """A stop that was triggered before stays a limit order, whatever the market is when it is resumed."""
    request = conditional(OrderType.STOP_LOSS_BUY, trigger_price="51000", limit_price="51200")
    story = parked(request).trade("51300", 20).tell(resume())
    assert [event.order.triggered for event in story.decision.events] == [True]
    story.tell(park()).trade("50900", 21).tell(resume())
    assert story.saga.average_price == Price(50_900), "within its limit, although below the trigger"


def test_only_a_tick_fills_an_order_that_has_rested() -> None:
    """Even if the clock goes back, so that its quote counts as fresh again: then it is fired by the quote's tick."""
    told = (conditional(LIMIT_BUY, **LIMIT), approved(quoted_at=NOW - timedelta(seconds=20)))
    story = Story(*told).wait(15).tell(reserved(), park()).wait(-10).tell(resume())
    assert story.saga.progress.fire is not None
    assert (story.saga.progress.fire.sequence, story.saga.average_price) == (7, Price(50_000))


def test_a_trailing_stop_whose_level_no_price_reaches_shows_none() -> None:
    """Where the market fell by more than the trail since the quote, the level is shown once a price can be there."""
    request = conditional(OrderType.TRAILING_STOP_SELL, trail_amount="40000")
    shown = Story(request, approved()).trade("39000").tell(reserved()).decision.events[-1].order
    assert (shown.watermark, shown.trigger_price) == (Price(39_000), None)
