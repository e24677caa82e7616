"""Draws a picture for each page of `docs/orders`: the price, what the order waits for, and the tick that fires it.

`python -m docs.generate.pictures` writes, `--check` compares and exits 1 when something is stale. What fires an order,
and at which level, is asked of `order_saga.core`; nothing here decides.
"""

from __future__ import annotations

import sys
from decimal import Decimal
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from contracts.decimals import Price, Quantity, add, format_decimal, multiply
from contracts.orders import OrderRequested
from contracts.terms import Terms, terms_of
from contracts.vocabulary import OrderType, Side
from order_saga.core.levels import levels, meets_limit
from order_saga.core.money import BASIS_POINT
from order_saga.core.trail import trail_level, trail_reached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FOLDER: Final = Path(__file__).parents[1] / "orders"
TICK: Final = Price("0.01")

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 24, 180, 48, 36
STYLE: Final = """\
text { font: 14px system-ui, sans-serif; fill: #24292f }
.card { fill: #fbfbfa; stroke: #d8dee4 }
.title { font-weight: 600 }
.price { fill: none; stroke: #0b5f6b; stroke-width: 2.5 }
.tick { fill: #0b5f6b }
.level { fill: none; stroke: #b35900; stroke-width: 1.5; stroke-dasharray: 6 4 }
.level-text { fill: #8a4500 }
.fire { fill: #fff; stroke: #1a7f37; stroke-width: 3 }
.fire-text { fill: #116329; font-weight: 600 }"""


class Scene(NamedTuple):
    """An order, and the ticks that it sees. The first price is the quote that it is accepted at."""

    title: str
    order: OrderRequested
    prices: tuple[int, ...]


class Fired(NamedTuple):
    """Which of the prices fires an order, and how the level stood at each price up to that one."""

    place: int
    levels: tuple[Price, ...]
    other: Price | None = None
    """The level of a bracket that the price did not reach."""


def _order(order_type: OrderType, **fields: object) -> OrderRequested:
    return OrderRequested(UUID(int=1), "alice", "BTC", order_type, Quantity("0.1"), **fields)  # type: ignore[arg-type]


SCENES: Final[Mapping[str, Scene]] = {
    "market": Scene(
        "A market buy is filled at the quote",
        _order(OrderType.MARKET_BUY, price=Price("50000"), slippage_bps=50),
        (50_000, 50_100),
    ),
    "limit": Scene(
        "A limit buy waits for its limit or a better price",
        _order(OrderType.LIMIT_BUY, limit_price=Price("48000")),
        (50_000, 49_400, 49_700, 48_600, 47_900),
    ),
    "stop-loss": Scene(
        "A stop loss sells at the first price at or below its trigger",
        _order(OrderType.STOP_LOSS_SELL, trigger_price=Price("48000")),
        (50_000, 50_300, 49_200, 48_400, 47_200),
    ),
    "take-profit": Scene(
        "A take profit sells at the first price at or above its trigger",
        _order(OrderType.TAKE_PROFIT_SELL, trigger_price=Price("53000")),
        (50_000, 51_200, 50_600, 52_400, 53_100),
    ),
    "trailing-stop": Scene(
        "A trailing stop follows the best price and never goes back",
        _order(OrderType.TRAILING_STOP_SELL, trail_bps=300),
        (50_000, 51_000, 50_400, 52_000, 51_200, 50_300),
    ),
    "bracket": Scene(
        "A bracket sells at its limit or at its trigger, whichever the price reaches first",
        _order(OrderType.BRACKET_SELL, limit_price=Price("52000"), trigger_price=Price("48500")),
        (50_000, 50_900, 49_100, 51_300, 52_300),
    ),
}
"""The example of each page, by the page's name."""


def fired(scene: Scene) -> Fired | None:
    """Find the tick that fires an order, if any does; None for a market order, which waits for none."""
    order, terms = scene.order, terms_of(scene.order)
    prices = [Price(number) for number in scene.prices]
    if terms is None:
        return None
    if waits_for := levels(order.order_type, terms, triggered=False):
        for place, price in enumerate(prices):
            met = next((level for level in waits_for if level.is_reached(price)), None)
            if met is not None and meets_limit(order.order_type, terms, price):
                other = next((level.price for level in waits_for if level != met), None)
                return Fired(place, (met.price,) * (place + 1), other)
        return None
    return _fired_by_trail(order.order_type.side, terms, prices)


def _fired_by_trail(side: Side, terms: Terms, prices: Sequence[Price]) -> Fired | None:
    amount, bps = terms.trail_amount, terms.trail_bps
    watermarks = list(accumulate(prices, max if side is Side.SELL else min))
    levels = tuple(trail_level(side, watermark, amount, bps, TICK) for watermark in watermarks)
    for place, (price, watermark) in enumerate(zip(prices, watermarks, strict=True)):
        if trail_reached(side, price, watermark, amount, bps):
            return Fired(place, levels[: place + 1])
    return None


