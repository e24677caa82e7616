"""Amounts are exact from wire to wire: one text form, and no rounding except in functions named for it."""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from contracts.decimals import (
    EXACT,
    Exact,
    Money,
    Price,
    Quantity,
    add,
    ceil_to,
    exact_text,
    floor_to,
    format_decimal,
    is_multiple,
    multiply,
    negate,
    places,
    plain_text,
    subtract,
)
from tests.contracts.strategies import THOROUGH, decimals

KINDS = (Exact, Money, Quantity, Price)
SCALES = st.integers(0, 18)
HOSTILE = decimal.Context(prec=1, rounding=decimal.ROUND_UP, Emin=-1, Emax=1, traps=[decimal.Inexact, decimal.Rounded])
"""A default context of a thread in which nearly every operation of `Decimal` raises."""

NOT_WIRE = (
    *(
        "1_000",
        "1e3",
        "1E-8",
        "\u0661",
        "\uff11",
        "+1",
        "-1",
        "-0",
        " 1",
        "1 ",
        "1.",
        ".5",
        "01",
        "00",
        "1\n",
        "\n1",
        "",
    ),
    *("1" * 19, "0." + "0" * 18 + "1", "1.0.0", "1,5", "0x10", "NaN", "sNaN", "Infinity", "1\0", "\u00bd", "1.\u0661"),
)


@contextmanager
def hostile_default_context() -> Iterator[None]:
    """Run the test in the context `HOSTILE`."""
    with decimal.localcontext(HOSTILE):
        yield


@given(decimals())
@example(Exact("0"))
@example(Exact("0.000000000000000001"))
@example(Exact("999999999999999999.999999999999999999"))
@THOROUGH
def test_print_and_parse_is_the_same_value(value: Exact) -> None:
    """A printed value parses to the same value, to the digit."""
    assert value == Exact.parse(format_decimal(value))


@given(st.from_regex(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?", fullmatch=True))
@THOROUGH
def test_every_wire_text_is_read_exactly(text: str) -> None:
    """Parsing keeps every digit that a wire text can have."""
    assert Fraction(text) == Fraction(Exact.parse(text))


@given(decimals(), st.integers(0, 18))
@THOROUGH
def test_print_is_canonical(value: Exact, zeros: int) -> None:
    """Equal values have one text, without exponent, sign, trailing zero or trailing point."""
    text = format_decimal(value)
    padded = EXACT.quantize(value, EXACT.scaleb(Decimal(1), -zeros - places(value)))
    assert text == format_decimal(padded)
    assert not set(text) - set("0123456789.")
    assert text == "0" or not text.startswith("0") or text.startswith("0.")
    assert "." not in text or text[-1] not in "0."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1E-8", "0.00000001"),
        ("1E+2", "100"),
        ("100", "100"),
        ("1.00", "1"),
        ("0E-18", "0"),
        ("0E-36", "0"),
        ("0E+50", "0"),
        ("0.10", "0.1"),
    ],
)
def test_print_is_plain(value: str, text: str) -> None:
    """A printed text never has an exponent, whatever the inner form of the `Decimal`."""
    assert text == format_decimal(Decimal(value))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", NOT_WIRE, ids=ascii)
def test_parse_refuses_other_spellings(kind: type[Exact], text: str) -> None:
    """Spellings that Python, pydantic or msgspec would accept are refused, and the error states the rule."""
    with pytest.raises(ValueError, match="must be a decimal as a string"):
        kind.parse(text)


@pytest.mark.parametrize("value", [1, 0, 1.5, 0.1, True, None, Decimal(1), b"1", ["1"], {"1": 1}, Money("2")], ids=repr)
def test_parse_refuses_what_is_not_text(value: object) -> None:
    """A JSON number is refused for any value, because a parser may already have lost some of its digits."""
    with pytest.raises(ValueError, match="must be a decimal as a string"):
        Exact.parse(value)


@given(st.text())
@THOROUGH
def test_parse_is_total(text: str) -> None:
    """Any text parses to a value that can be printed again, or raises `ValueError`."""
    try:
        value = Exact.parse(text)
    except ValueError:
        return
    assert Fraction(text) == Fraction(format_decimal(value))


