"""Which fault comes when: a list made from a seed, the same for the same seed. No I/O, no clock.

The number of kills gives the size of a run; the number of other faults is in proportion. Faults overlap: each begins
`after_s` later than the one before it, even when that one is not over.
"""

from __future__ import annotations

import random
from enum import StrEnum
from itertools import cycle, islice
from typing import Final, NamedTuple

from tests.evidence.chaos.bodies import FEED

SERVICES: Final = ("orchestrator", "balance", "assets", "api", "webhooks")
CLOCKED: Final = tuple(service for service in SERVICES if service != "webhooks")
"""Those whose clocks may be wrong: a receiver has to refuse what is signed at another time than its own."""
REPLICAS: Final = 2
SERVERS: Final = ("postgres", "kafka")
SESSION_S: Final = 6.0
"""The group session of the local stack: a member without a heartbeat for longer loses its partitions."""


class Kind(StrEnum):
    """Faults of a process, a server or their connections."""

    KILL = "kill -9"
    IMMEDIATE = "immediate shutdown"
    SERVER_KILL = "kill -9 of a server"
    FREEZE = "freeze, shorter than the session"
    FREEZE_LONG = "freeze, longer than the session"
    LAG = "all members of a group frozen"
    CUT = "connections reset"
    DELAY = "every packet late"
    SWALLOW = "half-open connections"
    ROLL = "segments rolled, records deleted"
    CLOCK = "wrong clock"
    STALE = "all frozen until their ticks are too old"
    HALT = "an asset's trading halted"
    ECHO = "old prices published again"


KILLS: Final = frozenset({Kind.KILL, Kind.IMMEDIATE, Kind.SERVER_KILL})


class Fault(NamedTuple):
    """A fault `after_s` later than the one before, to `target`, for `hold_s`. `amount`: of a delay or a clock, in s."""

    number: int
    kind: Kind
    target: str
    after_s: float
    hold_s: float
    amount: float = 0.0

    def __str__(self) -> str:
        """Say it in one line."""
        more = f" by {self.amount:+g} s" if self.amount else ""
        held = f" for {self.hold_s:g} s" if self.hold_s else ""
        return f"{self.number:4} +{self.after_s:<4g} {self.kind}: {self.target}{more}{held}"


_SHARES: Final = {
    # kind: how many for 100 kills, and of what length in seconds
    Kind.KILL: (78, 0.0, 0.0),
    Kind.IMMEDIATE: (7, 0.2, 3.0),
    Kind.SERVER_KILL: (15, 0.2, 3.0),
    Kind.FREEZE: (14, 1.0, SESSION_S - 2),
    Kind.FREEZE_LONG: (8, SESSION_S + 2, SESSION_S + 6),
    Kind.LAG: (5, 6.0, 14.0),
    Kind.CUT: (10, 0.0, 4.0),
    Kind.DELAY: (6, 4.0, 10.0),
    Kind.SWALLOW: (6, 2.0, 8.0),
    Kind.ROLL: (6, 0.0, 0.0),
    Kind.CLOCK: (8, 5.0, 15.0),
    Kind.STALE: (2, 33.0, 37.0),
    Kind.HALT: (4, 2.0, 8.0),
    Kind.ECHO: (4, 0.0, 0.0),
}
_AMOUNTS: Final = {Kind.DELAY: (0.02, 0.05, 0.15), Kind.CLOCK: (600.0, -600.0, 90.0, -90.0)}
GAP_S: Final = (2.5, 7.5)


def schedule(seed: int, kills: int, *, gap_s: tuple[float, float] = GAP_S, shortness: float = 1.0) -> list[Fault]:
    """Make the faults of a run: exactly so many kills, and at least one fault of every kind for each kind of target.

    `shortness` multiplies how long faults are held (not that of the clock's error); less than one suits a short run.
    """
    rng = random.Random(seed)  # noqa: S311 - chance that can be repeated is the point
    counts = _counts(kills)
    wanted = [(kind, target) for kind, number in counts.items() for target in _targets(rng, kind, number)]
    rng.shuffle(wanted)
    faults = []
    for number, (kind, target) in enumerate(wanted, 1):
        _, shortest_s, longest_s = _SHARES[kind]
        amount = rng.choice(_AMOUNTS.get(kind, (0.0,)))
        hold_s = round(rng.uniform(shortest_s, longest_s) * shortness, 1)
        faults.append(Fault(number, kind, target, round(rng.uniform(*gap_s), 1), hold_s, amount))
    return faults


def kills_of(faults: list[Fault]) -> int:
    """Count the kills, those of servers included."""
    return sum(fault.kind in KILLS for fault in faults)


def _counts(kills: int) -> dict[Kind, int]:
    """Split the kills, and give every other kind its share; nobody gets none."""
    counts = {kind: max(1, round(share * kills / 100)) for kind, (share, _, _) in _SHARES.items()}
    counts[Kind.KILL] = max(0, kills - counts[Kind.IMMEDIATE] - counts[Kind.SERVER_KILL])
    return counts


def _targets(rng: random.Random, kind: Kind, number: int) -> list[str]:
    """Choose targets in random order, so that every possible one is hit before any is hit again."""
    replicas = [f"{service}-{replica}" for service in SERVICES for replica in range(1, REPLICAS + 1)]
    possible = {
        Kind.IMMEDIATE: ["postgres"],
        Kind.SERVER_KILL: list(SERVERS[::-1]),
        Kind.LAG: [service for service in SERVICES if service != "api"],
        Kind.CUT: list(SERVERS),
        Kind.DELAY: list(SERVERS),
        Kind.SWALLOW: list(SERVERS),
        Kind.ROLL: ["kafka"],
        Kind.CLOCK: [f"{service}-{REPLICAS}" for service in CLOCKED],
        Kind.STALE: ["orchestrator"],
        Kind.HALT: list(FEED),
        Kind.ECHO: list(FEED),
    }.get(kind, replicas)
    rng.shuffle(possible)
    return list(islice(cycle(possible), number))
