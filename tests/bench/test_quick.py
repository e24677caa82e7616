"""`make bench` runs every scenario with a few orders, and explains in one line what it can't do."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench import streams
from tests.bench.__main__ import main
from tests.bench.page import SCENARIOS
from tests.support.infrastructure import Infrastructure

DIFFERENCES = {streams.IDLE_CPU, streams.IDLE_KB}
"""What one second more costs than another may be nothing, or less."""
SCENARIOS_OF_TWO = [scenario.name for scenario in SCENARIOS if scenario.needs_kafka]


async def bench(*words: str, **environment: str) -> tuple[int | None, list[str]]:
    """Run it; return the exit status and the lines of its output."""
    inherited = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench", *words),
        env=inherited | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode().splitlines()


def check(records: dict[str, Any], names: list[str]) -> None:
    """Every figure that a target is set for was measured, and nothing was found wrong."""
    assert sorted(names) == sorted(records)
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    for name, record in records.items():
        assert [] == record["found"]
        for target in scenarios[name].targets:
            median = record["figures"][target.group][target.figure]["median"]
            assert median != 0 or target.figure in DIFFERENCES, target


@pytest.mark.timeout(600)  # it starts twenty processes, which takes a busy machine minutes
async def test_all_scenarios_on_the_embedded_broker() -> None:
    """Every scenario completes its orders, and the last line of output is JSON with all figures."""
    status, lines = await bench("all", "--quick", "--broker", "embedded")
    assert status == 0, "\n".join(lines[-20:])
    check(json.loads(lines[-1]), [one.name for one in SCENARIOS if not one.needs_kafka and not one.why_absent()])


@pytest.mark.apache_kafka
async def test_what_needs_groups_of_several_members(infrastructure: Infrastructure) -> None:
    """The scenario with two of each service completes every order on Apache Kafka."""
    servers = infrastructure.kafka_bootstrap_servers
    for name in SCENARIOS_OF_TWO:
        status, lines = await bench(name, "--quick", KAFKA_BOOTSTRAP_SERVERS=servers)
        assert status == 0, "\n".join(lines[-20:])
        check(json.loads(lines[-1]), [name])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pair", "--broker", "embedded"], "make bench: nothing to measure on the embedded broker"),
        (["loop", "--orders", "5"], "make bench: loop has no use for --orders; it heeds rounds, seconds, in_flight"),
        (["loop", "--quick", "--record"], "make bench: --quick measures nothing that is worth a record"),
        (["loop", "--rounds", "2", "--record"], "make bench: a record is of 3 rounds at least"),
        (["rate", "--rounds", "0"], "error: argument --rounds: must be more than 0, not 0"),
        (["speed"], "argument SCENARIO: invalid choice: 'speed'"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_it_cannot_do_is_said_in_a_line(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument is reported in one line, and nothing is started."""
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    try:
        status = main()
    except SystemExit as end:  # argparse's own way
        status = int(end.code or 0)
    assert status == 2
    told = capsys.readouterr()
    assert said in (told.out + told.err).splitlines()[-1]


async def test_nothing_is_left_when_it_is_interrupted(tmp_path: Path) -> None:
    """SIGTERM during a run ends every process and removes every file."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench", "rate", "--quick", "--broker", "embedded"),
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(200):
        while not await asyncio.to_thread(_begun, tmp_path):
            await asyncio.sleep(0.1)
    process.terminate()
    output, _ = await process.communicate()
    assert process.returncode == 130
    assert output.decode().splitlines()[-1] == "stopped; nothing is left"
    assert [] == await asyncio.to_thread(lambda: list(tmp_path.iterdir()))


def _begun(folder: Path) -> bool:
    return bool(list(folder.glob("order-saga-bench-*/system/logs/orchestrator.log")))
