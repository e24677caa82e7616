"""The throughput of one API process, as a ratio to a bare handler of FastAPI and aiokafka, and its steady latency.

First, both alternately accept requests as fast as they can. No other service runs then, because on a machine with few
cores it would slow down the API, while the bare handler's orders need no service. Then the API of a whole system gets
four fifths of its peak rate: measured are the latency from the moment when a request was due, the memory, and whether
every accepted order exists at the end. These orders name an unknown asset, so that one question decides each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count, cycle
from typing import Any, Final, NamedTuple

import asyncpg
import httpx2
import msgspec
import psutil
from rich.console import Console

from local_stack.ports import free_ports
from local_stack.stack import LocalStack
from tests.bench.bar import bar
from tests.bench.ground import Ground
from tests.bench.rounds import cpu_s, per_order_us
from tests.bench.scenario import CPU, RATIOS, SPEED, Figures, Options, Outcome, Scenario, Target
from tests.bench.traffic import Sample, as_fast_as_it_goes, steadily
from tests.order_api.issuer import Issuer, issuing

USERS = 500
BARE_TOPIC: Final = "bare"
AUDIENCE = "orders"
BODY = json.dumps({"asset_id": "NONE", "order_type": "MARKET_BUY", "quantity": "0.01"}).encode()
STEADY_SHARE = 0.8
SETTLE_S = 600.0
LOOK_S = 5.0
LIMIT_PER_S = 100_000
"""The rate limit of a user: the API counts its requests, but the limit is too high to refuse any."""
ALONE = {"orchestrator": 0, "balance": 0, "assets": 0, "api": 1}
RATE: Final = "api / bare, accepted a second"
USED: Final = "api / bare, CPU time of the process for one"
TAIL: Final = "p99 / p50 at four fifths of the peak"

_OPEN = (
    "SELECT count(*) FROM api.claims LEFT JOIN api.orders o USING (order_id) WHERE o.status IS DISTINCT FROM 'FAILED'"
)
_MISSING = "SELECT count(*) FROM accepted LEFT JOIN api.orders o USING (order_id) WHERE o.status IS NULL"


class Peak(NamedTuple):
    """A round at full speed."""

    sample: Sample
    cpu_us: Mapping[str, float]
    """Processor time for one accepted request, by process."""


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure both alternately at full speed; then load a whole system by its API at a steady rate."""
    issuer = await ground.everything.enter_async_context(issuing())
    issuer.add("bench", "EdDSA")
    requests = _requests(issuer)
    alone = await ground.system("alone", replicas=ALONE, environment_of={"api": _settings(issuer, sweep_s=60)})
    bare = await ground.everything.enter_async_context(_bare(alone.stack, f"{ground.prefix}{BARE_TOPIC}"))
    targets = {"bare": bare, "api": (alone.stack.ports["api"], alone.stack.pids["api"][0])}
    figures = _figures_of(await _peaks(targets, requests, options, ground))
    whole = await ground.system("whole", replicas={"api": 1}, environment_of={"api": _settings(issuer, sweep_s=1)})
    rate = STEADY_SHARE * await _carried(whole.stack, requests, options)
    steady, found = await _steady(whole.stack, requests, rate, options, ground.out)
    figures[RATIOS][TAIL] = [float(steady["p99, ms"]) / float(steady["p50, ms"])]
    return Outcome(figures, {"connections": options.connections, **steady}, found=found)


def _settings(issuer: Issuer, *, sweep_s: int) -> dict[str, str]:
    """Require the issuer's tokens. `sweep_s` is long where no service runs: the sweeper would only publish again."""
    return {
        "JWT_SECRET": "",
        "JWT_JWKS_URL": issuer.url,
        "JWT_AUDIENCE": AUDIENCE,
        "API_RATE_LIMIT_PER_S": str(LIMIT_PER_S),
        "API_SWEEP_INTERVAL_S": str(sweep_s),
        "LOG_FORMAT": "json",
    }


