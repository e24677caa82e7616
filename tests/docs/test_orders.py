"""The pages of the order types say what the contracts and the core do: fields, levels, fires, sums and pictures."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
import pytest

from contracts.amends import AmendRefusal
from contracts.decimals import Price, Quantity, add, format_decimal, subtract
from contracts.orders import OrderRequested
from contracts.terms import FIELDS, Terms, faults, slippage_of, terms_of
from contracts.vocabulary import REASONS, OrderKind, OrderType, Side
from docs.generate import pictures
from order_saga.core.commands import fill_sums, hold_terms
from order_saga.core.entry import unfillable
from order_saga.core.levels import levels
from order_saga.core.saga import REQUESTED_FIELDS, Fire, Phase, Progress, Quote, Saga
from order_saga.core.trail import trail_level, trail_reached
from tests.support.project import ROOT

FOLDER: Final = ROOT / "docs" / "orders"
PAGES: Final = {kind: FOLDER / f"{kind.lower().replace('_', '-')}.md" for kind in OrderKind}
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
TICK: Final = Price("0.01")
FEE_BPS: Final = 10
SUMS: Final = ["held", "fill price", "captured", "credited", "fee", "given back"]
_EXAMPLE: Final = re.compile(r"<!-- example (?P<market>.*) -->\n```json\n(?P<json>.*)\n```\n\n(?P<table>(?:\|.*\n)+)")


class Example(NamedTuple):
    """An order of a page, the market that it meets there, and the sums that the page says."""

    page: str
    order: OrderRequested
    quote: Price
    tick: Price | None
    watermark: Price | None
    told: dict[str, str]

    @property
    def saga(self) -> Saga:
        """Return the order as it is when its fill is certain."""
        fire = None if self.tick is None else Fire(2, self.tick, NOW, self.watermark)
        quote = Quote(self.quote, 1, NOW, TICK, Quantity("0.0001"), FEE_BPS, "USD", 2, 1, NOW)
        return Saga(
            self.order.order_id,
            phase=Phase.SETTLING,
            created_at=NOW,
            updated_at=NOW,
            **{name: getattr(self.order, name) for name in REQUESTED_FIELDS},
            slippage_bps=slippage_of(self.order),
            terms=terms_of(self.order),
            progress=Progress(quote=quote, fire=fire),
        )


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in table.strip().splitlines()]


def _table(page: Path, head: str) -> list[list[str]]:
    text = page.read_text()
    return _rows(text[text.index(head) :].split("\n\n", maxsplit=1)[0])[2:]


def _examples() -> list[Example]:
    found = []
    for page in PAGES.values():
        for one in _EXAMPLE.finditer(page.read_text()):
            market = {name: Price.parse(price) for name, price in re.findall(r"(\w+)=(\S+)", one["market"])}
            named = {"order_id": str(UUID(int=1)), "user_id": "alice", **msgspec.json.decode(one["json"])}
            order = msgspec.convert(named, OrderRequested, dec_hook=lambda kind, value: kind.parse(value))
            head, _, row = _rows(one["table"])
            told = dict(zip(head, row, strict=True))
            found.append(Example(page.name, order, market["quote"], market.get("tick"), market.get("watermark"), told))
    return found


EXAMPLES: Final = _examples()


_QUEUES: Final = "with `queue_when_closed`"


@pytest.mark.parametrize("kind", OrderKind)
def test_a_page_lists_the_fields_of_its_type(kind: OrderKind) -> None:
    """Its table has the fields that the contract takes, required or not, and the times in force."""
    rules = FIELDS[kind]
    rows = {row[0].strip("`"): row[1:] for row in _table(PAGES[kind], "| field |")}
    one_of_two = {name for name in rules.optional if name.startswith("trail_")}
    wanted = {"quantity": "required"} | dict.fromkeys(rules.required, "required")
    wanted |= {name: "one of the two" if name in one_of_two else "optional" for name in rules.optional}
    wanted |= {"queue_when_closed": "optional", "expires_at": "with `GTD`" if rules.times_in_force else _QUEUES}
    if rules.times_in_force:
        wanted |= {"time_in_force": "optional"}
        named = re.findall(r"`([A-Z]{3})`", rows["time_in_force"][1])
        assert list(rules.times_in_force) == named
    assert wanted == {name: row[0] for name, row in rows.items()}


def _is_met(order_type: OrderType, terms: Terms, price: Price) -> bool:
    waits_for = levels(order_type, terms, triggered=False)
    assert waits_for
    return any(level.is_reached(price) for level in waits_for)


@pytest.mark.parametrize("kind", [kind for kind in OrderKind if kind is not OrderKind.MARKET])
def test_a_page_says_which_prices_fire(kind: OrderKind) -> None:
    """A tick below, at and above its level fires each side, or does not, as the core says."""
    told = {row[0].strip("`"): row[1:] for row in _table(PAGES[kind], "| type |")}
    assert told.keys() == {order_type for order_type in OrderType if order_type.kind is kind}
    for name, cells in told.items():
        order_type = OrderType(name)
        at = Price("50440")
        around = [Price(subtract(at, TICK)), at, Price(add(at, TICK))]
        if kind is OrderKind.TRAILING_STOP:
            watermark, bps = (Price("52000") if order_type.side is Side.SELL else Price("50390.05")), 300
            amount = None if order_type.side is Side.SELL else Price("49.95")
            assert at == trail_level(order_type.side, watermark, amount, None if amount else bps, TICK)
            fires = [
                trail_reached(order_type.side, price, watermark, amount, None if amount else bps) for price in around
            ]
        elif kind is OrderKind.BRACKET:
            below, above = Price("48500"), Price("52000")
            at_both = {Side.SELL: Terms(limit_price=above, trigger_price=below)}
            at_both[Side.BUY] = Terms(limit_price=below, trigger_price=above)
            around = [Price(add(at, TICK * n)) for at in (below, above) for n in (-1, 0, 1)]
            fires = [_is_met(order_type, at_both[order_type.side], price) for price in around]
        else:
            terms = Terms(limit_price=at) if kind is OrderKind.LIMIT else Terms(trigger_price=at)
            fires = [_is_met(order_type, terms, price) for price in around]
        assert ["fires" if one else "waits" for one in fires] == cells


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=lambda one: f"{one.order.order_type}-{one.tick}-{one.order.limit_price}"
)
def test_the_sums_of_an_example_are_those_of_the_core(example: Example) -> None:
    """What is held, captured, credited, charged and given back is what the saga would reckon, to the last digit."""
    saga = example.saga
    assert () == faults(example.order)
    assert None is unfillable(saga)
    held, fill = hold_terms(saga), fill_sums(saga)
    back = subtract(held.amount, fill.hold)
    reckoned = {
        "held": f"{format_decimal(held.amount)} {held.asset_id}",
        "fill price": format_decimal(example.tick or example.quote),
        "captured": f"{format_decimal(fill.hold)} {fill.hold_asset_id}",
        "credited": f"{format_decimal(fill.credit)} {fill.credit_asset_id}",
        "fee": f"{format_decimal(fill.fee)} {fill.fee_asset_id}",
        "given back": f"{format_decimal(back)} {held.asset_id}",
    }
    assert (SUMS, reckoned) == (list(example.told), example.told)


@pytest.mark.parametrize(
    "example", [one for one in EXAMPLES if one.tick], ids=lambda one: f"{one.order.order_type}-{one.tick}"
)
def test_the_tick_of_an_example_fires_it_and_the_quote_does_not(example: Example) -> None:
    """The order would have rested at the quote, and the tick of the page is one that fires it."""
    terms, order_type, tick = terms_of(example.order), example.order.order_type, example.tick
    assert terms is not None
    assert tick is not None
    if terms.trail_amount is None and terms.trail_bps is None:
        assert (False, True) == tuple(_is_met(order_type, terms, price) for price in (example.quote, tick))
    else:
        assert example.watermark is not None
        trail = (terms.trail_amount, terms.trail_bps)
        assert not trail_reached(order_type.side, example.quote, example.quote, *trail)
        assert trail_reached(order_type.side, tick, example.watermark, *trail)


def test_every_type_has_an_example_or_stands_beside_one() -> None:
    """Each page has an example, and each kind that waits has one."""
    assert {one.order.order_type.kind for one in EXAMPLES} == set(OrderKind)
    assert len(EXAMPLES) == 13


@pytest.mark.parametrize("name", pictures.SCENES)
def test_a_picture_shows_the_first_example_of_its_page(name: str) -> None:
    """The order is the same, and fires at the same price; its page shows the picture."""
    scene = pictures.SCENES[name]
    example = next(one for one in EXAMPLES if one.page == f"{name}.md")
    assert (terms_of(scene.order), slippage_of(scene.order)) == (terms_of(example.order), slippage_of(example.order))
    assert (scene.order.order_type, scene.order.price) == (example.order.order_type, example.order.price)
    hit = pictures.fired(scene)
    place = len(scene.prices) - 1 if hit is None else hit.place
    assert scene.prices[place] == (example.tick or example.quote)
    assert place == len(scene.prices) - 1
    assert f"]({name}.svg)" in (FOLDER / f"{name}.md").read_text()


def test_the_pictures_are_those_of_today() -> None:
    """Each picture is what the core says now, and there is no other."""
    assert [] == pictures.stale()


def test_a_reason_that_a_page_names_is_one() -> None:
    """No page invents a reason, of an order or of an amend."""
    for page in FOLDER.glob("*.md"):
        named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", page.read_text()))
        strange = named - set(REASONS) - set(AmendRefusal) - set(OrderType) - {"ORDER_SAGA_MAX_OPEN_ORDERS"}
        elsewhere = page.read_text().partition("## Elsewhere")[2]
        assert set() == {name for name in strange if f"`{name}`" not in elsewhere}, page.name
