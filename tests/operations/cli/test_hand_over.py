"""After the reference ledger is handed over no money in it moves; everything else goes on."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.exc import DBAPIError

from contracts.decimals import Money
from participants.balance.service import participant
from participants.balance.store import deposit
from saga_kit.runtime.errors import CannotStart, classify
from saga_kit.runtime.transactions import begin
from tests.e2e.system import command
from tests.operations.cli.support import Terminal

HOLD = """
    INSERT INTO balances.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state, updated_at)
    VALUES ($1, $2, 'alice', 'USD', 10, 0, 0, $3, now() - interval '60 days')"""
ORDER = "0192f0c4-7a1e-7c3b-9d2f-4e5a6b7c8d9e"
ENDED = "0192f0c4-7a1e-7c3b-9d2f-4e5a6b7c8d9f"
MOVES = (
    "UPDATE balances.accounts SET available = available + 1",
    "UPDATE balances.holds SET state = 'REFUNDED', refunded = amount WHERE state = 'HELD'",
    (
        "INSERT INTO balances.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state)"
        " VALUES ('x', 'x', 'alice', 'USD', 1, 0, 0, 'TOMBSTONE')"
    ),
    "INSERT INTO balances.accounts VALUES ('dave', 'USD', 0, 0)",
    (
        "INSERT INTO balances.journal (entry_id, accounts, asset_ids, amounts)"
        " VALUES ('x', ARRAY['@external', 'alice'], ARRAY['USD', 'USD'], ARRAY[-1, 1])"
    ),
)


async def endowed(db: Terminal) -> None:
    """Give alice money, of which 10 are held."""
    await deposit(db.engine, "one", "alice", "USD", Money(100))
    await db.execute(HOLD, f"{ORDER}:reserve", ORDER, "HELD")
    await db.execute(HOLD, f"{ENDED}:reserve", ENDED, "TOMBSTONE")


async def test_no_money_moves_in_a_ledger_that_was_handed_over(db: Terminal) -> None:
    """Every change is refused with the error of a read-only server: the service waits and loses nothing."""
    await endowed(db)

    told = await db.cli("hand-over", "wallet")

    assert (0, "the ledger is closed: 1 accounts, 1 active holds for wallet to take over\n") == (told.code, told.out)
    before = await db.rows("SELECT * FROM audit.holds"), await db.rows("SELECT * FROM audit.accounts")
    for statement in MOVES:
        with pytest.raises(DBAPIError, match="was handed over to wallet") as refused:
            await db.execute(statement)
        assert "infrastructure" == classify(refused.value)
    assert before == (await db.rows("SELECT * FROM audit.holds"), await db.rows("SELECT * FROM audit.accounts"))


async def test_a_deposit_into_a_closed_ledger_is_refused_in_one_line(db: Terminal) -> None:
    """The successor would not know of it."""
    await db.cli("hand-over", "wallet")
    told = await command("deposit", "alice", "USD", "5", env={"DATABASE_URL": db.url})
    assert 1 == told.code
    [line] = told.err.splitlines()
    assert "was handed over to wallet" in line
    assert [] == await db.rows("SELECT * FROM balances.deposits")


async def test_the_reference_service_does_not_start_again(db: Terminal) -> None:
    """So a start of all services makes no second ledger."""
    await db.cli("hand-over", "wallet")
    with pytest.raises(CannotStart, match="handed over to wallet"):
        async with begin(db.engine) as tx:
            await participant().prepare(tx)


async def test_a_ledger_is_handed_over_once(db: Terminal) -> None:
    """The second hand-over names the successor; a name that can't be is wrong usage."""
    await db.cli("hand-over", "wallet")
    told = await db.cli("hand-over", "purse")
    assert 1 == told.code
    assert "was handed over to wallet at" in told.err
    assert 2 == (await db.cli("hand-over", "a'b")).code
    assert [{"successor": "wallet"}] == await db.rows("SELECT successor FROM audit.ledger")


async def test_it_waits_for_a_batch_that_is_under_way(db: Terminal) -> None:
    """The hand-over waits for a transaction that has begun, and includes its work."""
    await endowed(db)
    async with db.engine.connect() as connection, connection.begin() as batch:
        await connection.exec_driver_sql("UPDATE balances.accounts SET available = available - 1")
        closing = asyncio.create_task(db.cli("hand-over", "wallet"))
        waits = (
            "SELECT count(*) AS waiting FROM pg_locks WHERE NOT granted AND relation = 'balances.accounts'::regclass"
        )
        async with asyncio.timeout(90):
            while [{"waiting": 0}] == await db.rows(waits):
                await asyncio.sleep(0.05)
        await batch.commit()
    assert 0 == (await closing).code
    assert [{"available": 99}] == await db.rows("SELECT available FROM audit.accounts")


async def test_a_closed_ledger_can_still_be_archived_and_erased(db: Terminal) -> None:
    """Neither moves money."""
    await endowed(db)
    await db.cli("hand-over", "wallet")
    assert 0 == (await db.cli("archive", "--yes")).code
    assert [{"hold_id": f"{ENDED}:reserve"}] == await db.rows("SELECT hold_id FROM balances.holds_archive")
    erased = await db.cli("erase-user", "alice")
    assert (0, "") == (erased.code, erased.err)
