"""The parts of the scenarios about orders that rest, as far as they need no system."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from contracts.amends import AmendState
from contracts.decimals import Price
from contracts.envelope import Outgoing
from contracts.vocabulary import OrderStatus
from tests.bench import __main__ as command_line
from tests.bench import amend, before, cancel, fire, limit, market_orders
from tests.bench.cancel import CALM, LOADED, RATIO, Cancelled
from tests.bench.fire import P50, P99, Took
from tests.bench.load import Load, LoadError, Result, Seen, SeenAmend, Whose
from tests.bench.rounds import Measurement
from tests.bench.scenario import RATIOS, SPEED, BenchError, Figures
from tests.bench.watch import Watch

ONE = uuid.UUID(int=1)


def figures() -> Figures:
    """Make empty groups."""
    return {RATIOS: {}, SPEED: {}}


class Broker:
    """A publisher that takes everything, or nothing."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes

    async def publish(self, _messages: Sequence[Outgoing]) -> bool:
        """Take messages."""
        return self.takes


def watch(*, takes: bool = True) -> Watch:
    """Make a watch without a broker."""
    return Watch(cast("Any", Broker(takes=takes)))


async def test_a_moment_is_when_the_wanted_event_was_read() -> None:
    """Only the event of the order and status that are waited for ends a wait, and it tells when it was read."""
    one = watch()
    moment = one.expect(ONE, OrderStatus.PROCESSING)
    one.see(Seen(ONE, OrderStatus.CONFIRMED), 1.0)
    one.see(Seen(uuid.UUID(int=2), OrderStatus.PROCESSING), 2.0)
    assert not moment.done()
    one.see(Seen(ONE, OrderStatus.PROCESSING), 3.0)
    one.see(Seen(ONE, OrderStatus.PROCESSING), 4.0)
    assert await moment == 3.0


async def test_an_order_that_ends_otherwise_is_an_error() -> None:
    """A wait does not hang when its order can't get there any more."""
    one = watch()
    moment = one.expect(ONE, OrderStatus.CONFIRMED)
    one.see(Seen(ONE, OrderStatus.FAILED), 1.0)
    with pytest.raises(LoadError, match="was to be CONFIRMED ended as FAILED"):
        await asyncio.wait_for(moment, 1)
    with pytest.raises(LoadError, match="did not take"):
        await watch(takes=False).publish([])


async def test_an_amend_is_done_when_it_is_applied() -> None:
    """A pending one is waited for, another one's end is not its own, and a refused one is an error."""
    one = watch()
    moment, refused = one.expect_amend(ONE, "1"), one.expect_amend(ONE, "2")
    for number, (amend_id, state) in enumerate(
        [("1", "PENDING"), ("3", "APPLIED"), ("1", "APPLIED"), ("2", "REFUSED")]
    ):
        shown = Whose("amend-1", SeenAmend(amend_id, AmendState(state), "no money"))
        one.see(Seen(ONE, OrderStatus.CONFIRMED, shown), float(number))
    assert await moment == 2.0
    with pytest.raises(LoadError, match="no money"):
        await refused


def test_each_amend_needs_more_money_than_the_one_before() -> None:
    """So that each asks both services; and none of a round comes near the market."""
    prices = [amend._price(times) for times in range(1, 101)]  # noqa: SLF001 - what it asks for
    assert prices == sorted(set(prices))
    assert cast("Price", limit.COURSE.limit_price) < prices[0]
    assert prices[-1] < 20


def test_a_limit_order_waits_below_the_market() -> None:
    """The load's limit orders are far from the sample data's price, so that only their cancels end them."""
    request = Load("nowhere", "", lambda number: f"limit-{number}", limit.COURSE)._request(7)  # noqa: SLF001 - what it sends
    assert b'"limit_price":"15' in request.value
    assert b'"user_id":"limit-7"' in request.value
    assert (OrderStatus.CANCELLED, True) == (limit.COURSE.ends, limit.COURSE.cancels)
    assert cast("Price", limit.COURSE.limit_price) < 20


def test_fires_are_told_by_their_percentiles() -> None:
    """Half of the fires took no longer than p50; the ratio is to the hops of the tick and of the event."""
    found = figures()
    fire._tell(found, [Took(float(number), 2.0 * number) for number in range(100, 0, -1)], hop=5.0)  # noqa: SLF001
    assert ([51.0], [100.0]) == (found[SPEED][P50], found[SPEED][P99])
    assert [102.0] == found[SPEED]["tick to the order's end, p50 ms"]
    assert [5.1] == found[RATIOS][fire.HOPS]


def test_a_cancel_is_compared_with_one_in_peace() -> None:
    """The ratio is p99 under load to p99 in peace; the time until the 202 is told apart."""
    found = figures()
    took = {CALM: [Cancelled(1.0, 10.0)] * 10, LOADED: [Cancelled(2.0, 15.0)] * 9 + [Cancelled(2.0, 30.0)]}
    cancel._tell(found, took, Result(10, 100.0, 1.0, 2.0))  # noqa: SLF001 - what makes its figures
    assert ([1.5], [3.0]) == (found[RATIOS][RATIO.replace("p99", "p50")], found[RATIOS][RATIO])
    assert [2.0] == found[SPEED][f"{LOADED}, request to 202 p50 ms"]


def test_the_load_is_no_part_of_the_system() -> None:
    """What the load's own process uses is none of what an order costs the system."""
    one = Measurement(Result(1, 1.0, 1.0, 1.0), {"orchestrator": 3.0, "postgres": 2.0, "load": 100.0})
    assert market_orders._used(one) == 5.0  # noqa: SLF001 - what the ratio is made of


async def test_the_source_of_before_is_that_of_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what the commit holds, and nothing that came later; here in a repository of two commits."""
    repository, source = tmp_path / "repository", tmp_path / "source"

    def git(*words: str) -> str:
        named = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-C", str(repository))
        done = subprocess.run(["git", *named, *words], check=True, capture_output=True, text=True)  # noqa: S603, S607
        return done.stdout.strip()

    repository.mkdir()
    git("init", "-q")
    for name in ("old.py", "new.py"):
        (repository / name).write_text(name)
        git("add", name)
        git("commit", "-q", "-m", name)
    monkeypatch.setattr(before, "ROOT", repository)
    monkeypatch.setattr(before, "COMMIT", git("rev-parse", "HEAD~1"))
    assert "" == before.why_absent()
    assert ["old.py"] == [path.name for path in (await before.source(source)).iterdir()]


async def test_without_history_the_scenario_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no such commit it is left out, with a reason."""
    monkeypatch.setattr(before, "ROOT", tmp_path)
    assert "it needs the repository's history back to 1acba55" in before.why_absent()
    with pytest.raises(RuntimeError, match="history"):
        await before.source(tmp_path)


def test_what_cannot_be_measured_here_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`all` measures the others; alone it is an error."""
    absent = replace(market_orders.SCENARIO, why_absent=lambda: "it needs what is not here")
    monkeypatch.setattr(command_line, "SCENARIOS", (absent, limit.SCENARIO))
    wanted = Namespace(scenario="all", broker="embedded", record=False, quick=True)
    assert [limit.SCENARIO] == command_line._chosen(wanted)  # noqa: SLF001 - what `all` measures
    assert "market is left out: it needs what is not here" in capsys.readouterr().out
    with pytest.raises(BenchError, match="nothing to measure here"):
        command_line._chosen(Namespace(scenario="market", broker="embedded", record=False, quick=True))  # noqa: SLF001
