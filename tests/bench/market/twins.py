"""Makes very many orders that rest out of one that does, by SQL: each of its rows once more, under another id.

So they are what the system itself leaves, whatever a row holds. Each is of a user of its own kind, whose money is held.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import asyncpg

from local_stack.sample_data import CASH

USERS: Final = 1000
FIRST_USER: Final = "trader-0"
_MONEY: Final = 10**9
_ACCOUNTS: Final = """
    INSERT INTO balances.accounts (user_id, asset_id, available, held)
    SELECT 'trader-' || number, $2, $3::bigint, 0 FROM generate_series(0, $1::int - 1) AS number"""
_TABLES: Final = {
    "orders.orders": "order_id::text",
    "orders.history": "order_id::text",
    "orders.resting": "order_id::text",
    "balances.holds": "saga_id",
}
_TWINS: Final = """
    CREATE TEMP TABLE twins AS
    SELECT uuidv7()::text AS id, 'trader-' || number % $2::int AS user_id FROM generate_series(1, $1::int) AS number"""
_HOLD: Final = """
    UPDATE balances.accounts AS account
    SET available = available - hold.amount, held = held + hold.amount
    FROM (SELECT owner, unit, sum(amount) AS amount FROM balances.holds JOIN twins ON saga_id = id
          GROUP BY owner, unit) AS hold
    WHERE account.user_id = hold.owner AND account.asset_id = hold.unit"""


async def add_users(owner: asyncpg.Connection) -> None:
    """Give each user a cash account."""
    await owner.execute(_ACCOUNTS, USERS, CASH, _MONEY)


async def add_twins(owner: asyncpg.Connection, order_id: UUID, orders: int) -> None:
    """Let so many twins of an order of `FIRST_USER` rest."""
    async with owner.transaction():
        await owner.execute(_TWINS, orders, USERS)
        for table, column in _TABLES.items():
            await owner.execute(_copies(table, column), str(order_id), FIRST_USER)
        await owner.execute(_HOLD)
        await owner.execute("DROP TABLE twins")
    await owner.execute(f"VACUUM ANALYZE {', '.join(_TABLES)}")
    await owner.execute("CHECKPOINT")


def _copies(table: str, column: str) -> str:
    return f"""
        INSERT INTO {table}
        SELECT twin.* FROM {table} AS one, twins,
            replace(to_jsonb(one)::text, $1, twins.id) AS of_id,
            replace(of_id, '"' || $2 || '"', '"' || twins.user_id || '"') AS of_user,
            jsonb_populate_record(NULL::{table}, of_user::jsonb) AS twin
        WHERE one.{column} = $1"""
