"""How the asset service judges orders that may rest: ticks, the price that counts, deviation and trading state."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.assets import AssetApproved, AssetRefused, CheckAsset, Purpose, Trading
from contracts.codec import decode, encode
from contracts.decimals import Price, Quantity
from contracts.vocabulary import OrderType, Side
from participants.assets.pricing import trail_level
from participants.assets.rules import Asset, CurrentPrice, judge
from tests.participants.support import NOW, order

STALE_AFTER = timedelta(seconds=10)
ASSET = Asset("BTC", Decimal("0.01"), min_notional=Decimal(10), max_notional=Decimal(100), max_deviation_bps=5_000)
QUOTE = CurrentPrice(Decimal(100), 7, NOW - timedelta(days=1), NOW)
PRICES = ("price", "limit_price", "trigger_price", "trail_amount")


def check(order_type: OrderType, quantity: str = "0.5", **terms: Any) -> CheckAsset:
    """Make a check; prices are given as text."""
    read: dict[str, Any] = {name: Price(value) if name in PRICES else value for name, value in terms.items()}
    return CheckAsset("c", order(1), "BTC", order_type, Quantity(quantity), **read)


def verdict(command: CheckAsset, asset: Asset = ASSET, quote: CurrentPrice | None = QUOTE) -> tuple[str, str]:
    """Return the refusal's code and reason, or two empty texts."""
    reply = judge(command, asset, quote, NOW, STALE_AFTER)
    decode(type(reply).__name__, encode(reply))  # raises unless the reply fits the wire
    return (reply.reason_code.value, reply.reason) if isinstance(reply, AssetRefused) else ("", "")


@pytest.mark.parametrize(
    ("order_type", "terms", "price"),
    [
        (OrderType.MARKET_BUY, {}, "100"),
        (OrderType.MARKET_BUY, {"price": "90"}, "100"),
        (OrderType.LIMIT_BUY, {"limit_price": "80"}, "80"),
        (OrderType.LIMIT_SELL, {"limit_price": "120"}, "120"),
        (OrderType.STOP_LOSS_BUY, {"trigger_price": "120"}, "121.2"),
        (OrderType.STOP_LOSS_BUY, {"trigger_price": "120", "slippage_bps": 0}, "120"),
        (OrderType.STOP_LOSS_BUY, {"trigger_price": "100.01", "slippage_bps": 1}, "100.02"),
        (OrderType.STOP_LOSS_BUY, {"trigger_price": "120", "limit_price": "125"}, "125"),
        (OrderType.STOP_LOSS_SELL, {"trigger_price": "80"}, "80"),
        (OrderType.STOP_LOSS_SELL, {"trigger_price": "80", "limit_price": "75"}, "75"),
        (OrderType.TAKE_PROFIT_BUY, {"trigger_price": "80"}, "80"),
        (OrderType.TAKE_PROFIT_SELL, {"trigger_price": "120"}, "120"),
        (OrderType.TRAILING_STOP_SELL, {"trail_amount": "5"}, "95"),
        (OrderType.TRAILING_STOP_SELL, {"trail_bps": 1005}, "89.95"),
        (OrderType.TRAILING_STOP_BUY, {"trail_amount": "5", "slippage_bps": 0}, "105"),
        (OrderType.TRAILING_STOP_BUY, {"trail_bps": 500}, "106.05"),
    ],
)
def test_an_order_is_judged_at_the_price_at_which_it_can_fill(
    order_type: OrderType, terms: dict[str, Any], price: str
) -> None:
    """Quantity times that price is within the limits to the last digit; a step beyond is refused, above and below."""
    step, at = Decimal("0.00000001"), Decimal(price)
    for limit, beyond in ((10, -step), (100, step)):
        asset = replace(ASSET, min_notional=Decimal(limit), max_notional=Decimal(limit), min_quantity=step)
        quantity = Decimal(limit) / at
        if quantity == quantity.quantize(step):
            assert "" == verdict(check(order_type, str(quantity), **terms), asset)[0]
        near = quantity.quantize(step) + 2 * beyond
        asset = replace(asset, min_notional=Decimal(10), max_notional=Decimal(100))
        code, reason = verdict(check(order_type, f"{near:f}", **terms), asset)
        assert "NOTIONAL_OUT_OF_RANGE" == code, reason


