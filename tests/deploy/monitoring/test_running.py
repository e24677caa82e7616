"""Prometheus reads a running system by the configuration of the compose file: its metrics are there, nothing fires."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil
import pytest
import pytest_asyncio
import yaml
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

from local_stack.ports import free_ports
from local_stack.processes import spawn
from operations.audit.watch import AuditMetrics
from order_api.http.keys import JwksKeys
from tests.deploy.monitoring.rules import ALERTS, NOT_OURS, RULES, expressions, used
from tests.deploy.monitoring.test_compose import FOLDER, OURS
from tests.e2e.system import System, eventually, running
from tests.support.infrastructure import Infrastructure

pytestmark = pytest.mark.asyncio(loop_scope="module")
EVERY: Final = "1s"
"""Instead of 15 s, so that the test does not wait for scrapes."""
PATIENCE_S: Final = 30.0
"""A busy machine answers late."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(infrastructure: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Run one process of each service."""
    async with running(infrastructure, tmp_path_factory.mktemp("system"), replicas={"webhooks": 1}) as one:
        yield one


async def test_a_running_system_has_every_metric_of_alerts_and_dashboards(system: System) -> None:
    """Each of them stands on the metrics page of a process, or of what this system runs without."""
    shown: set[str] = set()
    async with httpx2.AsyncClient(timeout=PATIENCE_S) as client:
        for port in _ports(system).values():
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
            shown |= _names(text_string_to_metric_families(text))
    elsewhere = CollectorRegistry()
    JwksKeys("https://id.example/keys", registry=elsewhere)  # this system's tokens are signed with a secret
    shown |= _names(chain(elsewhere.collect(), AuditMetrics().registry.collect()))
    wanted = set(chain.from_iterable(used(expression)[0] for expression in expressions()))
    assert set() == wanted - shown - {"up", "order_saga_processes_wanted"}
    assert {"up", "order_saga_processes_wanted"} == NOT_OURS.keys() - shown


@pytest.mark.promtool
async def test_prometheus_reads_a_healthy_system_and_nothing_fires(system: System, tmp_path: Path) -> None:
    """By the configuration that the compose file mounts; a process that is gone makes its alert pending at once."""
    async with (
        _audit(system, tmp_path) as (audit, port),
        _prometheus(_ports(system) | {"audit": port}, tmp_path) as ask,
    ):
        await eventually(_answers(ask, f"sum(up) == {len(OURS)}"), "Prometheus reads all processes")
        await eventually(_answers(ask, "audit_last_success_timestamp_seconds > 0"), "an audit has ended")
        await eventually(_judged(ask, {}), "all rules are judged, and no alert waits to fire")
        for expression in expressions():
            found = await ask("query", query=expression)
            assert found["status"] == "success", expression
        audit.send_signal(signal.SIGTERM)
        missed = dict.fromkeys(("ProcessesMissing", "AuditStale"), "pending")
        await eventually(_judged(ask, missed), "the process and its audits are missed")


def _ports(system: System) -> dict[str, int]:
    return {name: system.port(system.stack.pids[name][0]) for name in OURS if name != "audit"}


def _names(families: Iterable[Metric]) -> set[str]:
    """Name the samples of families, also of one that has none yet."""
    found: set[str] = set()
    for one in families:
        ends = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(one.type, ("",))
        found |= {one.name + end for end in ends}
    return found


Ask = Callable[..., Awaitable[dict[str, Any]]]


@asynccontextmanager
async def _audit(system: System, folder: Path) -> AsyncIterator[tuple[psutil.Process, int]]:
    """Run the repeated audit, as the profile does; yield its process and the port of its metrics."""
    (port,) = free_ports(1)
    words = ("audit", "--watch", "--every", "1", "--port", str(port))
    stack = {"ORDER_SAGA_STACK": str(system.stack.folder / "stack.json")}
    async with _process([sys.executable, "-m", "operations.cli", *words], folder / "audit.log", stack) as process:
        yield process, port


@asynccontextmanager
async def _prometheus(ports: dict[str, int], folder: Path) -> AsyncIterator[Ask]:
    """Run Prometheus on the configuration of the compose file, with this system's ports; yield what asks its API."""
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    configuration["global"] = dict.fromkeys(configuration["global"], EVERY)
    for one in configuration["scrape_configs"][0]["static_configs"]:
        one["targets"] = [f"127.0.0.1:{ports[one['labels']['job']]}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    for file in (FOLDER / "processes.yaml", ALERTS):
        shutil.copy(file, folder)
    (port,) = free_ports(1)
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    async with _process(command, folder / "prometheus.log", {}), httpx2.AsyncClient(timeout=PATIENCE_S) as client:

        async def ask(what: str, **parameters: str) -> dict[str, Any]:
            answer = await client.get(f"http://127.0.0.1:{port}/api/v1/{what}", params=parameters)
            return answer.raise_for_status().json()  # type: ignore[no-any-return]

        yield ask


@asynccontextmanager
async def _process(command: list[str], log: Path, environment: dict[str, str]) -> AsyncIterator[psutil.Process]:
    """Run a program that ends with this block."""
    started, _ = await spawn(command, log, env={**psutil.Process().environ(), **environment})
    process = psutil.Process(started.pid)
    try:
        yield process
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


def _answers(ask: Ask, query: str) -> Callable[[], Awaitable[bool]]:
    """Make a condition: Prometheus runs, and a query has a result."""

    async def holds() -> bool:
        try:
            return bool((await ask("query", query=query))["data"]["result"])
        except httpx2.HTTPError:
            return False

    return holds


def _judged(ask: Ask, expected: dict[str, str]) -> Callable[[], Awaitable[bool]]:
    """Make a condition: every rule is judged without an error, and no alert but these is in any state."""

    async def holds() -> bool:
        groups = (await ask("rules"))["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        alerts = {rule["name"]: rule["state"] for rule in rules if rule["type"] == "alerting"}
        assert RULES.keys() == alerts.keys()
        states = {name: state for name, state in alerts.items() if state != "inactive"}
        return {rule["health"] for rule in rules} == {"ok"} and states == expected

    return holds
