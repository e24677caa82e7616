"""The newest price of each asset, in the memory of each process: heard on `assets.prices`, and read at the start.

A price is shown by it and never decides anything: orders are checked by the asset service. While the broker is away,
and whenever prices may have been missed, the database is read instead, about once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from contracts import codec
from contracts.assets import AssetPriceChanged
from order_api.market.views import MarketPrice, PriceList, etag_of_prices, price_of
from saga_kit.messaging.fetch_limits import LostRecord
from saga_kit.runtime.backoff import keep_doing

LOOK_S: Final = 1.0
ASSETS_MAX: Final = 100_000
"""Assets in memory. Only the asset service may write prices; this bounds its mistakes."""


class ReadsPrices(Protocol):
    """Whoever can read the newest prices."""

    async def prices(self) -> list[MarketPrice]:
        """Return the newest price of every asset."""


class LatestPrices:
    """Hears prices, and answers with them. Of two prices the one with the higher sequence is newer."""

    def __init__(self, store: ReadsPrices, tell: Callable[[Mapping[str, bytes]], None]) -> None:
        """`tell` gets prices that have changed, as JSON objects by asset."""
        self._store = store
        self._tell = tell
        self._known: dict[str, MarketPrice] = {}
        self._stale = True
        self._read = False
        self._reading = asyncio.Lock()
        self._listed: tuple[PriceList, str] | None = None

    async def hear(self, records: Sequence[Any]) -> None:
        """Take records of the topic."""
        heard = []
        for record in records:
            price = None if isinstance(record, LostRecord) else _read(record.value)
            if price is None:  # its asset is not known for sure
                self.missed()
            else:
                heard.append(price)
        self._learn(heard)

    def missed(self) -> None:
        """Note that prices may have been missed: the database is read again."""
        self._stale = True

    async def run(self, stopping: asyncio.Event, following: Callable[[], bool]) -> None:
        """Read the database whenever it is needed, until `stopping`. `following`: whether the topic is heard."""

        async def look() -> None:
            if self._stale or not following():
                await self.look()

        await keep_doing("read prices", look, stopping, every_s=LOOK_S)

    async def look(self) -> None:
        """Read the database. Raises what the driver does."""
        self._stale = False
        try:
            self._learn(await self._store.prices())
        except BaseException:
            self._stale = True
            raise
        self._read = True

    async def all(self) -> tuple[PriceList, str]:
        """Return all prices, and their entity tag. In a process that has just begun it reads them first."""
        await self._begin()
        if self._listed is None:
            listed = PriceList([self._known[asset_id] for asset_id in sorted(self._known)])
            self._listed = listed, etag_of_prices(listed)
        return self._listed

    async def one(self, asset_id: str) -> MarketPrice | None:
        """Return an asset's price, None for an asset that has none; as `all` does."""
        await self._begin()
        return self._known.get(asset_id)

    def newest(self, asset_ids: Iterable[str]) -> Mapping[str, bytes]:
        """Return what is known of these assets, as JSON objects by asset."""
        return {one: codec.encode(self._known[one]) for one in asset_ids if one in self._known}

    async def _begin(self) -> None:
        """Have prices been read once; many requests wait for one statement."""
        if not self._read:
            async with self._reading:
                if not self._read:
                    await self.look()

    def _learn(self, prices: Iterable[MarketPrice]) -> None:
        changed = {}
        for price in prices:
            known = self._known.get(price.asset_id)
            if known is None:
                if len(self._known) >= ASSETS_MAX:
                    continue
            elif price.sequence <= known.sequence:  # a repetition, or late
                continue
            self._known[price.asset_id] = price
            changed[price.asset_id] = price
        if changed:
            self._listed = None
            self._tell({asset_id: codec.encode(price) for asset_id, price in changed.items()})


def _read(value: bytes | None) -> MarketPrice | None:
    """Read an event; None for one that can't be read."""
    try:
        return price_of(_decode(value or b""))
    except (msgspec.MsgspecError, ValueError, RecursionError):  # not JSON, not UTF-8, nested too deep
        return None


_decode: Final = codec.decoder(AssetPriceChanged).decode
