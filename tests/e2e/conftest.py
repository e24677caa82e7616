"""The system that these tests share: two API processes, and two of each service where a group can have two members."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.system import System, running
from tests.e2e.trader import Trader
from tests.support.infrastructure import Infrastructure


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def system(infrastructure: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Run one system for all modules that ask for it; each test leaves it healthy."""
    count = 2 if infrastructure.broker_kind == "apache" else 1
    replicas = {"api": 2} | dict.fromkeys(("orchestrator", "balance", "assets"), count)
    folder = tmp_path_factory.mktemp("system")
    async with running(infrastructure, folder, replicas=replicas, pause_max_s=0.2) as one:
        yield one


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def trader(system: System) -> AsyncIterator[Trader]:
    """Trade in that system; every later call of `assert_all_is_well` also checks the orders accepted so far."""
    async with Trader(system) as one:
        yield one
