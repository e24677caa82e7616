"""An audit of a running system raises no false alarm, whatever is in flight, even while processes are killed."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.e2e.orders import HOLDINGS, mixed
from tests.e2e.system import System
from tests.e2e.trader import Trader

pytestmark = pytest.mark.asyncio(loop_scope="package")
RATE = 40
ORDERS = 200
AUDITS_MIN = 3


async def test_an_audit_during_load_and_kills_finds_nothing(system: System, trader: Trader) -> None:
    """No audit finds anything while orders run and an orchestrator and a balance service are killed."""
    users = await system.endow([f"audited-{number}" for number in range(8)], HOLDINGS)
    findings: list[object] = []
    audits = 0

    async def audit_and_kill() -> None:
        nonlocal audits
        for service in ("orchestrator", "balance", "orchestrator"):
            findings.extend(await system.audit())
            audits += 1
            await system.end(service, signal.SIGKILL)

    ids = await trader.trade_during(audit_and_kill(), mixed(users, 11), at_least=ORDERS, rate=RATE)
    await asyncio.gather(trader.ended(ids), _audit_until_ended(system, findings))

    assert [] == findings
    assert AUDITS_MIN <= audits


async def _audit_until_ended(system: System, findings: list[object]) -> None:
    """Audit twice more while the last orders come to their ends."""
    for _ in range(2):
        findings.extend(await system.audit())
