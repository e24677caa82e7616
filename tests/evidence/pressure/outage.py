"""One participant is away while orders go on at a steady rate: measures waiting orders, other orders and memory."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.evidence.chaos import books, checker
from tests.evidence.chaos.arena import PARTITIONS, Arena, system_on
from tests.evidence.chaos.load import HOLDINGS, Load
from tests.evidence.chaos.record import Placed, Record
from tests.evidence.chaos.run import beside, quiet
from tests.evidence.chaos.witness import Witness
from tests.evidence.pressure.participant import How, Participant
from tests.evidence.pressure.watch import Sample, Watch, growth_mb
from tests.support.servers import Server

USERS: Final = 40
MIX: Final = {"good": 60, "by_kafka": 30, "unaffected": 20, "withdrawn": 4, "invalid": 6}
PROBES_PER_S: Final = 25.0
"""The rate of probes that one orchestrator may send to a silent participant, besides each order's first questions."""
GROWTH_MAX_MB: Final = 24.0
SLOWER_MAX: Final = 3.0
"""Orders that do not need the participant may take so many times as long as before, or `SLOWER_BUT_S` if longer."""
SLOWER_BUT_S: Final = 0.75
DRAINED_WITHIN_S: Final = 1800.0
DRAINED_AT_LEAST: Final = 0.5
"""The least rate of the drain, as a share of the rate at which whole orders are carried normally."""
WAITS_IN: Final = {
    "balance": {"VALIDATING", "RESERVING", "SETTLING", "REFUNDING"},
    "assets": {"VALIDATING", "REFUNDING"},
}
"""The phases in which orders may be during an outage: those that ask the participant, and the refund on the way out."""
QUESTIONS_MAX: Final = 6
"""The most questions of one order to a silent participant: five attempts within its patience, and a refund."""


@dataclass(frozen=True)
class Plan:
    """The plan of an outage: which participant, how, how long; the rate of orders, and the burst at the beginning."""

    participant: str
    how: How
    outage_s: float
    rate: float
    burst: int = 0
    before_s: float = 10.0
    capacity_orders: int = 1000
    time_scale: float = 1.0


@dataclass
class Result:
    """The figures and the faults found; rates are per second, latencies in seconds."""

    plan: Plan
    figures: dict[str, int | float | str] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)


@asynccontextmanager
async def stage(
    postgres: Server, kafka: Server, folder: Path, plan: Plan
) -> AsyncIterator[tuple[Arena, Participant, Load, Witness, Watch]]:
    """Start the system, the participant, the load (idle), the witness and the watch."""
    replicas = {plan.participant: 0, "api": 1}
    async with system_on(postgres, kafka, folder, time_scale=plan.time_scale, replicas=replicas) as one:
        participant = Participant(one, plan.participant)
        users = [f"user-{number}" for number in range(USERS)]
        record = Record(deposits=await one.endow(users, HOLDINGS))
        load = Load(
            record,
            apis=[one.stack.api_url],
            kafka=one.stack.kafka_bootstrap_servers,
            prefix=one.prefix,
            secret=one.stack.jwt_secret,
            users=users,
            seed=1,
            mix=MIX,
        )
        topic = f"{one.prefix}orders.events"
        watch = Watch(
            one, f"{plan.participant}.commands", lambda: one.stack.pids | {plan.participant: participant.pids}
        )
        try:
            await participant.start()
            with Witness(one.stack.kafka_bootstrap_servers, topic, PARTITIONS) as witness:
                async with load, beside(watch.run()):
                    yield one, participant, load, witness, watch
        finally:
            await participant.stop()


async def outage(postgres: Server, kafka: Server, folder: Path, plan: Plan) -> Result:
    """Run an outage; return its figures and the faults found."""
    result = Result(plan)
    async with stage(postgres, kafka, folder, plan) as (one, participant, load, witness, watch):
        record = load.record
        capacity = await _capacity(load, witness, plan.capacity_orders)
        loading = asyncio.create_task(load.run(plan.rate))
        began = time.monotonic()
        await asyncio.sleep(plan.before_s)
        await participant.leave(plan.how)
        left = time.monotonic()
        await load.burst(plan.burst)
        await asyncio.sleep(max(0.0, left + plan.outage_s - time.monotonic()))
        back = time.monotonic()
        await load.stop()
        await loading
        waiting = _open(record, witness)
        back = time.monotonic()
        await participant.come_back(plan.how)
        drained = await _drained(waiting, witness, back)
        findings = await quiet(one, record, witness, time.monotonic())
        final = await books.read(one.owner_url)
        during = watch.between(left + 5, back)
        absorbed = left + 1 + 1.5 * plan.burst / capacity  # before that, the burst itself is in everybody's way
        seen = _latencies(record.placed, witness, plan.participant)
        result.figures = {
            "orders": len(record.placed),
            "orders a second, offered": plan.rate,
            "away for, s": round(back - left, 1),
            "whole orders a second before (capacity)": round(capacity, 1),
            "orders that waited at the end of the outage": len(waiting),
            "drained in, s": round(drained, 1),
            "drained orders a second": round(len(waiting) / max(drained, 0.001), 1),
            **_quantiles("unaffected before", [took for at, took in seen if began <= at < left]),
            **_quantiles("unaffected during", [took for at, took in seen if absorbed <= at < back]),
            "messages to who was away, a second": round(_rate(during, "commands"), 1),
            "allowed for each order, a second": round(_first_questions(record.placed, left, back), 1),
            "orchestrators' processor time, cores": round(_rate(during, "busy_s"), 2),
            "most memory growth of a process, MB": max(growth_mb(during).values(), default=0.0),
            "most memory of a process, MB": round(max((max(s.memory.values()) for s in during), default=0.0), 1),
            "most rows in the outboxes": max((sample.unsent_rows for sample in during), default=0),
            "largest outboxes, MB": round(max((sample.outbox_mb for sample in during), default=0.0), 1),
            "database at the end of the outage, MB": round(during[-1].database_mb, 1) if during else 0.0,
            "ends": ", ".join(f"{end} {number}" for end, number in checker.ends(final).most_common()),
        }
        result.found = [str(finding) for finding in (*findings, *checker.judge(record, witness.wire, final))]
        result.found += _judge(result, during)
    return result


