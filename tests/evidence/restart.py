"""Measures a rolling restart of all services under steady load: `python -m tests.evidence.restart`.

There are two processes of each service. One after the other gets SIGTERM, ends, restarts and becomes ready before the
next one. The database tells how long an order took, from its request to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import HOLDINGS, mixed
from tests.e2e.system import Servers, System, running
from tests.e2e.trader import Trader
from tests.evidence import record as evidence
from tests.support.infrastructure import Session

ROLLED = ("orchestrator", "balance", "assets", "api")
DELAYED_MAX_S = 5.0
"""The longest time that an order may take during the restarts."""
SESSION_TIMEOUT_S = "30"
"""As in production: the group notices a member that dies without leaving only after this."""
WHAT = (
    "Two processes of each service; under a steady stream of orders, by REST and Kafka, each process in turn gets "
    "SIGTERM, ends, is started again and must be ready before the next one's turn. Then the full check."
)


class Measured(NamedTuple):
    """How long orders took without a restart and during the restarts, in sorted seconds."""

    calm_s: list[float]
    rolling_s: list[float]
    restarts: int


async def measure(servers: Servers, folder: Path, *, rate: int, services: Sequence[str] = ROLLED) -> Measured:
    """Run a system under load, restart all processes of these services one after the other, check everything."""
    settings = {"KAFKA_SESSION_TIMEOUT_S": SESSION_TIMEOUT_S}
    replicas = dict.fromkeys(ROLLED, 2)
    async with running(servers, folder, replicas=replicas, environment=settings) as system, Trader(system) as trader:
        wanted = mixed(await system.endow([f"rolled-{number}" for number in range(20)], HOLDINGS), seed=11)
        first = await trader.trade(list(islice(wanted, 20)))  # these may find processes that are still joining
        await trader.ended(first)
        calm = await trader.trade_during(asyncio.sleep(5), wanted, at_least=rate * 5, rate=rate)
        await trader.ended(calm)

        async def roll() -> None:
            for service in services:
                for number in range(2):
                    await system.end(service, signal.SIGTERM, number)

        rolling = await trader.trade_during(roll(), wanted, at_least=rate, rate=rate)
        await trader.ended(rolling)
        await assert_all_is_well(system, trader)
        return Measured(await _took_s(system, calm), await _took_s(system, rolling), 2 * len(services))


async def _took_s(system: System, order_ids: Sequence[str]) -> list[float]:
    statement = """
        SELECT extract(epoch FROM updated_at - created_at)::float8 AS took_s FROM audit.orders
        WHERE order_id = ANY($1::text[]::uuid[]) ORDER BY took_s"""
    return [row["took_s"] for row in await system.rows(statement, list(order_ids))]


def counts(measured: Measured) -> dict[str, int | float | str]:
    """Name the figures of a run."""
    found: dict[str, int | float | str] = {"processes restarted": measured.restarts}
    for name, took_s in (("without a restart", measured.calm_s), ("during the restarts", measured.rolling_s)):
        found[f"orders {name}"] = len(took_s)
        found[f"median of their time to the end {name}, s"] = round(statistics.median(took_s), 3)
        found[f"99 of 100 {name}, s"] = round(statistics.quantiles(took_s, n=100)[98], 3)
        found[f"longest {name}, s"] = round(took_s[-1], 3)
    return found


def main() -> int:
    """Measure, print, and write the record if asked; return 1 when an order took too long."""
    parser = argparse.ArgumentParser(prog="python -m tests.evidence.restart", description=__doc__)
    parser.add_argument("--rate", type=int, default=20, help="orders a second (default 20)")
    parser.add_argument("--record", action="store_true", help="keep the record for docs/evidence.md")
    asked = parser.parse_args()
    run = evidence.Run("restart", "A rolling restart", WHAT, "python -m tests.evidence.restart")
    session = Session()
    try:
        with tempfile.TemporaryDirectory(prefix="restart-") as folder:
            measured = asyncio.run(measure(session.start(), Path(folder), rate=asked.rate))
        servers = session.describe().rpartition(",")[0]
    finally:
        session.close()
    longest_s = measured.rolling_s[-1]
    found = [f"an order took {longest_s:.1f} s"] if longest_s > DELAYED_MAX_S else []
    for name, value in counts(measured).items():
        print(f"{name:56} {value}")  # noqa: T201 - it is a command
    if asked.record:
        evidence.write(run.record(counts(measured), servers=servers, found=found))
    return len(found)


if __name__ == "__main__":
    raise SystemExit(main())
