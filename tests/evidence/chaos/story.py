"""Reads from an order's history what a conditional order did: its quote, its rest, its trigger, its fire. No judgement.

An event tells the price of a fill; which tick it was stands in the history alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any, NamedTuple

from tests.evidence.chaos.books import Row


class Point(NamedTuple):
    """A tick that did something to an order, as the order's history tells it."""

    sequence: int
    price: Fraction
    watermark: Fraction | None
    on_entry: bool
    """It was the newest price when the order came in, so the order never rested."""


class Rest(NamedTuple):
    """Since when and from which tick on an order waits; `level` is None for a trailing stop."""

    at: datetime
    from_sequence: int
    level: Fraction | None
    watermark: Fraction | None


@dataclass
class Story:
    """One order's way through the market."""

    quote: tuple[int, Fraction] | None = None
    rest: Rest | None = None
    triggered: list[Point] = field(default_factory=list)
    fired: list[Point] = field(default_factory=list)
    left_at: datetime | None = None
    """When something other than a tick ended the rest; every tick that was judged before met it at rest."""
    changed_at: datetime | None = None
    """When its terms were changed last, or it was released: a tick that was judged before met it as it was."""
    amended: list[dict[str, Any]] = field(default_factory=list)
    """What each amend that was put in force has changed, in their order."""
    suspended_by: list[str | None] = field(default_factory=list)
    """Who has suspended it each time, None for a release, in their order."""
    released_by: list[str] = field(default_factory=list)
    amends_refused: int = 0
    lowers: bool = False
    """Whether less was to be held than before. Until that is done, and for ever if it ends before, it holds more."""

    @property
    def price(self) -> Fraction | None:
        """The price that it is filled at, if it is."""
        if self.fired:
            return self.fired[0].price
        return None if self.quote is None else self.quote[1]


def story_of(rows: Sequence[Row]) -> Story:
    """Read the rows of one order's history, in order."""
    story = Story()
    for row in rows:
        for entry in row["entries"]:
            rests = story.rest is not None and not story.fired and story.left_at is None
            _note(story, row["at"], entry)
            if rests and not story.fired and not _leaves_at_rest(entry):
                story.left_at = row["at"]
    return story


_AT_REST = frozenset(
    {"triggered", "status", "ignored", "waits", "woken", "rests", "asked", "answered", "amended", "amend_refused"}
    | {"timed_out", "overdue"}
)
"""Entries after which an order rests as before, or anew. An order that rests asks only about its amends."""


def _leaves_at_rest(entry: Row) -> bool:
    return entry["kind"] in _AT_REST or (entry["kind"], entry["name"]) == ("received", "OrderAmendRequested")


def terms_of(order: Row) -> dict[str, Any]:
    """Return the terms of a conditional order; nothing for a market order."""
    terms: dict[str, Any] = json.loads(order["terms"]) if order.get("terms") else {}
    return terms


def _note(story: Story, at: datetime, entry: dict[str, Any]) -> None:
    kind, detail = entry["kind"], entry.get("detail") or {}
    if kind == "answered" and entry["name"] == "AssetApproved" and story.rest is None:
        story.quote = int(detail["sequence"]), Fraction(detail["price"])
    elif (kind, entry["name"]) == ("asked", "lower"):
        story.lowers = True
    elif kind == "rests":
        if not story.suspended_by or story.suspended_by[-1] is None:
            story.left_at = None
        story.rest = Rest(
            at, int(detail["from_sequence"]), number(detail.get("level")), number(detail.get("watermark"))
        )
    elif kind in {"triggered", "fired"}:
        sequence, price = int(detail["sequence"]), Fraction(detail["price"])
        point = Point(sequence, price, number(detail.get("watermark")), entry["name"] == "Entry")
        (story.fired if kind == "fired" else story.triggered).append(point)
    else:
        _note_change(story, at, kind, detail)


def _note_change(story: Story, at: datetime, kind: str, detail: dict[str, Any]) -> None:
    if kind == "amended":
        story.changed_at = at
        story.amended.append({name: value for name, value in detail.items() if name != "revision"})
    elif kind == "amend_refused":
        story.amends_refused += 1
    elif kind == "held":
        story.suspended_by.append(detail["requested_by"])
    elif kind == "released":
        story.changed_at = at
        story.suspended_by.append(None)
        story.released_by.append(detail["requested_by"])


def number(value: Any) -> Fraction | None:
    """Read a number that may be missing."""
    return None if value is None else Fraction(value)
