"""Runs histories, one or many on all processors, each in an event loop with a clock of its own."""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from tests.evidence.simulation.draw import draw
from tests.evidence.simulation.loop import StandingStill, VirtualLoop
from tests.evidence.simulation.scenario import Scenario
from tests.evidence.simulation.world import Told, World

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK: Final = 25
"""The histories that a process runs before it reports."""


class Outcome(NamedTuple):
    """The outcome of one history."""

    faults: list[str]
    """The faults found, in words; empty when all was well."""
    history: list[Told]
    """The history in words, when it was traced."""
    seen: Counter[str]
    ends: Counter[str]
    ended_after_s: float
    """How long after the last fault the last order ended."""
    lasted_s: float


class Tally(NamedTuple):
    """The outcomes of many histories, added up."""

    histories: int
    failed: dict[int, list[str]]
    """The faults found, by seed."""
    seen: Counter[str]
    ends: Counter[str]
    ended_after_s: float
    lasted_s: float


def run(scenario: Scenario, *, traced: bool = False) -> Outcome:
    """Run one history."""
    world: World | None = None

    async def live() -> list[str]:
        nonlocal world
        world = World(scenario, traced=traced)
        return await world.live()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        try:
            faults = runner.run(live())
        except StandingStill as error:
            faults = [f"liveness: {error}"]
        assert world is not None
        rows = [row for name in ("archive", "orders") for row in world.database.tables[name].values()]
        ends = Counter(f"{row['status']} {row['reason_code'] or ''}".rstrip() for row in rows)
        return Outcome(faults, world.history, world.seen, ends, world.ended_after_s, runner.get_loop().time())


def run_many(first: int, count: int, processes: int | None = None) -> Iterator[Tally]:
    """Run the histories of `count` seeds from `first` on; yield a tally of each part."""
    parts = [(start, min(CHUNK, first + count - start)) for start in range(first, first + count, CHUNK)]
    with ProcessPoolExecutor(processes or os.cpu_count(), get_context("spawn"), _settle) as pool:
        yield from pool.map(_run_part, parts)


def add(tallies: list[Tally]) -> Tally:
    """Add up parts."""
    failed = {seed: faults for tally in tallies for seed, faults in tally.failed.items()}
    seen: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for tally in tallies:
        seen.update(tally.seen)
        ends.update(tally.ends)
    longest = max((tally.ended_after_s for tally in tallies), default=0.0)
    return Tally(sum(t.histories for t in tallies), failed, seen, ends, longest, sum(t.lasted_s for t in tallies))


def be_quiet() -> None:
    """Switch off the product's logs of retries: a history has its own lines."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def _settle() -> None:
    """Prepare a process for many histories: what it has imported stays, and is not looked at for garbage again."""
    be_quiet()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # a history leaves little, and ends soon: a fifth of the time was spent looking


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off these logs while the block runs."""
    before = structlog.get_config()
    be_quiet()
    try:
        yield
    finally:
        structlog.configure(**before)


def _run_part(part: tuple[int, int]) -> Tally:
    first, count = part
    outcomes = {seed: run(draw(seed)) for seed in range(first, first + count)}
    return Tally(
        count,
        {seed: outcome.faults for seed, outcome in outcomes.items() if outcome.faults},
        sum((outcome.seen for outcome in outcomes.values()), Counter()),
        sum((outcome.ends for outcome in outcomes.values()), Counter()),
        max(outcome.ended_after_s for outcome in outcomes.values()),
        sum(outcome.lasted_s for outcome in outcomes.values()),
    )
