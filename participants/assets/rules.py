"""Checks an order against an asset's rules. Pure: price and time are arguments.

The checks run in the order in which they stand here; the first that fails is the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from contracts.assets import AssetApproved, AssetRefusal, AssetRefused, CheckAsset, Purpose, Trading
from contracts.decimals import Price, Quantity, format_decimal, is_multiple, multiply, plain_text
from participants.assets.pricing import deviates, prices_to_judge, reference_prices


@dataclass(frozen=True, slots=True)
class Asset:
    """An asset's rules. Limits are inclusive; None means no limit.

    `available_quantity` limits each order; it is no stock. `answer_delay_s` delays the answers on purpose.
    `max_deviation_bps` says how far from the quote a limit or a trigger may be, in 1/10,000 of the quote. The store
    sets `rules_version`; 0 means not stored yet.
    """

    asset_id: str
    tick: Decimal
    step: Decimal = Decimal("0.00000001")
    min_quantity: Decimal = Decimal("0.001")
    max_quantity: Decimal | None = None
    min_notional: Decimal = Decimal(10)
    max_notional: Decimal = Decimal(10_000)
    fee_bps: int = 10
    cash_asset_id: str = "USD"
    cash_scale: int = 2
    trading: bool = True
    available_quantity: Decimal | None = None
    answer_delay_s: float | None = None
    max_deviation_bps: int | None = None
    rules_version: int = 0


@dataclass(frozen=True, slots=True)
class CurrentPrice:
    """An asset's price and trading state.

    `as_of` is when it last changed, `confirmed_at` when its source last confirmed it. `session_ends_at` is when the
    asset's session ends, or, if none runs, its next one; None without sessions.
    """

    price: Decimal
    sequence: int
    as_of: datetime
    confirmed_at: datetime | None
    trading: Trading = Trading.OPEN
    session_ends_at: datetime | None = None


def judge(
    command: CheckAsset, asset: Asset | None, quote: CurrentPrice | None, now: datetime, stale_after: timedelta
) -> AssetApproved | AssetRefused:
    """Approve at this price, or refuse with the first objection.

    `now` is of the clock that confirmed the price. Changed terms of a resting order (`Purpose.AMEND`) are judged by the
    same rules, at whatever price was last known: neither a halt nor a stale price refuses them. Nor does the age of the
    last price of a market that is closed refuse an order that may wait for its opening: nobody confirms it meanwhile.
    """
    if asset is None:
        return _refused(command, AssetRefusal.ASSET_NOT_FOUND, f"no asset {command.asset_id} is traded here")
    if (objection := next(_rule_objections(command, asset, quote), None)) is not None:
        return _refused(command, *objection)
    if quote is None or (command.purpose is Purpose.ENTRY and _is_stale(command, quote, now, stale_after)):
        return _refused(command, AssetRefusal.STALE_PRICE, _staleness(quote, now, stale_after))
    if (objection := next(_price_objections(command, asset, quote), None)) is not None:
        return _refused(command, *objection)
    return _approved(command, asset, quote)


def _rule_objections(
    command: CheckAsset, asset: Asset, quote: CurrentPrice | None
) -> Iterator[tuple[AssetRefusal, str]]:
    quantity = format_decimal(command.quantity)
    if not asset.trading:
        yield AssetRefusal.ASSET_NOT_TRADABLE, f"trading in {asset.asset_id} is halted"
    may_wait = command.queue_when_closed or command.purpose is Purpose.AMEND
    if quote is not None and quote.trading is not Trading.OPEN and not may_wait:
        state = quote.trading.lower()
        yield AssetRefusal.ASSET_NOT_TRADABLE, f"trading in {asset.asset_id} is {state}; queue_when_closed would wait"
    if not is_multiple(command.quantity, asset.step):
        yield AssetRefusal.INVALID_STEP, f"quantity {quantity} is not a multiple of {format_decimal(asset.step)}"
    for name in ("price", "limit_price", "trigger_price", "trail_amount"):
        price: Price | None = getattr(command, name)
        if price is not None and not is_multiple(price, asset.tick):
            wrong = f"{name} {format_decimal(price)} is not a multiple of {format_decimal(asset.tick)}"
            yield AssetRefusal.INVALID_TICK, wrong
    if command.quantity < asset.min_quantity:
        least = format_decimal(asset.min_quantity)
        yield AssetRefusal.QUANTITY_OUT_OF_RANGE, f"quantity {quantity} is below the minimum of {least}"
    if asset.max_quantity is not None and command.quantity > asset.max_quantity:
        most = format_decimal(asset.max_quantity)
        yield AssetRefusal.QUANTITY_OUT_OF_RANGE, f"quantity {quantity} is above the maximum of {most}"
    if asset.available_quantity is not None and command.quantity > asset.available_quantity:
        there = format_decimal(asset.available_quantity)
        yield AssetRefusal.ASSET_UNAVAILABLE, f"quantity {quantity} is more than the {there} available to one order"


def _price_objections(command: CheckAsset, asset: Asset, quote: CurrentPrice) -> Iterator[tuple[AssetRefusal, str]]:
    for chosen, level in reference_prices(command):
        if asset.max_deviation_bps is not None and deviates(level, quote.price, asset.max_deviation_bps):
            allowed = f"{asset.max_deviation_bps} bps from the quote of {format_decimal(quote.price)}"
            reason = f"{chosen} {format_decimal(level)} is farther than {allowed}"
            yield AssetRefusal.PRICE_OUT_OF_RANGE, reason
    judged = prices_to_judge(command, asset.tick, quote.price, quote.trading)
    if not judged:
        reason = f"the trail leaves no price from 0 to 1000000 at a quote of {format_decimal(quote.price)}"
        yield AssetRefusal.PRICE_OUT_OF_RANGE, reason
    limits = f"{format_decimal(asset.min_notional)} to {format_decimal(asset.max_notional)} {asset.cash_asset_id}"
    for name, price in judged:
        gross = multiply(command.quantity, price)
        if not asset.min_notional <= gross <= asset.max_notional:
            # Not `format_decimal`: a product may have more places than the wire carries.
            reason = f"quantity times {name} is {plain_text(gross)}, allowed are {limits}"
            yield AssetRefusal.NOTIONAL_OUT_OF_RANGE, reason


def _is_stale(command: CheckAsset, quote: CurrentPrice, now: datetime, stale_after: timedelta) -> bool:
    if quote.confirmed_at is None:
        return True
    waits = command.queue_when_closed and quote.trading is not Trading.OPEN
    return not waits and now - quote.confirmed_at > stale_after


def _staleness(quote: CurrentPrice | None, now: datetime, stale_after: timedelta) -> str:
    if quote is None or quote.confirmed_at is None:
        return "the asset has no price that its source stands by"
    age_s = (now - quote.confirmed_at).total_seconds()
    return f"the price was last confirmed {age_s:.1f} s ago, allowed are {stale_after.total_seconds():g} s"


def _refused(command: CheckAsset, code: AssetRefusal, reason: str) -> AssetRefused:
    return AssetRefused(command.command_id, command.order_id, command.asset_id, code, reason)


def _approved(command: CheckAsset, asset: Asset, quote: CurrentPrice) -> AssetApproved:
    return AssetApproved(
        command_id=command.command_id,
        order_id=command.order_id,
        asset_id=command.asset_id,
        price=Price(quote.price),
        sequence=quote.sequence,
        as_of=quote.as_of,
        tick=Price(asset.tick),
        step=Quantity(asset.step),
        fee_bps=asset.fee_bps,
        cash_asset_id=asset.cash_asset_id,
        cash_scale=asset.cash_scale,
        rules_version=asset.rules_version,
        trading=quote.trading,
        session_ends_at=quote.session_ends_at,
    )