@pytest.mark.parametrize("kind", [Quantity, Price])
@pytest.mark.parametrize("text", ["0", "0.0", "0.000000000000000000"])
def test_quantity_and_price_are_positive(kind: type[Exact], text: str) -> None:
    """A quantity and a price are more than 0; an amount may be 0."""
    with pytest.raises(ValueError, match="more than 0"):
        kind.parse(text)
    assert Money.parse(text) == 0


def test_price_has_a_maximum() -> None:
    """The largest price is 1,000,000; one 18th place more is refused."""
    assert Price.parse("1000000") == 1_000_000
    with pytest.raises(ValueError, match="at most 1000000"):
        Price.parse("1000000.000000000000000001")


@pytest.mark.parametrize("kind", KINDS)
def test_parse_makes_its_own_kind(kind: type[Exact]) -> None:
    """A parsed price is a `Price`, as its type annotation says."""
    assert kind is type(kind.parse("1.5"))


@pytest.mark.parametrize(
    "value",
    [
        *("-1", "-0.01", "-0", "NaN", "sNaN", "Infinity", "-Infinity", "1E-19", "0.1234567890123456789"),
        *("1000000000000000000", "1E+18", "1E+999999999999999999", "1E-999999999999999999", "9" * 40),
    ],
)
def test_print_refuses_what_the_wire_can_not_carry(value: str) -> None:
    """A 19th place, which PostgreSQL would round, and a huge exponent, which would print as many zeros, are refused."""
    with pytest.raises(ValueError, match="not a wire decimal"):
        format_decimal(Decimal(value))


@given(decimals(), decimals())
@THOROUGH
def test_sums_never_lose_a_digit(left: Exact, right: Exact) -> None:
    """Products and sums equal those of fractions, although the default context would round them to 28 digits."""
    assert Fraction(left) * Fraction(right) == Fraction(multiply(left, right))
    assert Fraction(left) + Fraction(right) == Fraction(add(left, right))
    assert Fraction(left) - Fraction(right) == Fraction(subtract(left, right))


@given(decimals(), decimals(), decimals())
@THOROUGH
def test_a_product_of_three_is_exact(first: Exact, second: Exact, third: Exact) -> None:
    """Quantity times price times rate fits without rounding."""
    assert Fraction(first) * Fraction(second) * Fraction(third) == Fraction(multiply(multiply(first, second), third))


def test_what_does_not_fit_raises() -> None:
    """A result beyond the context raises an error and is never rounded."""
    wide = Decimal("9" * 100)
    with pytest.raises(decimal.Inexact):
        multiply(wide, wide)
    with pytest.raises(decimal.Inexact):
        add(wide, Decimal("1E-30"))
    with pytest.raises(decimal.Inexact):
        subtract(wide, Decimal("1E-30"))


def all_operations(left: Exact, right: Exact, scale: int) -> tuple[object, ...]:
    """Call every function of this module that computes."""
    product = multiply(left, right)
    return (
        product,
        add(left, right),
        subtract(left, right),
        ceil_to(product, scale),
        floor_to(product, scale),
        places(product),
        is_multiple(product, Decimal("0.01")),
        format_decimal(left),
        Exact.parse(format_decimal(right)),
        Price.parse("50000.000000000000000001"),
    )


@given(decimals(), decimals(), SCALES)
@THOROUGH
def test_the_default_context_does_not_matter(left: Exact, right: Exact, scale: int) -> None:
    """The results do not depend on the context that the calling thread has set."""
    expected = all_operations(left, right, scale)
    with hostile_default_context():
        actual = all_operations(left, right, scale)
    assert expected == actual


def test_another_thread_does_not_matter() -> None:
    """Contexts are set per thread: a thread without ours, or with a hostile one, computes the same results."""
    arguments = (Exact("123456789.123456789123456789"), Exact("987654321.987654321987654321"), 2)
    expected = all_operations(*arguments)

    def in_thread(hostile: bool) -> tuple[object, ...]:  # noqa: FBT001 - mapped over both
        decimal.setcontext(HOSTILE.copy() if hostile else decimal.Context(prec=28))
        return all_operations(*arguments)

    with ThreadPoolExecutor(max_workers=2) as pool:
        assert [expected, expected] == list(pool.map(in_thread, (False, True)))
    assert multiply(arguments[0], arguments[1]) == Decimal("121932631356500531.591068431581771069347203169112635269")


