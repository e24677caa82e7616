"""The sums of an order: what is held, captured, credited and charged at a quote, and whether the quote is acceptable.

All exact until the one rounding that each sum names: debits and fees up, credits down (to the cash scale).
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from contracts.decimals import Money, Price, Quantity, add, ceil_to, floor_to, multiply, subtract
from contracts.vocabulary import ReasonCode, Side

if TYPE_CHECKING:
    from order_saga.core.saga import Quote

BASIS_POINT = Decimal("0.0001")
CARRIED_MAX = Decimal("1E18")
"""A sum from here on can't be written on the wire."""
CACHED_MAX = 16_384
"""Sums that are cached: an order's quote, hold, fill and settlement need the same ones, soon after each other."""


class Sums(NamedTuple):
    """The amounts of one fill: all of `hold` is captured; `fee` is always cash."""

    hold_asset_id: str
    hold: Money
    credit_asset_id: str
    credit: Money
    fee_asset_id: str
    fee: Money


def sums(side: Side, asset_id: str, quantity: Quantity, quote: Quote, price: Price | None = None) -> Sums:
    """Work out a fill of `quantity` at the quote, or at another price with the quote's fee rate and cash.

    Buy: cost = ceil(gross), fee = ceil(gross * rate), hold = cost + fee. Sell: hold = quantity, proceeds =
    floor(gross), fee as for a buy, credit = proceeds - fee (`refusal` says no when that is not positive).
    """
    return _sums(side, asset_id, quantity, price or quote.price, quote.fee_bps, quote.cash_asset_id, quote.cash_scale)


@lru_cache(CACHED_MAX)
def _sums(
    side: Side, asset_id: str, quantity: Quantity, price: Price, fee_bps: int, cash_asset_id: str, cash_scale: int
) -> Sums:
    gross = multiply(quantity, price)
    fee = ceil_to(multiply(gross, multiply(Decimal(fee_bps), BASIS_POINT)), cash_scale)
    if side is Side.BUY:
        hold = Money(add(ceil_to(gross, cash_scale), fee))
        return Sums(cash_asset_id, hold, asset_id, Money(quantity), cash_asset_id, fee)
    credit = Money(subtract(floor_to(gross, cash_scale), fee))
    return Sums(asset_id, Money(quantity), cash_asset_id, credit, cash_asset_id, fee)


def refusal(
    side: Side, asset_id: str, quantity: Quantity, price: Price | None, slippage_bps: int, quote: Quote
) -> tuple[ReasonCode, str | None] | None:
    """Say why this quote can't be traded on, or None. The price bound is compared unrounded."""
    if price is not None and (bound := _broken_bound(side, price, slippage_bps, quote.price)):
        return ReasonCode.SLIPPAGE_EXCEEDED, bound
    return uncarried(sums(side, asset_id, quantity, quote))


def uncarried(total: Sums) -> tuple[ReasonCode, str | None] | None:
    """Say why these sums can't be moved, or None."""
    if max(total.hold, total.credit, total.fee) >= CARRIED_MAX:
        return ReasonCode.NOTIONAL_OUT_OF_RANGE, "the order's value has more than 18 digits"
    if total.credit <= 0:
        return ReasonCode.NOTIONAL_OUT_OF_RANGE, "the fee takes all that the sale would bring"
    return None


def _broken_bound(side: Side, price: Price, slippage_bps: int, quote: Price) -> str | None:
    signed = slippage_bps if side is Side.BUY else -slippage_bps
    bound = multiply(price, add(Decimal(1), multiply(Decimal(signed), BASIS_POINT)))
    if quote <= bound if side is Side.BUY else quote >= bound:
        return None
    relation = "above" if side is Side.BUY else "below"
    return f"the quote {quote:f} is {relation} {price:f} by more than {slippage_bps} bps"
