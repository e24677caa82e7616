"""One run from beginning to end: start, load, faults, the wait until every order has ended, verdict."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import asyncpg
from rich.console import Console

from tests.evidence.chaos import books, checker
from tests.evidence.chaos.arena import PARTITIONS, Arena, arena
from tests.evidence.chaos.checker import Finding
from tests.evidence.chaos.faults import Done, Faults
from tests.evidence.chaos.load import HOLDINGS, Load
from tests.evidence.chaos.metrics import Counters
from tests.evidence.chaos.record import Record
from tests.evidence.chaos.schedule import SESSION_S, Fault
from tests.evidence.chaos.witness import Witness

USERS: Final = 40
OVERLAP_MAX: Final = 3
"""The most faults at a time."""
QUIET_WITHIN_S: Final = 120.0
"""The time after the last fault within which every accepted order must end: the longest patience and pause between two
questions at the run's time scale (30 s), a member's session, and two of the sweeper's doubling pauses."""


@dataclass
class Outcome:
    """What a run did and found."""

    faults: list[Done] = field(default_factory=list)
    orders: int = 0
    placed: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    """Seconds from sending a request until its order's end was seen."""
    longest_pause_s: float = 0.0
    """The longest time in which no order ended."""
    longest_recovery_s: float = 0.0
    """The longest time from a fault's beginning until all orders that were in flight then had ended."""
    quiet_after_s: float = 0.0
    """How long after the last fault everything had ended."""
    events: int = 0
    repeated_events: int = 0
    dead_letters: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


async def run(
    faults: list[Fault],
    *,
    seed: int,
    rate: float,
    folder: Path,
    console: Console,
    shortness: float = 1.0,
    told: Callable[[Done], None] = lambda _: None,
) -> Outcome:
    """Inject all faults under load, wait until every order has ended, and judge. Logs and records stay in `folder`.

    `shortness`: as in the schedule; it shortens the session of consumer groups as much as the faults.
    """
    async with arena(folder, session_s=SESSION_S * shortness) as one:
        console.print(f"running: {one.stack.pids}", highlight=False)
        record = Record(deposits=await one.endow([f"user-{number}" for number in range(USERS)], HOLDINGS))
        topic = f"{one.prefix}orders.events"
        load = Load(
            record,
            apis=[f"http://127.0.0.1:{port}" for port in one.ports("api")],
            kafka=one.stack.kafka_bootstrap_servers,
            prefix=one.prefix,
            secret=one.stack.jwt_secret,
            users=[f"user-{number}" for number in range(USERS)],
            seed=seed,
        )
        counters = Counters(one)
        with Witness(one.stack.kafka_bootstrap_servers, topic, PARTITIONS) as witness:
            faulty = Faults(one, lambda: in_flight(record, witness), witness.positions)
            async with load, beside(load.run(rate), counters.watch()):
                await asyncio.sleep(2)
                await _do_all(faulty, faults, told)
                faulty.undo()
                faulty.close()
                over_at = time.monotonic()
                console.print("no more faults; waiting until every order has ended ...")
                await load.stop()
                findings = await quiet(one, record, witness, over_at)
            outcome = Outcome(faults=faulty.done, quiet_after_s=time.monotonic() - over_at, counters=counters.sums())
        final = await books.read(one.owner_url)
        _save(folder, record)
        outcome.findings = [*findings, *_without_load(faulty.done), *checker.judge(record, witness.wire, final)]
        outcome.dead_letters = len(final.dead_letters)
        outcome.ends = checker.ends(final)
        outcome.orders = len(final.orders)
        _measure(outcome, record, witness)
        return outcome


def in_flight(record: Record, witness: Witness) -> int:
    """Count accepted orders whose end was not seen yet; it looks at the newest only."""
    return sum(one.accepted and one.order_id not in witness.ended_at for one in record.placed[-500:])


async def _do_all(faulty: Faults, faults: list[Fault], told: Callable[[Done], None]) -> None:
    room = asyncio.Semaphore(OVERLAP_MAX)

    async def one(fault: Fault) -> None:
        try:
            told(await faulty.do(fault))
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        for fault in faults:
            await asyncio.sleep(fault.after_s)
            await room.acquire()
            group.create_task(one(fault))


async def quiet(one: Arena, record: Record, witness: Witness, over_at: float) -> list[Finding]:
    """Wait until nothing is unfinished and the witness has read everything; what remains is a finding."""
    left: Any = "nobody could ask"
    while time.monotonic() - over_at < QUIET_WITHIN_S:
        promised = [placed.order_id for placed in record.placed if placed.accepted and placed.order_id]
        with suppress(OSError, asyncpg.PostgresError):
            left = await books.unfinished(one.owner_url, promised)
            if not any(left.values()) and await asyncio.to_thread(witness.has_read_all):
                return []
        await asyncio.sleep(0.5)
    return [Finding("lost", "the run", f"not all had ended {QUIET_WITHIN_S:g} s after the last fault: {left}")]


def _without_load(faults: list[Done]) -> list[Finding]:
    return [Finding("outcome", str(one.fault), "no order was in flight") for one in faults if not one.in_flight]


def _measure(outcome: Outcome, record: Record, witness: Witness) -> None:
    lives = {
        placed.order_id: (placed.at_s, witness.ended_at[placed.order_id])
        for placed in record.placed
        if placed.order_id in witness.ended_at
    }
    outcome.placed = Counter(f"{placed.kind} by {placed.channel}" for placed in record.placed)
    outcome.answers = Counter(str(answer or "none") for placed in record.placed for answer in placed.answers)
    outcome.latencies_s = sorted(end - begin for begin, end in lives.values())
    ends = sorted(end for _, end in lives.values())
    outcome.longest_pause_s = max((after - before for before, after in pairwise(ends)), default=0)
    outcome.longest_recovery_s = max(
        (end - one.began_at for one in outcome.faults for begin, end in lives.values() if begin <= one.began_at < end),
        default=0,
    )
    for one in outcome.faults:
        later = [end for begin, end in lives.values() if begin >= one.over_at]
        one.recovered_s = min(later) - one.over_at if later else None
    outcome.events = sum(len(versions) for versions in witness.wire.told.values())
    outcome.repeated_events = witness.wire.repeats


def _save(folder: Path, record: Record) -> None:
    (folder / "submitted.json").write_text(json.dumps(record.dump(), indent=1))


class beside:  # noqa: N801 - used as a word of the statement
    """Do work in the background while a block runs; a failure of the work is the block's."""

    def __init__(self, *work: Coroutine[Any, Any, None]) -> None:
        self._work = work
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        await self._group.__aenter__()
        self._tasks = [self._group.create_task(one) for one in self._work]

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(*error)  # type: ignore[arg-type]  # the three of a with statement
