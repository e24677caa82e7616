"""What is said of amended and suspended orders agrees where all is well, and each fault that is planted is found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, NamedTuple

import pytest

from tests.evidence.chaos import changes
from tests.evidence.chaos.bodies import START, amend_of, conditional_body
from tests.evidence.chaos.finding import Finding
from tests.evidence.chaos.oracle import held_at_worst
from tests.evidence.chaos.record import Placed, Record
from tests.evidence.chaos.story import Story, story_of
from tests.evidence.chaos.witness import Told, Wire

T0: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ORDER: Final = "order-1"
OPERATOR: Final = "@operator:olga"


def entry(at_s: float, kind: str, name: str = "X", **detail: Any) -> dict[str, Any]:
    """Make a row of an order's history with one line."""
    return {"at": T0 + timedelta(seconds=at_s), "entries": [{"kind": kind, "name": name, "detail": detail}]}


@dataclass
class World:
    """One order that is amended, suspended and released, and fires."""

    history: list[dict[str, Any]] = field(
        default_factory=lambda: [
            entry(0.2, "answered", "AssetApproved", sequence=10, price="100"),
            entry(0.5, "rests", from_sequence=10, level="90"),
            entry(1.0, "received", "OrderAmendRequested", requested_by="alice", amend_id="a", quantity="2"),
            entry(1.1, "answered", "AssetApproved", sequence=12, price="101"),
            entry(1.2, "amended", revision=2, quantity="2"),
            entry(1.2, "rests", from_sequence=12, level="90"),
            entry(2.0, "amend_refused", amend_id="b", reason_code="EXPIRED"),
            entry(3.0, "held", requested_by=OPERATOR),
            entry(4.0, "released", requested_by=OPERATOR),
            entry(4.0, "rests", from_sequence=20, level="90"),
            entry(5.0, "fired", sequence=21, price="90"),
        ]
    )
    shown: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"revision": None},
            {"revision": 1},
            {"revision": 1, "amend": {"amend_id": "a", "state": "PENDING"}},
            {"revision": 2, "amend": {"amend_id": "a", "state": "APPLIED"}},
            {"revision": 2, "amend": {"amend_id": "b", "state": "REFUSED"}},
        ]
    )
    placed: Placed = field(
        default_factory=lambda: Placed(
            1, "conditional", "kafka", "alice", [{"quantity": "1"}], [], 0.0, order_id=ORDER,
            amends=[{"quantity": "2.00"}, {"quantity": "3"}], suspended_by=[OPERATOR],
        )
    )  # fmt: skip

    def found(self, seen: Counter[str] | None = None) -> list[Finding]:
        """Judge it."""
        events = {
            version: [Told(ORDER, f"{ORDER}:v{version}", json.dumps({"order": order}).encode())]
            for version, order in enumerate(self.shown, 1)
        }
        stories = {ORDER: story_of(self.history)}
        return list(changes.judge_all(Record([self.placed]), Wire({ORDER: events}, []), stories, seen or Counter()))


def _detail(number: int, **changed: Any) -> Callable[[World], Any]:
    return lambda made: made.history[number]["entries"][0]["detail"].update(changed)


class Plant(NamedTuple):
    """A fault, and the words of the finding that must come of it."""

    words: str
    spoil: Callable[[World], Any]


PLANTS: Final = (
    Plant("{'quantity': '4'}, which nobody asked for", _detail(4, quantity="4")),
    Plant(
        "which nobody asked for, or twice", lambda w: w.history.append(entry(6, "amended", revision=3, quantity="2"))
    ),
    Plant("alice released what @operator:olga had suspended", _detail(8, requested_by="alice")),
    Plant("it was suspended by mallory", _detail(7, requested_by="mallory")),
    Plant("it fired while @operator:olga had suspended it", lambda w: (w.history.pop(8), w.history.pop(8))),
    Plant("a was never shown to end", lambda w: w.shown.pop(3)),
    Plant(
        "a is REFUSED after it was APPLIED", lambda w: w.shown.append({"amend": {"amend_id": "a", "state": "REFUSED"}})
    ),
    Plant("it is at revision 3", lambda w: w.shown[-1].update(revision=3)),
)


def test_where_all_is_well_nothing_is_found() -> None:
    """An order that was changed by who may, and was told so, gives no finding, and is counted."""
    seen: Counter[str] = Counter({"orders": 1})
    assert [] == World().found(seen)
    assert {"orders": 1, "amends put in force": 1, "amends refused": 1, "suspended": 1, "released": 1} == dict(seen)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.words.replace(" ", "-"))
def test_each_planted_fault_is_found(plant: Plant) -> None:
    """The finding has the right words."""
    made = deepcopy(World())
    plant.spoil(made)
    found = made.found()
    assert [] != [one for one in found if plant.words in one.text], found


def test_an_order_is_at_rest_while_it_is_amended_and_not_while_it_is_suspended() -> None:
    """The last rest counts; what was judged before the last change may have met other terms; the quote is the first."""
    rows = World().history[:-1]
    stories = [story_of(rows[:number]) for number in range(len(rows) + 1)]
    assert [None] * 8 + [T0 + timedelta(seconds=3)] * 2 + [None] == [story.left_at for story in stories]
    assert (20, T0 + timedelta(seconds=4)) == (
        stories[-1].rest and stories[-1].rest.from_sequence,
        stories[-1].changed_at,
    )
    assert {10} == {story.quote[0] for story in stories[1:] if story.quote is not None}
    assert {"quantity": "2"} == changes.amended({"quantity": "1"}, stories[-1])


@pytest.mark.parametrize(
    ("amount", "revision", "lowers", "faults"),
    [
        ("110.11", 0, False, 0),
        ("110.12", 0, False, 1),
        ("110.12", 1, False, 0),
        ("110.10", 1, False, 1),
        ("110.12", 0, True, 0),
        ("110.10", 0, True, 1),
    ],
)
def test_an_adjusted_hold_covers_the_worst_price(amount: str, revision: int, lowers: bool, faults: int) -> None:  # noqa: FBT001 - a table
    """An amended trailing stop holds what it costs from its watermark on; more only while that was being changed.

    What ends while less is to be held never comes to hold less.
    """
    order = {"order_type": "TRAILING_STOP_BUY", "quantity": "1", "slippage_bps": 0, "status": "COMPLETED"}
    order |= {"terms": json.dumps({"trail_amount": "10"}), "progress": json.dumps({"trails_from": "100"})}
    story = Story(quote=(1, START * 2), lowers=lowers)
    hold = {"state": "SETTLED", "amount": amount, "revision": revision}
    assert faults == len(list(held_at_worst(ORDER, order, story, [hold])))


def test_amends_change_what_the_order_has() -> None:
    """An amend changes the quantity, and now and then what its order waits for, and no two are alike."""
    chance = Random(1)  # noqa: S311 - repeatable on purpose
    bodies = [conditional_body(chance, "WAVE", START) for _ in range(200)]
    amends = [amend_of(chance, body) for body in bodies]
    assert len(amends) == len({one["quantity"] for one in amends})
    assert all(one.keys() <= body.keys() for one, body in zip(amends, bodies, strict=True))
    assert {"quantity", "limit_price", "trigger_price", "trail_amount", "trail_bps"} == set().union(*amends)
