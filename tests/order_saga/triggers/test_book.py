"""Levels against the points of a path."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import pytest

from order_saga.triggers.book import Levels
from order_saga.triggers.feed import Point


@pytest.mark.parametrize("seed", range(200))
def test_the_extremes_reach_what_any_point_reaches(seed: int) -> None:
    """After each start, and for each level, an extreme reaches it exactly if a point that fires does; few are left."""
    chance = Random(seed)  # noqa: S311 - the same paths in every run
    points = [
        Point(sequence, Decimal(chance.randint(95, 105)), fires=chance.random() < 0.8)
        for sequence in range(1, chance.randint(2, 30))
    ]
    levels = Levels(points)
    for start in range(len(points) + 2):
        later = [point.price for point in points if point.fires and point.sequence > start]
        left = [point.price for point in levels.extremes if point.sequence > start]
        assert (max(later, default=None), min(later, default=None)) == (
            max(left, default=None),
            min(left, default=None),
        )
    assert len(levels.extremes) <= 2 * 11
