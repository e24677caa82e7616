"""What the calls of this room answer. Pure."""

from __future__ import annotations

from datetime import date
from hashlib import sha256
from typing import ClassVar, Final

import msgspec

from contracts.assets import AssetPriceChanged
from contracts.decimals import Money, Price, Quantity
from contracts.vocabulary import AssetId, BasisPoints, Count, Instant, Scale, UserId

HOUR_MIN: Final = 60


class MarketPrice(msgspec.Struct, frozen=True):
    """An asset's newest price and trading state.

    It has nothing that changes without its `sequence`, which is its entity tag.
    """

    MEANINGS: ClassVar = {
        "sequence": "Rises with each change of the price or of `trading`: of two answers the higher one is newer.",
        "price": "In the asset's `cash_asset_id`, for one unit.",
        "as_of": "When the price last changed.",
        "trading": "Whether the asset trades: OPEN, HALTED or CLOSED. Prices fill orders only while it is OPEN.",
        "reopens_at": "When a closed asset is expected to open; null where that is not known.",
    }
    asset_id: AssetId
    sequence: Count
    price: Price
    as_of: Instant
    trading: str
    reopens_at: Instant | None


class PriceList(msgspec.Struct, frozen=True):
    """The newest price of every asset that has one, by the assets' ids."""

    MEANINGS: ClassVar = {"prices": "By `asset_id`."}
    prices: list[MarketPrice]


class SpecialSession(msgspec.Struct, frozen=True):
    """A day that is not as its weekday."""

    day: date
    hours: list[str]
    name: str


class TradingSessions(msgspec.Struct, frozen=True):
    """When an asset trades, by the local clock of a time zone."""

    time_zone: str
    week: list[list[str]]
    special: list[SpecialSession]


class MarketAsset(msgspec.Struct, frozen=True):
    """The rules by which orders for an asset are checked, and how the asset stands."""

    MEANINGS: ClassVar = {
        "rules_version": "The number of these rules. An order is checked by those of its moment.",
        "tick": "Prices are multiples of this.",
        "step": "Quantities are multiples of this.",
        "min_quantity": "The least that one order may ask for.",
        "max_quantity": "The most that one order may ask for; null: no limit.",
        "min_notional": "The least that an order may be worth at the quote, in `cash_asset_id`.",
        "max_notional": "The most that an order may be worth.",
        "fee_bps": "The fee rate in 1/10,000.",
        "max_deviation_bps": "How far from the quote a limit or a trigger may be, in 1/10,000; null: any distance.",
        "cash_asset_id": "What prices are in.",
        "cash_scale": "Digits after the point of an amount in that.",
        "tradable": "False: every order is refused, whatever `trading` says.",
        "trading": "Whether it trades now: OPEN, HALTED or CLOSED; null: it has no price yet.",
        "reopens_at": "When a closed asset is expected to open; null where that is not known.",
        "confirmed_at": "When the source of its price last stood by it; null: never.",
        "sessions": "When it trades; null: always, unless it is halted or closed by hand.",
    }
    asset_id: AssetId
    rules_version: Count
    tick: Price
    step: Quantity
    min_quantity: Quantity
    max_quantity: Quantity | None
    min_notional: Money
    max_notional: Money
    fee_bps: BasisPoints
    max_deviation_bps: Count | None
    cash_asset_id: AssetId
    cash_scale: Scale
    tradable: bool
    trading: str | None
    reopens_at: Instant | None
    confirmed_at: Instant | None
    sessions: TradingSessions | None


class AssetList(msgspec.Struct, frozen=True):
    """Every asset that orders may name, by the assets' ids."""

    MEANINGS: ClassVar = {"assets": "By `asset_id`."}
    assets: list[MarketAsset]


class Account(msgspec.Struct, frozen=True):
    """What a user has of one asset, at the moment of the answer."""

    asset_id: AssetId
    available: Money
    held: Money


class AccountList(msgspec.Struct, frozen=True):
    """A user's accounts, by the assets' ids."""

    MEANINGS: ClassVar = {"accounts": "By `asset_id`; empty for a user who never had any."}
    user_id: UserId
    accounts: list[Account]


def price_of(event: AssetPriceChanged) -> MarketPrice:
    """Return what an event says, as it is shown."""
    shown = (event.asset_id, event.sequence, event.price, event.as_of, str(event.trading), event.reopens_at)
    return MarketPrice(*shown)


def etag_of_price(price: MarketPrice) -> str:
    """Give a price's entity tag: its sequence."""
    return f'"{price.sequence}"'


def etag_of_prices(prices: PriceList) -> str:
    """Give the entity tag of all prices: equal where every asset has the same sequence, in every process."""
    known = "\n".join(f"{one.asset_id} {one.sequence}" for one in prices.prices)
    return f'"{_digest(known.encode())}"'


def etag_of_body(body: bytes) -> str:
    """Give the weak entity tag of a body, without its `W/`."""
    return f'"{_digest(body)}"'


def read_sessions(calendar: str | None) -> TradingSessions | None:
    """Read a calendar as the asset service stores it. Raises `msgspec.MsgspecError` for one that it did not write."""
    if calendar is None:
        return None
    stored = _read_calendar(calendar)
    week = [[_hours(one) for one in day] for day in stored.week]
    special = [SpecialSession(one.day, [_hours(hours) for hours in one.hours], one.name) for one in stored.special]
    return TradingSessions(stored.time_zone, week, special)


class _SpecialDay(msgspec.Struct):
    day: date
    hours: list[tuple[int, int]] = []
    name: str = ""


class _Calendar(msgspec.Struct):
    """The asset service's document, by its own names: sessions are minutes after midnight."""

    time_zone: str
    week: list[list[tuple[int, int]]]
    special: list[_SpecialDay] = []


_read_calendar = msgspec.json.Decoder(_Calendar).decode


def _hours(minutes: tuple[int, int]) -> str:
    return "-".join(f"{minute // HOUR_MIN:02}:{minute % HOUR_MIN:02}" for minute in minutes)


def _digest(text: bytes) -> str:
    return sha256(text).hexdigest()[:32]
