"""Holds beside the saga on a whole system: the documented withdrawal, Kafka's own way, and holds that expire."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from operations.access.tokens import Signer
from tests.e2e.system import Output, System, eventually
from tests.e2e.wire import message
from tests.support.project import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="package")
EXAMPLE = ROOT / "docs" / "examples" / "withdrawal.py"


async def withdraw(system: System, payment_id: str, user: str, amount: str) -> Output:
    """Run the example as it stands."""
    environment = os.environ | {
        "ORDER_API_URL": system.stack.api_url,
        "ORDER_API_TOKEN": Signer(system.stack.jwt_secret).sign("cashier", ["holds:write"]),
    }
    created_at = datetime.now(UTC).replace(minute=0, second=0, microsecond=0).isoformat()
    words = (sys.executable, EXAMPLE, payment_id, user, "USD", amount, created_at)
    process = await asyncio.create_subprocess_exec(
        *words, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(90):
        told, failed = await process.communicate()
    return Output(process.returncode or 0, told.decode(), failed.decode())


async def account(system: System, user: str) -> tuple[str, str]:
    """Return what a user has of USD: available and held."""
    sql = "SELECT trim_scale(available)::text, trim_scale(held)::text FROM audit.accounts WHERE user_id = $1"
    [row] = await system.rows(sql, user)
    return tuple(row)


async def test_the_documented_withdrawal(system: System) -> None:
    """It pays once however often it runs, gives the money back when the bank refuses, and says when there is none."""
    [user] = await system.endow([f"w{uuid4().hex[:8]}"], {"USD": "100"})
    first = f"p-{uuid4()}"
    for _ in range(2):
        paid = await withdraw(system, first, user, "60")
        assert (0, "CAPTURED") == (paid.code, paid.out.strip()), paid.err
    assert ("40", "0") == await account(system, user)
    refused = await withdraw(system, f"refused-{uuid4()}", user, "40")
    assert (1, "RELEASED") == (refused.code, refused.out.strip()), refused.err
    poor = await withdraw(system, f"p-{uuid4()}", user, "40.01")
    assert (1, "REFUSED INSUFFICIENT_BALANCE") == (poor.code, poor.out.strip()), poor.err
    assert ("40", "0") == await account(system, user)
    assert [] == await system.audit()
    system.deposits[user, "USD"] -= 60  # for whoever adds up later


async def test_a_forgotten_hold_expires(system: System) -> None:
    """Asked for by Kafka and forgotten: the money is back soon after its time, and its end is told once.

    Its time has come when we say so: on a busy machine seconds are over before anybody has seen it.
    """
    [user] = await system.endow([f"w{uuid4().hex[:8]}"], {"USD": "100"})
    hold_id = str(uuid4())
    until = datetime.now(UTC) + timedelta(hours=1)
    body: dict[str, Any] = {
        "hold_id": hold_id, "user_id": user, "asset_id": "USD", "amount": "75", "expires_at": until.isoformat(),
    }  # fmt: skip
    await system.producer.send(message("holds.requests", user, "HoldRequested", body))
    await eventually(lambda: _has(system, user, ("25", "75")), "the money is held")
    its_time = "UPDATE balances.service_holds SET expires_at = now() WHERE (hold_id, expires_at) = ($1, $2) RETURNING 1"
    assert [(1,)] == [tuple(row) for row in await system.owner_rows(its_time, f"hold:{hold_id}", until)]
    await eventually(lambda: _has(system, user, ("100", "0")), "the hold has expired")
    listed = json.loads((await system.cli("holds", hold_id, "--json")).out)
    assert ("EXPIRED", user) == (listed["state"], listed["user_id"])
    sql = "SELECT ended FROM audit.service_holds WHERE hold_id = $1"
    assert [("EXPIRED",)] == [tuple(row) for row in await system.rows(sql, f"hold:{hold_id}")]
    assert [] == await system.audit()


async def _has(system: System, user: str, wanted: tuple[str, str]) -> bool:
    return wanted == await account(system, user)
