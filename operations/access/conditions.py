"""What a conditional order waits for, in words: of an order as the REST API shows it, or as `audit.orders` does. Pure.

Prices are written with commas, as people read them: 48,500.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from contracts.vocabulary import OrderKind, OrderType, Side
from operations.access.words import amount, full_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    Row: TypeAlias = Mapping[str, Any]


class Level(NamedTuple):
    """A price that an order waits for next, and from which side the market reaches it: `<=` or `>=`."""

    sign: str
    price: Decimal

    def __str__(self) -> str:
        """Write it shortly."""
        return f"{self.sign} {money(self.price)}"


def is_resting(order: Row) -> bool:
    """Tell whether an order, as the REST API shows it, waits for a price or for an opening."""
    return order["status"] == "CONFIRMED" and order.get("revision") is not None and not order.get("cancel_requested")


def levels(order: Row) -> tuple[Level, ...]:
    """Name the prices that an order waits for next, each of which fires it: two for a bracket, its limit first.

    There is none for a market order, and for a trail that has not begun.
    """
    order_type = _type(order)
    if order_type is None or order_type.kind is OrderKind.MARKET:
        return ()
    buy, kind = order_type.side is Side.BUY, order_type.kind
    limit = _level(order["limit_price"], is_up=not buy)
    trigger = _level(order["trigger_price"], is_up=buy is not (kind is OrderKind.TAKE_PROFIT))
    if kind is not OrderKind.BRACKET:
        limit, trigger = (limit, None) if kind is OrderKind.LIMIT or order["triggered"] else (None, trigger)
    return tuple(level for level in (limit, trigger) if level is not None)


def level_or_trail(order: Row) -> str:
    """Write the prices that an order waits for, or its trail while it has none; nothing for a market order."""
    return _either(levels(order)) or trail(order)


def condition(order: Row, watermark_sequence: int | None = None) -> str:
    """Say what an order waits for and until when: "fires at a price <= 48,500 (3 % below 50,000)"."""
    waits_for, order_type = levels(order), _type(order)
    until = "" if order["expires_at"] is None else f", until {_time(order['expires_at'])}"
    if order_type is not None and order_type.kind is OrderKind.MARKET:
        return f"waits for the opening of {order['asset_id']}{until}"
    if not waits_for or order_type is None:
        return "waits for a price"
    found = waits_for[0]
    limit = _level(order["limit_price"], is_up=order_type.side is Side.SELL)
    if limit is not None and limit not in waits_for:
        words = f"is triggered at a price {found}, and then fills at a price {limit}"
    else:
        words = f"fires at a price {_either(waits_for)}"
    if order["watermark"] is not None:
        side = "below" if found.sign == "<=" else "above"
        by = "" if watermark_sequence is None else f" of sequence {watermark_sequence:,}"
        words += f" ({trail(order)} {side} {money(order['watermark'])}{by})"
    return words + until


def trail(order: Row) -> str:
    """Write how far a trailing stop stays behind its best price: 3 %, or 100; nothing for another order."""
    if order["trail_bps"] is not None:
        return f"{amount(Decimal(order['trail_bps']) / 100)} %"
    return "" if order["trail_amount"] is None else money(order["trail_amount"])


def money(value: Decimal | str) -> str:
    """Write a price or an amount with commas: 48,500.25."""
    text = f"{Decimal(value):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _either(waits_for: tuple[Level, ...]) -> str:
    return " or ".join(str(level) for level in waits_for)


def _time(at: datetime | str) -> str:
    when = datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"{full_time(when.astimezone(UTC))} UTC"


def _type(order: Row) -> OrderType | None:
    """Read an order's type; None for an order without one, or of a type of a newer version."""
    return OrderType(order["order_type"]) if order["order_type"] in set(OrderType) else None


def _level(price: Decimal | str | None, *, is_up: bool) -> Level | None:
    return None if price is None else Level(">=" if is_up else "<=", Decimal(price))
