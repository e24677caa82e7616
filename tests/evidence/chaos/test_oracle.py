"""The oracle of conditional orders agrees where all is well, and finds each fault that is planted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

import pytest

from tests.evidence.chaos import checker, oracle
from tests.evidence.chaos.books import Books, Row
from tests.evidence.chaos.finding import Finding
from tests.evidence.chaos.oracle import UNSURE, Look, Tick
from tests.evidence.chaos.record import Record
from tests.evidence.chaos.story import story_of
from tests.evidence.chaos.witness import Wire

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PRICES = ("100", "101", "102", "99", "98.5", "97", "103", "96", "104")
"""The prices of the sequences 10 to 18, one a second; the marks are looked at half a second after each."""
LIMIT, STOP, STOP_LIMIT, TRAIL, QUOTED, ENTERED, CANCELLED, EXPIRED, FALLS, RISES = (
    f"order-{number}" for number in range(10)
)


def after(seconds: float) -> datetime:
    """Name a time of this world."""
    return T0 + timedelta(seconds=seconds)


@dataclass
class World:
    """Ten conditional orders on one asset, what they did, and the market that they met."""

    ticks: list[Tick] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    orders: dict[str, Row] = field(default_factory=dict)
    history: dict[str, list[Row]] = field(default_factory=dict)
    holds: dict[str, list[Row]] = field(default_factory=dict)
    fills: dict[str, list[Row]] = field(default_factory=dict)

    def add(
        self, order_id: str, order_type: str, end: str, terms: dict[str, Any], *did: tuple[float, str, Any]
    ) -> None:
        """Add an order of one piece that sequence 10 quoted at 100; `did`: when, which kind of entry, its detail."""
        status, _, reason = end.partition(" ")
        row = {"order_id": order_id, "asset_id": "WAVE", "order_type": order_type, "quantity": 1, "status": status}
        row |= {"reason_code": reason or None, "terms": json.dumps(terms), "slippage_bps": 100}
        self.orders[order_id] = row
        quote = {"sequence": 10, "price": "100"}
        self.history[order_id] = [
            self.entry(0.2, "answered", quote, "AssetApproved"),
            *(self.entry(*one) for one in did),
        ]

    def entry(self, at_s: float, kind: str, detail: dict[str, Any], name: str = "Rests") -> Row:
        """Make a row of history with one entry."""
        told = {"version_from": 0, "version_to": 0, "moves": [], "seq": 1}
        return told | {"at": after(at_s), "entries": [{"kind": kind, "name": name, "detail": detail}]}

    def books(self) -> Books:
        """Return the rows as the checker reads them."""
        return Books(self.orders, set(), self.history, self.holds, self.fills, [], [], {}, [], {})

    def found(self, seen: Counter[str] | None = None) -> list[Finding]:
        """Judge all orders."""
        stories = {order_id: story_of(rows) for order_id, rows in self.history.items()}
        seen = Counter() if seen is None else seen
        return list(oracle.judge_all(self.books(), stories, {"WAVE": self.ticks}, {"WAVE": self.looks}, seen))

    def detail(self, order_id: str, kind: str) -> dict[str, Any]:
        """Return the detail of an order's first entry of a kind, to be changed."""
        entries = [entry for row in self.history[order_id] for entry in row["entries"] if entry["kind"] == kind]
        detail: dict[str, Any] = entries[0]["detail"]
        return detail