def picture(scene: Scene) -> str:
    """Draw a scene as SVG."""
    hit = fired(scene)
    shown = hit.levels if hit is not None else (_bound(scene.order),) * len(scene.prices)
    other = [hit.other] if hit is not None and hit.other is not None else []
    axis = _Axis(scene, (*shown, *other))
    place = hit.place if hit is not None else len(scene.prices) - 1
    price, name = scene.prices[place], _name_of_level(scene.order, shown[-1])
    x, y = axis.x(place), axis.y(price)
    verb = "fires at" if hit is not None else "filled at"
    first = "quote" if hit is not None else "price seen"
    end = axis.y(shown[-1])
    parts = [
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>',
        f'<text class="title" x="{LEFT}" y="28">{escape(scene.title)}</text>',
        f'<polyline class="level" points="{axis.stairs(shown)}"/>',
        f'<polyline class="price" points="{axis.stairs(scene.prices[: place + 1])}"/>',
        f'<text x="{axis.x(0) + 8:g}" y="{axis.y(scene.prices[0]) - 10:g}">{first} {scene.prices[0]:,}</text>',
        *(_tick(axis, number, scene.prices[number], shows=0 < number < place) for number in range(place + 1)),
        f'<circle class="fire" cx="{x:g}" cy="{y:g}" r="7"/>',
        f'<text class="fire-text" x="{x + 14:g}" y="{_apart(y, end) + 5:g}">{verb} {price:,}</text>',
        f'<text class="level-text" x="{x + 14:g}" y="{end + 5:g}">{name} {_plain(shown[-1])}</text>',
        *(line for level in other for line in _other_level(scene.order, axis, level, place)),
        f'<text x="{LEFT}" y="{HEIGHT - 14}">{escape(_says(scene.order))}</text>',
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    return "\n".join([head, f"<title>{escape(scene.title)}</title>", f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _other_level(order: OrderRequested, axis: _Axis, level: Price, place: int) -> tuple[str, str]:
    """Draw the level of a bracket that the price did not reach."""
    x, y = axis.x(place), axis.y(level)
    return (
        f'<polyline class="level" points="{axis.stairs((level,) * (place + 1))}"/>',
        f'<text class="level-text" x="{x + 14:g}" y="{y + 5:g}">{_name_of_level(order, level)} {_plain(level)}</text>',
    )


class _Axis:
    """Where a price and a tick stand in the picture."""

    def __init__(self, scene: Scene, levels: Sequence[Decimal]) -> None:
        every = [*map(Decimal, scene.prices), *levels]
        self._low, high = min(every), max(every)
        self._scale = Decimal(HEIGHT - TOP - BOTTOM - 40) / (high - self._low)
        self._step = (WIDTH - LEFT - RIGHT) / (len(scene.prices) - 1)

    def x(self, place: int) -> float:
        """Return where a tick stands, counted from the quote."""
        return round(LEFT + self._step * place, 1)

    def y(self, price: Decimal | int) -> float:
        """Return where a price stands."""
        return round(float(HEIGHT - BOTTOM - 20 - (Decimal(price) - self._low) * self._scale), 1)

    def stairs(self, prices: Sequence[Decimal | int]) -> str:
        """Draw prices of which each holds until the next one."""
        points = [(self.x(0), self.y(prices[0]))]
        for place, price in enumerate(prices[1:], 1):
            points += [(self.x(place), points[-1][1]), (self.x(place), self.y(price))]
        return " ".join(f"{x:g},{y:g}" for x, y in points)


def _tick(axis: _Axis, place: int, price: int, *, shows: bool) -> str:
    x, y = axis.x(place), axis.y(price)
    text = f'<text x="{x + 8:g}" y="{y - 8:g}">{price:,}</text>' if shows else ""  # clear of the line that leads here
    return f'<circle class="tick" cx="{x:g}" cy="{y:g}" r="4"/>{text}'


def _plain(value: Decimal | int) -> str:
    """Write a number with commas between thousands, and no more places than it needs."""
    whole, _, places = format_decimal(Decimal(value)).partition(".")
    return f"{int(whole):,}" + (f".{places}" if places else "")


def _apart(y: float, other: float) -> float:
    """Move a line of text away from another one."""
    least = 22
    if abs(y - other) >= least:
        return y
    return other - least if y < other else other + least


def _bound(order: OrderRequested) -> Price:
    """Return the worst price that a market buy takes, which the client's own price and slippage say."""
    assert order.price is not None  # noqa: S101 - the scene gives it
    share = add(Decimal(1), multiply(Decimal(order.slippage_bps or 0), BASIS_POINT))
    return Price(multiply(order.price, share))


def _name_of_level(order: OrderRequested, level: Price) -> str:
    if order.price is not None:
        return "at most"
    return "limit" if order.limit_price == level else "trigger"


def _says(order: OrderRequested) -> str:
    named = ("price", "slippage_bps", "limit_price", "trigger_price", "trail_amount", "trail_bps")
    given = ((name, getattr(order, name)) for name in named)
    return ", ".join([order.order_type, *(f"{name} {_plain(value)}" for name, value in given if value is not None)])


def pictures() -> dict[Path, str]:
    """Draw all pictures, by the file that each belongs in."""
    return {FOLDER / f"{name}.svg": picture(scene) for name, scene in SCENES.items()}


def stale() -> list[str]:
    """List the pictures that are missing, other than they should be, or of a page that is no more."""
    fresh = pictures()
    found = {path: path.read_text() for path in FOLDER.glob("*.svg")}
    return sorted(path.name for path in fresh.keys() | found.keys() if fresh.get(path) != found.get(path))


def main(arguments: Sequence[str]) -> int:
    """Write or check all pictures; return the exit status."""
    old = stale()
    if "--check" in arguments:
        sys.stderr.writelines(f"docs/orders/{name} is stale: run 'make docs'\n" for name in old)
        return 1 if old else 0
    fresh = pictures()
    for name in old:
        if FOLDER / name in fresh:
            (FOLDER / name).write_text(fresh[FOLDER / name])
        else:
            (FOLDER / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
