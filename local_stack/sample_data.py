"""The sample data of a local stack: assets, users and their deposits, as plain values, and how they are loaded.

No service is known here: `SampleStores` is what the participants' stores must offer. Loading again changes nothing: an
asset is written as it was, and a deposit has an id and counts once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

CASH = "USD"
CASH_SCALE = 2


@dataclass(frozen=True, slots=True)
class SampleAsset:
    """An asset, its rules and how its service behaves; money in `CASH`, `answer_after_s` at time scale 1."""

    asset_id: str
    price: Decimal
    tick: Decimal = Decimal("0.01")
    step: Decimal = Decimal("0.00000001")
    quantity_min: Decimal = Decimal("0.001")
    notional_min: Decimal = Decimal(10)
    notional_max: Decimal = Decimal(10_000)
    price_max: Decimal = Decimal(1_000_000)
    fee_bps: int = 10
    tradable: bool = True
    available_quantity: Decimal | None = None
    """The most that one order may take; None: no limit."""
    price_confirmed: bool = True
    """False: its price source is dead, so every price is stale."""
    walks_per_second: float = 0.0
    """More than 0: its price walks within a tenth of `price`, by the same path each time."""
    open: bool = True
    """False: its market is closed, until somebody opens it."""
    answer_after_s: float = 0.0
    """How long its service delays an answer. An order waits 30 s for the answer to its check."""


@dataclass(frozen=True, slots=True)
class SampleDeposit:
    """Money or an asset that comes into an account from outside, once for each `deposit_id`."""

    deposit_id: str
    user_id: str
    asset_id: str
    amount: Decimal


class SampleStores(Protocol):
    """The participants' stores, as far as sample data needs them; both calls may be repeated."""

    async def put_asset(self, asset: SampleAsset, *, answer_after_s: float) -> None:
        """Write the asset, its rules and its price, whatever they were before; the delay is in real seconds."""

    async def deposit(self, deposit: SampleDeposit) -> None:
        """Credit the account unless this deposit id has counted already."""


ASSETS = (
    SampleAsset("BTC", Decimal("50000.00")),
    SampleAsset("ETH", Decimal("2500.00")),
    SampleAsset("ACME", Decimal("20.00"), step=Decimal(1)),
    SampleAsset("HALT", Decimal("10.00"), tradable=False),
    SampleAsset("RARE", Decimal("100.00"), available_quantity=Decimal("0.5")),
    SampleAsset("OLD", Decimal("10.00"), price_confirmed=False),
    SampleAsset("SLOW", Decimal("10.00"), answer_after_s=45.0),
    SampleAsset("WAVE", Decimal("100.00"), walks_per_second=2.0),
    SampleAsset("NIGHT", Decimal("10.00"), open=False),
)

HOLDINGS: Mapping[str, Mapping[str, Decimal]] = {
    "alice": {CASH: Decimal("100000.00"), "BTC": Decimal(2), "ACME": Decimal(100)},
    "bob": {CASH: Decimal("100000.00"), "BTC": Decimal(2), "ACME": Decimal(100)},
    "carol": {CASH: Decimal("5.00")},
}

DEPOSITS = tuple(
    SampleDeposit(f"sample:{user_id}:{asset_id}", user_id, asset_id, amount)
    for user_id, holdings in HOLDINGS.items()
    for asset_id, amount in holdings.items()
)


async def load(stores: SampleStores, *, time_scale: float = 1.0) -> None:
    """Write every sample asset and make every deposit; `time_scale`: the orchestrator's, so that SLOW is late."""
    for asset in ASSETS:
        await stores.put_asset(asset, answer_after_s=asset.answer_after_s * time_scale)
    for deposit in DEPOSITS:
        await stores.deposit(deposit)