@pytest.mark.parametrize(
    ("order_type", "limit", "trigger", "quantity", "refused"),
    [
        (OrderType.BRACKET_SELL, "125", "80", "0.8", ""),
        (OrderType.BRACKET_SELL, "125", "80", "0.80000001", "limit_price"),
        (OrderType.BRACKET_SELL, "125", "80", "0.125", ""),
        (OrderType.BRACKET_SELL, "125", "80", "0.12499999", "trigger_price"),
        (OrderType.BRACKET_BUY, "80", "123.77", "0.8", ""),
        (OrderType.BRACKET_BUY, "80", "123.77", "0.80006", "trigger_price with slippage"),
        (OrderType.BRACKET_BUY, "80", "123.77", "0.125", ""),
        (OrderType.BRACKET_BUY, "80", "123.77", "0.12499999", "limit_price"),
    ],
)
def test_a_bracket_is_judged_at_both_prices_at_which_it_can_fill(
    order_type: OrderType, limit: str, trigger: str, quantity: str, refused: str
) -> None:
    """Its dearer level is bound by the greatest notional, its cheaper one by the least; a buy's stop with slippage."""
    asset = replace(ASSET, step=Decimal("0.00000001"), min_quantity=Decimal("0.00000001"))
    code, reason = verdict(check(order_type, quantity, limit_price=limit, trigger_price=trigger), asset)
    assert ("NOTIONAL_OUT_OF_RANGE" if refused else "") == code, reason
    assert reason.startswith(f"quantity times {refused} is " if refused else "")


@pytest.mark.parametrize(
    ("terms", "code", "words"),
    [
        ({"limit_price": "120.001", "trigger_price": "90"}, "INVALID_TICK", "limit_price 120.001"),
        ({"limit_price": "120", "trigger_price": "90.001"}, "INVALID_TICK", "trigger_price 90.001"),
        ({"limit_price": "150.01", "trigger_price": "90"}, "PRICE_OUT_OF_RANGE", "limit_price 150.01"),
        ({"limit_price": "120", "trigger_price": "49.99"}, "PRICE_OUT_OF_RANGE", "trigger_price 49.99"),
    ],
)
def test_each_price_of_a_bracket_is_judged_by_itself(terms: dict[str, Any], code: str, words: str) -> None:
    """Both are on the tick, and neither is too far from the quote."""
    actual, reason = verdict(check(OrderType.BRACKET_SELL, **terms))
    assert code == actual, reason
    assert words in reason


@pytest.mark.parametrize(
    ("trading", "price"), [(Trading.OPEN, "100"), (Trading.HALTED, "121.2"), (Trading.CLOSED, "121.2")]
)
def test_a_queued_market_buy_is_judged_at_the_worst_price_that_it_takes(trading: Trading, price: str) -> None:
    """While the asset does not trade it is the price seen plus slippage, else the quote."""
    command = check(OrderType.MARKET_BUY, "0.83", price="120", queue_when_closed=True)
    code, reason = verdict(command, quote=replace(QUOTE, trading=trading))
    assert ("NOTIONAL_OUT_OF_RANGE" if Decimal("0.83") * Decimal(price) > 100 else "") == code, reason


def test_a_queued_market_sell_is_judged_at_the_price_that_it_names() -> None:
    """As any sell that waits; its slippage makes it no smaller."""
    command = check(OrderType.MARKET_SELL, "0.9", price="120", queue_when_closed=True)
    assert "NOTIONAL_OUT_OF_RANGE" == verdict(command, quote=replace(QUOTE, trading=Trading.CLOSED))[0]
    assert "" == verdict(command)[0]


@pytest.mark.parametrize("trading", Trading)
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("confirmed_at", [None, NOW - timedelta(days=3)])
def test_the_price_of_a_closed_market_is_old_by_nature(
    trading: Trading, confirmed_at: datetime | None, *, waits: bool
) -> None:
    """It refuses no order that waits for the opening; one that nobody ever stood by does, and an open market's too."""
    command = check(OrderType.MARKET_BUY, price="100", queue_when_closed=waits)
    code, _ = verdict(command, quote=replace(QUOTE, trading=trading, confirmed_at=confirmed_at))
    closed = trading is not Trading.OPEN
    stale = "" if closed and confirmed_at is not None else "STALE_PRICE"
    assert ("ASSET_NOT_TRADABLE" if closed and not waits else stale) == code


@pytest.mark.parametrize(
    ("terms", "code", "words"),
    [
        ({"limit_price": "80.001"}, "INVALID_TICK", "limit_price 80.001"),
        ({"trigger_price": "80.001"}, "INVALID_TICK", "trigger_price 80.001"),
        ({"trail_amount": "0.001"}, "INVALID_TICK", "trail_amount 0.001"),
        ({"price": "80.001"}, "INVALID_TICK", "price 80.001"),
        ({"limit_price": "50"}, "", ""),
        ({"limit_price": "49.99"}, "PRICE_OUT_OF_RANGE", "limit_price 49.99 is farther than 5000 bps"),
        ({"limit_price": "150"}, "", ""),
        ({"limit_price": "150.01"}, "PRICE_OUT_OF_RANGE", "limit_price 150.01"),
        ({"limit_price": "100", "trigger_price": "150.01"}, "PRICE_OUT_OF_RANGE", "trigger_price 150.01"),
        ({"trail_amount": "99.99"}, "NOTIONAL_OUT_OF_RANGE", "first trigger"),
        ({"trail_amount": "100"}, "PRICE_OUT_OF_RANGE", "the trail leaves no price"),
        ({"trail_amount": "200"}, "PRICE_OUT_OF_RANGE", "the trail leaves no price"),
    ],
)
def test_prices_off_the_tick_or_out_of_range_are_refused_by_name(terms: dict[str, Any], code: str, words: str) -> None:
    """The reason names the field; limits are inclusive; a trail may not be as much as the price."""
    actual, reason = verdict(check(OrderType.TRAILING_STOP_SELL, "0.6", **terms))
    assert code == actual, reason
    assert words in reason


