"""Rounds are fair: everybody takes turns under a load that takes as long, and figures are compared round by round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping

import pytest
from rich.console import Console

from tests.bench.__main__ import OWN_PROCESSES, figures_of, report
from tests.bench.load import Result, summary
from tests.bench.rounds import Plan, Turn, cpu_s, run_rounds

PLAN = Plan(rounds=2, seconds=10, in_flight=1000, in_flight_slow=50, warm_up=2000, warm_up_slow=60)


class Fake:
    """A contender of a fixed rate that writes down when it was asked for what."""

    def __init__(self, name: str, rate: float, log: list[tuple[str, int, int]]) -> None:
        self.name, self._rate, self._log = name, rate, log
        self.pids: Mapping[str, int] = {}

    async def run(self, orders: int, in_flight: int) -> Result:
        """Carry everything at once."""
        self._log.append((self.name, orders, in_flight))
        return Result(orders, self._rate, 1.0, 2.0)


async def test_turns_change_and_take_as_long() -> None:
    """The first round warms up; then each is asked for what it carries in the time; each round another one begins."""
    log: list[tuple[str, int, int]] = []
    contenders = [Fake("system", 1500, log), Fake("lean", 3000, log), Fake("naive", 30, log)]
    rounds = await run_rounds(PLAN, contenders, lambda: {"load": os.getpid()}, Console(quiet=True))
    system, lean, naive = ("system", 15_000, 1000), ("lean", 30_000, 1000), ("naive", 300, 50)
    warm_up = [("system", 2000, 1000), ("lean", 2000, 1000), ("naive", 60, 50)]
    assert [*warm_up, lean, naive, system, naive, system, lean] == log
    assert [{"system", "lean", "naive"}] * 2 == [set(turns) for turns in rounds]
    assert {"load"} == set(rounds[0]["lean"].cpu_us_per_order)


def test_ratios_are_taken_round_by_round(capsys: pytest.CaptureFixture[str]) -> None:
    """The median of the ratios is not the ratio of the medians."""

    def turn(rate: float) -> Turn:
        return Turn(Result(100, rate, 1.0, 2.0), {"postgres": 50.0})

    rounds = [{name: turn(rate) for name in OWN_PROCESSES} | {"lean": turn(2 * rate)} for rate in (100.0, 300.0)]
    rounds.append({name: turn(200) for name in OWN_PROCESSES} | {"lean": turn(1000)})
    assert figures_of(rounds)["system / lean"] == [0.5, 0.5, 0.2]
    data = json.loads(json.dumps(report(rounds, PLAN, "embedded")))
    assert data["figures"]["system / lean"] == {"median": 0.5, "least": 0.2, "most": 0.5}
    assert "system / lean" in capsys.readouterr().out


def test_percentiles() -> None:
    """Half of the orders were quicker than the median, one in a hundred slower than the 99th percentile."""
    result = summary([number / 1000 for number in range(1000, 0, -1)], 2.0)
    assert Result(1000, 500.0, 501.0, 991.0) == result


def test_processor_time_of_children_counts_for_their_parent() -> None:
    """A server's workers count as the server, those that have ended too; our own children are not us."""
    burn = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))']); print(); input()"
    command = [sys.executable, "-c", burn]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:  # noqa: S603 - our own words
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()
        before = cpu_s({"us": os.getpid()})["us"]
        used = cpu_s({"it": parent.pid})["it"]
        parent.stdin.close()
    assert used > 0.1
    assert cpu_s({"us": os.getpid()})["us"] - before < used
