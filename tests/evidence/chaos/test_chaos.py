"""A short chaos run for every change, with each kind of fault; `make chaos` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tests.evidence.chaos.arena import clock_library
from tests.evidence.chaos.report import figures, not_done
from tests.evidence.chaos.run import run
from tests.evidence.chaos.schedule import Kind, kills_of, schedule

pytestmark = [pytest.mark.asyncio, pytest.mark.apache_kafka]
SEED, KILLS = 50, 5


async def test_nothing_is_lost_while_everything_is_hurt_once(tmp_path: Path) -> None:
    """Under every kind of fault all orders end once, at the right tick and to the cent, and all versions are told."""
    faults = schedule(SEED, KILLS, gap_s=(1.0, 1.9), shortness=0.5)
    assert (KILLS, set(Kind)) == (kills_of(faults), {fault.kind for fault in faults})
    outcome = await run(
        faults, seed=SEED, rate=24, far=300, folder=tmp_path, console=Console(quiet=True), shortness=0.5
    )
    assert [] == list(map(str, outcome.findings)), figures(outcome)
    missing = [] if clock_library() else ["not done: wrong clock (1 times): the library `faketime` is not installed"]
    assert missing == not_done(outcome)
    assert 200 < outcome.orders
    assert 100 < outcome.resting_most
    assert 10 < outcome.waited["fired by a tick"]
    killed = {fault.target.partition("-")[0] for fault in faults if fault.kind is Kind.KILL}
    assert killed >= {"api", "webhooks"}
    assert outcome.watched["streams"] > outcome.watched["clients by SSE"] + outcome.watched["clients by WebSocket"]
    assert 0 < outcome.watched["gaps said"]
    assert 200 < outcome.watched["webhooks"]
