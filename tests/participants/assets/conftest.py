"""Fixtures of the asset service's tests."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.decimals import Price
from participants.assets.price_store import set_price
from participants.assets.rules import Asset
from participants.assets.store import put_asset


@pytest.fixture
async def engine(assets_engine: AsyncEngine) -> AsyncEngine:
    """Give a database with the asset BTC at 100."""
    await put_asset(assets_engine, Asset("BTC", Decimal("0.01")))
    await set_price(assets_engine, "BTC", Price("100"))
    return assets_engine
