"""Rounds are fair: contenders alternate and work equally long, and figures are compared round by round."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from rich.console import Console

from tests.bench.load import Result, arrivals, summary
from tests.bench.peers import PeerError
from tests.bench.rounds import Measurement, Pids, cpu_s, figures_of, likeness, run_rounds
from tests.bench.scenario import CPU, RATIOS, SPEED, WAL, Options, spread

OPTIONS = Options(rounds=2, seconds=10, in_flight=1000, in_flight_slow=50, warm_up=2000, warm_up_slow=60)
QUIET = Console(quiet=True)


class Fake:
    """A contender with a fixed rate that logs each call."""

    database_url = "none"

    def __init__(self, name: str, rate: float, log: list[tuple[str, int, int]]) -> None:
        self.name, self._rate, self._log = name, rate, log
        self.pids: Mapping[str, Sequence[int]] = {name: [1]}
        self.dies = False

    async def run(self, orders: int, in_flight: int) -> Result:
        """Carry everything at once."""
        self._log.append((self.name, orders, in_flight))
        if self.dies:
            self.pids = {self.name: [2]}
        return Result(orders, self._rate, 1.0, 2.0)


class Clock:
    """Each reading finds a second more of every process, and a thousand bytes more of log."""

    def __init__(self) -> None:
        self._readings = 0

    async def read(self, own: Pids) -> tuple[Mapping[str, float], int]:
        """Read."""
        self._readings += 1
        return dict.fromkeys([*own, "postgres"], float(self._readings)), 1000 * self._readings


async def test_contenders_alternate_and_work_equally_long() -> None:
    """After the warm-up each contender gets the orders that it can process in the time; the first one changes."""
    log: list[tuple[str, int, int]] = []
    contenders = [Fake("system", 1500, log), Fake("lean", 3000, log), Fake("naive", 30, log)]
    rounds = await run_rounds(OPTIONS, contenders, Clock().read, QUIET)
    system, lean, naive = ("system", 15_000, 1000), ("lean", 30_000, 1000), ("naive", 300, 50)
    warm_up = [("system", 2000, 1000), ("lean", 2000, 1000), ("naive", 60, 50)]
    assert [*warm_up, lean, naive, system, naive, system, lean] == log
    assert [["system", "lean", "naive"]] * 2 == [list(measured) for measured in rounds]
    assert {"lean": 33.3, "postgres": 33.3} == rounds[0]["lean"].cpu_us_per_order
    assert 1000 / 30_000 == rounds[0]["lean"].wal_bytes_per_order


async def test_a_process_that_was_started_again_spoils_the_run() -> None:
    """A run in which a supervisor restarted a process is an error, since its figures are not the contender's."""
    fake = Fake("system", 1500, [])
    fake.dies = True
    with pytest.raises(PeerError, match="a process of system died"):
        await run_rounds(OPTIONS, [fake], Clock().read, QUIET)


def measurement(rate: float, cpu_us: float = 50.0) -> Measurement:
    """Make the measurement of a contender of this rate."""
    return Measurement(Result(100, rate, 1.0, 2.0), {"postgres": cpu_us, "load": 10.0}, 4000.0)


def test_ratios_are_taken_round_by_round() -> None:
    """The median of the ratios is not the ratio of the medians."""
    rounds = [
        {"system": measurement(rate), "lean": measurement(other)}
        for rate, other in ((100, 200), (300, 600), (200, 1000))
    ]
    figures = figures_of(rounds, [("system", "lean")])
    assert [0.5, 0.5, 0.2] == figures[RATIOS]["system / lean, orders/s"]
    one = spread(figures[RATIOS]["system / lean, orders/s"])
    assert (0.5, 0.2, 0.5) == (one.median, one.least, one.most)
    assert [100, 300, 200] == figures[SPEED]["system, orders/s"]
    assert [60.0] * 3 == figures[CPU]["lean: all"]
    assert [4000.0] * 3 == figures[WAL]["lean"]


def test_two_of_a_kind_are_compared_in_everything() -> None:
    """Latency, log and each process are compared; a figure that is 0 for the other one has no ratio."""
    rounds = [
        {"two": measurement(1, 75), "one": measurement(1, 50)},
        {"two": measurement(1, 75), "one": measurement(1, 0)},
    ]
    ratios = likeness(rounds, "two", "one")
    assert [1.5] == ratios["two / one, CPU per order of postgres"]
    assert [1.0, 1.0] == ratios["two / one, p99"]


def test_percentiles() -> None:
    """Half of the orders were quicker than the median, one in a hundred slower than the 99th percentile."""
    result = summary([number / 1000 for number in range(1000, 0, -1)], 2.0)
    assert Result(1000, 500.0, 501.0, 991.0) == result


def test_arrivals_come_by_chance_at_a_rate() -> None:
    """Arrivals have the wanted rate, are sorted, within the time, uneven, and the same every time."""
    moments = arrivals(100, 50)
    assert 4700 < len(moments) < 5300
    assert moments == sorted(moments)
    assert moments[-1] < 50
    gaps = [after - before for before, after in pairwise(moments)]
    within_a_tenth = sum(0.009 < gap < 0.011 for gap in gaps) / len(gaps)
    assert within_a_tenth < 0.2
    assert arrivals(100, 50) == moments


def test_processor_time_of_children_counts_for_their_parent() -> None:
    """A server's CPU time includes its workers, even ended ones; this process counts without its children."""
    child = "import time\nwhile time.process_time() < 0.5: pass"
    burn = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print(); input()"
    command = [sys.executable, "-c", burn]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:  # noqa: S603 - our own words
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()
        before = cpu_s({"us": [os.getpid()]})["us"]
        used = cpu_s({"it": [parent.pid]})["it"]
        parent.stdin.close()
    assert used > 0.4
    assert cpu_s({"us": [os.getpid()]})["us"] - before < used
