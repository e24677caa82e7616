"""Creates accounts for the load's users by SQL, each with one deposit that is large enough for any run."""

from __future__ import annotations

from typing import Final

import asyncpg

from local_stack.sample_data import CASH

MONEY: Final = 10**9

_LEDGER: Final = (
    """
    INSERT INTO balances.deposits (deposit_id, user_id, asset_id, amount)
    SELECT $4::text || ':' || n, $4 || '-' || n, $2, $3::bigint FROM generate_series(0, $1::bigint - 1) AS n""",
    """
    INSERT INTO balances.journal (entry_id, accounts, asset_ids, amounts)
    SELECT 'deposit:' || $4::text || ':' || n, ARRAY['@external', $4 || '-' || n], ARRAY[$2, $2],
        ARRAY[-$3::bigint, $3::bigint]
    FROM generate_series(0, $1::bigint - 1) AS n""",
    """
    INSERT INTO balances.accounts (user_id, asset_id, available, held)
    SELECT $4::text || '-' || n, $2, $3::bigint, 0 FROM generate_series(0, $1::bigint - 1) AS n""",
)


async def fill(owner_url: str, users: int, name: str = "bench") -> None:
    """Give each of the users `<name>-0` to `<name>-<users - 1>` a cash account."""
    connection = await asyncpg.connect(owner_url)
    try:
        async with connection.transaction():
            for statement in _LEDGER:
                await connection.execute(statement, users, CASH, MONEY, name)
        await connection.execute("VACUUM ANALYZE balances.deposits, balances.journal, balances.accounts")
    finally:
        await connection.close()


async def count(owner_url: str, sql: str) -> int:
    """Run a query that counts."""
    connection = await asyncpg.connect(owner_url)
    try:
        return int(await connection.fetchval(sql))
    finally:
        await connection.close()
