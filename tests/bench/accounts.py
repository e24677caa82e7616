"""Creates accounts for the load's users by SQL, each with one deposit that is large enough for any run."""

from __future__ import annotations

from typing import Final

import asyncpg

from local_stack.sample_data import CASH

MONEY: Final = 10**9

_LEDGER: Final = (
    """
    INSERT INTO balances.deposits (deposit_id, user_id, asset_id, amount)
    SELECT 'bench:' || n, 'bench-' || n, $2, $3::bigint FROM generate_series(0, $1::bigint - 1) AS n""",
    """
    INSERT INTO balances.journal (entry_id, accounts, asset_ids, amounts)
    SELECT 'deposit:bench:' || n, ARRAY['@external', 'bench-' || n], ARRAY[$2, $2], ARRAY[-$3::bigint, $3::bigint]
    FROM generate_series(0, $1::bigint - 1) AS n""",
    """
    INSERT INTO balances.accounts (user_id, asset_id, available, held)
    SELECT 'bench-' || n, $2, $3::bigint, 0 FROM generate_series(0, $1::bigint - 1) AS n""",
)


async def fill(owner_url: str, users: int) -> None:
    """Give each of `bench-0` to `bench-<users - 1>` a cash account."""
    connection = await asyncpg.connect(owner_url)
    try:
        async with connection.transaction():
            for statement in _LEDGER:
                await connection.execute(statement, users, CASH, MONEY)
        await connection.execute("VACUUM ANALYZE balances.deposits, balances.journal, balances.accounts")
    finally:
        await connection.close()
