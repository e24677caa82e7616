"""The schedule is the same for the same seed, with exactly the wanted kills and every kind of fault."""

from __future__ import annotations

import pytest

from tests.evidence.chaos.schedule import GAP_S, Kind, kills_of, schedule


def test_the_same_seed_makes_the_same_faults() -> None:
    """One seed always gives the same schedule, so that a run can be repeated; another seed gives another one."""
    assert schedule(7, 30) == schedule(7, 30)
    assert schedule(7, 30) != schedule(8, 30)


@pytest.mark.parametrize("kills", [4, 8, 30, 100, 1000])
def test_so_many_kills_are_made_and_something_of_every_kind(kills: int) -> None:
    """The kills include those of servers, and each kind of fault comes at least once."""
    faults = schedule(1, kills)
    assert kills == kills_of(faults)
    assert set(Kind) == {fault.kind for fault in faults}


def test_a_long_run_hurts_everybody() -> None:
    """With a hundred kills each replica is killed and frozen, and both servers suffer each fault of a server."""
    faults = schedule(3, 100)
    killed = {fault.target for fault in faults if fault.kind is Kind.KILL}
    frozen = {fault.target for fault in faults if fault.kind in {Kind.FREEZE, Kind.FREEZE_LONG}}
    assert 10 == len(killed)
    assert killed == frozen
    for kind in (Kind.SERVER_KILL, Kind.CUT, Kind.DELAY, Kind.SWALLOW):
        assert {"postgres", "kafka"} == {fault.target for fault in faults if fault.kind is kind}


def test_a_hundred_kills_take_a_quarter_of_an_hour() -> None:
    """The pauses between faults bound a run, whatever the seed."""
    for seed in range(20):
        assert 900 > sum(fault.after_s for fault in schedule(seed, 100)) > 600
    assert all(GAP_S[0] <= fault.after_s <= GAP_S[1] for fault in schedule(1, 100))
