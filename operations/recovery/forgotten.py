"""What a restored database knows last, and the numbers of prices, which it is given back beside its orders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from operations.access.database import rows
from saga_kit.runtime.database import PATIENTLY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

_TABLES: Final = """
    SELECT to_regclass('orders.history') IS NOT NULL AS orders, to_regclass('balances.holds') IS NOT NULL AS ledger,
        to_regclass('assets.prices') IS NOT NULL AS prices, clock_timestamp() AS now"""
_NEWEST: Final = "SELECT max(at) FROM orders.history"
_NEWEST_OF_LEDGER: Final = """
    SELECT (SELECT max(updated_at) FROM balances.holds)
    WHERE NOT EXISTS (SELECT FROM balances.ledger_start WHERE closed_at IS NOT NULL)"""
_NUMBER_ON: Final = """
    UPDATE assets.prices AS price SET sequence = told.sequence + 1
    FROM unnest($1::text[], $2::bigint[]) AS told (asset_id, sequence)
    WHERE price.asset_id = told.asset_id AND price.sequence <= told.sequence"""


async def newest(engine: AsyncEngine) -> datetime | None:
    """Read the newest time that both the orders and the reference ledger know; None when there is nothing."""
    [has] = await rows(engine, _TABLES)
    times: list[datetime] = []
    async with engine.connect() as connection:
        await connection.exec_driver_sql(PATIENTLY)
        for wanted, statement in ((has["orders"], _NEWEST), (has["ledger"], _NEWEST_OF_LEDGER)):
            found = (await connection.exec_driver_sql(statement)).scalar() if wanted else None
            times += [] if found is None else [found]
    return min(times, default=None)


async def number_on(engine: AsyncEngine, told: Mapping[str, int]) -> int:
    """Have the reference asset service number its prices behind those that were told; return how many it is.

    Else orders would take its next prices for late ones.
    """
    [has] = await rows(engine, _TABLES)
    if not told or not has["prices"]:
        return 0
    async with engine.begin() as tx:
        done = await tx.exec_driver_sql(_NUMBER_ON, (list(told), list(told.values())))
        return int(done.rowcount)
