"""One run from beginning to end: start, load, faults, the wait until every order has ended, verdict."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import asyncpg
from confluent_kafka import KafkaException
from rich.console import Console

from operations.audit import audit
from tests.evidence.chaos import books, checker
from tests.evidence.chaos.arena import PARTITIONS, Arena, arena
from tests.evidence.chaos.clients import clients
from tests.evidence.chaos.faults import Done, Faults
from tests.evidence.chaos.finding import Finding
from tests.evidence.chaos.load import CONDITIONAL, HOLDINGS, MIX_WITH_FEED, Load
from tests.evidence.chaos.metrics import Counters
from tests.evidence.chaos.prices import Marks, Prices
from tests.evidence.chaos.record import Record
from tests.evidence.chaos.schedule import SESSION_S, Fault
from tests.evidence.chaos.witness import Witness

USERS: Final = 40
USER_IDS: Final = [f"user-{number}" for number in range(USERS)]
OVERLAP_MAX: Final = 3
"""The most faults at a time."""
RESTING_WITHIN_S: Final = 60.0
MOST: Final = 0.8
"""Some are refused, or expire."""
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
    ticks: int = 0
    """Records that were read on `assets.prices`."""
    resting_most: int = 0
    """The most orders that waited for a price at a time."""
    types: Counter[str] = field(default_factory=Counter)
    """How the conditional orders of each type ended."""
    waited: Counter[str] = field(default_factory=Counter)
    """What the oracle saw of them."""
    watched: Counter[str] = field(default_factory=Counter)
    """What clients were told."""
    counters: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


async def run(
    faults: list[Fault],
    *,
    seed: int,
    rate: float,
    far: int,
    folder: Path,
    console: Console,
    shortness: float = 1.0,
    told: Callable[[Done], None] = lambda _: None,
) -> Outcome:
    """Inject all faults under load, wait until every order has ended, and judge. Logs and records stay in `folder`.

    `far`: orders that come to rest far from the market before the first fault. `shortness`: as in the schedule; it
    shortens the session of consumer groups as much as the faults.
    """
    async with arena(folder, session_s=SESSION_S * shortness) as one:
        console.print(f"running: {one.stack.pids}", highlight=False)
        record = Record(deposits=await one.endow(USER_IDS, HOLDINGS))
        kafka = one.stack.kafka_bootstrap_servers
        counters, marks = Counters(one), Marks(one.owner_url)
        with (
            Witness(kafka, f"{one.prefix}orders.events", PARTITIONS) as witness,
            Prices(kafka, f"{one.prefix}assets.prices", PARTITIONS) as prices,
        ):
            load = _load(one, record, seed, prices, witness)
            faulty = Faults(one, lambda: in_flight(record, witness), witness.positions, prices.raw)
            async with (
                load,
                clients(one, USER_IDS, load.token) as waiting,
                beside(waiting.follow(), counters.watch(), marks.watch()),
                beside(load.run(rate)),
            ):
                await load.rest(far)
                await _until_most_rest(witness, far)
                await _do_all(faulty, faults, told)
                faulty.undo()
                faulty.close()
                over_at = time.monotonic()
                console.print("no more faults; waiting until every order has ended ...")
                await load.stop()
                findings = await quiet(one, record, witness, over_at, lambda: load.cancel_resting(witness.resting))
                await read_up_to_now(prices)
                await waiting.have_seen(witness.wire)
            outcome = Outcome(faults=faulty.done, quiet_after_s=time.monotonic() - over_at, counters=counters.sums())
        final = await books.read(one.owner_url)
        _save(folder, record, prices, marks)
        outcome.findings = [
            *findings,
            *_without_load(faulty.done),
            *checker.judge(record, witness.wire, final, prices.ticks, marks.looks, outcome.waited, waiting.watched),
            *(Finding("wire", "assets.prices", fault) for fault in prices.faults),
            *[Finding("audit", str(found.order_id), str(found)) for found in await audit(one.owner_url)],
        ]
        outcome.watched = waiting.watched.counted()
        _count(outcome, final, prices)
        _measure(outcome, record, witness)
        return outcome


def _load(one: Arena, record: Record, seed: int, prices: Prices, witness: Witness) -> Load:
    return Load(
        record,
        apis=[f"http://127.0.0.1:{port}" for port in one.ports("api")],
        kafka=one.stack.kafka_bootstrap_servers,
        prefix=one.prefix,
        secret=one.stack.jwt_secret,
        users=USER_IDS,
        seed=seed,
        mix=MIX_WITH_FEED,
        newest=prices.newest,
        rests=witness.resting.__contains__,
    )


async def _until_most_rest(witness: Witness, far: int) -> None:
    """Wait until most of the orders that are far from the market rest."""
    give_up_at = time.monotonic() + RESTING_WITHIN_S
    while len(witness.resting) < far * MOST and time.monotonic() < give_up_at:
        await asyncio.sleep(0.2)


async def read_up_to_now(prices: Prices) -> None:
    """Read the prices that were published up to now; they go on."""
    give_up_at = time.monotonic() + RESTING_WITHIN_S
    with suppress(KafkaException):
        ends = await asyncio.to_thread(prices.ends)
        while not prices.has_read(ends) and time.monotonic() < give_up_at:
            await asyncio.sleep(0.1)


def in_flight(record: Record, witness: Witness) -> int:
    """Count accepted orders whose end was not seen yet, of those that do not wait for a price; only of the newest."""
    newest = record.placed[-500:]
    return sum(one.accepted and one.order_id not in witness.ended_at for one in newest if one.kind != CONDITIONAL)


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


async def _nothing() -> None:
    pass


async def quiet(
    one: Arena, record: Record, witness: Witness, over_at: float, end: Callable[[], Awaitable[None]] = _nothing
) -> list[Finding]:
    """Wait until nothing is unfinished and the witness has read everything; what remains is a finding.

    `end`, called again and again, ends orders that do not end by themselves.
    """
    left: Any = "nobody could ask"
    while time.monotonic() - over_at < QUIET_WITHIN_S:
        await end()
        promised = [placed.order_id for placed in record.placed if placed.accepted and placed.order_id]
        with suppress(OSError, asyncpg.PostgresError):
            left = await books.unfinished(one.owner_url, promised)
            if not any(left.values()) and await asyncio.to_thread(witness.has_read_all):
                return []
        await asyncio.sleep(0.5)
    return [Finding("lost", "the run", f"not all had ended {QUIET_WITHIN_S:g} s after the last fault: {left}")]


def _without_load(faults: list[Done]) -> list[Finding]:
    return [Finding("outcome", str(one.fault), "no order was in flight") for one in faults if not one.in_flight]


def _count(outcome: Outcome, final: books.Books, prices: Prices) -> None:
    outcome.dead_letters = len(final.dead_letters)
    outcome.ends = checker.ends(final)
    outcome.types = checker.types(final)
    outcome.orders = len(final.orders)
    outcome.ticks = sum(map(len, prices.ticks.values()))


def _measure(outcome: Outcome, record: Record, witness: Witness) -> None:
    lives = {
        placed.order_id: (placed.at_s, witness.ended_at[placed.order_id])
        for placed in record.placed
        if placed.order_id in witness.ended_at and placed.kind != CONDITIONAL
    }
    outcome.resting_most = witness.resting_most
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


def _save(folder: Path, record: Record, prices: Prices, marks: Marks) -> None:
    (folder / "submitted.json").write_text(json.dumps(record.dump(), indent=1))
    read = {"ticks": prices.ticks, "looks": marks.looks}
    (folder / "market.json").write_text(json.dumps(read, default=str))


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
