"""From the query of `GET /orders` to what is looked for, and from its last order to the next page's cursor. Pure.

Orders come newest first, by `(created_at, order_id)`: many may share a time, none share both. A cursor is the place of
a page's last order, so what is added meanwhile moves nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from contracts.orders import Order
from contracts.vocabulary import NAME_RULE, YEAR_MAX, YEAR_MIN, AssetId, OrderStatus, OrderType, UserId, check_instant
from order_api.http.problems import BrokenRule, invalid

T = TypeVar("T")

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 200
INSTANT_RULE: Final = f"an RFC 3339 time with its offset, from {YEAR_MIN} to {YEAR_MAX}: 2026-01-31T12:00:00Z"
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


def read_wanted(query: Sequence[tuple[str, str]]) -> Wanted:
    """Read a query; raise the problem that lists each parameter that breaks its rule. Only `status` may be repeated."""
    found: dict[str, Any] = {}
    errors = []
    for name, text in query:
        parameter = PARAMETERS.get(name)
        if parameter is None:
            errors.append(BrokenRule(name, f"is not a parameter of this list; these are: {', '.join(PARAMETERS)}"))
            continue
        field, rule, read = parameter
        if field in found and field != "statuses":
            errors.append(BrokenRule(name, "must come once"))
            continue
        try:
            value = read(text)
        except (ValueError, msgspec.MsgspecError):
            errors.append(BrokenRule(name, f"must be {rule}", text))
        else:
            found[field] = (*found.get(field, ()), value) if field == "statuses" else value
    if errors:
        raise invalid(*errors)
    return Wanted(**found)


def _as(kind: Any) -> Callable[[str], Any]:
    return lambda text: msgspec.convert(text, kind)


def _read_instant(text: str) -> datetime:
    instant = msgspec.convert(text.replace(" ", "+"), datetime)  # a form's "+", of an offset that nobody escaped
    if instant.tzinfo is None:
        raise ValueError("has no offset")
    check_instant(instant)
    return instant.astimezone(UTC)


def _read_limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT_MAX)) and 1 <= int(text) <= LIMIT_MAX):
        raise ValueError("out of range")
    return int(text)


def _read_flag(text: str) -> bool:
    return {"true": True, "false": False}[text] if text in {"true", "false"} else _refuse()


def _refuse() -> bool:
    raise ValueError("neither true nor false")


def _read_cursor(text: str) -> Place:
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


PARAMETERS: Final[Mapping[str, tuple[str, str, Callable[[str], Any]]]] = {
    "status": ("statuses", "one of " + ", ".join(OrderStatus), OrderStatus),
    "open": ("open", "true or false", _read_flag),
    "asset_id": ("asset_id", NAME_RULE, _as(AssetId)),
    "order_type": ("order_type", "one of " + ", ".join(OrderType), OrderType),
    "created_from": ("created_from", INSTANT_RULE, _read_instant),
    "created_to": ("created_to", INSTANT_RULE, _read_instant),
    "limit": ("limit", f"a whole number from 1 to {LIMIT_MAX}", _read_limit),
    "cursor": ("after", "the `next_cursor` of the page before", _read_cursor),
    "user_id": ("user_id", NAME_RULE, _as(UserId)),
}
"""Each parameter: the field of `Wanted` that it sets, its rule in words, and its reader."""
