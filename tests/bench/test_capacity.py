"""What the chart should be set to is reckoned so that a process may be lost, and from the pools that the code makes."""

from __future__ import annotations

import pytest

from tests.bench.capacity import ALONE, BESIDE, KINDS, RESERVED, Costs, connections, pools, replicas

COSTS = Costs({"orchestrator": 400e-6, "api": 200e-6}, {"orchestrator": 1.25}, 6_000, 3_000, 0.7, 12, 3)


@pytest.mark.parametrize("per_s", [1, 1_000, 1_999, 2_001, 5_000, 16_000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_may_be_lost(per_s: float, kind: str) -> None:
    """Two at least; each below its share of a core, and below a whole one with one process less."""
    number = replicas(per_s, kind, COSTS)
    work = per_s * COSTS.cpu_s.get(kind, 0) * COSTS.together.get(kind, 1)
    assert number >= 2
    assert work / number <= COSTS.use
    assert work / (number - 1) <= ALONE


def test_members_share_the_partitions_evenly() -> None:
    """Of a group there are 2, 3, 4, 6 or 12; processes of the API share none, so any number does."""
    assert {replicas(per_s, "orchestrator", COSTS) for per_s in range(0, 16_001, 100)} == {2, 3, 4, 6, 12}
    assert {replicas(per_s, "api", COSTS) for per_s in range(0, 20_001, 100)} >= {2, 3, 4, 5}


def test_a_rolling_upgrade_finds_connections() -> None:
    """With two of each kind there are connections for three of each, and for those beside them."""
    assert connections(dict.fromkeys(KINDS, 2)) == 3 * sum(pools().values()) + BESIDE + RESERVED
    assert all(size > 1 for size in pools().values())
