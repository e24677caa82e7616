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
            if rests and not story.fired and entry["kind"] not in _AT_REST:
                story.left_at = row["at"]
    return story


_AT_REST = frozenset({"triggered", "status", "ignored", "waits", "woken"})
"""Entries after which an order rests as before."""


def terms_of(order: Row) -> dict[str, Any]:
    """Return the terms of a conditional order; nothing for a market order."""
    terms: dict[str, Any] = json.loads(order["terms"]) if order.get("terms") else {}
    return terms


def _note(story: Story, at: datetime, entry: dict[str, Any]) -> None:
    kind, detail = entry["kind"], entry.get("detail") or {}
    if kind == "answered" and entry["name"] == "AssetApproved":
        story.quote = int(detail["sequence"]), Fraction(detail["price"])
    elif kind == "rests":
        story.rest = Rest(
            at, int(detail["from_sequence"]), number(detail.get("level")), number(detail.get("watermark"))
        )
    elif kind in {"triggered", "fired"}:
        sequence, price = int(detail["sequence"]), Fraction(detail["price"])
        point = Point(sequence, price, number(detail.get("watermark")), entry["name"] == "Entry")
        (story.fired if kind == "fired" else story.triggered).append(point)


def number(value: Any) -> Fraction | None:
    """Read a number that may be missing."""
    return None if value is None else Fraction(value)