def test_without_a_limit_of_deviation_any_price_will_do() -> None:
    """`max_deviation_bps` is optional."""
    command = check(OrderType.LIMIT_BUY, "10", limit_price="1")
    assert "" == verdict(command, replace(ASSET, max_deviation_bps=None))[0]


def test_a_trail_above_the_greatest_price_is_refused() -> None:
    """No price above 1,000,000 is on the wire."""
    quote = replace(QUOTE, price=Decimal(999_999))
    command = check(OrderType.TRAILING_STOP_BUY, "0.00005", trail_amount="2")
    assert "PRICE_OUT_OF_RANGE" == verdict(command, replace(ASSET, min_quantity=Decimal(0)), quote)[0]


@pytest.mark.parametrize("trading", Trading)
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("purpose", Purpose)
def test_what_a_halt_refuses(trading: Trading, purpose: Purpose, *, waits: bool) -> None:
    """A new order that would not wait is refused unless the asset is OPEN; changed terms always pass."""
    command = check(OrderType.LIMIT_BUY, limit_price="100", purpose=purpose, queue_when_closed=waits)
    passes = trading is Trading.OPEN or waits or purpose is Purpose.AMEND
    assert ("" if passes else "ASSET_NOT_TRADABLE") == verdict(command, quote=replace(QUOTE, trading=trading))[0]


def test_an_approval_says_whether_the_asset_trades() -> None:
    """The orchestrator learns the state from the approval."""
    command = check(OrderType.LIMIT_BUY, limit_price="100", queue_when_closed=True)
    reply = judge(command, ASSET, replace(QUOTE, trading=Trading.CLOSED), NOW, STALE_AFTER)
    assert isinstance(reply, AssetApproved)
    assert Trading.CLOSED is reply.trading


def test_rules_that_forbid_trading_forbid_queues_and_amends_too() -> None:
    """`trading` in the rules means not at all, unlike a halt."""
    command = check(OrderType.LIMIT_BUY, limit_price="100", purpose=Purpose.AMEND, queue_when_closed=True)
    assert "ASSET_NOT_TRADABLE" == verdict(command, replace(ASSET, trading=False))[0]


@pytest.mark.parametrize(
    ("purpose", "quote", "code"),
    [
        (Purpose.ENTRY, replace(QUOTE, confirmed_at=None), "STALE_PRICE"),
        (Purpose.ENTRY, replace(QUOTE, confirmed_at=NOW - timedelta(seconds=11)), "STALE_PRICE"),
        (Purpose.AMEND, replace(QUOTE, confirmed_at=NOW - timedelta(seconds=11)), ""),
        (Purpose.AMEND, replace(QUOTE, confirmed_at=None), ""),
        (Purpose.AMEND, None, "STALE_PRICE"),
    ],
)
def test_only_a_new_order_needs_a_fresh_price(purpose: Purpose, quote: CurrentPrice | None, code: str) -> None:
    """Changed terms are judged at the last price, however old; without any price there is no answer but a refusal."""
    assert code == verdict(check(OrderType.LIMIT_BUY, limit_price="100", purpose=purpose), quote=quote)[0]


@given(
    watermark=st.integers(1, 10**8),
    bps=st.integers(1, 1000).map(lambda n: 5 * n),
    ticks=st.sampled_from([1, 5, 25, 100]),
    side=st.sampled_from(Side),
)
def test_a_trail_is_rounded_away_from_early_firing(watermark: int, bps: int, ticks: int, side: Side) -> None:
    """The level is the nearest tick at or beyond the exact trail: below it for a sell, above it for a buy."""
    tick = Decimal(ticks).scaleb(-2)
    price = tick * watermark
    kind = OrderType.TRAILING_STOP_SELL if side is Side.SELL else OrderType.TRAILING_STOP_BUY
    level = Fraction(trail_level(check(kind, trail_bps=bps), tick, price))
    sign = -1 if side is Side.SELL else 1
    exact = Fraction(price) * (10_000 + sign * bps) / 10_000
    assert 0 <= sign * (level - exact) < Fraction(tick)
    assert 1 == (level / Fraction(tick)).denominator