async def _peaks(
    targets: Mapping[str, tuple[int, int]], requests: Iterator[bytes], options: Options, ground: Ground
) -> dict[str, list[Peak]]:
    peaks: dict[str, list[Peak]] = {name: [] for name in targets}
    with bar(ground.out, (options.rounds + 1) * len(targets)) as done:
        for number in range(options.rounds + 1):
            for name, (port, pid) in targets.items():
                processes = {name: [pid], **ground.shared_pids}
                before = cpu_s(processes)
                sample = await as_fast_as_it_goes(
                    port, requests, connections=options.connections, seconds=options.seconds
                )
                peak = Peak(sample, per_order_us(before, cpu_s(processes), max(1, sample.statuses[202])))
                words = f"{_in_words(sample)}, {peak.cpu_us[name]:.0f} µs of CPU each"
                ground.out.print(f"{'warm-up' if not number else f'round {number}'}: {name:4} {words}")
                if number:  # the first round warms up
                    peaks[name].append(peak)
                done()
    return peaks


def _figures_of(peaks: Mapping[str, Sequence[Peak]]) -> Figures:
    """Compare round by round, since a disturbance of the machine affects both."""
    pairs = list(zip(peaks["api"], peaks["bare"], strict=True))
    figures: Figures = {
        RATIOS: {
            RATE: [ours.sample.per_s / theirs.sample.per_s for ours, theirs in pairs],
            USED: [ours.cpu_us["api"] / theirs.cpu_us["bare"] for ours, theirs in pairs],
        },
        SPEED: {},
        CPU: {},
    }
    for name, rounds in peaks.items():
        figures[SPEED][f"{name}, accepted/s"] = [peak.sample.per_s for peak in rounds]
        figures[SPEED][f"{name}, p50 ms"] = [peak.sample.percentile_ms(0.5) for peak in rounds]
        figures[SPEED][f"{name}, p99 ms"] = [peak.sample.percentile_ms(0.99) for peak in rounds]
        for process in rounds[0].cpu_us:
            figures[CPU][f"{name}: {process}"] = [peak.cpu_us[process] for peak in rounds]
    return figures


async def _steady(
    stack: LocalStack, requests: Iterator[bytes], rate: float, options: Options, out: Console
) -> tuple[dict[str, int | float | str], list[str]]:
    """Load the API for minutes; return the figures and the faults found."""
    seconds, connections = options.minutes * 60, 4 * options.connections
    out.print(f"steady: {rate:.0f} requests/s for {seconds:.0f} s ...")
    port, pid = stack.ports["api"], stack.pids["api"][0]
    memory: list[float] = []
    watching = asyncio.create_task(_watch(pid, memory))
    try:
        sample = await steadily(port, requests, per_s=rate, connections=connections, seconds=seconds, keep_bodies=True)
    finally:
        watching.cancel()
    accepted = [msgspec.json.decode(body)["order_id"] for body in sample.bodies]
    missing = await _missing(stack, accepted, out)
    out.print(f"steady: {_in_words(sample)}; {len(accepted)} accepted, {missing} of them are no order")
    seen: dict[str, int | float | str] = {
        "steady load, requests/s": round(rate),
        "minutes": options.minutes,
        "p50, ms": round(sample.percentile_ms(0.5), 2),
        "p99, ms": round(sample.percentile_ms(0.99), 2),
        "p99.9, ms": round(sample.percentile_ms(0.999), 2),
        "longest, ms": round(max(sample.latencies_s) * 1e3, 1),
        "accepted": len(accepted),
        "answers by status": ", ".join(f"{status}: {count}" for status, count in sorted(sample.statuses.items())),
        "accepted orders that are missing": missing,
        "memory of the API by tenths of the time, MiB": ", ".join(f"{one:.0f}" for one in _tenths(memory)),
    }
    found = [f"{missing} accepted orders are missing"] if missing else []
    return seen, found + ([] if pid == stack.pids["api"][0] else ["the API died and was started again"])


async def _missing(stack: LocalStack, accepted: Sequence[str], out: Console) -> int:
    """Wait until all accepted orders exist, or the time is over; count the missing ones."""
    connection = await asyncpg.connect(stack.database_url)
    give_up_at = time.monotonic() + SETTLE_S
    try:
        await connection.execute("CREATE TEMPORARY TABLE accepted (order_id uuid PRIMARY KEY)")
        await connection.copy_records_to_table("accepted", records=((one,) for one in accepted))
        while True:
            missing = await connection.fetchval(_MISSING)
            if not missing or time.monotonic() > give_up_at:
                return int(missing)
            out.print(f"  {missing} orders are still on their way")
            await asyncio.sleep(LOOK_S)
    finally:
        await connection.close()


