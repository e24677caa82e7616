"""The only SQL of this room: views in the schema `api`, which show the asset service's and the ledger's tables.

A platform with services of its own replaces these views by others with the same columns.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.decimals import Money, Price, Quantity
from order_api.market.views import Account, MarketAsset, MarketPrice, read_sessions
from saga_kit.runtime.transactions import Begins, alone


class MarketStore:
    """Reads the market. Raises what the driver does, and `TimeoutError` when no connection is free."""

    def __init__(self, source: AsyncEngine | Begins) -> None:
        self._source = source

    async def prices(self) -> list[MarketPrice]:
        """Return the newest price of every asset that has one."""
        rows = await self._run(_SELECT_PRICES)
        return [MarketPrice(asset_id, sequence, Price(price), *rest) for asset_id, sequence, price, *rest in rows]

    async def assets(self, asset_id: str | None = None) -> list[MarketAsset]:
        """Return every asset with its newest rules, by the assets' ids; or this one, if there is one."""
        return [_asset(row) for row in await self._run(_SELECT_ASSETS, asset_id)]

    async def accounts(self, user_id: str) -> list[Account]:
        """Return a user's accounts, by the assets' ids."""
        rows = await self._run(_SELECT_ACCOUNTS, user_id)
        return [Account(asset_id, Money(available), Money(held)) for asset_id, available, held in rows]

    async def _run(self, statement: str, *values: Any) -> list[Any]:
        async with alone(self._source) as tx:
            return await tx.fetch(statement, *values)


def _asset(row: Any) -> MarketAsset:
    values = dict(zip(MarketAsset.__struct_fields__, row, strict=True))
    for name, kind in _KINDS.items():
        if values[name] is not None:
            values[name] = kind(values[name])
    values["sessions"] = read_sessions(values["sessions"])
    return MarketAsset(**values)


_KINDS: Final = {
    "tick": Price,
    "step": Quantity,
    "min_quantity": Quantity,
    "max_quantity": Quantity,
    "min_notional": Money,
    "max_notional": Money,
}
_SELECT_PRICES: Final = """
    SELECT asset_id, sequence, trim_scale(price), as_of, trading, reopens_at FROM api.prices"""
_SELECT_ASSETS: Final = """
    SELECT asset_id, rules_version, trim_scale(tick), trim_scale(step), trim_scale(min_quantity),
        trim_scale(max_quantity), trim_scale(min_notional), trim_scale(max_notional), fee_bps, max_deviation_bps,
        cash_asset_id, cash_scale, tradable, trading, reopens_at, confirmed_at, calendar
    FROM api.assets WHERE asset_id = $1 OR $1::text IS NULL ORDER BY asset_id COLLATE "C\""""
_SELECT_ACCOUNTS: Final = """
    SELECT asset_id, trim_scale(available), trim_scale(held) FROM api.accounts WHERE user_id = $1
    ORDER BY asset_id COLLATE "C\""""
