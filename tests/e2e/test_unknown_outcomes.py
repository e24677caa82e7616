"""When the outcome of `submit` is unknown, the command that it printed can be typed again, and there is one order."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.e2e.orders import buy
from tests.e2e.system import System, command
from tests.e2e.trader import Trader
from tests.support.listening import listening

pytestmark = pytest.mark.asyncio(loop_scope="package")

AGAIN = "to do this again, with no second order: order-saga "


async def test_a_submit_that_is_killed_while_it_waits_is_typed_again(system: System, trader: Trader) -> None:
    """After SIGKILL the printed command shows the existing order, which trades once."""
    [user] = await system.endow(["unsure"], {"USD": "1000"})
    known = {"ORDER_SAGA_STACK": str(system.stack.folder / "stack.json")}
    with system.paused("assets"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "operations.cli", "submit", "MARKET_BUY", "ACME", "2", "--user", user),
            env=os.environ | known,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        async with asyncio.timeout(30):
            again = (await process.stderr.readline()).decode().strip()
            accepted = (await process.stderr.readline()).decode()
        process.kill()
        await process.wait()
    assert again.startswith(AGAIN)
    order_id = accepted.split()[1]
    repeated = await system.cli(*shlex.split(again.removeprefix(AGAIN)))
    assert (0, f"order {order_id}: COMPLETED") == (repeated.code, repeated.out.partition(" 2 ACME")[0])
    orders = await system.rows("SELECT order_id::text FROM audit.orders WHERE user_id = $1", user)
    assert [order_id] == [row["order_id"] for row in orders]
    trader.accepted[order_id] = buy(user, "ACME", "2")


async def test_a_submit_without_an_answer_says_that_the_outcome_is_not_known() -> None:
    """When the connection ends after the request, `submit` exits with 1 and prints the command that repeats it."""
    async with _silent_server() as url:
        output = await command(
            *("submit", "MARKET_BUY", "ACME", "2", "--key", "k-17"),
            env={"ORDER_API_URL": url, "JWT_SECRET": "x" * 32},
        )
    first, last = output.err.splitlines()
    assert first.startswith(AGAIN)
    assert "--key=k-17" in first
    told = f"; whether there is an order is not known, so type: order-saga {first.removeprefix(AGAIN)}"
    assert (1, "", True, True) == (output.code, output.out, url in last, last.endswith(told))


@asynccontextmanager
async def _silent_server() -> AsyncIterator[str]:
    async def take(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with listening(take) as port:
        yield f"http://127.0.0.1:{port}"
