"""The only SQL of the asset service. All times are the database's, so that all instances agree on what is stale."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import AssetPriceChanged
from contracts.codec import outgoing
from contracts.decimals import Price, format_decimal, is_multiple
from participants.assets import tables
from participants.assets.rules import Asset, CurrentPrice
from saga_kit.messaging.outbox import AT_ONCE_S, Outbox, OutboxMessage
from saga_kit.runtime.transactions import Begins, Transaction, alone, begin

SOURCE: Final = "/assets"

LISTINGS = """
SELECT DISTINCT ON (asset.asset_id)
    asset.asset_id, asset.tick, asset.step, asset.min_quantity, asset.max_quantity, asset.min_notional,
    asset.max_notional, asset.fee_bps, asset.cash_asset_id, asset.cash_scale, asset.trading, asset.available_quantity,
    asset.answer_delay_s, asset.rules_version,
    clock_timestamp(), price.price, price.sequence, price.as_of, price.confirmed_at
FROM assets.assets AS asset LEFT JOIN assets.prices AS price USING (asset_id)
WHERE asset.asset_id = ANY ($1::text[])
ORDER BY asset.asset_id, asset.rules_version DESC
"""

SEQUENCE: Final = "SELECT sequence FROM assets.prices WHERE asset_id = $1 FOR UPDATE"
SET_PRICE = """
INSERT INTO assets.prices AS price (asset_id, sequence, price, as_of, confirmed_at, source)
VALUES ($1, 1, $2::text::numeric, clock_timestamp(), CASE $3::text WHEN 'dead' THEN NULL ELSE clock_timestamp() END, $3)
ON CONFLICT (asset_id) DO UPDATE SET
    sequence = price.sequence + (price.price <> excluded.price)::int,
    price = excluded.price,
    as_of = CASE WHEN price.price <> excluded.price THEN excluded.as_of ELSE price.as_of END,
    confirmed_at = excluded.confirmed_at,
    source = excluded.source
RETURNING sequence, as_of
"""

# SKIP LOCKED: another instance is confirming or setting that price now, which is as good.
CONFIRM_PRICES = """
UPDATE assets.prices SET confirmed_at = clock_timestamp() WHERE asset_id IN (
    SELECT asset_id FROM assets.prices WHERE source <> 'dead' FOR UPDATE SKIP LOCKED
)
"""


class Source(StrEnum):
    """The source of a price: `FIXED` confirms it until it is changed, `DEAD` never confirms it."""

    FIXED = "fixed"
    DEAD = "dead"


class Listing(NamedTuple):
    """An asset with its latest rules, its price if there is one, and the database's time of the read."""

    asset: Asset
    quote: CurrentPrice | None
    read_at: datetime


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


async def set_price(engine: AsyncEngine, asset_id: str, price: Price, source: Source = Source.FIXED) -> int:
    """Set an asset's price, and publish it if it changed; return its sequence, which rises with a change.

    Raises `ValueError` for an unknown asset and for a price that is not on its tick.
    """
    async with begin(engine) as tx:
        listing = (await listings(tx, [asset_id])).get(asset_id)
        if listing is None:
            raise ValueError(f"no asset {asset_id} is traded here")
        if not is_multiple(price, listing.asset.tick):
            raise ValueError(f"{format_decimal(price)} is not a multiple of {format_decimal(listing.asset.tick)}")
        before = await tx.fetchval(SEQUENCE, asset_id)
        sequence, as_of = await tx.fetchrow(SET_PRICE, asset_id, format_decimal(price), source.value)
        if sequence != before:
            event = AssetPriceChanged(asset_id, sequence, price, as_of)
            message_id = f"{asset_id}:price:{sequence}"
            message = outgoing(event, message_id=message_id, source=SOURCE, time=as_of)
            Outbox(tables.SCHEMA).write(tx, [OutboxMessage(message_id, message, AT_ONCE_S)])
        return int(sequence)


async def confirm_prices(source: AsyncEngine | Begins) -> int:
    """Confirm every price whose source is not dead, in a transaction of its own; return how many."""
    async with alone(source) as tx:
        return await tx.execute(CONFIRM_PRICES)


def _listing(*row: Any) -> Listing:
    *rules, read_at, price, sequence, as_of, confirmed_at = row
    quote = CurrentPrice(price, sequence, as_of, confirmed_at) if price is not None else None
    return Listing(Asset(*rules), quote, read_at)
