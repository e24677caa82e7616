"""The sample data are those that the documentation names, and they are loaded through a small interface."""

from decimal import Decimal

from local_stack.sample_data import ASSETS, DEPOSITS, SampleAsset, SampleDeposit, load


class Stores:
    """Stand in for the participants' stores."""

    def __init__(self) -> None:
        self.assets: dict[str, tuple[Decimal, float]] = {}
        self.deposits: dict[str, SampleDeposit] = {}

    async def put_asset(self, asset: SampleAsset, *, answer_after_s: float) -> None:
        """Keep price and delay."""
        self.assets[asset.asset_id] = (asset.price, answer_after_s)

    async def deposit(self, deposit: SampleDeposit) -> None:
        """Keep the deposit under its id."""
        self.deposits.setdefault(deposit.deposit_id, deposit)


async def test_everything_is_loaded_and_loading_again_adds_nothing() -> None:
    """Deposits carry ids, so that starting a stack again doubles no money."""
    stores = Stores()
    for _ in range(2):
        await load(stores, time_scale=0.1)
    assert len(stores.assets) == len(ASSETS)
    assert sum(one.amount for one in stores.deposits.values() if one.asset_id == "USD") == Decimal("200005.00")
    assert len(stores.deposits) == len(DEPOSITS) == 7
    assert stores.assets["BTC"] == (Decimal("50000.00"), 0.0)


async def test_slow_is_too_slow_at_every_time_scale() -> None:
    """SLOW answers a check only after the saga's patience of 30 s, at whatever scale."""
    for scale in (1.0, 0.1):
        stores = Stores()
        await load(stores, time_scale=scale)
        assert stores.assets["SLOW"][1] > 30 * scale
