"""A running system keeps working while its database gets hostile defaults or takes no writes for some seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from local_stack.stack import LOGIN_PREFIX, SERVICES
from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import COMPLETED, HOLDINGS, buy, sell
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader
from tests.saga_kit.runtime.test_session import HOSTILE

pytestmark = pytest.mark.asyncio(loop_scope="package")

RECOVERED_WITHIN_S = 30.0
"""How long recovery may take. An idle machine needs a few seconds; keeping the old sessions would take 1,800."""


@asynccontextmanager
async def _defaults(system: System, settings: dict[str, str]) -> AsyncIterator[None]:
    """Give the services' sessions these defaults while the block runs; end their sessions before and after it."""
    [row] = await system.owner_rows("SELECT current_database()")
    roles = [f"ROLE {LOGIN_PREFIX}{service} IN DATABASE {row[0]}" for service in SERVICES]

    async def end_sessions() -> None:
        await system.owner_rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'order_saga_%'"
            " AND usename <> 'order_saga_auditor' AND datname = current_database()"
        )

    try:
        for role in roles:
            for name, value in settings.items():
                await system.owner_rows(f"ALTER {role} SET {name} = {value}")
        await end_sessions()
        yield
    finally:
        for role in roles:
            await system.owner_rows(f"ALTER {role} RESET ALL")


async def test_orders_run_to_their_end_on_a_database_with_hostile_defaults(system: System, trader: Trader) -> None:
    """No default of a role or a database changes an order, a sum or an answer."""
    await system.endow(["host", "ile"], HOLDINGS)
    settings = {name: bad if name == "search_path" else f"'{bad}'" for name, (bad, _) in HOSTILE.items()}
    async with _defaults(system, settings):
        ids = await trader.trade([buy("host", "BTC", "0.01"), sell("ile", "ACME", "2"), buy("ile", "ETH", "0.5")])
        assert dict.fromkeys(ids, COMPLETED) == await trader.ended(ids)
    await assert_all_is_well(system, trader)


async def test_a_database_without_writes_for_some_seconds_costs_seconds(system: System, trader: Trader) -> None:
    """The API reports that it is not ready, orders of that time complete soon after, and no service is restarted."""
    await system.endow(["patient"], HOLDINGS)
    before = system.stack.pids
    async with httpx2.AsyncClient(base_url=system.stack.api_url, timeout=30) as client:

        async def readiness() -> httpx2.Response:
            return await client.get("/health/ready")

        async def says_so() -> bool:
            answer = await readiness()
            return answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE

        async def is_ready() -> bool:
            return (await readiness()).status_code == httpx2.codes.OK

        async with _defaults(system, {"default_transaction_read_only": "on"}):
            ids = await trader.produce(*(buy("patient", "BTC", "0.01") for _ in range(5)))
            await eventually(says_so, "the API says that it can't take an order")
            await asyncio.sleep(3)  # as long as the switch takes: every pool has sessions of that time by now
        began = time.monotonic()
        assert dict.fromkeys(ids, COMPLETED) == await trader.ended(ids)
        await eventually(is_ready, "the API is ready")
        later = await trader.trade([buy("patient", "BTC", "0.01")])
        assert dict.fromkeys(later, COMPLETED) == await trader.ended(later)
    assert time.monotonic() - began < RECOVERED_WITHIN_S
    assert before == system.stack.pids
    await assert_all_is_well(system, trader)
