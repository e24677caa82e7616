"""What a scenario of the benchmark is: words, sizes, targets, and a function that measures. It measures nothing itself.

A figure is a list of values, one a round; what is told of it is the median and how far the rounds lay apart. Figures
stand in groups, which are the tables of the report; the group `RATIOS` holds what can be compared between machines.
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
    """How much to measure. A scenario uses those that it names in its `sizes`."""

    rounds: int = 3
    """Rounds that count; one more comes before them, to warm up. Two who take turns need an even number: it matters who
    of them goes first."""
    seconds: float = 12.0
    """How long each contender works in a round."""
    minutes: float = 0.0
    """How long a steady load lasts."""
    orders: int = 0
    """How many orders wait, or lie in the tables."""
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
    """What a figure shall be. Whether it is, is said beside it, in either case."""

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
    """What a run found. `counts`: facts that are no figures of rounds; `found`: what was wrong, a line each."""

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
    """What is done, in plain words."""
    reading: str
    """What the figures mean."""
    takes: str
    """How long it takes by default, roughly."""
    sizes: tuple[str, ...]
    """The options that it heeds."""
    full: Options
    quick: Options
    systems: tuple[str, ...]
    """Whoever needs topics: systems and peers, by the names that `Ground.system` and the peers use."""
    topics: tuple[str, ...] = ()
    """Topics of its own beside theirs."""
    targets: tuple[Target, ...]
    measure: Callable[[Ground, Options], Awaitable[Outcome]]
    needs_kafka: str = ""
    """Why the embedded broker won't do; empty when it does."""


def spread(values: Sequence[float]) -> Spread:
    """Sum up the rounds."""
    return Spread(
        median=_short(statistics.median(values)),
        least=_short(min(values)),
        most=_short(max(values)),
        rounds=[_short(value) for value in values],
    )


def spreads(figures: Figures) -> dict[str, dict[str, Spread]]:
    """Sum up all figures; those without a round are left out."""
    return {
        group: {name: spread(values) for name, values in named.items() if values}
        for group, named in figures.items()
        if any(named.values())
    }


def _short(value: float) -> float:
    """Keep four digits: the rest is noise."""
    return float(f"{value:.4g}")
