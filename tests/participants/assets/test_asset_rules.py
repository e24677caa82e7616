"""How the asset service judges an order: a table of rules and refusals, and exact limits."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.assets import AssetApproved, AssetRefused, CheckAsset
from contracts.codec import decode, encode
from contracts.decimals import Price, Quantity, add, multiply
from contracts.vocabulary import OrderType
from participants.assets.rules import Asset, CurrentPrice, judge
from tests.participants.support import NOW, order

STALE_AFTER = timedelta(seconds=10)
ASSET = Asset(
    "BTC", Decimal("0.01"), max_quantity=Decimal("0.5"), available_quantity=Decimal("0.15"), fee_bps=25, rules_version=3
)
QUOTE = CurrentPrice(Decimal("50000.00"), 7, NOW - timedelta(days=1), NOW - timedelta(seconds=10))


def check(quantity: str = "0.01", price: str | None = None) -> CheckAsset:
    """Make a check of an order."""
    seen = Price.parse(price) if price is not None else None
    return CheckAsset("c", order(1), "BTC", OrderType.MARKET_BUY, Quantity.parse(quantity), seen)


def verdict(command: CheckAsset, asset: Asset | None = ASSET, quote: CurrentPrice | None = QUOTE) -> str:
    """Return the refusal's reason code, or "" for an approval."""
    reply = judge(command, asset, quote, NOW, STALE_AFTER)
    decode(type(reply).__name__, encode(reply))  # raises unless the reply fits the wire
    return reply.reason_code.value if isinstance(reply, AssetRefused) else ""


def test_an_approval_carries_all_that_later_sums_need() -> None:
    """An approval carries quote, sequence, grid, fee, cash and rules version of the asset and its price."""
    assert AssetApproved(
        command_id="c",
        order_id=order(1),
        asset_id="BTC",
        price=Price("50000.00"),
        sequence=7,
        as_of=NOW - timedelta(days=1),
        tick=Price("0.01"),
        step=Quantity("0.00000001"),
        fee_bps=25,
        cash_asset_id="USD",
        cash_scale=2,
        rules_version=3,
    ) == judge(check(price="49000.01"), ASSET, QUOTE, NOW, STALE_AFTER)


def test_the_defaults_are_those_of_the_domain() -> None:
    """Step 1e-8, at least 0.001, notional 10 to 10,000, 10 basis points, cash in cents, no further limit."""
    expected = Asset(
        "X",
        Decimal(1),
        step=Decimal("1e-8"),
        min_quantity=Decimal("0.001"),
        max_quantity=None,
        min_notional=Decimal(10),
        max_notional=Decimal(10_000),
        fee_bps=10,
        cash_asset_id="USD",
        cash_scale=2,
        trading=True,
        available_quantity=None,
        answer_delay_s=None,
    )
    assert expected == Asset("X", Decimal(1))


@pytest.mark.parametrize(
    ("quantity", "price", "code"),
    [
        ("0.01", None, ""),
        ("0.01", "0.01", ""),
        ("0.01000001", None, ""),
        ("0.010000001", None, "INVALID_STEP"),
        ("0.01", "50000.001", "INVALID_TICK"),
        ("0.001", None, ""),
        ("0.00099999", None, "QUANTITY_OUT_OF_RANGE"),
        ("0.5", None, "ASSET_UNAVAILABLE"),
        ("0.50000001", None, "QUANTITY_OUT_OF_RANGE"),
        ("0.15", None, ""),
        ("0.15000001", None, "ASSET_UNAVAILABLE"),
    ],
)
def test_rules_of_quantity_and_price(quantity: str, price: str | None, code: str) -> None:
    """Limits are inclusive; a value off the grid is refused and never rounded."""
    assert code == verdict(check(quantity, price))


def test_objections_come_in_their_order() -> None:
    """Rules are checked in a fixed order: an order that breaks all gets the first reason, after a fix the next."""
    command = check("7.000000001", "0.001")
    asset: Asset | None = None
    quote: CurrentPrice | None = None
    seen = [verdict(command, asset, quote)]
    asset = replace(ASSET, trading=False, max_notional=Decimal(1000), min_notional=Decimal(20))
    seen.append(verdict(command, asset, quote))
    asset = replace(asset, trading=True)
    seen.append(verdict(command, asset, quote))
    command = check("7", "0.001")
    seen.append(verdict(command, asset, quote))
    command = check("7", "0.01")
    seen.append(verdict(command, asset, quote))
    asset = replace(asset, max_quantity=None)
    seen.append(verdict(command, asset, quote))
    asset = replace(asset, available_quantity=None)
    seen.append(verdict(command, asset, quote))
    quote = QUOTE
    seen.append(verdict(command, asset, quote))
    seen.append(verdict(check("0.01", "0.01"), asset, quote))
    assert [
        "ASSET_NOT_FOUND",
        "ASSET_NOT_TRADABLE",
        "INVALID_STEP",
        "INVALID_TICK",
        "QUANTITY_OUT_OF_RANGE",
        "ASSET_UNAVAILABLE",
        "STALE_PRICE",
        "NOTIONAL_OUT_OF_RANGE",
        "",
    ] == seen


@pytest.mark.parametrize(
    ("age", "code"),
    [
        (timedelta(seconds=10), ""),
        (timedelta(seconds=10, microseconds=1), "STALE_PRICE"),
        (timedelta(days=400), "STALE_PRICE"),
        (timedelta(seconds=-1), ""),
        (None, "STALE_PRICE"),
    ],
)
def test_a_price_counts_for_as_long_as_its_source_confirms_it(age: timedelta | None, code: str) -> None:
    """A price is stale ten seconds after its last confirmation, or if it has none; its own age does not matter."""
    confirmed_at = NOW - age if age is not None else None
    assert code == verdict(check(), quote=replace(QUOTE, confirmed_at=confirmed_at))


@given(
    quantity=st.integers(1, 10**12).map(lambda n: Quantity(Decimal(n).scaleb(-8))),
    price=st.integers(1, 10**8).map(lambda n: Decimal(n).scaleb(-2)),
    hair=st.sampled_from([Decimal("-1e-10"), Decimal(0), Decimal("1e-10")]),
    at_the_top=st.booleans(),
)
def test_notional_is_judged_exactly(quantity: Quantity, price: Decimal, hair: Decimal, *, at_the_top: bool) -> None:
    """The smallest excess over a limit counts, unrounded, whatever the precision of the thread's context."""
    gross = multiply(quantity, price)
    limit = max(add(gross, hair), Decimal(0))
    low, high = (Decimal(0), limit) if at_the_top else (limit, Decimal(10**15))
    asset = Asset("BTC", Decimal("0.01"), min_quantity=Decimal("1e-8"), min_notional=low, max_notional=high)
    within = Fraction(low) <= Fraction(quantity) * Fraction(price) <= Fraction(high)
    command = CheckAsset("c", order(1), "BTC", OrderType.MARKET_SELL, quantity)
    with localcontext(prec=3):
        assert ("" if within else "NOTIONAL_OUT_OF_RANGE") == verdict(command, asset, replace(QUOTE, price=price))


@pytest.mark.parametrize(
    ("quantity", "code"), [("9999999999999999", "NOTIONAL_OUT_OF_RANGE"), ("0.000000000000000001", "INVALID_STEP")]
)
def test_extremes_have_an_answer(quantity: str, code: str) -> None:
    """The largest and the smallest quantity on the wire are refused with a reason like any other."""
    asset = replace(ASSET, max_quantity=None, available_quantity=None)
    assert code == verdict(check(quantity), asset, replace(QUOTE, price=Decimal("999999.999999999999999999")))