def world() -> World:
    """Make a world without faults. A late tick, a repetition and a heartbeat are in it."""
    made = World()
    for number, price in enumerate(PRICES):
        made.ticks.append(Tick(10 + number, Fraction(price), "OPEN", after(number), after(number)))
        made.looks.append(Look(10 + number, after(number + 0.4), after(number + 0.5)))
    made.ticks.insert(5, Tick(11, Fraction(101), "OPEN", after(1), after(1)))
    made.ticks.insert(5, Tick(14, Fraction("98.5"), "OPEN", after(4.1), after(4.1)))
    rests = {"from_sequence": 10}

    made.add(
        LIMIT, "LIMIT_BUY", "COMPLETED", {"limit_price": "98.5"},
        (0.6, "rests", rests | {"level": "98.5"}), (4.3, "fired", {"sequence": 14, "price": "98.5"}),
    )  # fmt: skip
    made.add(
        STOP, "STOP_LOSS_BUY", "FAILED SLIPPAGE_EXCEEDED", {"trigger_price": "101.5"},
        (0.6, "rests", {"from_sequence": 14, "level": "101.5"}), (6.3, "fired", {"sequence": 16, "price": "103"}),
    )  # fmt: skip
    made.add(
        STOP_LIMIT, "STOP_LOSS_SELL", "COMPLETED", {"trigger_price": "99.5", "limit_price": "99.2"},
        (0.6, "rests", rests | {"level": "99.5"}), (3.3, "triggered", {"sequence": 13, "price": "99"}),
        (6.3, "fired", {"sequence": 16, "price": "103"}),
    )  # fmt: skip
    made.add(
        TRAIL, "TRAILING_STOP_SELL", "COMPLETED", {"trail_bps": 300},
        (0.6, "rests", rests | {"watermark": "100"}),
        (4.3, "fired", {"sequence": 14, "price": "98.5", "watermark": "102"}),
    )  # fmt: skip
    made.add(QUOTED, "LIMIT_BUY", "COMPLETED", {"limit_price": "100.5"})
    made.add(ENTERED, "STOP_LOSS_SELL", "COMPLETED", {"trigger_price": "99.5"})
    made.history[ENTERED].append(made.entry(3.3, "fired", {"sequence": 13, "price": "99"}, "Entry"))
    made.add(
        CANCELLED, "LIMIT_SELL", "CANCELLED USER_REQUESTED", {"limit_price": "103"},
        (0.6, "rests", rests | {"level": "103"}), (6.2, "received", {}),
    )  # fmt: skip
    made.add(
        EXPIRED, "TAKE_PROFIT_SELL", "CANCELLED EXPIRED", {"trigger_price": "103", "expires_at": after(6).isoformat()},
        (0.6, "rests", rests | {"level": "103"}), (6.9, "expired", {}),
    )  # fmt: skip
    made.add(
        FALLS, "BRACKET_SELL", "COMPLETED", {"limit_price": "103", "trigger_price": "98.7"},
        (0.6, "rests", rests | {"level": "103", "other_level": "98.7"}),
        (4.3, "fired", {"sequence": 14, "price": "98.5"}),
    )  # fmt: skip
    made.add(
        RISES, "BRACKET_BUY", "COMPLETED", {"limit_price": "96.5", "trigger_price": "102.5"},
        (0.6, "rests", rests | {"level": "96.5", "other_level": "102.5"}),
        (6.3, "fired", {"sequence": 16, "price": "103"}),
    )  # fmt: skip
    amounts = {LIMIT: "98.60", STOP: "102.62", QUOTED: "100.61", RISES: "103.63"}
    made.holds = {order_id: [{"state": "SETTLED", "amount": amount}] for order_id, amount in amounts.items()}
    return made


class Plant(NamedTuple):
    """A fault, and the finding that must come of it."""

    name: str
    order_id: str
    words: str
    spoil: Callable[[World], Any]


def _fires_at(order_id: str, sequence: int, price: str) -> Callable[[World], Any]:
    return lambda w: w.detail(order_id, "fired").update(sequence=sequence, price=price)


def _never_fires(order_id: str, at_s: float) -> Callable[[World], Any]:
    """Let an order end by a cancel instead of a tick."""

    def spoil(made: World) -> None:
        made.orders[order_id] |= {"status": "CANCELLED", "reason_code": "USER_REQUESTED"}
        rows = [row for row in made.history[order_id] if row["entries"][0]["kind"] != "fired"]
        made.history[order_id] = [*rows, made.entry(at_s, "received", {})]

    return spoil


