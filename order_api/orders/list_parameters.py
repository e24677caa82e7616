"""The parameters of `GET /orders`: the rule of each, how it is read, and what the document says of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from contracts.vocabulary import NAME_RULE, YEAR_MAX, YEAR_MIN, AssetId, OrderStatus, OrderType, UserId, check_instant
from order_api.http.problems import BrokenRule, invalid
from order_api.openapi.declarations import Parameter
from order_api.openapi.schemas import TIME, reference
from order_api.orders.description.examples import example_cursor
from order_api.orders.description.parts import NAME, USER_ID
from order_api.orders.listing import LIMIT_DEFAULT, LIMIT_MAX, Wanted, read_cursor

INSTANT_RULE: Final = f"an RFC 3339 time with its offset, from {YEAR_MIN} to {YEAR_MAX}: 2026-01-31T12:00:00Z"


class ListParameter(NamedTuple):
    """A parameter: the field of `Wanted` that it sets, its rule in words, its reader, and its meaning and example."""

    field: str
    rule: str
    read: Callable[[str], Any]
    meaning: str
    schema: Mapping[str, Any]
    example: Any


def read_wanted(query: Sequence[tuple[str, str]]) -> Wanted:
    """Read a query; raise the problem that lists each parameter that breaks its rule. Only `status` may be repeated."""
    found: dict[str, Any] = {}
    errors = []
    for name, text in query:
        if name not in PARAMETERS:
            errors.append(BrokenRule(name, f"is not a parameter of this list; these are: {', '.join(PARAMETERS)}"))
            continue
        parameter = PARAMETERS[name]
        field = parameter.field
        if field in found and field != "statuses":
            errors.append(BrokenRule(name, "must come once"))
            continue
        try:
            value = parameter.read(text)
        except (ValueError, msgspec.MsgspecError):
            errors.append(BrokenRule(name, f"must be {parameter.rule}", text))
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


_STATUSES: Final = {"type": "array", "items": reference(OrderStatus.__name__)}
_LIMIT: Final = {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT}
_CURSOR: Final = {"type": "string"}

PARAMETERS: Final[Mapping[str, ListParameter]] = {
    "status": ListParameter(
        *("statuses", "one of " + ", ".join(OrderStatus), OrderStatus),
        *("Only these statuses; may come repeatedly.", _STATUSES, ["PENDING", "CONFIRMED"]),
    ),
    "open": ListParameter(
        *("open", "true or false", _read_flag),
        *("`true`: only orders that have not ended; `false`: only those that have.", {"type": "boolean"}, True),
    ),
    "asset_id": ListParameter("asset_id", NAME_RULE, _as(AssetId), "Only this asset.", NAME, "BTC"),
    "order_type": ListParameter(
        *("order_type", "one of " + ", ".join(OrderType), OrderType),
        *("Only this type.", reference(OrderType.__name__), "MARKET_BUY"),
    ),
    "created_from": ListParameter(
        *("created_from", INSTANT_RULE, _read_instant),
        *("Only orders accepted at this time or later.", TIME, "2026-03-02T00:00:00Z"),
    ),
    "created_to": ListParameter(
        *("created_to", INSTANT_RULE, _read_instant),
        *("Only orders accepted before this time.", TIME, "2026-03-03T00:00:00Z"),
    ),
    "limit": ListParameter(
        *("limit", f"a whole number from 1 to {LIMIT_MAX}", _read_limit, "Orders on a page.", _LIMIT, LIMIT_DEFAULT)
    ),
    "cursor": ListParameter(
        *("after", "the `next_cursor` of the page before", read_cursor),
        *("The `next_cursor` of the page before, as it came.", _CURSOR, example_cursor),
    ),
    "user_id": ListParameter("user_id", NAME_RULE, _as(UserId), USER_ID.meaning, USER_ID.schema, USER_ID.example),
}

LIST_PARAMETERS: Final = tuple(
    Parameter(name, "query", one.meaning, one.schema, one.example) for name, one in PARAMETERS.items()
)
