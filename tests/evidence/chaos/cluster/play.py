"""Plays an upheaval under load, measures how long orders took without it and during it, and judges everything."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from operations.audit import audit
from tests.evidence.chaos import books, checker
from tests.evidence.chaos.arena import PARTITIONS, WALKS, Arena, system_on
from tests.evidence.chaos.clients import Clients, clients
from tests.evidence.chaos.cluster.bounds import Plan, limit_s
from tests.evidence.chaos.cluster.pods import Cluster, cluster
from tests.evidence.chaos.finding import Finding, Findings
from tests.evidence.chaos.load import CONDITIONAL, HOLDINGS, MIX, Load
from tests.evidence.chaos.prices import Marks, Prices
from tests.evidence.chaos.record import NO, YES, Placed, Record
from tests.evidence.chaos.run import beside, quiet, read_up_to_now
from tests.evidence.chaos.schedule import SERVICES
from tests.evidence.chaos.witness import Witness
from tests.support.servers import Server

USERS: Final = [f"moved-{number}" for number in range(12)]
SLOW_WALKS: Final = tuple(replace(asset, walks_per_second=5.0) for asset in WALKS)
MIX_WITH_SOME: Final = MIX | {"conditional": 15, "changed": 5}
"""Some orders wait for a price. Most do not: how long these take is what is measured."""
AFTER_S: Final = 2.0
"""The load goes on for so long when the upheaval is over."""


@dataclass
class Stage:
    """A running system with everything that reads it; what was submitted in all plays so far."""

    arena: Arena
    cluster: Cluster
    witness: Witness
    prices: Prices
    marks: Marks
    record: Record = field(default_factory=Record)
    waiting: Clients | None = None
    plays: int = 0


@dataclass
class Played:
    """What a play found. Times: seconds from an order's acceptance until its end was seen, sorted."""

    calm_s: list[float]
    """Of the orders that had ended before the upheaval."""
    during_s: list[float]
    """Of those that were open at some time of it."""
    took_s: float
    findings: list[Finding]
    unanswered: list[str]
    """Requests that got no answer, or one of 5xx, a line each."""

    @property
    def longest_s(self) -> float:
        """The longest time that an order took during the upheaval; 0 without any."""
        return self.during_s[-1] if self.during_s else 0.0

    def breaches(self, plan: Plan) -> list[str]:
        """Return what was not as the plan says, a line each; none when all is well."""
        limit = limit_s(plan.longest_s, _percentile(self.calm_s, 0.5))
        found = [str(finding) for finding in self.findings]
        if self.longest_s > limit:
            found.append(f"an order took {self.longest_s:.1f} s, longer than {limit:.1f} s")
        return found + (self.unanswered if plan.answered else [])

    def figures(self) -> dict[str, int | float]:
        """Name what was measured."""
        found: dict[str, int | float] = {
            "took, s": round(self.took_s, 1),
            "requests without a good answer": len(self.unanswered),
        }
        for name, times in (("without it", self.calm_s), ("during it", self.during_s)):
            found[f"orders {name}"] = len(times)
            for word, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
                found[f"{word} {name}, s"] = _percentile(times, share)
        return found


@asynccontextmanager
async def stage(postgres: Server, kafka: Server, folder: Path, *, session_s: float) -> AsyncIterator[Stage]:
    """Run a system on these servers as the chart would; `session_s`: of the consumer groups."""
    none = dict.fromkeys(SERVICES, 0)  # the cluster's controller starts them, not the stack
    async with (
        system_on(
            postgres, kafka, folder, session_s=session_s, time_scale=1.0, replicas=none, assets=SLOW_WALKS
        ) as arena,
        cluster(arena.stack) as pods,
    ):
        address = arena.stack.kafka_bootstrap_servers
        with (
            Witness(address, f"{arena.prefix}orders.events", PARTITIONS) as witness,
            Prices(address, f"{arena.prefix}assets.prices", PARTITIONS) as prices,
        ):
            one = Stage(arena, pods, witness, prices, Marks(arena.owner_url))
            one.record.deposits = await arena.endow(USERS, HOLDINGS)
            async with (
                clients(arena, USERS, _load(one, 0).token, apis=[pods.url]) as one.waiting,
                beside(one.waiting.follow(), one.marks.watch()),
            ):
                await one.waiting.begun()
                yield one