@given(decimals(), decimals(), SCALES)
@THOROUGH
def test_rounding_stays_within_one_unit(left: Exact, right: Exact, scale: int) -> None:
    """`ceil_to` never returns less and `floor_to` never more, each on the grid and within one unit."""
    exact = Fraction(multiply(left, right))
    unit = Fraction(1, 10**scale)
    up, down = Fraction(ceil_to(multiply(left, right), scale)), Fraction(floor_to(multiply(left, right), scale))
    assert down <= exact <= up
    assert up - exact < unit
    assert exact - down < unit
    assert up % unit == 0
    assert down % unit == 0
    assert (up == down) == (exact % unit == 0)


def test_rounded_amounts_are_money() -> None:
    """A rounded amount is a valid wire amount."""
    assert (Money, Money) == (type(ceil_to(Decimal("0.001"), 2)), type(floor_to(Decimal("0.001"), 2)))
    expected = ["0.01", "0"]
    assert expected == [format_decimal(ceil_to(Decimal("0.001"), 2)), format_decimal(floor_to(Decimal("0.001"), 2))]


def test_the_example_of_the_specification() -> None:
    """Sell 0.00100001 BTC at 50,000 with 10 bps: proceeds 50.00, fee 0.06, credit 49.94."""
    gross = multiply(Quantity("0.00100001"), Price("50000"))
    proceeds, fee = floor_to(gross, 2), ceil_to(multiply(gross, Decimal("0.001")), 2)
    expected = ["50", "0.06", "49.94"]
    assert expected == [*map(format_decimal, (proceeds, fee, subtract(proceeds, fee)))]


@given(decimals(), SCALES)
@THOROUGH
def test_places_counts_significant_places(value: Exact, scale: int) -> None:
    """`places` is the smallest scale at which no digit is lost."""
    assert (places(value) <= scale) == (floor_to(value, scale) == value)


@pytest.mark.parametrize(("value", "count"), [("1.500", 1), ("100", 0), ("1E+5", 0), ("0", 0), ("0E-9", 0), ("NaN", 0)])
def test_places_ignores_zeros(value: str, count: int) -> None:
    """Trailing zeros and exponents do not count as places."""
    assert count == places(Decimal(value))


@given(decimals(), decimals(Quantity))
@THOROUGH
def test_is_multiple_is_that_of_fractions(value: Exact, step: Exact) -> None:
    """`is_multiple` agrees with fractions for any magnitudes."""
    assert (Fraction(value) % Fraction(step) == 0) == is_multiple(value, step)
    assert is_multiple(multiply(value, step), step) or places(value) > 0


def test_a_decimal_that_postgresql_would_round_is_refused() -> None:
    """A 19th place, NaN and infinity are refused before the database; other values are printed without an exponent."""
    for bad in ("0.0000000000000000001", "NaN", "Infinity"):
        with pytest.raises(ValueError, match=bad if bad != "0.0000000000000000001" else "E-19"):
            exact_text(Decimal(bad))
    assert exact_text(Decimal("1E+2")) == "100"


def test_a_reason_shows_what_the_wire_cannot_carry() -> None:
    """A product of many places and a sum below zero are printed in full, without exponent or trailing zeros."""
    assert plain_text(multiply(Decimal("1E-18"), Decimal("2E-18"))) == "0.000000000000000000000000000000000002"
    assert plain_text(negate(Decimal("100.50"))) == "-100.5"


@pytest.mark.parametrize("kind", KINDS)
def test_a_decimal_is_a_documented_string(kind: type[Exact]) -> None:
    """Read and written, a decimal is a string of the wire's pattern, with its rule."""
    adapter = TypeAdapter(kind)
    for mode in ("validation", "serialization"):
        schema = adapter.json_schema(mode=mode)
        assert ("string", kind.rule) == (schema["type"], schema["description"])
        assert jsonschema.Draft7Validator(schema).is_valid("0.01")
        assert not jsonschema.Draft7Validator(schema).is_valid("1e3")
    assert adapter.dump_json(adapter.validate_json('"1.50"')) == b'"1.5"'
