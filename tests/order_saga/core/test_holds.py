"""What a conditional order holds: a BUY the cost at its worst price, so that every fill fits; a SELL its quantity."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from contracts.balance import ReserveBalance, SettleBalance
from contracts.decimals import Money, Price, Quantity
from contracts.vocabulary import OrderKind, OrderType
from order_saga.core.levels import sale_floor, slippage_cap, worst_price
from order_saga.core.saga import Phase
from tests.order_saga.core.sample import Story, approved, conditional, fired, reserved, settled

TICKS: Final = ("0.01", "0.05", "0.5", "1", "25")
BUYS: Final = (
    "LIMIT",
    "STOP_LOSS",
    "TAKE_PROFIT",
    "STOP_LOSS with a limit",
    "TAKE_PROFIT with a limit",
    "TRAILING_STOP",
    "BRACKET",
)


def cents(value: Decimal) -> Decimal:
    """Round up to the scale of the cash."""
    return value.quantize(Decimal("0.01"), ROUND_CEILING)


def held_at(quantity: Decimal, price: Decimal, fee_bps: int) -> Decimal:
    """Work the hold out from the design: cost and fee, each rounded up."""
    gross = quantity * price
    return cents(gross) + cents(gross * fee_bps / 10_000)


def floored(price: Decimal, tick: Decimal) -> Decimal:
    """Round down to the tick."""
    return (price / tick).to_integral_value(ROUND_FLOOR) * tick


@pytest.mark.parametrize(
    ("order_type", "terms", "worst", "hold"),
    [
        (OrderType.LIMIT_BUY, {"limit_price": "49000"}, "49000", "490.49"),
        (OrderType.STOP_LOSS_BUY, {"trigger_price": "51000"}, "51510", "515.62"),
        (OrderType.STOP_LOSS_BUY, {"trigger_price": "51000", "slippage_bps": 0}, "51000", "510.51"),
        (OrderType.STOP_LOSS_BUY, {"trigger_price": "51000.01", "slippage_bps": 1}, "51005.11", "510.57"),
        (OrderType.STOP_LOSS_BUY, {"trigger_price": "51000", "limit_price": "51200"}, "51200", "512.52"),
        (OrderType.TAKE_PROFIT_BUY, {"trigger_price": "49000"}, "49000", "490.49"),
        (OrderType.TAKE_PROFIT_BUY, {"trigger_price": "49000", "limit_price": "48800"}, "48800", "488.49"),
        (OrderType.BRACKET_BUY, {"limit_price": "49000", "trigger_price": "51000"}, "51510", "515.62"),
        (
            OrderType.BRACKET_BUY,
            {"limit_price": "49000", "trigger_price": "51000", "slippage_bps": 0},
            "51000",
            "510.51",
        ),
        (OrderType.TRAILING_STOP_BUY, {"trail_bps": 100}, "51005", "510.57"),
        (OrderType.TRAILING_STOP_BUY, {"trail_amount": "500", "slippage_bps": 0}, "50500", "505.51"),
    ],
)
def test_a_buy_holds_what_its_worst_price_costs(
    order_type: OrderType, terms: dict[str, Any], worst: str, hold: str
) -> None:
    """The design's table of worst prices, at a quote of 50,000 and 10 bps; the fee is rounded up by itself."""
    story = Story(conditional(order_type, **terms), approved())
    [reserve] = story.commands
    assert isinstance(reserve, ReserveBalance)
    assert worst_price(story.saga) == Price(worst)
    expected = held_at(Decimal("0.01"), Decimal(worst), 10)
    assert (reserve.asset_id, reserve.amount) == ("USD", Money(expected))
    assert abs(expected - Decimal(hold)) <= Decimal("0.01")


@st.composite
def buys(draw: st.DrawFn) -> tuple[str, dict[str, Any], Story]:
    """Let any BUY rest at any quote; its fields, and the story so far."""
    tick = Decimal(draw(st.sampled_from(TICKS)))

    def price(lowest: int, highest: int) -> Decimal:
        return draw(st.integers(lowest, highest)) * tick

    kind = draw(st.sampled_from(BUYS))
    quote, away = price(400, 8_000), draw(st.integers(1, 300)) * tick
    slippage = draw(st.none() | st.integers(0, 10_000))
    fields: dict[str, Any] = {"quantity": Quantity(draw(st.integers(1, 10**9)) * Decimal("1E-6"))}
    if kind == "LIMIT":
        fields["limit_price"] = quote - away
    elif kind == "TRAILING_STOP":
        by_amount = draw(st.booleans())
        fields |= {"trail_amount": away} if by_amount else {"trail_bps": 5 * draw(st.integers(1, 1_000))}
        fields["slippage_bps"] = slippage
    else:
        fields["trigger_price"] = quote + away if kind.startswith(("STOP_LOSS", "BRACKET")) else quote - away
        if kind == "BRACKET":
            fields |= {"limit_price": quote - draw(st.integers(1, 300)) * tick, "slippage_bps": slippage}
        elif kind.endswith("limit"):
            fields["limit_price"] = max(tick, fields["trigger_price"] + draw(st.integers(-100, 100)) * tick)
        else:
            fields["slippage_bps"] = slippage
    request = conditional(OrderType[f"{kind.split(' ')[0]}_BUY"], **fields)
    approval = approved(str(quote), tick=Price(tick), fee_bps=draw(st.integers(0, 500)))
    return kind, {**fields, "quote": quote, "tick": tick}, Story(request, approval, reserved())