async def play(one: Stage, plan: Plan, *, calm_s: float, rate: float) -> Played:
    """Load the system for `calm_s`, then also during the upheaval; wait until every order has ended, and judge."""
    one.plays += 1
    first, load = len(one.record.placed), _load(one, one.plays)
    async with load, beside(load.run(rate)):
        await asyncio.sleep(calm_s)
        began_at = time.monotonic()
        await plan.upheaval(one.cluster)
        over_at = time.monotonic()
        await asyncio.sleep(AFTER_S)
        await load.stop()
        found = await quiet(
            one.arena, one.record, one.witness, time.monotonic(), lambda: load.cancel_resting(one.witness.resting)
        )
    placed = one.record.placed[first:]
    calm_s_each, during_s = _times(placed, one.witness.ended_at, began_at, over_at)
    found += await _judge(one, placed)
    return Played(calm_s_each, during_s, over_at - began_at, found, _unanswered(placed))


def _load(one: Stage, seed: int) -> Load:
    return Load(
        one.record,
        apis=[one.cluster.url],
        kafka=one.arena.stack.kafka_bootstrap_servers,
        prefix=one.arena.prefix,
        secret=one.arena.stack.jwt_secret,
        users=USERS,
        seed=seed,
        mix=MIX_WITH_SOME,
        newest=one.prices.newest,
        rests=one.witness.resting.__contains__,
    )


async def _judge(one: Stage, placed: list[Placed]) -> list[Finding]:
    await read_up_to_now(one.prices)
    assert one.waiting is not None
    await one.waiting.have_seen(one.witness.wire)
    final = await books.read(one.arena.owner_url)
    watched = one.waiting.watched
    faults, one.cluster.faults = one.cluster.faults, []
    found = [
        *checker.judge(one.record, one.witness.wire, final, one.prices.ticks, one.marks.looks, watched=watched),
        *_in_time(placed, final.orders),
        *(Finding("wire", "assets.prices", fault) for fault in one.prices.faults),
        *(Finding("outcome", "the cluster", fault) for fault in faults),
        *[Finding("audit", str(wrong.order_id), str(wrong)) for wrong in await audit(one.arena.owner_url)],
    ]
    about = {
        name: [final.orders.get(name), *final.history.get(name, ()), *final.holds.get(name, ())]
        for name in {finding.subject for finding in found}
    }
    (one.arena.stack.folder / f"findings-{one.plays}.json").write_text(json.dumps(about, default=str, indent=1))
    return found


def _in_time(placed: list[Placed], orders: Mapping[str, Any]) -> Findings:
    """Expect that no order ends for a reason that only an outage gives: nothing here is one."""
    for one in placed:
        order = orders.get(one.order_id or "")
        if order is None or one.kind == CONDITIONAL:
            continue
        end = " ".join(filter(None, (order["status"], order["reason_code"])))
        if end in checker.EXCUSED:
            yield Finding("outcome", one.name, f"a {one.kind} order by {one.channel} ended as {end}")


def _times(
    placed: list[Placed], ended_at: Mapping[str, float], began_at: float, over_at: float
) -> tuple[list[float], list[float]]:
    calm, during = [], []
    for one in placed:
        end = ended_at.get(one.order_id or "")
        if end is None or one.accepted_at_s is None or one.kind == CONDITIONAL:
            continue
        took_s = max(0.0, end - one.accepted_at_s)
        if end < began_at:
            calm.append(took_s)
        elif one.accepted_at_s <= over_at:
            during.append(took_s)
    return sorted(calm), sorted(during)


def _unanswered(placed: list[Placed]) -> list[str]:
    return [
        f"{one.name}: {answer or 'no answer'} (answers: {one.answers})"
        for one in placed
        for answer in one.answers
        if answer not in YES | NO
    ]


def _percentile(values: list[float], share: float) -> float:
    return round(values[min(len(values) - 1, int(len(values) * share))], 3) if values else 0.0