async def _carried(stack: LocalStack, requests: Iterator[bytes], options: Options) -> float:
    """Measure how many orders a second a whole system accepts by its API and decides."""
    began = time.perf_counter()
    port = stack.ports["api"]
    sample = await as_fast_as_it_goes(port, requests, connections=options.connections, seconds=options.seconds)
    await _drained(stack)
    return sample.statuses[202] / (time.perf_counter() - began)


async def _drained(stack: LocalStack) -> None:
    """Wait until the system has decided all accepted orders."""
    connection = await asyncpg.connect(stack.database_url)
    try:
        async with asyncio.timeout(SETTLE_S):
            while await connection.fetchval(_OPEN):
                await asyncio.sleep(0.2)
    finally:
        await connection.close()


async def _watch(pid: int, memory: list[float]) -> None:
    process = psutil.Process(pid)
    while True:
        memory.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(LOOK_S)


@asynccontextmanager
async def _bare(stack: LocalStack, topic: str) -> AsyncIterator[tuple[int, int]]:
    """Run the bare handler on a topic of its own."""
    [port] = free_ports(1)
    own = {"HTTP_PORT": str(port), "TOPIC": topic, "KAFKA_BOOTSTRAP_SERVERS": stack.kafka_bootstrap_servers}
    argv = [sys.executable, "-m", "tests.bench.bare_handler"]
    process = await asyncio.create_subprocess_exec(*argv, env=os.environ | own, start_new_session=True)
    try:
        async with httpx2.AsyncClient() as client, asyncio.timeout(20):
            while True:
                try:
                    await client.get(f"http://127.0.0.1:{port}/openapi.json")
                    break
                except httpx2.TransportError:
                    await asyncio.sleep(0.1)
        yield port, process.pid
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            process.terminate()
        await process.wait()


def _requests(issuer: Issuer) -> Iterator[bytes]:
    """Yield requests without end, by one user after the other; the bare handler ignores token and key."""
    claims: dict[str, Any] = {"scope": "orders:write", "aud": AUDIENCE, "exp": int(time.time()) + 86_400}
    heads = [
        b"POST /orders HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %s\r\n" % issuer.sign("bench", sub=f"bench-{number}", **claims).encode()
        for number in range(USERS)
    ]
    rest = b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY)
    for number, head in zip(count(), cycle(heads), strict=False):
        yield b"%sidempotency-key: bench-%d\r\n%s" % (head, number, rest)


def _in_words(sample: Sample) -> str:
    bad = {status: count for status, count in sample.statuses.items() if status != 202}
    latency = f"p50 {sample.percentile_ms(0.5):.1f} ms, p99 {sample.percentile_ms(0.99):.1f} ms"
    return f"{sample.per_s:.0f} accepted/s, {latency}" + (f", others {bad}" if bad else "")


def _tenths(values: Sequence[float]) -> list[float]:
    return [values[min(len(values) - 1, len(values) * tenth // 10)] for tenth in range(11)] if values else []


SCENARIO: Final = Scenario(
    name="rest",
    title="The REST API",
    what=(
        "`POST /orders` as fast as one process takes it, in turn with a bare handler: FastAPI, a pydantic model, and "
        "`await send` of aiokafka, without token, idempotency, claim or promise. The API checks an EdDSA token, the "
        "user's rate and the Idempotency-Key, and commits its claim; nobody decides the orders of either. Then a whole "
        "system gets four fifths of the orders that it carried by its API to their end, for minutes; latency counts "
        "from the moment when a request was due, and every order that was accepted must be there in the end."
    ),
    reading=(
        "The bare handler promises nothing: what it has answered with 202 is lost with the broker. The API verifies, "
        "claims, commits and publishes before it says the same, in batches that requests share. On few cores "
        "PostgreSQL, which only the API uses, takes from its rate, so the CPU time of the two processes is the fairer "
        "ratio."
    ),
    takes="14 min",
    sizes=("rounds", "seconds", "minutes", "connections"),
    full=Options(seconds=15, minutes=10),
    quick=Options(1, 0.5, minutes=1 / 60, connections=16),
    systems=("alone", "whole"),
    topics=(BARE_TOPIC,),
    targets=(
        Target("twice the bare handler", RATE, "at least", 2.0),
        Target("half of its CPU time", USED, "at most", 0.5),
    ),
    measure=measure,
)