def _trading(sequence: int, state: str) -> Callable[[World], Any]:
    def spoil(made: World) -> None:
        made.ticks = [one._replace(trading=state) if one.sequence == sequence else one for one in made.ticks]

    return spoil


def _old(sequence: int, age_s: float) -> Callable[[World], Any]:
    def spoil(made: World) -> None:
        at = {tick.sequence: tick.confirmed_at - timedelta(seconds=age_s) for tick in made.ticks}
        made.ticks = [
            one._replace(confirmed_at=at[one.sequence]) if one.sequence == sequence else one for one in made.ticks
        ]

    return spoil


def _without(sequence: int) -> Callable[[World], Any]:
    def spoil(made: World) -> None:
        made.ticks = [one for one in made.ticks if one.sequence != sequence]

    return spoil


PLANTS = (
    Plant("fired too late", LIMIT, "98.5 of 14 did not fire it", _fires_at(LIMIT, 15, "97")),
    Plant("fired too early", LIMIT, "99.0 of 13, which does not meet it", _fires_at(LIMIT, 13, "99")),
    Plant("fired at another price", LIMIT, "not the price that was published", _fires_at(LIMIT, 14, "98.4")),
    Plant("fired by a tick of nobody", LIMIT, "late or never published", _without(14)),
    Plant("fired by a tick to come", EXPIRED, "which was never published",
          lambda w: w.history[EXPIRED].append(w.entry(9, "fired", {"sequence": 99, "price": "103"}))),
    Plant("fired by a late tick", STOP, "late or never published", _fires_at(STOP, 11, "101")),
    Plant("fired twice", LIMIT, "it fired 2 times",
          lambda w: w.history[LIMIT].append(w.entry(5.3, "fired", {"sequence": 15, "price": "97"}))),
    Plant("fired in a halt", LIMIT, "which was too old or not open", _trading(14, "HALTED")),
    Plant("fired by an old tick", TRAIL, "which was too old or not open", _old(14, 31)),
    Plant("fired after its expiry", LIMIT, "after it expired",
          lambda w: w.orders[LIMIT].update(
              terms=json.dumps({"limit_price": "98.5", "expires_at": after(3).isoformat()}))),
    Plant("never fired", LIMIT, "98.5 of 14 did not fire it, and nothing did", _never_fires(LIMIT, 5)),
    Plant("a trail that never fired", TRAIL, "98.5 of 14 did not fire it, and nothing did", _never_fires(TRAIL, 5)),
    Plant("a stop that never triggered", STOP_LIMIT, "99.0 of 13 did not fire it",
          lambda w: w.history[STOP_LIMIT].pop(2)),
    Plant("triggered for nothing", STOP_LIMIT, "which does not trigger it",
          lambda w: w.detail(STOP_LIMIT, "triggered").update(sequence=12, price="102")),
    Plant("tested by its trigger again", STOP_LIMIT, "98.5 of 14, which does not meet it",
          _fires_at(STOP_LIMIT, 14, "98.5")),
    Plant("another watermark", TRAIL, "its watermark was 101",
          lambda w: w.detail(TRAIL, "fired").update(watermark="101")),
    Plant("a watermark from before", TRAIL, "its watermark began at 105",
          lambda w: w.detail(TRAIL, "rests").update(watermark="105")),
    Plant("cancelled though it had fired", CANCELLED, "103.0 of 16 did not fire it",
          lambda w: w.history[CANCELLED][-1].update(at=after(6.6))),
    Plant("expired though it had fired", EXPIRED, "103.0 of 16 did not fire it",
          lambda w: w.orders[EXPIRED].update(
              terms=json.dumps({"trigger_price": "103", "expires_at": after(6.8).isoformat()}))),
    Plant("filled at a quote above its limit", QUOTED, "filled without a tick",
          lambda w: w.orders[QUOTED].update(terms=json.dumps({"limit_price": "99"}))),
    Plant("a stop filled at its quote", ENTERED, "filled without a tick", lambda w: w.history[ENTERED].pop()),
    Plant("entered for nothing", ENTERED, "fired on entry",
          lambda w: w.orders[ENTERED].update(terms=json.dumps({"trigger_price": "98"}))),
    Plant("entered in a halt", ENTERED, "when the asset did not trade", _trading(13, "HALTED")),
    Plant("filled at a quote in a halt", QUOTED, "when the asset did not trade", _trading(10, "CLOSED")),
    Plant("quoted another price", QUOTED, "its quote (10, Fraction(99, 1)) is not the price",
          lambda w: w.detail(QUOTED, "answered").update(price="99")),
    Plant("refused for nothing", ENTERED, "its quote (10, Fraction(100, 1)) does not trigger it",
          lambda w: (w.history[ENTERED].pop(),
                     w.orders[ENTERED].update(status="FAILED", reason_code="WOULD_TRIGGER_IMMEDIATELY"))),
    Plant("unfilled for nothing", QUOTED, "meets its limit",
          lambda w: w.orders[QUOTED].update(status="CANCELLED", reason_code="UNFILLED")),
    Plant("filled above its cap", STOP, "not as FAILED SLIPPAGE_EXCEEDED",
          lambda w: w.orders[STOP].update(status="COMPLETED", reason_code=None)),
    Plant("refused below its cap", LIMIT, "not as COMPLETED",
          lambda w: w.orders[LIMIT].update(status="FAILED", reason_code="SLIPPAGE_EXCEEDED")),
    Plant("the stop of a bracket was not tested", FALLS, "98.5 of 14 did not fire it",
          _fires_at(FALLS, 16, "103")),
    Plant("the limit of a bracket was not tested", FALLS, "102.0 of 12 did not fire it",
          lambda w: (w.orders[FALLS].update(terms=json.dumps({"limit_price": "102", "trigger_price": "97"})),
                     _fires_at(FALLS, 15, "97")(w))),
    Plant("a bracket was fired between its levels", RISES, "97.0 of 15, which does not meet it",
          _fires_at(RISES, 15, "97")),
    Plant("a bracket held for its limit", RISES, "its terms cost up to 103.63",
          lambda w: w.holds[RISES][0].update(amount="96.60")),
    Plant("held for the quote", LIMIT, "its terms cost up to 98.6",
          lambda w: w.holds[LIMIT][0].update(amount="100.10")),
    Plant("one sequence, two prices", "assets.prices", "WAVE 12 is",
          lambda w: w.ticks.append(Tick(12, Fraction(7), "OPEN", after(2), after(2)))),
)  # fmt: skip


