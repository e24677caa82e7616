"""The sums of an order are exact, rounded once and never beyond the user's limit; splitting an order gains nothing."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.decimals import Money, Price, Quantity, add
from contracts.vocabulary import ReasonCode, Side
from order_saga.core.money import Sums, refusal, sums
from order_saga.core.saga import Quote
from tests.order_saga.core.sample import quote

CASH_SCALES: Final = st.integers(0, 18)
FEES_BPS: Final = st.integers(0, 10_000)


def _decimal(digits: int, places: int) -> Decimal:
    return Decimal(f"{digits}E-{places}")


QUANTITIES: Final = st.builds(_decimal, st.integers(1, 10**24), st.integers(0, 18)).filter(lambda q: q < 10**9)
PRICES: Final = st.builds(_decimal, st.integers(1, 10**15), st.integers(0, 18)).filter(lambda p: p <= 10**6)
QUOTES: Final = st.builds(
    lambda price, fee_bps, cash_scale: quote(f"{price:f}", fee_bps=fee_bps, cash_scale=cash_scale),
    PRICES,
    FEES_BPS,
    CASH_SCALES,
)
LIKELY: Final = st.builds(
    lambda cents, fee_bps: quote(f"{_decimal(cents, 2):f}", fee_bps=fee_bps, cash_scale=2),
    st.integers(1, 10**7),
    st.sampled_from((0, 1, 10, 25, 100)),
)
AMOUNTS: Final = QUANTITIES.map(lambda quantity: Quantity(f"{quantity:f}"))
ANY: Final = (AMOUNTS, QUOTES | LIKELY)


def _exactly(quantity: Quantity, told: Quote) -> tuple[Fraction, Fraction, Fraction]:
    """Compute gross, fee and one unit of cash with fractions, independently of the code under test."""
    gross = Fraction(quantity) * Fraction(told.price)
    return gross, gross * told.fee_bps / 10_000, Fraction(1, 10**told.cash_scale)


def _rounded_up(value: Fraction, unit: Fraction) -> Fraction:
    return -(-value // unit) * unit


# By example -----------------------------------------------------------------------------------------------------------


def test_the_example_of_the_specification() -> None:
    """Sell 0.00100001 BTC at 50,000: proceeds 50.00, fee 0.06, credit 49.94."""
    total = sums(Side.SELL, "BTC", Quantity("0.00100001"), quote("50000"))
    assert total == Sums("BTC", Money("0.00100001"), "USD", Money("49.94"), "USD", Money("0.06"))
    assert total.credit + total.fee == Decimal("50.00")


def test_the_same_as_a_buy() -> None:
    """Buy the same: cost 50.01 and fee 0.06, both rounded up."""
    total = sums(Side.BUY, "BTC", Quantity("0.00100001"), quote("50000"))
    assert total == Sums("USD", Money("50.07"), "BTC", Money("0.00100001"), "USD", Money("0.06"))


def test_an_exact_sum_is_not_rounded() -> None:
    """An exact cost of 500.00 at 10 bps has a fee of exactly 0.50."""
    assert sums(Side.BUY, "BTC", Quantity("0.01"), quote("50000")).hold == Decimal("500.50")
    assert sums(Side.SELL, "BTC", Quantity("0.01"), quote("50000")).credit == Decimal("499.50")


def test_no_fee_is_no_fee() -> None:
    """A rate of zero charges no fee."""
    assert sums(Side.BUY, "ACME", Quantity(1), quote("20", fee_bps=0)).fee == 0
    assert sums(Side.SELL, "ACME", Quantity(1), quote("20", fee_bps=0)).credit == 20


def test_the_smallest_order_pays_the_smallest_unit() -> None:
    """A buy below one cent costs one cent and one cent of fee; a sell below one cent brings nothing and is refused."""
    tiny, told = Quantity("0.000000000000000001"), quote("0.01")
    assert sums(Side.BUY, "BTC", tiny, told).hold == Decimal("0.02")
    refused = refusal(Side.SELL, "BTC", tiny, None, 100, told)
    assert refused == (ReasonCode.NOTIONAL_OUT_OF_RANGE, "the fee takes all that the sale would bring")


# Whatever the amounts -------------------------------------------------------------------------------------------------


@given(*ANY)
def test_a_buy_holds_exactly_what_it_will_cost(quantity: Quantity, told: Quote) -> None:
    """Cost and fee are each the least number of cash units that covers them; the user gets the whole quantity."""
    gross, fee, unit = _exactly(quantity, told)
    total = sums(Side.BUY, "BTC", quantity, told)
    assert Fraction(total.fee) == _rounded_up(fee, unit)
    assert Fraction(total.hold) == _rounded_up(gross, unit) + _rounded_up(fee, unit)
    assert (total.hold_asset_id, total.credit_asset_id, total.credit) == ("USD", "BTC", Money(quantity))


@given(*ANY)
def test_a_sell_credits_what_is_left_of_the_proceeds(quantity: Quantity, told: Quote) -> None:
    """Proceeds are rounded down and the fee up; together they never exceed the gross; the quantity is unchanged."""
    gross, fee, unit = _exactly(quantity, told)
    total = sums(Side.SELL, "BTC", quantity, told)
    assert Fraction(total.fee) == _rounded_up(fee, unit)
    assert Fraction(total.credit) + Fraction(total.fee) == gross // unit * unit
    assert gross - unit < Fraction(total.credit) + Fraction(total.fee) <= gross
    assert (total.hold_asset_id, total.hold, total.credit_asset_id) == ("BTC", Money(quantity), "USD")


@given(*ANY, st.sampled_from(Side))
def test_every_cash_sum_lies_on_the_cash_scale(quantity: Quantity, told: Quote, side: Side) -> None:
    """Every cash sum lies on the cash scale, so the journal sums to zero without an account for differences."""
    total = sums(side, "BTC", quantity, told)
    cash = (total.hold, total.fee) if side is Side.BUY else (total.credit, total.fee)
    unit = Fraction(1, 10**told.cash_scale)
    assert [Fraction(amount) % unit for amount in cash] == [0, 0]


@given(*ANY, st.sampled_from(Side), st.integers(0, 10_000), st.integers(-20_000, 20_000))
def test_the_price_bound_is_compared_unrounded(
    quantity: Quantity, told: Quote, side: Side, slippage_bps: int, off_bps: int
) -> None:
    """An order is refused exactly when the quote is worse than the price by more than the slippage."""
    seen = Fraction(told.price) * (10_000 + off_bps) / 10_000
    price = Price(f"{max(Decimal('1E-18'), min(Decimal(10**6), _plain(seen))):f}")
    slip = Fraction(slippage_bps, 10_000) * (1 if side is Side.BUY else -1)
    bound = Fraction(price) * (1 + slip)
    worse = Fraction(told.price) > bound if side is Side.BUY else Fraction(told.price) < bound
    refused = refusal(side, "BTC", quantity, price, slippage_bps, told)
    assert (refused is not None and refused[0] is ReasonCode.SLIPPAGE_EXCEEDED) == worse


def _plain(value: Fraction) -> Decimal:
    """Cut to eighteen places."""
    return Decimal(value * 10**18 // 1).scaleb(-18)


@given(*ANY, st.integers(1, 999), st.sampled_from(Side))
@settings(max_examples=300)
def test_nobody_gains_by_splitting_an_order(quantity: Quantity, told: Quote, share: int, side: Side) -> None:
    """Named test 7: two parts cost at least as much, bring at most as much and pay at least as much fee."""
    first = Decimal(int(quantity * 10**18) * share // 1000).scaleb(-18)
    if not 0 < first < quantity:
        return
    parts = [sums(side, "BTC", Quantity(f"{part:f}"), told) for part in (first, quantity - first)]
    whole = sums(side, "BTC", quantity, told)
    fee, hold, credit = (add(getattr(parts[0], name), getattr(parts[1], name)) for name in ("fee", "hold", "credit"))
    assert fee >= whole.fee
    if side is Side.BUY:
        assert (hold >= whole.hold, credit) == (True, whole.credit)
    else:
        assert (credit <= whole.credit, hold) == (True, whole.hold)


@given(*ANY, st.sampled_from(Side))
def test_an_accepted_order_has_sums_that_the_wire_can_carry(quantity: Quantity, told: Quote, side: Side) -> None:
    """Required sums of an accepted order are positive, and all sums are below 10**18."""
    total = sums(side, "BTC", quantity, told)
    if refusal(side, "BTC", quantity, None, 0, told) is None:
        assert 0 < total.hold < 10**18
        assert 0 < total.credit < 10**18
        assert 0 <= total.fee < 10**18
    else:
        assert total.credit <= 0 or max(total.hold, total.credit, total.fee) >= 10**18


@given(AMOUNTS, AMOUNTS, QUOTES)
def test_a_larger_order_never_costs_less(one: Quantity, other: Quantity, told: Quote) -> None:
    """A larger quantity never costs less."""
    small, large = sorted((one, other))
    assert sums(Side.BUY, "BTC", small, told).hold <= sums(Side.BUY, "BTC", large, told).hold
    assert sums(Side.BUY, "BTC", small, told).fee <= sums(Side.BUY, "BTC", large, told).fee


# Whatever the thread --------------------------------------------------------------------------------------------------


def _narrow() -> decimal.Context:
    return decimal.Context(prec=3, Emax=4, Emin=-4, rounding=decimal.ROUND_UP)


def _trapping() -> decimal.Context:
    return decimal.Context(prec=1, Emax=1, Emin=-1, traps=list(decimal.Context().flags))


@pytest.mark.parametrize("context", [_narrow, _trapping])
@given(*ANY, st.sampled_from(Side))
def test_the_sums_do_not_depend_on_the_threads_context(
    context: Callable[[], decimal.Context], quantity: Quantity, told: Quote, side: Side
) -> None:
    """The calling thread's precision, exponents, rounding and traps change no sum, and its flags stay unset."""
    expected = sums(side, "BTC", quantity, told), refusal(side, "BTC", quantity, Price(1), 5, told)
    with decimal.localcontext(context()) as here:
        here.clear_flags()
        found = sums(side, "BTC", quantity, told), refusal(side, "BTC", quantity, Price(1), 5, told)
        assert not any(here.flags.values())
    assert found == expected
