"""Short plays of what a cluster's controller does, on one system; `make chaos PLAY=all` plays the long ones.

They take a minute and a half on an idle machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.evidence.chaos.cluster.bounds import MOVED_MAX_S, plans
from tests.evidence.chaos.cluster.play import Played, Stage, play, stage
from tests.support.infrastructure import Infrastructure

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.apache_kafka]
SESSION_S = 6.0
"""A little more than an order may take while processes come and go in order: who did not leave its group is seen."""
PLANS = plans(SESSION_S, most=4, every_s=1.0)
CALM_S, RATE = 3.0, 10.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(infrastructure: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Run a system as the chart does."""
    folder = tmp_path_factory.mktemp("cluster")
    async with stage(infrastructure.postgres, infrastructure.broker, folder, session_s=SESSION_S) as running:
        yield running


@pytest.mark.parametrize("name", ["rolling-upgrade", "scale"])
async def test_processes_that_come_and_go_delay_no_order_for_long(one: Stage, name: str) -> None:
    """While every process is replaced, or some are added and removed, no request fails, and no order takes long."""
    assert [] == (await _played(one, name)).breaches(PLANS[name])


async def test_a_node_that_is_lost_delays_orders_by_a_session(one: Stage) -> None:
    """Who dies without leaving its group is missed when its session is over; then the others carry on alone.

    So the bound of a rolling upgrade is one that can be broken: a process that does not leave its group breaks it.
    """
    played = await _played(one, "node-loss")
    assert [] == played.breaches(PLANS["node-loss"])
    assert MOVED_MAX_S < played.longest_s


async def test_a_node_that_comes_back_does_no_harm(one: Stage) -> None:
    """What was frozen goes on long after others took over, with all that it had read, written and locked."""
    assert [] == (await _played(one, "frozen-node")).breaches(PLANS["frozen-node"])


async def _played(one: Stage, name: str) -> Played:
    played = await play(one, PLANS[name], calm_s=CALM_S, rate=RATE)
    print(name, played.figures())  # noqa: T201 - shown when it fails
    assert len(played.calm_s) > 10
    assert len(played.during_s) > 20
    return played
