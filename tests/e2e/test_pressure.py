"""A short run of the pressure tests for every change; `python -m tests.evidence.pressure` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evidence.pressure.flood import flood
from tests.evidence.pressure.outage import Plan, outage
from tests.support.infrastructure import Infrastructure

pytestmark = [pytest.mark.asyncio, pytest.mark.apache_kafka]


async def test_who_is_away_costs_only_those_who_need_it(infrastructure: Infrastructure, tmp_path: Path) -> None:
    """While a participant is away, other orders stay quick, memory is bounded, and the backlog drains at full speed."""
    plan = Plan("balance", "freeze", 8.0, 25.0, burst=100, before_s=3.0, capacity_orders=200, time_scale=0.2)
    result = await outage(infrastructure.postgres, infrastructure.broker, tmp_path, plan)
    assert [] == result.found, result.figures


async def test_a_flood_of_unreadable_messages_slows_nobody(infrastructure: Infrastructure, tmp_path: Path) -> None:
    """Each unreadable message becomes a dead letter with its bytes, and orders stay quick."""
    plan = Plan("balance", "freeze", 0, 25.0, before_s=3.0, time_scale=0.5)
    seen = await flood(infrastructure.postgres, infrastructure.broker, tmp_path, plan, each=600, unparsable=0)
    assert [] == seen.found, seen.figures