def test_where_all_is_well_nothing_is_found() -> None:
    """Ten orders that did as they should give no finding, and are counted."""
    seen: Counter[str] = Counter()
    assert [] == world().found(seen)
    assert Counter({"fired by a tick": 6, "fired on entry": 1, UNSURE: 0}) == seen


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "-"))
def test_each_planted_fault_is_found(plant: Plant) -> None:
    """The finding names the order and has the right words."""
    made = deepcopy(world())
    plant.spoil(made)
    found = made.found()
    assert [] != [one for one in found if one.subject == plant.order_id and plant.words in one.text], found


def _passed_over(spoil: Callable[[World], Any]) -> tuple[Sequence[Finding], int]:
    made, seen = world(), Counter[str]()
    for other in made.orders.keys() - {LIMIT}:
        del made.orders[other]
    spoil(made)
    _fires_at(LIMIT, 15, "97")(made)
    return made.found(seen), seen[UNSURE]


@pytest.mark.parametrize("spoil", [_trading(14, "CLOSED"), _old(14, 31)], ids=["closed", "old"])
def test_a_tick_that_can_not_fire_is_passed_over(spoil: Callable[[World], Any]) -> None:
    """A tick in a halt, or one that was too old when it was judged, fires nothing; the next one does."""
    assert ([], 1) == _passed_over(spoil)


