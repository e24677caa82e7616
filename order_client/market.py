"""The calls of the market: prices, assets with their rules, and accounts."""

from __future__ import annotations

from order_client.answers import AccountList, AssetList, MarketAsset, MarketPrice, PriceList
from order_client.core import Steps, fetch, fetch_changed
from order_client.requests import get, segment, waiting
from order_client.surface import Calls, operation


class MarketCalls(Calls):
    """Read prices, assets and accounts."""

    @operation
    def list_prices(self) -> Steps[PriceList]:
        """Read the newest price of every asset that has one."""
        return fetch(self.session, get("/prices"), PriceList)

    @operation
    def read_price(self, asset_id: str) -> Steps[MarketPrice]:
        """Read the newest price of an asset."""
        return fetch(self.session, get(f"/prices/{segment(asset_id)}"), MarketPrice)

    @operation
    def read_price_change(self, asset_id: str, sequence: int) -> Steps[MarketPrice | None]:
        """Read an asset's price unless it is still the one of this sequence: then None."""
        asked = waiting(get(f"/prices/{segment(asset_id)}"), None, unless_version=sequence)
        return fetch_changed(self.session, asked, MarketPrice)

    @operation
    def list_assets(self) -> Steps[AssetList]:
        """Read every asset that orders may name, with the rules by which orders are checked."""
        return fetch(self.session, get("/assets"), AssetList)

    @operation
    def read_asset(self, asset_id: str) -> Steps[MarketAsset]:
        """Read an asset's rules, and whether it trades."""
        return fetch(self.session, get(f"/assets/{segment(asset_id)}"), MarketAsset)

    @operation
    def list_accounts(self, *, user_id: str | None = None) -> Steps[AccountList]:
        """Read what a user has of each asset, and what of it is held."""
        return fetch(self.session, get("/accounts", {"user_id": user_id}), AccountList)
