"""A person's session locks one account or one order for a long time; all other orders go on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import CANCELLED, COMPLETED, HOLDINGS, buy, sell
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader, cancel_of, request_of

pytestmark = pytest.mark.asyncio(loop_scope="package")

OTHERS_WITHIN_S = 30.0
"""How long other orders may take: each service waits for a lock once, for 5 s, and a busy machine needs the rest."""


@asynccontextmanager
async def bystander(system: System, statement: str, *arguments: object) -> AsyncIterator[asyncpg.Connection]:
    """Hold a transaction open, as a person's session, in which this statement has locked rows."""
    connection = await asyncpg.connect(system.stack.database_url, server_settings={"application_name": "psql"})
    transaction = connection.transaction()
    await transaction.start()
    try:
        locked = await connection.fetch(statement, *arguments)
        assert locked, "it locks something"
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


async def test_a_locked_account_fails_nobody_elses_orders(system: System, trader: Trader) -> None:
    """40 orders of other users complete while one account is locked; its own orders end once it is unlocked."""
    users = await system.endow(["lana", "milo", "nora"], HOLDINGS)
    await trader.ended(
        await trader.produce(*(buy(user, "BTC", "0.001") for user in users))
    )  # so that statements are prepared
    statement = "SELECT FROM balances.accounts WHERE user_id = $1 FOR UPDATE"
    async with bystander(system, statement, "nora"):
        hers = await trader.produce(
            buy("nora", "BTC", "0.001"), sell("nora", "BTC", "0.001"), buy("nora", "BTC", "0.002")
        )
        others = await trader.produce(*((buy, sell)[n % 2](users[n % 2], "BTC", "0.001") for n in range(40)))
        begin = time.monotonic()
        ends = await trader.ended(others)
        assert {COMPLETED} == set(ends.values()), ends
        assert time.monotonic() - begin < OTHERS_WITHIN_S
        assert not await _ended(system, hers)
    for order_id, end in (await trader.ended(hers)).items():
        assert end in {COMPLETED, "FAILED TIMED_OUT"}
        if end != COMPLETED:
            trader.accepted.pop(order_id)
    await assert_all_is_well(system, trader)


async def test_a_locked_order_holds_up_itself_and_loses_no_cancel(system: System, trader: Trader) -> None:
    """Other orders begin meanwhile; a cancel by Kafka of the locked order is carried out once it is unlocked.

    While the asset service is paused nothing times out, so only the lock makes anything wait.
    """
    await system.endow(["olaf", "pina"], HOLDINGS)
    assert 0 == (await system.cli("pause", "assets", "--reason", "so that nothing times out here")).code
    locked = buy("olaf", "BTC", "0.001", cancel=True)
    trader.note(locked)
    await system.producer.send(request_of(locked))
    await eventually(lambda: _known(system, [locked.order_id]), "the order is known")
    async with bystander(system, "SELECT FROM orders.orders WHERE order_id = $1::uuid FOR UPDATE", locked.order_id):
        await system.producer.send(cancel_of(locked))
        new = await trader.produce(*(buy("pina", "BTC", "0.001") for _ in range(10)))
        await eventually(lambda: _known(system, new), "others are taken on", within_s=OTHERS_WITHIN_S)
        assert not await _ended(system, [locked.order_id])
    assert {CANCELLED} == set((await trader.ended([locked.order_id])).values())
    assert 0 == (await system.cli("unpause", "assets")).code
    assert {COMPLETED} == set((await trader.ended(new)).values())
    await assert_all_is_well(system, trader)


async def _known(system: System, order_ids: list[str]) -> bool:
    rows = await system.rows("SELECT 1 FROM audit.orders WHERE order_id = ANY($1::uuid[])", order_ids)
    return len(rows) == len(order_ids)


async def _ended(system: System, order_ids: list[str]) -> bool:
    ended = "status IN ('COMPLETED', 'CANCELLED', 'FAILED')"
    return bool(
        await system.rows(f"SELECT 1 FROM audit.orders WHERE order_id = ANY($1::uuid[]) AND {ended}", order_ids)
    )
