"""Exact decimals: how an amount is written, read, multiplied and rounded, in one module.

On the wire a decimal is a JSON *string*, never a number, and only in the form of `PATTERN`. Every
operation names `EXACT`, a context of our own that raises when a digit would be lost; the thread's default context is
never used. Only `ceil_to` and `floor_to` round, and their names say which way.
"""

from __future__ import annotations

import re
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_CEILING,
    ROUND_FLOOR,
    Context,
    Decimal,
    DivisionByZero,
    FloatOperation,
    Inexact,
    InvalidOperation,
    Overflow,
)
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

PATTERN = r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?"
PLACES_MAX = 18
ZERO = Decimal(0)
CACHED_MAX = 16_384
"""Size of the cache of parsed decimals: a price, a tick or an amount comes many times in a row."""
_WRITTEN = re.compile(PATTERN, re.ASCII)
_TRAPS = [InvalidOperation, DivisionByZero, Overflow, FloatOperation]

EXACT = Context(prec=120, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[*_TRAPS, Inexact])
"""Room for a product of three wire decimals; a result that does not fit raises `decimal.Inexact`."""

_ROUNDING_UP = Context(prec=120, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=_TRAPS, rounding=ROUND_CEILING)
_ROUNDING_DOWN = Context(prec=120, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=_TRAPS, rounding=ROUND_FLOOR)


class Exact(Decimal):
    """A decimal as the wire carries it: not negative, at most 18 digits before and 18 after the point.

    Made by `parse` from text, or by the constructor from a computed number. It stores its text, since a number that is
    read once is written several times.
    """

    __slots__ = ("_text",)
    _text: str

    rule: ClassVar[str] = "a decimal as a string, such as '0.01': at most 18 digits before and 18 after the point"
    positive: ClassVar[bool] = False
    maximum: ClassVar[Decimal | None] = None

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a wire decimal. Raise `ValueError`, which states the rule, for anything else, numbers included."""
        if type(text) is not str:
            raise ValueError(f"must be {cls.rule}")
        return cls._parse(text)

    @classmethod
    @lru_cache(CACHED_MAX)
    def _parse(cls, text: str) -> Self:
        if _WRITTEN.fullmatch(text) is None:
            raise ValueError(f"must be {cls.rule}")
        value = cls(text)
        if (cls.positive and not value) or (cls.maximum is not None and value > cls.maximum):
            raise ValueError(f"must be {cls.rule}")
        return value

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Give pydantic the same rule, so that the documents and the codec can't differ."""
        from pydantic_core import core_schema  # noqa: PLC0415 - only the documentation needs pydantic

        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(format_decimal)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the decimal as the string it is."""
        schema: dict[str, Any] = {"type": "string", "pattern": f"^{PATTERN}$", "description": cls.rule}
        return schema | ({"not": {"pattern": r"^0(\.0+)?$"}} if cls.positive else {})


class Money(Exact):
    """An amount of one asset, cash or not, zero included."""

    __slots__ = ()


class Quantity(Exact):
    """How much of an asset an order asks for: more than 0."""

    __slots__ = ()
    positive = True
    rule = "a decimal as a string, more than 0, such as '0.01': at most 18 digits before and 18 after the point"


class Price(Exact):
    """Cash for one unit of an asset: more than 0, at most 1,000,000."""

    __slots__ = ()
    positive = True
    maximum = Decimal(1_000_000)
    rule = "a decimal as a string, more than 0, at most 1000000, such as '50000.00', at most 18 digits after the point"


def format_decimal(value: Decimal) -> str:
    """Print plainly and canonically: `0.01`, `100`, never `1E-8` or `1.00`.

    Raises `ValueError` for what the wire can't carry: negative, not finite, too large, or over 18 places (PostgreSQL
    would round the 19th).
    """
    text: str | None = getattr(value, "_text", None)
    if text is None:
        text = _format(value)
        if isinstance(value, Exact):
            value._text = text  # noqa: SLF001 - this function is the only other user
    return text


def _format(value: Decimal) -> str:
    if value.is_signed() or not value.is_finite():
        raise ValueError(f"not a wire decimal: {str(value)[:60]}")
    if not value:
        return "0"
    if abs(value.adjusted()) > PLACES_MAX:  # before a huge exponent is spelled out in zeros
        raise ValueError(f"not a wire decimal: {str(value)[:60]}")
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    if _WRITTEN.fullmatch(text) is None:
        raise ValueError(f"not a wire decimal: {text[:60]}")
    return text


def plain_text(value: Decimal) -> str:
    """Print without an exponent and without trailing zeros, also what the wire can't carry: for a reason in words."""
    return f"{EXACT.normalize(value):f}"


def exact_text(value: Decimal) -> str:
    """Print for a column `numeric(38,18)`; raise `ValueError` for a value that PostgreSQL would round, or for none."""
    text = f"{value:f}"
    if len(text.partition(".")[2]) > PLACES_MAX or not value.is_finite():
        raise ValueError(f"{value} has more than {PLACES_MAX} places or is no number")
    return text


def multiply(left: Decimal, right: Decimal) -> Decimal:
    """Multiply without losing a digit, whatever the thread's context says."""
    return EXACT.multiply(left, right)


def add(left: Decimal, right: Decimal) -> Decimal:
    """Add without losing a digit."""
    return EXACT.add(left, right)


def subtract(left: Decimal, right: Decimal) -> Decimal:
    """Subtract without losing a digit."""
    return EXACT.subtract(left, right)


def negate(value: Decimal) -> Decimal:
    """Change the sign without losing a digit."""
    return EXACT.minus(value)


def places(value: Decimal) -> int:
    """Count the digits after the point that are not trailing zeros."""
    exponent = EXACT.normalize(value).as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def is_multiple(value: Decimal, step: Decimal) -> bool:
    """Tell whether a value lies on the grid of a tick or a step (`step` > 0)."""
    return not EXACT.remainder(value, step)


def ceil_to(value: Decimal, scale: int) -> Money:
    """Round up to `scale` places: what the user pays."""
    return Money(_ROUNDING_UP.quantize(value, _UNITS[scale]))


def floor_to(value: Decimal, scale: int) -> Money:
    """Round down to `scale` places: what the user gets."""
    return Money(_ROUNDING_DOWN.quantize(value, _UNITS[scale]))


_UNITS = tuple(EXACT.scaleb(Decimal(1), -scale) for scale in range(PLACES_MAX + 1))
