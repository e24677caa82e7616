"""Simulated prices: one seed makes one path, on the tick and within its limits, and scripts keep their times."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.decimals import Price, is_multiple
from participants.assets.simulator import (
    Script,
    Walk,
    check_terms,
    conflate,
    read_script,
    read_terms,
    script_due,
    walk,
    write_terms,
)

TICK = Decimal("0.05")
WALKS = st.builds(
    lambda seed, step, floor, room: Walk(
        seed, 50.0, step, Price(TICK * floor), Price(TICK * (floor + 2 * step + room)), Price(TICK)
    ),
    seed=st.integers(0, 2**53),
    step=st.integers(1, 20),
    floor=st.integers(1, 1000),
    room=st.integers(0, 100),
)


@given(terms=WALKS, begin=st.floats(0, 1), steps=st.integers(0, 300))
def test_a_walk_moves_with_every_step_within_its_limits_on_the_tick(terms: Walk, begin: float, steps: int) -> None:
    """Each step is 1 to `step` ticks up or down, and ends on the tick, from floor to ceiling."""
    room = int((terms.ceiling - terms.floor) / TICK)
    start = terms.floor + TICK * int(room * begin)
    check_terms(terms, TICK, start)
    path = walk(terms, Price(start), 0, steps)
    assert steps == len(path)
    assert all(terms.floor <= price <= terms.ceiling and is_multiple(price, TICK) for price in path)
    moves = [abs(after - before) / TICK for before, after in pairwise([start, *path])]
    assert all(1 <= move <= terms.step for move in moves)


@given(terms=WALKS, cuts=st.lists(st.integers(1, 40), max_size=10))
def test_the_same_seed_makes_the_same_path_however_it_is_cut(terms: Walk, cuts: list[int]) -> None:
    """An instance that goes on from price and position makes the path that one instance would have made alone."""
    whole = walk(terms, terms.floor, 0, sum(cuts))
    pieces: list[Price] = []
    for steps in cuts:
        pieces += walk(terms, pieces[-1] if pieces else terms.floor, len(pieces), steps)
    assert whole == pieces


def test_another_seed_makes_another_path() -> None:
    """Paths of ten neighbouring seeds differ."""
    terms = (Walk(seed, 50.0, 1, Price("90"), Price("110"), Price("0.01")) for seed in range(10))
    assert 10 == len({tuple(walk(one, Price("100"), 0, 50)) for one in terms})


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Walk(1, 1, 1, Price("1"), Price("2.001"), Price("0.01")), "not a multiple"),
        (Walk(1, 1, 1, Price("1"), Price("1.01"), Price("0.01")), "two steps"),
        (Walk(1, 1, 1, Price("2"), Price("3"), Price("0.01")), "begins at 1.5"),
        (Script([(Price("1.001"), 0.0)]), "not a multiple"),
        (Script([(Price("1"), 2.0), (Price("1"), 1.0)]), "must rise"),
    ],
)
def test_terms_that_can_not_be_are_refused(terms: Walk | Script, words: str) -> None:
    """Prices off the tick, a range too narrow for a step, a start outside, and times that fall are refused."""
    with pytest.raises(ValueError, match=words):
        check_terms(terms, Decimal("0.01"), Decimal("1.5"))


@given(before=st.integers(1, 50), numbers=st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_conflating_keeps_every_extreme_and_every_fall(before: int, numbers: list[int]) -> None:
    """Lowest, highest, last price, greatest fall and greatest rise are those of the whole path, and so is the order."""
    kept = [int(price) for price in conflate(Decimal(before), [Price(n) for n in numbers])]
    rest = iter(numbers)
    assert all(price in rest for price in kept)
    whole, short = [before, *numbers], [before, *kept]
    assert (min(whole), max(whole), whole[-1]) == (min(short), max(short), short[-1])
    assert _greatest(whole, 1) == _greatest(short, 1)
    assert _greatest(whole, -1) == _greatest(short, -1)


def _greatest(path: list[int], sign: int) -> int:
    return max(sign * (later - earlier) for n, earlier in enumerate(path) for later in path[n:])


def test_a_script_is_read_line_by_line() -> None:
    """A line is a price with or without its time; comments and empty lines do not count."""
    lines = ["# a spike", "100", "110 @0.5  # half a second", "", "99", "98.5"]
    expected = [("100", 0.0), ("110", 0.5), ("99", 1.5), ("98.5", 2.5)]
    assert Script([(Price(price), at_s) for price, at_s in expected]) == read_script(lines)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "1 to 10000 prices"),
        (["100", "x"], "line 2: must be a decimal"),
        (["100 5"], "line 1: must be PRICE or PRICE @SECONDS"),
        (["100 @1 @2"], "line 1: must be PRICE or PRICE @SECONDS"),
        (["100 @-1"], "line 1: SECONDS must be 0 to 86400"),
        (["100 @nan"], "line 1: SECONDS must be 0 to 86400"),
        (["100 @soon"], "line 1: could not convert"),
    ],
)
def test_a_script_that_can_not_be_read_names_its_line(lines: list[str], words: str) -> None:
    """The error names the line and the rule."""
    with pytest.raises(ValueError, match=words):
        read_script(lines)


def test_a_script_says_what_is_due() -> None:
    """Prices come at their time, not before, and each once."""
    script = read_script(["100", "110 @0.5", "99 @1"])
    due = [
        [str(price) for price in script_due(script, *at)] for at in ((0, 0.0), (1, 0.4), (1, 0.5), (1, 7.0), (3, 7.0))
    ]
    assert [["100"], [], ["110"], ["110", "99"], []] == due


@pytest.mark.parametrize(
    "terms", [Walk(7, 50.0, 3, Price("90"), Price("110"), Price("0.01")), Script([(Price("1.5"), 0.25)]), None]
)
def test_terms_come_back_as_they_were_written(terms: Walk | Script | None) -> None:
    """The database stores terms without loss."""
    assert terms == read_terms(None if terms is None else write_terms(terms))