def worst_by_design(kind: str, fields: dict[str, Any]) -> Decimal:
    """Work the worst price out from the design, apart from the code."""
    if "limit_price" in fields and kind != "BRACKET":
        return Decimal(fields["limit_price"])
    if kind == "TAKE_PROFIT":
        return Decimal(fields["trigger_price"])
    tick, bps = fields["tick"], fields["slippage_bps"]
    level = fields.get("trigger_price")
    if level is None:
        trail = fields.get("trail_amount") or fields["quote"] * fields["trail_bps"] / 10_000
        level = -floored(-(fields["quote"] + trail), tick)
    return max(level, floored(level * (10_000 + (100 if bps is None else bps)) / 10_000, tick))


@given(buys(), st.data())
@settings(max_examples=150, deadline=None)
def test_every_fill_fits_the_hold_of_a_buy(made: tuple[str, dict[str, Any], Story], data: st.DataObject) -> None:
    """The hold is the cost at the worst price; at any price up to that, captured and returned are the hold."""
    kind, fields, story = made
    saga, worst, tick = story.saga, worst_by_design(*made[:2]), fields["tick"]
    assume(saga.phase is Phase.WORKING)
    assert worst_price(saga) == worst
    hold = saga.progress.hold
    assert hold is not None
    quote = saga.progress.quote
    assert quote is not None
    assert hold.amount == held_at(fields["quantity"], worst, quote.fee_bps)
    assert slippage_cap(saga, None) == worst, kind
    steps = int(worst / tick)
    paid = data.draw(st.integers(1, steps)) * tick
    if data.draw(st.booleans()):
        paid = worst
    story.tell(fired(str(paid)))
    [settle] = story.commands
    assert isinstance(settle, SettleBalance)
    assert settle.amount == hold.amount
    assert settle.capture == held_at(fields["quantity"], paid, quote.fee_bps) <= hold.amount
    assert settle.credit == fields["quantity"]
    story.tell(settled())
    assert story.saga.phase is Phase.COMPLETED, "captured and returned are what was held, or it would be parked"


@given(buys(), st.integers(1, 10_000))
@settings(max_examples=80, deadline=None)
def test_no_fill_is_dearer_than_the_worst_price(made: tuple[str, dict[str, Any], Story], beyond: int) -> None:
    """A tick above it fires the order into a refund, however little it is above."""
    _, fields, story = made
    assume(story.saga.phase is Phase.WORKING)
    worst = worst_price(story.saga)
    story.tell(fired(f"{worst + beyond * fields['tick']:f}"))
    assert story.saga.phase is Phase.REFUNDING
    assert story.saga.average_price is None


@given(buys(), st.integers(1, 20_000))
@settings(max_examples=60, deadline=None)
def test_the_cap_of_a_buy_is_never_above_its_worst_price(made: tuple[str, dict[str, Any], Story], best: int) -> None:
    """Whatever watermark a trailing stop has reached."""
    _, fields, story = made
    assume(story.saga.phase is Phase.WORKING)
    cap = slippage_cap(story.saga, Price(best * fields["tick"]))
    assert cap is not None
    assert cap <= worst_price(story.saga)


@pytest.mark.parametrize(
    ("kind", "terms", "judged_at"),
    [
        (OrderKind.LIMIT, {"limit_price": "51000"}, "51000"),
        (OrderKind.STOP_LOSS, {"trigger_price": "49000"}, "49000"),
        (OrderKind.STOP_LOSS, {"trigger_price": "49000", "limit_price": "48800"}, "48800"),
        (OrderKind.TAKE_PROFIT, {"trigger_price": "51000"}, "51000"),
        (OrderKind.TRAILING_STOP, {"trail_amount": "500"}, "49500"),
        (OrderKind.BRACKET, {"limit_price": "51000", "trigger_price": "49000"}, "49000"),
    ],
)
def test_a_sell_holds_what_it_sells(kind: OrderKind, terms: dict[str, Any], judged_at: str) -> None:
    """Its quantity, whatever the price; its notional is judged at a price at which it can fill."""
    story = Story(conditional(OrderType[f"{kind}_SELL"], **terms))
    reserve = story.commands[-1]
    assert isinstance(reserve, ReserveBalance)
    assert (reserve.asset_id, reserve.amount) == ("BTC", Money("0.01"))
    story.tell(approved(), reserved())
    assert worst_price(story.saga) == Price(judged_at)
    assert slippage_cap(story.saga, None) is None, "a sell exits at any price that its limit allows"


def test_a_market_order_has_no_worst_price_of_its_own() -> None:
    """What bounds it is judged at its quote, and nothing fires it."""
    saga = Story(conditional(OrderType.MARKET_BUY), approved()).saga
    assert slippage_cap(saga, None) is None
    unquoted = Story(conditional(OrderType.LIMIT_BUY, limit_price="1")).saga
    assert slippage_cap(unquoted, None) is None, "nor has an order whose quote is not known yet"
    assert sale_floor(saga) is None
