"""`make bench ARGS=door`: what one API process carries, as ratios to a bare FastAPI and aiokafka handler.

First both in turn, as fast as they go. Then the API alone at four fifths of its rate, for minutes: latency from the
moment when a request was due, its memory, and whether every order that it has accepted is there at the end. The whole
system runs beside it on the same machine; orders name an asset that does not exist, so that each is decided by one
question. With KAFKA_BOOTSTRAP_SERVERS the broker is that one, else the embedded one. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import jwt
import msgspec
import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from local_stack.ports import free_ports
from local_stack.stack import LocalStack, StackOptions
from order_saga.cli.local import load_samples
from tests.bench.traffic import Sample, as_fast_as_it_goes, steadily

out = Console(highlight=False, soft_wrap=True)
USERS = 500
BODY = json.dumps({"asset_id": "NONE", "order_type": "MARKET_BUY", "quantity": "0.01"}).encode()
STEADY_SHARE = 0.8
SETTLE_S = 600.0
LOOK_S = 5.0
NO_LIMIT = {"API_RATE_LIMIT_PER_S": "0", "LOG_FORMAT": "json"}


_MISSING = "SELECT count(*) FROM accepted LEFT JOIN api.orders o USING (order_id) WHERE o.status IS NULL"


async def measure(rounds: int, seconds: float, minutes: float, connections: int) -> dict[str, Any]:
    """Measure everything; return figures for programs."""
    with tempfile.TemporaryDirectory(prefix="order-saga-bench-") as folder:

        async def samples(logins: Mapping[str, str]) -> None:
            await load_samples(logins, 1.0)

        servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        options = StackOptions(load_samples=samples, environment=NO_LIMIT, kafka_bootstrap_servers=servers)
        async with LocalStack(Path(folder), options, out) as stack, _bare(stack) as bare:
            doors = {"bare": bare, "api": (stack.ports["api"], stack.pids["api"][0])}
            requests = cycle(_requests(stack.jwt_secret))
            peaks = await _peaks(doors, requests, rounds, seconds, connections)
            rate = STEADY_SHARE * statistics.median(figures["per_s"] for figures in peaks["api"])
            await _drained(stack)
            steady = await _steady(stack, requests, rate, minutes * 60, connections)
    return {
        "broker": servers or "embedded",
        "python": platform.python_version(),
        "connections": connections,
        "peaks": peaks,
        "ratio_per_s": _ratio(peaks, "per_s"),
        "ratio_cpu": _ratio(peaks, "cpu_us"),
        "steady": steady,
    }


async def _peaks(
    doors: Mapping[str, tuple[int, int]],
    requests: Iterator[bytes],
    rounds: int,
    seconds: float,
    connections: int,
) -> dict[str, list[dict[str, float]]]:
    peaks: dict[str, list[dict[str, float]]] = {name: [] for name in doors}
    for number in range(rounds + 1):
        for name, (port, pid) in doors.items():
            before = _cpu_s(pid)
            load = as_fast_as_it_goes(port, requests, connections=connections, seconds=seconds)
            sample = await load
            figures = _figures(sample) | {"cpu_us": (_cpu_s(pid) - before) * 1e6 / max(1, sample.statuses[202])}
            out.print(f"{'warm-up' if not number else f'round {number}'} {name}: {_in_words(figures, sample)}")
            if number:  # the first round warms up
                peaks[name].append(figures)
    return peaks


async def _steady(
    stack: LocalStack, requests: Iterator[bytes], rate: float, seconds: float, connections: int
) -> dict[str, Any]:
    out.print(f"steady: {rate:.0f} requests/s for {seconds:.0f} s ...")
    port, pid = stack.ports["api"], stack.pids["api"][0]
    memory: list[float] = []
    watching = asyncio.create_task(_watch(pid, memory))
    sample = await steadily(port, requests, per_s=rate, connections=4 * connections, seconds=seconds, keep_bodies=True)
    watching.cancel()
    accepted = [msgspec.json.decode(body)["order_id"] for body in sample.bodies]
    missing = await _missing(stack, accepted)
    figures: dict[str, Any] = _figures(sample) | {
        "asked_per_s": rate,
        "p999_ms": sample.percentile_ms(0.999),
        "most_ms": max(sample.latencies_s) * 1e3,
        "statuses": dict(sample.statuses),
        "accepted": len(accepted),
        "missing": missing,
        "memory_mib": [round(one, 1) for one in _tenths(memory)],
        "same_process": pid == stack.pids["api"][0],
    }
    out.print(f"steady: {_in_words(figures, sample)}; {len(accepted)} accepted, {missing} of them are no order")
    return figures


async def _missing(stack: LocalStack, accepted: Sequence[str]) -> int:
    """Count the accepted orders that are not there, once all have come or the time is over."""
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


async def _drained(stack: LocalStack) -> None:
    """Wait until the system has caught up with the peaks."""
    connection = await asyncpg.connect(stack.database_url)
    try:
        async with asyncio.timeout(SETTLE_S):
            while await connection.fetchval("SELECT count(*) FROM api.claims WHERE NOT settled"):
                await asyncio.sleep(1)
    finally:
        await connection.close()


async def _watch(pid: int, memory: list[float]) -> None:
    process = psutil.Process(pid)
    while True:
        memory.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(LOOK_S)


@asynccontextmanager
async def _bare(stack: LocalStack) -> AsyncIterator[tuple[int, int]]:
    """Run the bare handler; its topic is made by the broker or was made for it."""
    [port] = free_ports(1)
    own = {"HTTP_PORT": str(port), "TOPIC": "bench.bare", "KAFKA_BOOTSTRAP_SERVERS": stack.kafka_bootstrap_servers}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench.bare_door", env=os.environ | own)
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(20):
            while True:
                try:
                    await client.get(f"http://127.0.0.1:{port}/openapi.json")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        await process.wait()


def _requests(secret: str) -> list[bytes]:
    """Write the request of each user: the bare handler does not look at the token."""
    claims = {"scope": "orders:write", "exp": int(time.time()) + 86_400}
    tokens = (jwt.encode(claims | {"sub": f"bench-{number}"}, secret, "HS256") for number in range(USERS))
    return [
        b"POST /orders HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s" % (token.encode(), len(BODY), BODY)
        for token in tokens
    ]


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _figures(sample: Sample) -> dict[str, float]:
    return {"per_s": sample.per_s, "p50_ms": sample.percentile_ms(0.5), "p99_ms": sample.percentile_ms(0.99)}


def _in_words(figures: Mapping[str, float], sample: Sample) -> str:
    cpu = f", {figures['cpu_us']:.0f} us of CPU each" if "cpu_us" in figures else ""
    bad = {status: count for status, count in sample.statuses.items() if status != 202}
    return f"{figures['per_s']:.0f} accepted/s, p50 {figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms{cpu}" + (
        f", others {bad}" if bad else ""
    )


def _ratio(peaks: Mapping[str, Sequence[Mapping[str, float]]], name: str) -> dict[str, float]:
    """Compare round by round: what disturbs the machine disturbs both."""
    ratios = sorted(ours[name] / theirs[name] for ours, theirs in zip(peaks["api"], peaks["bare"], strict=True))
    return {"median": round(statistics.median(ratios), 3), "least": round(ratios[0], 3), "most": round(ratios[-1], 3)}


def _tenths(values: Sequence[float]) -> list[float]:
    return [values[min(len(values) - 1, len(values) * tenth // 10)] for tenth in range(11)] if values else []


def _report(data: Mapping[str, Any]) -> None:
    table = Table("API / bare handler", "median", "least", "most")
    for title, name in (("accepted a second", "ratio_per_s"), ("CPU of the process for one", "ratio_cpu")):
        table.add_row(title, *(f"{data[name][key]:.2f}" for key in ("median", "least", "most")))
    out.print(table)
    out.print(f"memory of the API by tenths of the time, MiB: {data['steady']['memory_mib']}")


def main(words: Sequence[str]) -> int:
    """Read the arguments, measure, report; 1 when an accepted order is missing."""
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=door", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds as fast as it goes")
    parser.add_argument("--seconds", type=float, default=15, help="of each of them")
    parser.add_argument("--minutes", type=float, default=10, help="of the steady load")
    parser.add_argument("--connections", type=int, default=64, help="clients at once")
    parser.add_argument("--quick", action="store_true", help="a smoke test: one round of 2 s, 5 s of steady load")
    chosen = parser.parse_args(words)
    rounds, seconds, minutes = (1, 2.0, 5 / 60) if chosen.quick else (chosen.rounds, chosen.seconds, chosen.minutes)
    data = uvloop.run(measure(rounds, seconds, minutes, chosen.connections))
    _report(data)
    sys.stdout.write(json.dumps(data) + "\n")
    return int(data["steady"]["missing"] > 0)
