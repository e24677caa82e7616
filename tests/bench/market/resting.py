"""Fills a database with resting orders, by SQL: the rows that the trigger engine works on, as acceptances leave them.

No tick between `LOW` and `HIGH` fires one: levels lie outside, and trails are wider. Of three orders one waits for a
higher price, one for a lower one, one trails. They began to rest at the first tick of their asset.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import asyncpg

LOW, HIGH = Decimal(950), Decimal(1050)
"""Prices of ticks that fire nothing."""
FIRST: Final = 1
"""The sequence from which all of them rest."""
TRAILS: Final = 20
"""Different trails of each side, from 30 % on."""

_FIXED: Final = "order_id, asset_id, side, revision, live, queued, told, from_sequence, entered_at"
_VALUES: Final = """gen_random_uuid(), assets.id, CASE WHEN number % 2 = 0 THEN 'SELL' ELSE 'BUY' END, 1, true, false,
    false, $3::bigint, clock_timestamp()"""
_LEVELS: Final = f"""
    INSERT INTO orders.resting ({_FIXED}, up_price, down_price)
    SELECT {_VALUES}, CASE WHEN number % 3 = 0 THEN $4::numeric + 0.01 * (1 + number % 90000) END,
        CASE WHEN number % 3 = 1 THEN $5::numeric - 0.01 * (1 + number % 90000) END
    FROM unnest($1::text[]) AS assets (id), generate_series(1, $2::int) AS number WHERE number % 3 < 2"""
_TRAILING: Final = f"""
    INSERT INTO orders.resting ({_FIXED}, trail_bps)
    SELECT {_VALUES}, 3000 + 5 * (number / 6 % $4::int)
    FROM unnest($1::text[]) AS assets (id), generate_series(1, $2::int) AS number
    WHERE number % $5::int = $5::int - 1"""
_TRAILS: Final = """
    INSERT INTO orders.trails (asset_id, side, kind, trail, oldest)
    SELECT asset_id, side, 'bps', trail_bps, min(from_sequence) FROM orders.resting
    WHERE trail_bps IS NOT NULL GROUP BY asset_id, side, trail_bps
    ON CONFLICT DO NOTHING"""


async def fill(owner: asyncpg.Connection, asset_ids: list[str], orders: int) -> None:
    """Let so many orders rest on each of the assets."""
    await owner.execute(_LEVELS, asset_ids, orders, FIRST, HIGH, LOW)
    await fill_trailing(owner, asset_ids, orders, one_of=3)


async def fill_trailing(owner: asyncpg.Connection, asset_ids: list[str], orders: int, *, one_of: int = 1) -> None:
    """Let trailing orders rest on each of the assets, both sides: one of so many of a number of orders."""
    await owner.execute(_TRAILING, asset_ids, orders, FIRST, TRAILS, one_of)
    await owner.execute(_TRAILS)


async def settle(owner: asyncpg.Connection) -> None:
    """Leave the server nothing to do about what was filled, which the first measurement would pay for."""
    await owner.execute("VACUUM ANALYZE orders.resting, orders.trails")
    await owner.execute("CHECKPOINT")