def _judge(result: Result, during: list[Sample]) -> list[str]:
    """Compare the figures with their bounds."""
    plan, seen = result.plan, result.figures
    found = []
    if not seen["unaffected during, p99, s"]:
        found.append(
            f"no order that does not need {plan.participant} was measured: the outage was over before the burst"
        )
    for q in ("p50", "p99"):
        before, now = float(seen[f"unaffected before, {q}, s"]), float(seen[f"unaffected during, {q}, s"])
        if now > max(before * SLOWER_MAX, SLOWER_BUT_S):
            found.append(f"orders that do not need {plan.participant} took {now} s ({q}), {before} s before")
    sent, first = float(seen["messages to who was away, a second"]), float(seen["allowed for each order, a second"])
    if sent > first + 2 * PROBES_PER_S:
        found.append(f"{sent} messages a second went to {plan.participant}, {first} are allowed")
    if float(seen["most memory growth of a process, MB"]) > GROWTH_MAX_MB:
        found.append(f"memory grew: {growth_mb(during)}")
    waited, drained = int(seen["orders that waited at the end of the outage"]), float(seen["drained orders a second"])
    if waited > plan.rate and drained < DRAINED_AT_LEAST * float(seen["whole orders a second before (capacity)"]):
        found.append(f"the backlog of {waited} drained at {drained} orders a second")
    settled = [sample for sample in during if sample.at_s > during[0].at_s + 2] if during else []
    phases = Counter(phase for sample in settled for phase in sample.phases)
    if strange := set(phases) - WAITS_IN[plan.participant]:
        found.append(f"orders waited in {sorted(strange)}")
    return found


async def _capacity(load: Load, witness: Witness, orders: int) -> float:
    """Measure how many orders a second are completed when many come at once."""
    before = len(load.record.placed)
    began = time.monotonic()
    await load.burst(orders)
    return orders / max(0.001, await _drained(load.record.placed[before:], witness, began))


def _open(record: Record, witness: Witness) -> list[Placed]:
    return [one for one in record.placed if one.accepted and one.order_id not in witness.ended_at]


async def _drained(orders: Iterable[Placed], witness: Witness, since: float) -> float:
    """Wait until these orders have ended, at most for `DRAINED_WITHIN_S`; return how long it took, from `since`."""
    wanted = [one for one in orders if one.accepted or one.channel == "kafka"]
    while time.monotonic() - since < DRAINED_WITHIN_S:
        if all(one.order_id in witness.ended_at for one in wanted):
            break
        await asyncio.sleep(0.1)
    never = since + DRAINED_WITHIN_S
    return max((witness.ended_at.get(one.order_id or "", never) for one in wanted), default=since) - since


def _latencies(placed: Iterable[Placed], witness: Witness, participant: str) -> list[tuple[float, float]]:
    """List when each order that does not need the participant was sent, and how long it took."""
    kinds = {"unaffected", "invalid"} if participant == "balance" else {"invalid"}
    return [
        (one.at_s, witness.ended_at[one.order_id] - one.at_s)
        for one in placed
        if one.kind in kinds and one.channel == "kafka" and one.order_id in witness.ended_at
    ]


def _quantiles(name: str, values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {
        f"{name}, {q}, s": round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3)
        for q, share in (("p50", 0.5), ("p99", 0.99))
    }


def _rate(samples: list[Sample], what: str) -> float:
    if len(samples) < 2:
        return 0.0
    return float(getattr(samples[-1], what) - getattr(samples[0], what)) / (samples[-1].at_s - samples[0].at_s)


def _first_questions(placed: Iterable[Placed], begin: float, end: float) -> float:
    """Return the most questions a second, without probes, that the orders of this time may send to the participant."""
    wanting = sum(begin <= one.at_s < end and one.kind not in {"unaffected", "invalid"} for one in placed)
    return wanting * QUESTIONS_MAX / max(0.001, end - begin)
