"""What a list of orders holds, and the cursor from one page to the next. Pure.

Orders come newest first, by `(created_at, order_id)`: many may share a time, none share both. A cursor is the place of
a page's last order, so what is added meanwhile moves nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec

from contracts.orders import Order
from contracts.vocabulary import AssetId, OrderStatus, OrderType, UserId, check_instant

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 200
_CURSOR_LENGTH_MAX: Final = 200


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where an order stands in the list."""

    created_at: datetime
    order_id: UUID


START: Final = Place(datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))
"""Before the newest order."""


class Wanted(msgspec.Struct, frozen=True):
    """What a list shall hold: a filter that is None lets everything through; `created_to` itself is not in."""

    user_id: UserId | None = None
    statuses: tuple[OrderStatus, ...] | None = None
    open: bool | None = None
    asset_id: AssetId | None = None
    order_type: OrderType | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    after: Place = START
    limit: int = LIMIT_DEFAULT


class Page(msgspec.Struct, frozen=True):
    """Some orders, newest first. `next_cursor` is given when there are more."""

    orders: list[Order]
    has_more: bool
    next_cursor: str | None


def make_page(orders: Sequence[Order], limit: int) -> Page:
    """Make a page of what was found when one order more than the limit was looked for."""
    page = list(orders[:limit])
    has_more = len(orders) > limit
    return Page(page, has_more, write_cursor(page[-1]) if has_more else None)


def write_cursor(order: Order) -> str:
    """Name the place of an order, for the page behind it."""
    place = msgspec.json.encode(Place(order.created_at, order.order_id))
    return base64.urlsafe_b64encode(place).rstrip(b"=").decode()


def read_cursor(text: str) -> Place:
    """Read a cursor; raises `ValueError` or what msgspec raises."""
    if len(text) > _CURSOR_LENGTH_MAX:
        raise ValueError("too long")
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, UnicodeError):
        raise ValueError("not base64") from None
    place = msgspec.json.decode(raw, type=Place)
    if place.created_at.tzinfo is None:
        raise ValueError("has no offset")
    check_instant(place.created_at)
    return place
