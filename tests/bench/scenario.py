"""The type of a benchmark scenario: text, sizes, targets, and a function that measures. It measures nothing itself.

A figure is a list of values, one for each round; a report shows the median, the least and the most. Figures are in
groups, which are the tables of the report; the group `RATIOS` holds the figures that can be compared between machines.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.bench.ground import Ground
from tests.evidence.record import Spread, Table

RATIOS: Final = "Ratios"
SPEED: Final = "Throughput and latency"
CPU: Final = "CPU time of each process for one order, µs"
WAL: Final = "PostgreSQL's log for one order, bytes"

Figures = dict[str, dict[str, list[float]]]
"""Values, one a round, by group and name."""


class BenchError(Exception):
    """A benchmark can't be run as it was asked for; says why in one line."""


@dataclass(frozen=True)
class Options:
    """The sizes of a measurement. A scenario uses those that its `sizes` name."""

    rounds: int = 3
    """Rounds that count; one more comes before them, as a warm-up. With two contenders the number should be even, since
    it matters which of them is first."""
    seconds: float = 12.0
    """How long each contender works in a round."""
    minutes: float = 0.0
    """How long a steady load lasts."""
    orders: int = 0
    """How many orders wait in the topic, or are in the tables."""
    ticks: int = 0
    """Ticks that wait in the topic."""
    in_flight: int = 1000
    """Orders that may be open at once."""
    in_flight_slow: int = 50
    """The same, for contenders that work on one order at a time."""
    accounts: int = 0
    """Accounts of the balance service."""
    connections: int = 64
    """Clients of the REST API at once."""
    warm_up: int = 2000
    """Orders of the first round."""
    warm_up_slow: int = 60
    """The same, for contenders that work on one order at a time."""


@dataclass(frozen=True)
class Target:
    """The target of a figure. Reports say whether it was met or missed."""

    words: str
    figure: str
    bound: Literal["at least", "at most"]
    limit: float
    group: str = RATIOS

    def met(self, figures: Mapping[str, Mapping[str, Spread]]) -> bool | None:
        """Judge a record's median; None when it has no such figure."""
        spread = figures.get(self.group, {}).get(self.figure)
        if spread is None:
            return None
        return spread.median >= self.limit if self.bound == "at least" else spread.median <= self.limit


@dataclass
class Outcome:
    """The result of a run. `counts`: facts that were not measured in rounds; `found`: the faults, a line each."""

    figures: Figures
    counts: dict[str, int | float | str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    found: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One thing to measure."""

    name: str
    title: str
    what: str
    """What the scenario does, in plain words."""
    reading: str
    """What the figures mean."""
    takes: str
    """How long it takes by default, roughly."""
    sizes: tuple[str, ...]
    """The options that it uses."""
    full: Options
    quick: Options
    systems: tuple[str, ...]
    """The systems and peers that need topics, by the names that `Ground.system` and the peers use."""
    topics: tuple[str, ...] = ()
    """Further topics of its own."""
    targets: tuple[Target, ...]
    measure: Callable[[Ground, Options], Awaitable[Outcome]]
    needs_kafka: str = ""
    """Why the embedded broker is not enough; empty when it is."""
    why_absent: Callable[[], str] = str
    """Says why it can't be measured in this place; empty when it can."""


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of the rounds."""
    return Spread(
        median=_short(statistics.median(values)),
        least=_short(min(values)),
        most=_short(max(values)),
        rounds=[_short(value) for value in values],
    )


def spreads(figures: Figures) -> dict[str, dict[str, Spread]]:
    """Return the spreads of all figures that have a value."""
    return {
        group: {name: spread(values) for name, values in named.items() if values}
        for group, named in figures.items()
        if any(named.values())
    }


def _short(value: float) -> float:
    """Round to four digits, since more are noise."""
    return float(f"{value:.4g}")
