"""A process that gets SIGTERM finishes its work, leaves its group, and ends within the stated time."""

from __future__ import annotations

import asyncio
import re
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest
import pytest_asyncio

from local_stack.ports import free_ports
from local_stack.probes import http_ready
from local_stack.processes import spawn
from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import HOLDINGS, buy, mixed
from tests.e2e.system import System, eventually, running
from tests.e2e.trader import Trader
from tests.evidence.chaos.cluster.bounds import limit_s
from tests.evidence.restart import DELAYED_MAX_S, measure
from tests.support.infrastructure import Infrastructure, own_broker

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.apache_kafka]
SERVICES = ("orchestrator", "balance", "assets")
ENDS_WITHIN_S = 20.0
"""The longest time that a service takes to end, whatever is away; less than the 40 s that compose gives it."""


@dataclass
class Member:
    """One more process of a service, which nobody restarts."""

    process: asyncio.subprocess.Process
    port: int
    log: Path

    async def ends(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit status and how long the process took."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(self.process.wait(), 120)
        return status, time.monotonic() - begin

    @property
    def lines(self) -> list[str]:
        """The lines of its log."""
        return self.log.read_text().splitlines()


@asynccontextmanager
async def member(
    system: System, service: str, *, module: str = "operations.cli", **settings: str
) -> AsyncIterator[Member]:
    """Run one more process of a service, with the settings of the first; kill it at the end if it still runs."""
    [port] = free_ports(1)
    environment = psutil.Process(system.stack.pids[service][0]).environ() | {"HTTP_PORT": str(port)} | settings
    log = system.stack.logs / f"another-{service}-{port}.log"
    process, _ = await spawn([sys.executable, "-m", module, service], log, env=environment)
    try:
        await eventually(http_ready(port), f"another {service} is ready")
        yield Member(process, port, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(infrastructure: Infrastructure) -> AsyncIterator[Infrastructure]:
    """Run an Apache Kafka that these tests may stop."""
    async with own_broker() as broker:
        yield Infrastructure(infrastructure.postgres, broker, "apache")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(servers: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Run a system on it, one process of each service."""
    async with running(servers, tmp_path_factory.mktemp("stopping"), replicas={}) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trader(system: System) -> AsyncIterator[Trader]:
    """Trade in that system."""
    async with Trader(system) as one:
        yield one


async def test_who_is_asked_to_end_under_load_leaves_nothing_undone(system: System, trader: Trader) -> None:
    """A process publishes all, commits its offsets, leaves its group and exits with 0; another takes over at once."""
    users = await system.endow([f"stopping-{number}" for number in range(10)], HOLDINGS)

    async def one_ends() -> None:
        async with member(system, "balance", KAFKA_SESSION_TIMEOUT_S="60") as other:
            await eventually(lambda: _has_worked(other), "it shares the work", poll_s=0.1)
            status, seconds = await other.ends()
            assert (0, True) == (status, seconds < ENDS_WITHIN_S)
            assert not [line for line in other.lines if "[warning" in line or "[error" in line]

    ids = await trader.trade_during(one_ends(), mixed(users, seed=8), at_least=100, rate=10)
    await trader.ended(ids, within_s=30)  # half of what a dead member's session would take
    await assert_all_is_well(system, trader)
    await eventually(lambda: _is_empty(system), "the outbox is empty", within_s=10)


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_who_is_asked_to_end_while_the_broker_is_away_ends(
    servers: Infrastructure, system: System, trader: Trader, how: str
) -> None:
    """Whether the broker hangs or is dead, every service ends in time, with status 0 and no stack trace."""
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(member(system, service)) for service in (*SERVICES, "api")]
        await _take_away(servers, how)
        try:
            await asyncio.sleep(1)
            ended = await asyncio.gather(*(each.ends() for each in members))
        finally:
            await _bring_back(servers, how)
    assert [(0, True)] * len(members) == [(status, seconds < ENDS_WITHIN_S) for status, seconds in ended], ended
    assert not [line for each in members for line in each.lines if "Traceback" in line]
    await trader.ended(await trader.produce(buy("alice", "ACME", "1")))
    await assert_all_is_well(system, trader)


@pytest.mark.parametrize(
    ("sickness", "said"),
    [
        ("fetcher", r"ends +.*Stalled: \d+ records behind and no progress for 4 s"),
        ("batch", r"ends +.*Stalled: a batch hangs: its work began \d+ s ago"),
        ("loop", r"Timeout \(0:00:04\)!"),
    ],
)
async def test_who_hangs_ends_with_a_line_and_the_others_go_on(
    system: System, trader: Trader, tmp_path: Path, sickness: str, said: str
) -> None:
    """A process whose fetcher, batch or event loop hangs ends with status 1 and the reason in one line."""
    file = tmp_path / "sick"
    settings = {"SICKNESS": sickness, "SICK_FILE": str(file)}
    async with member(system, "balance", module="tests.e2e.sick_service", **settings) as sick:
        ids: list[str] = []
        file.touch()

        async def falls_ill() -> bool:
            ids.extend(await trader.produce(*(buy("alice", "ACME", "1"), buy("bob", "ACME", "1"))))
            return not file.exists()

        await eventually(falls_ill, "it is ill", poll_s=0.5)
        assert 1 == await asyncio.wait_for(sick.process.wait(), 60)
        assert [line for line in sick.lines if re.search(said, line)], sick.lines[-5:]
    await trader.ended(ids)
    await assert_all_is_well(system, trader)


async def test_a_rolling_restart_delays_no_order_for_long(infrastructure: Infrastructure, tmp_path: Path) -> None:
    """Each of two processes per service restarts while orders run: no order takes longer than the stated time.

    That is stated for a machine with room.
    """
    measured = await measure(infrastructure, tmp_path, rate=10, services=("orchestrator", "balance"))
    assert measured.rolling_s[-1] < limit_s(DELAYED_MAX_S, statistics.median(measured.calm_s))


async def _is_empty(system: System) -> bool:
    return not await system.owner_rows("SELECT 1 FROM balances.outbox")


async def _has_worked(one: Member) -> bool:
    async with httpx2.AsyncClient(timeout=30) as client:
        metrics = (await client.get(f"http://127.0.0.1:{one.port}/metrics")).text
    return bool(re.search(r"^batch_size_count [1-9]", metrics, re.MULTILINE))


async def _take_away(servers: Infrastructure, how: str) -> None:
    if how == "killed":
        await servers.broker.kill()
    else:
        await _docker("pause", servers)


async def _bring_back(servers: Infrastructure, how: str) -> None:
    if how == "killed":
        await servers.broker.start()
    else:
        await _docker("unpause", servers)


async def _docker(verb: str, servers: Infrastructure) -> None:
    process = await asyncio.create_subprocess_exec("docker", verb, str(servers.broker.container_id))
    assert await process.wait() == 0
