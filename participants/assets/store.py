"""The assets and their rules in the database. All times are the database's, so that instances agree on what is old."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import Trading
from contracts.decimals import format_decimal
from participants.assets import tables
from participants.assets.rules import Asset, CurrentPrice
from participants.assets.sessions import Standing, standing_at
from saga_kit.runtime.transactions import Transaction, begin

LISTINGS = """
SELECT DISTINCT ON (asset.asset_id)
    asset.asset_id, asset.tick, asset.step, asset.min_quantity, asset.max_quantity, asset.min_notional,
    asset.max_notional, asset.fee_bps, asset.cash_asset_id, asset.cash_scale, asset.trading, asset.available_quantity,
    asset.answer_delay_s, asset.max_deviation_bps, asset.rules_version,
    clock_timestamp(), session.calendar, price.price, price.sequence, price.as_of, price.confirmed_at, price.trading
FROM assets.assets AS asset LEFT JOIN assets.prices AS price USING (asset_id)
    LEFT JOIN assets.sessions AS session USING (asset_id)
WHERE asset.asset_id = ANY ($1::text[])
ORDER BY asset.asset_id, asset.rules_version DESC
"""


class Listing(NamedTuple):
    """An asset with its latest rules, its price if there is one, and the database's time of the read.

    `stands`: how it stands by its calendar then; None without one.
    """

    asset: Asset
    quote: CurrentPrice | None
    read_at: datetime
    stands: Standing | None = None


async def listings(tx: Transaction, asset_ids: Collection[str]) -> dict[str, Listing]:
    """Read assets; one that is not traded here is missing from the result."""
    return {row[0]: _listing(*row) for row in await tx.read(LISTINGS, list(asset_ids))}


async def put_asset(engine: AsyncEngine, asset: Asset) -> int:
    """Store an asset's rules as a new version, unless they are the current ones; return the version in force.

    Raises `ValueError` for a number of more than 18 places, and `IntegrityError` for rules that contradict themselves.
    """
    for value in dataclasses.astuple(asset):
        if isinstance(value, Decimal):
            format_decimal(value)  # PostgreSQL would silently round a 19th place
    async with begin(engine) as tx:
        await tx.execute("LOCK TABLE assets.assets IN SHARE ROW EXCLUSIVE MODE")
        listing = (await listings(tx, [asset.asset_id])).get(asset.asset_id)
        version = listing.asset.rules_version if listing is not None else 0
        if listing is None or dataclasses.replace(asset, rules_version=version) != listing.asset:
            version += 1
            rules = dataclasses.asdict(asset) | {"rules_version": version}
            async with tx.sqlalchemy() as connection:
                await connection.execute(insert(tables.assets).values(rules))
        return version


def _listing(*row: Any) -> Listing:
    *rules, read_at, calendar, price, sequence, as_of, confirmed_at, trading = row
    stands = None if calendar is None else standing_at(calendar, read_at)
    if price is None:
        return Listing(Asset(*rules), None, read_at, stands)
    ends_at = None if stands is None else stands.ends_at
    return Listing(
        Asset(*rules), CurrentPrice(price, sequence, as_of, confirmed_at, Trading(trading), ends_at), read_at, stands
    )
