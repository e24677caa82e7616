"""Load the local stack's sample data through the participants' own stores, each with its service's login."""

from __future__ import annotations

from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from contracts.assets import Trading
from contracts.decimals import Money, Price, multiply
from local_stack.sample_data import CASH, CASH_SCALE, load
from operations.access.database import connected
from participants.assets import price_store
from participants.assets import store as assets_store
from participants.assets.rules import Asset
from participants.assets.simulator import Walk
from participants.balance import store as balance_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine

    from local_stack.sample_data import SampleAsset, SampleDeposit

WALK_SEED: Final = 7
WALK_STEP: Final = 10


class Stores:
    """Implements `local_stack.sample_data.SampleStores` by the participants' stores."""

    def __init__(self, balance: AsyncEngine, assets: AsyncEngine) -> None:
        self._balance = balance
        self._assets = assets

    async def deposit(self, deposit: SampleDeposit) -> None:
        """Book a deposit, once."""
        amount = Money(deposit.amount)
        await balance_store.deposit(self._balance, deposit.deposit_id, deposit.user_id, deposit.asset_id, amount)

    async def put_asset(self, asset: SampleAsset, *, answer_after_s: float) -> None:
        """Write an asset's rules and its price."""
        rules = Asset(
            asset_id=asset.asset_id,
            tick=asset.tick,
            step=asset.step,
            min_quantity=asset.quantity_min,
            min_notional=asset.notional_min,
            max_notional=asset.notional_max,
            fee_bps=asset.fee_bps,
            cash_asset_id=CASH,
            cash_scale=CASH_SCALE,
            trading=asset.tradable,
            available_quantity=asset.available_quantity,
            answer_delay_s=answer_after_s or None,
        )
        await assets_store.put_asset(self._assets, rules)
        source, terms = price_store.Source.FIXED if asset.price_confirmed else price_store.Source.DEAD, None
        price = Price(asset.price)
        if asset.walks_per_second:
            floor, ceiling = (Price(multiply(asset.price, Decimal(share))) for share in ("0.9", "1.1"))
            source = price_store.Source.WALK
            terms = Walk(WALK_SEED, asset.walks_per_second, WALK_STEP, floor, ceiling, Price(asset.tick))
        trading = Trading.OPEN if asset.open else Trading.CLOSED
        await price_store.set_price(self._assets, asset.asset_id, price, source, trading, terms)


async def load_samples(logins: Mapping[str, str], time_scale: float) -> None:
    """Load the sample data as the logins `balance` and `assets`; doing it twice changes nothing."""
    async with sample_stores(logins["balance"], logins["assets"]) as stores:
        await load(stores, time_scale=time_scale)


@asynccontextmanager
async def sample_stores(balance_url: str, assets_url: str) -> AsyncIterator[Stores]:
    """Connect to both schemas for as long as the samples are loaded."""
    async with connected(balance_url) as balance, connected(assets_url) as assets:
        yield Stores(balance, assets)
