"""Prices that move by themselves: a seeded walk and a script. Pure: time, price and position are arguments.

A position counts the steps that were made. With its seed, and the price that it began at, it decides every later price,
so another instance can go on where one stopped.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Final, cast

import msgspec
from msgspec import Meta

from contracts.codec import decoder, encode
from contracts.decimals import Price, add, format_decimal, is_multiple, multiply, subtract

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
PER_SECOND_MAX: Final = 10_000
SCRIPT_PRICES_MAX: Final = 10_000
SCRIPT_S_MAX: Final = 86_400
SCRIPT_STEP_S: Final = 1.0
"""How long after the one before a price of a script comes, unless it says when."""


class Walk(msgspec.Struct, frozen=True, tag="walk"):
    """A random walk: `per_second` times a second up or down by 1 to `step` ticks, within `floor` and `ceiling`.

    `tick` is the asset's when the walk began.
    """

    seed: Annotated[int, Meta(ge=0, le=2**53)]
    per_second: Annotated[float, Meta(gt=0, le=PER_SECOND_MAX)]
    step: Annotated[int, Meta(ge=1)]
    floor: Price
    ceiling: Price
    tick: Price


class Script(msgspec.Struct, frozen=True, tag="script"):
    """Prices, each at its time in seconds after the start; afterwards the last one stays."""

    prices: list[tuple[Price, float]]


Terms = Walk | Script
_Terms = cast("type[Terms]", Walk | Script)
_DECODER: Final = decoder(_Terms)


def write_terms(terms: Terms) -> str:
    """Write terms for the database."""
    return encode(terms).decode()


def read_terms(text: str | None) -> Terms | None:
    """Read terms from the database; None for a price that does not move."""
    return None if text is None else _DECODER.decode(text.encode())


def check_terms(terms: Terms, tick: Decimal, price: Decimal) -> None:
    """Raise `ValueError` for prices off the tick, a range too narrow for a step, or a start outside of the range."""
    chosen = (
        [terms.tick, terms.floor, terms.ceiling] if isinstance(terms, Walk) else [price for price, _ in terms.prices]
    )
    for each in chosen:
        if not is_multiple(each, tick):
            raise ValueError(f"{format_decimal(each)} is not a multiple of {format_decimal(tick)}")
    if isinstance(terms, Walk):
        room = multiply(terms.tick, Decimal(2 * terms.step))
        if subtract(terms.ceiling, terms.floor) < room:
            raise ValueError(f"ceiling must be at least {format_decimal(room)} (two steps) above floor")
        if not terms.floor <= price <= terms.ceiling:
            raise ValueError(f"the walk begins at {format_decimal(price)}, which is not within floor and ceiling")
    elif any(later[1] < earlier[1] for earlier, later in pairwise(terms.prices)):
        raise ValueError("the times of a script must rise")


def read_script(lines: list[str]) -> Script:
    """Read a script: a line `PRICE` or `PRICE @SECONDS` each; `#` begins a comment. Raises `ValueError`."""
    prices: list[tuple[Price, float]] = []
    for number, line in enumerate(lines, 1):
        if words := line.partition("#")[0].split():
            default_s = prices[-1][1] + SCRIPT_STEP_S if prices else 0.0
            try:
                prices.append(_read_step(words, default_s))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    if not 0 < len(prices) <= SCRIPT_PRICES_MAX:
        raise ValueError(f"a script has 1 to {SCRIPT_PRICES_MAX} prices")
    return Script(prices)


def _read_step(words: list[str], default_s: float) -> tuple[Price, float]:
    price, *rest = words
    if len(rest) > 1 or not all(word.startswith("@") for word in rest):
        raise ValueError("must be PRICE or PRICE @SECONDS")
    at_s = float(rest[0][1:]) if rest else default_s
    if not 0 <= at_s <= SCRIPT_S_MAX:  # no NaN is within
        raise ValueError(f"SECONDS must be 0 to {SCRIPT_S_MAX}")
    return Price.parse(price), at_s


def walk(terms: Walk, price: Decimal, position: int, steps: int) -> list[Price]:
    """Make the next `steps` prices of a walk that stands at `price` after `position` steps."""
    path: list[Price] = []
    for at in range(position, position + steps):
        chance = _chance(terms.seed, at)
        move = multiply(terms.tick, Decimal(1 + (chance >> 1) % terms.step))
        up = bool(chance & 1)
        if subtract(price, move) < terms.floor:
            up = True
        elif add(price, move) > terms.ceiling:
            up = False
        price = (add if up else subtract)(price, move)
        path.append(Price(price))
    return path


def script_due(terms: Script, position: int, elapsed_s: float) -> list[Price]:
    """List the prices of a script that are due and not yet made."""
    return [price for price, at_s in terms.prices[position:] if at_s <= elapsed_s]


def conflate(before: Decimal, prices: list[Price]) -> list[Price]:
    """Keep the prices at which the path turns, and the last one; `before` is the price that it began at.

    Every low, every high and every fall from a high is kept: levels and trails are reached as by the whole path.
    """
    kept: list[Price] = []
    for price, after in pairwise(prices):
        if (price - before) * (after - price) <= 0:  # only its sign counts
            kept.append(price)
        before = price
    return [*kept, *prices[-1:]]


def _chance(seed: int, position: int) -> int:
    """Make a 64-bit number of a seed and a position (splitmix64): any place of the sequence without those before."""
    mixed = (seed * 0xD1342543DE82EF95 + (position + 1) * _GOLDEN) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)
