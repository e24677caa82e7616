"""The parts of the scenarios that need no system: the users of orders, the figures of drift, the repeating command."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter

import pytest

from contracts.vocabulary import OrderStatus
from tests.bench import drift, hop, hot, loop
from tests.bench.__main__ import SIZES, command, options_of
from tests.bench.drift import Minute
from tests.bench.load import Result
from tests.bench.page import SCENARIOS
from tests.bench.scenario import RATIOS, BenchError, Options
from tests.order_saga.core import sample

NOTHING = dict.fromkeys(SIZES)


def test_a_hot_account_has_half_of_the_orders() -> None:
    """One account sends half of the orders, all others share the rest evenly, and every account is used."""
    users = Counter(map(hot.hot(1000), range(20_000)))
    assert users["bench-0"] == pytest.approx(10_000, abs=20)
    assert max(count for user, count in users.items() if user != "bench-0") <= 20
    even = Counter(map(hot.even(1000), range(10_000)))
    assert {10} == set(even.values())
    assert len(even) == 1000


def test_the_path_is_what_the_system_says() -> None:
    """The counted path is the system's: a request, each command that waits for the last reply, the event of the end."""
    story = sample.Story()
    path = []
    for message in (sample.requested(), sample.approved(), sample.reserved(), sample.settled()):
        path += [type(message).__name__, *story.tell(message).asked]
    assert story.saga.status is OrderStatus.COMPLETED
    assert [*path, "OrderStatusChanged"] == ["Requested", *hop.PATH[1:]]


def minute(number: float) -> Minute:
    """Make a part of the time in which everything is `number`."""
    return Minute(Result(10, 100.0, number, 2 * number), {"balance": 50.0}, {"balance": number}, {drift.OUTBOX: 0.0})


def test_drift_compares_the_first_quarter_with_the_last() -> None:
    """Drift is the ratio of the medians of both quarters; a figure that was 0 at first has none."""
    figures = drift.figures_of([minute(number) for number in (1, 1, 5, 5, 5, 5, 2, 2)])
    assert [2.0] == figures[RATIOS]["last / first quarter, p50 ms"]
    assert [2.0] == figures[RATIOS]["last / first quarter, memory of balance"]
    assert [1.0] == figures[RATIOS]["last / first quarter, CPU per order of balance"]
    assert f"last / first quarter, {drift.OUTBOX}" not in figures[RATIOS]


def test_a_wish_changes_what_a_scenario_heeds() -> None:
    """With `all`, a scenario takes the options that it uses; alone, another option is an error."""
    wished = Namespace(scenario="all", quick=False, **(NOTHING | {"rounds": 5, "orders": 7}))
    options = options_of(loop.SCENARIO, wished)
    assert (5, 0) == (options.rounds, options.orders)
    assert command(loop.SCENARIO, options, "kafka") == 'make bench ARGS="loop --broker kafka --rounds 5"'
    wished.scenario = "loop"
    with pytest.raises(BenchError, match="loop has no use for --orders"):
        options_of(loop.SCENARIO, wished)


def test_every_size_is_an_option_and_every_option_of_use() -> None:
    """The command line has exactly the options that scenarios use."""
    assert set(SIZES) == {size for scenario in SCENARIOS for size in scenario.sizes}
    assert set(SIZES) <= set(Options.__dataclass_fields__)