def test_nobody_says_when_a_tick_was_judged_that_no_look_followed() -> None:
    """Without a look at the marks soon enough, the tick may have been too old: no finding either way."""

    def spoil(made: World) -> None:
        made.looks = [made.looks[0], Look(18, after(60), after(60))]

    assert ([], len(PRICES) - 1) == _passed_over(spoil)
    made = world()
    spoil(made)
    assert [] == made.found()


def test_a_tick_is_judged_before_its_mark_is_seen_and_after_the_mark_before() -> None:
    """A batch that takes long may have judged its ticks long before its mark; only the mark before is a bound."""
    looks = [Look(10, after(0), after(0.1)), Look(12, after(1), after(1.1)), Look(12, after(40), after(40.1))]
    ticks = [Tick(sequence, Fraction(1), "OPEN", after(2), after(2)) for sequence in (12, 13)]
    early, late = oracle.market(ticks, [*looks, Look(13, after(50), after(50.1))]).path
    assert (after(2), after(1.1)) == (early.judged_after, early.judged_by)
    assert (after(2), after(50.1)) == (late.judged_after, late.judged_by)
    looks = [looks[0], Look(11, after(35), after(35.1)), Look(12, after(36), after(36.1))]
    [late] = oracle.market([ticks[1]], looks).path
    assert (after(35), oracle.NEVER, False, False) == (*late[5:], late.may_fire, late.surely_fires)


def test_a_quote_that_was_never_published_may_move_watermarks() -> None:
    """An order rests from a quote whose tick was lost; older trailing orders may have seen its price or not."""
    for watermark, price in (("102", "98.5"), ("104", "99")):
        made = world()
        _without(12)(made)
        made.ticks.insert(2, Tick(12, Fraction(102), "OPEN", after(2), after(2)))
        made.ticks = [tick._replace(sequence=tick.sequence * 2) for tick in made.ticks]
        made.looks = [look._replace(sequence=look.sequence * 2) for look in made.looks]
        made.orders = {TRAIL: made.orders[TRAIL], "other": made.orders[TRAIL] | {"order_id": "other"}}
        made.history = {TRAIL: made.history[TRAIL], "other": deepcopy(made.history[TRAIL])}
        made.detail(TRAIL, "answered").update(sequence=20)
        made.detail(TRAIL, "rests").update(from_sequence=20)
        sequence = 28 if watermark == "102" else 26
        made.detail(TRAIL, "fired").update(sequence=sequence, price=price, watermark=watermark)
        made.detail("other", "rests").update(from_sequence=25, watermark="104")
        made.detail("other", "fired").update(sequence=26, price="99", watermark="104")
        assert [] == made.found()


def test_a_fill_is_judged_at_the_tick_that_fired() -> None:
    """A limit order is filled at the price of its tick, not at its limit."""
    for price, found in (("97", 0), ("98.5", 1)):
        made = world()
        _without(14)(made)
        made.orders = {LIMIT: made.orders[LIMIT]}
        made.history = {LIMIT: made.history[LIMIT]}
        _fires_at(LIMIT, 15, "97")(made)
        fill = {"quantity": 1, "price": Fraction(price), "fee": Fraction("0.10"), "busted": False}
        made.fills = {LIMIT: [fill]}
        made.orders[LIMIT] |= {"filled_quantity": 1, "average_price": fill["price"], "fee": fill["fee"], "user_id": "a"}
        made.orders[LIMIT] |= dict.fromkeys(("client_order_id", "version", "phase", "parked_reason", "due_at"), 0)
        made.holds[LIMIT][0] |= {"unit": "USD", "captured": Fraction("97.10"), "refunded": Fraction("1.50")}
        judged = checker.judge(Record(), Wire({}, []), made.books(), {"WAVE": made.ticks}, {"WAVE": made.looks})
        assert found == len([one for one in judged if "it should be filled as" in one.text])
