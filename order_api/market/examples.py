"""One market in every answer about it: the examples of the documentation. Nothing else may use them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Final

import msgspec

from contracts.codec import encode
from contracts.decimals import Money, Price, Quantity
from contracts.examples import TIME
from order_api.market.views import (
    Account,
    AccountList,
    AssetList,
    MarketAsset,
    MarketPrice,
    PriceList,
    SpecialSession,
    TradingSessions,
)
from order_api.openapi.declarations import Example

ASSET_ID: Final = "BTC"
_TIME: Final = datetime.fromisoformat(TIME)


def shown_price() -> MarketPrice:
    """Make the price that streams show, too."""
    return MarketPrice(ASSET_ID, 412, Price("50000"), _TIME, "OPEN", None)


def _asset() -> MarketAsset:
    return MarketAsset(
        asset_id=ASSET_ID,
        rules_version=1,
        tick=Price("0.01"),
        step=Quantity("0.00000001"),
        min_quantity=Quantity("0.001"),
        max_quantity=None,
        min_notional=Money("10"),
        max_notional=Money("10000"),
        fee_bps=10,
        max_deviation_bps=None,
        cash_asset_id="USD",
        cash_scale=2,
        tradable=True,
        trading="OPEN",
        reopens_at=None,
        confirmed_at=_TIME,
        sessions=None,
    )


def _with_sessions() -> MarketAsset:
    week = [["09:00-17:30"]] * 5 + [[], []]
    sessions = TradingSessions("Europe/Berlin", week, [SpecialSession(date(2026, 12, 25), [], "Christmas")])
    return msgspec.structs.replace(_asset(), asset_id="GOLD", tick=Price("0.1"), sessions=sessions)


def prices() -> Mapping[str, Example]:
    """Show the prices of all assets."""
    return {"prices": _shown("One asset has a price", PriceList([shown_price()]))}


def price() -> Mapping[str, Example]:
    """Show the price of one."""
    return {"price": _shown("It trades", shown_price())}


def assets() -> Mapping[str, Example]:
    """Show all assets."""
    return {"assets": _shown("One trades always, one by sessions", AssetList([_asset(), _with_sessions()]))}


def asset() -> Mapping[str, Example]:
    """Show one."""
    return {"asset": _shown("It trades always", _asset())}


def accounts() -> Mapping[str, Example]:
    """Show a user's accounts."""
    own = AccountList("alice", [Account("BTC", Money("0.5"), Money("0")), Account("USD", Money("9499"), Money("501"))])
    return {"accounts": _shown("501 USD are held for an order", own)}


def _shown(summary: str, body: msgspec.Struct) -> Example:
    return Example(summary, msgspec.json.decode(encode(body)))
