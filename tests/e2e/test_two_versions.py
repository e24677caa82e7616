"""The released version and this one side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.orders import HOLDINGS, mixed
from tests.e2e.trader import Trader
from tests.e2e.versions import HEAD, fleet, old
from tests.support.infrastructure import Infrastructure
from tests.support.released import released

pytestmark = [pytest.mark.asyncio, pytest.mark.apache_kafka]
USERS = [f"user-{number}" for number in range(8)]


async def test_side_by_side(infrastructure: Infrastructure, tmp_path: Path) -> None:
    before = old(released(tmp_path / "sources"))
    async with (
        fleet(
            infrastructure, tmp_path / "stack", before, time_scale=10, holdings=dict.fromkeys(USERS, HOLDINGS)
        ) as one,
        Trader(one.system) as trader,
    ):
        await one.start(before, "api", "orchestrator", "assets", "balance")
        ids = await trader.trade([next(mixed(USERS, 1)) for _ in range(20)])
        print(await trader.ended(ids))
        print(await one.system.cli("migrate"))
        print(await one.system.cli("topics"))
        print(await one.system.cli("check-deploy"))
        ids = [await trader.post(one_) for one_, _ in zip(mixed(USERS, 2), range(30))]
        print(await trader.ended(ids, within_s=20))
